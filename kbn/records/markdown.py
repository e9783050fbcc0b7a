"""Write tables in Markdown, for TensorBoard's Text tab, and read them again."""

import html
import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]()>#+\-.!|])")
_NUMBER = re.compile(r"-?[\d.]+(e[-+]\d+)?%?")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that shows the text of each cell unchanged, on one line."""
    rule = ["---"] * len(head)
    return "\n".join(
        map(_line, [list(map(quoted, head)), rule, *([*map(quoted, row)] for row in rows)])
    )


def quoted(text: str) -> str:
    """Return `text`, escaped so that Markdown shows it unchanged."""
    if _NUMBER.fullmatch(text):
        return text
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\1", text)


def read(text: str) -> list[tuple[str, ...]]:
    """Return the rows of a table that `table` wrote, the head first; none for other text."""
    lines = [
        line[2:-2] for line in text.splitlines() if line.startswith("| ") and line.endswith(" |")
    ]
    rows = [tuple(map(_plain, line.split(" | "))) for line in lines]
    return [row for number, row in enumerate(rows) if number != 1]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(cell: str) -> str:
    return html.unescape(re.sub(r"\\(.)", r"\1", cell))
