"""Read what modules import, without running them."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def modules(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return the file of each module, by dotted name.

    Args:
        folders: the folders, by the name of the installed package. A folder inside another one is
            a package of its own.
    """
    found = {}
    for package, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            if any(part.is_symlink() for part in path.parents if folder in part.parents):
                continue  # kbn/callbacks, which is a folder of its own here
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def imported(name: str, files: Mapping[str, Path]) -> list[tuple[str, int]]:
    """Return the modules of `files` that module `name` imports, with their lines.

    Imports inside functions and imports only for types count too. `from a import b` is an import of
    `a.b` if that is a module, otherwise of `a`.
    """
    found = []
    for node in ast.walk(ast.parse(files[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, name, files)
            for alias in node.names:
                deeper = f"{source}.{alias.name}"
                found.append((deeper if deeper in files else source, node.lineno))
    return sorted({(target, line) for target, line in found if target in files})


def _source(node: ast.ImportFrom, name: str, files: Mapping[str, Path]) -> str:
    if not node.level:
        return node.module or ""
    is_package = files[name].name == "__init__.py"
    here = name.split(".")[: len(name.split(".")) - node.level + is_package]
    return ".".join([*here, *([node.module] if node.module else [])])


def edges(files: Mapping[str, Path]) -> Iterator[tuple[str, str, int]]:
    """Yield every import as (importing module, imported module, line)."""
    for name in files:
        for target, line in imported(name, files):
            if target != name:
                yield name, target, line


def cycle(pairs) -> list[str]:
    """Return a cycle of the graph of (from, to) pairs, or nothing."""
    graph: dict[str, set[str]] = {}
    for one, other in pairs:
        if one != other:
            graph.setdefault(one, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib lists dependencies first
    return []
