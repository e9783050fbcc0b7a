"""The copy of the records as JSON lines: the name of the file, and its lines."""

import json
from collections.abc import Iterable

from kbn.records.strict_json import strict
from kbn.records.tags import Row

NAME = "history.jsonl"


def json_line(row: Row) -> str:
    """Return `row` as one line of strict JSON, with inf and NaN as strings."""
    return json.dumps(strict(row._asdict()), ensure_ascii=False)


def json_lines(rows: Iterable[Row]) -> bytes:
    """Return `rows` as lines of a file in UTF-8."""
    return "".join(f"{json_line(row)}\n" for row in rows).encode()
