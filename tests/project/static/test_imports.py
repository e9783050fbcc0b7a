"""Imports go downward only: check every import of every module with a table of packages."""

import pytest

from tests.support import ROOT
from tests.support.imports import cycle, edges, modules

LOW = ("backend", "common")
# Package -> the packages that it may import. "kbn" is the file kbn/__init__.py.
ALLOWED = {
    "common": (),
    "backend": ("common",),
    "ops": LOW,
    "distributions": ("ops", *LOW),
    "records": ("distributions",),
    "introspection": LOW,
    "layers": ("ops", *LOW),
    "tools": ("introspection", "ops", *LOW),
    "diagnosis": ("records",),
    "dashboard": ("diagnosis", "records", "common"),
    "callbacks.writing": ("records",),
    "callbacks.probing": ("tools", "introspection", "distributions", "ops", "records", *LOW),
    "callbacks.recording": ("callbacks.writing", "introspection", "records", *LOW),
    "callbacks": (
        "callbacks.recording", "callbacks.writing", "callbacks.probing",
        "tools", "introspection", "distributions", "ops", "records", *LOW,
    ),
    "demo": ("kbn", "public callbacks", "dashboard", "records", "common"),
    "kbn": ("common",),
    "__main__": ("kbn", "demo", "dashboard", "common"),
}  # fmt: skip
FOLDERS = {"kbn": ROOT / "kbn", "kbn.callbacks": ROOT / "callbacks"}


def package(module):
    """Return the package of a module, as in `ALLOWED`."""
    _, *parts = module.split(".")
    if not parts:
        return "kbn"
    if parts[0] == "callbacks" and ".".join(parts[:2]) in ALLOWED:
        return ".".join(parts[:2])
    return parts[0]


def allowed(importer, target):
    """Return whether one module may import another."""
    one, other = package(importer), package(target)
    if one == other or other in ALLOWED[one]:
        return True
    return target == "kbn.callbacks" and "public callbacks" in ALLOWED[one]


def forbidden(files):
    """Return the imports that the table does not allow, as text."""
    return [
        f"{files[importer]}:{at}: {package(importer)} must not import {package(target)} ({target})"
        for importer, target, at in edges(files)
        if not allowed(importer, target)
    ]


@pytest.fixture(scope="module")
def files():
    return modules(FOLDERS)


def test_every_package_is_in_the_table(files):
    assert {package(name) for name in files} == set(ALLOWED)


def test_imports_run_downward(files):
    assert forbidden(files) == []


def test_the_table_has_no_cycle():
    pairs = ((one, other) for one, others in ALLOWED.items() for other in others)
    assert cycle(pairs) == []


def test_no_cycle_between_modules(files):
    assert cycle((one, other) for one, other, _ in edges(files)) == []


def test_no_cycle_between_packages(files):
    assert cycle((package(one), package(other)) for one, other, _ in edges(files)) == []


def project(folder, **contents):
    """Write a small project of modules, and return its files."""
    for name, text in contents.items():
        path = folder / "kbn" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return modules({"kbn": folder / "kbn"})


FORBIDDEN = {
    "from a package": "from kbn.dashboard import board",
    "from a module": "from kbn.dashboard.board import draw",
    "import": "import kbn.dashboard.board",
    "relative": "from ..dashboard import board",
    "inside a function": "def f():\n    from kbn.dashboard import board",
    "only for types": "if TYPE_CHECKING:\n    from kbn.dashboard.board import Board",
}


@pytest.mark.parametrize("text", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_import_is_found(text, tmp_path):
    files = project(tmp_path, dashboard__board="", ops__moments=text)
    (found,) = forbidden(files)
    line = text.count("\n") + 1
    assert found.endswith(
        f"ops/moments.py:{line}: ops must not import dashboard (kbn.dashboard.board)"
    )
    assert forbidden(project(tmp_path, ops__moments="from kbn.common import checks")) == []


def test_a_cycle_is_found(tmp_path):
    files = project(
        tmp_path, ops__one="from kbn.ops import two", ops__two="import math\nimport kbn.ops.one"
    )
    assert set(cycle((one, other) for one, other, _ in edges(files))) == {
        "kbn.ops.one", "kbn.ops.two",
    }  # fmt: skip
