"""One HTML page without external files: text, tables, figures, and the script that draws them.

Strings from event files are always shown as text. They are escaped by `html.escape`, or are inside
JSON with every `<` escaped, so that no name can end its HTML element.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
       max-width: 1060px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.made { color: #555; margin-top: 0; }
table { border-collapse: collapse; margin: .5rem 0 1rem; } caption { text-align: left; }
th, td { text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.figure { width: 100%; }
"""
_SCRIPT = """
for (const holder of document.querySelectorAll(".figure")) {
  const figure = JSON.parse(document.getElementById(holder.dataset.json).textContent);
  Plotly.newPlot(holder, figure.data, figure.layout, {responsive: true, displaylogo: false});
}
"""
_POLICY = (  # a second protection: the page cannot send or load anything
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: heading.
        text: plain text.
        points: sentences, one per line.
        tables: tables as lists of rows; the first row names the columns.
        figures: figures, at the end of the section.
    """

    title: str
    text: str = ""
    points: Sequence[str] = ()
    tables: Sequence[Sequence[Sequence[str]]] = ()
    figures: Sequence["Figure"] = field(default_factory=tuple)


def page(title: str, made: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML.

    Args:
        title: title of the page.
        made: a line below the title, on how the page was made.
        sections: parts of the page.
    """
    from plotly.offline import get_plotlyjs

    body = "\n".join(_section(number, section) for number, section in enumerate(sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="{_POLICY}">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p class="made">{html.escape(made)}</p>
{body}
<script>{get_plotlyjs()}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.points:
        points = "".join(f"<li>{html.escape(point)}</li>" for point in section.points)
        parts.append(f"<ul>{points}</ul>")
    parts += map(_table, section.tables)
    parts += [_figure(f"figure-{number}-{i}", of) for i, of in enumerate(section.figures)]
    return f"<section>{''.join(parts)}</section>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    names = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in others)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"


def _cell(text: str) -> str:
    number = text.replace(".", "").replace("-", "").replace("e", "").replace("+", "").isdecimal()
    kind = ' class="number"' if number else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _figure(name: str, figure: "Figure") -> str:
    # JSON allows \\u003c instead of <. So no text can end the script element.
    data = json.dumps(json.loads(figure.to_json())).replace("<", "\\u003c")
    height = int(figure.layout.height or 400)
    return (
        f'<div class="figure" data-json="{name}" style="height: {height}px"></div>'
        f'<script type="application/json" id="{name}">{data}</script>'
    )
