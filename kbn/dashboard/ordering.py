"""The order in which runs and layers are listed."""

import re
from collections.abc import Iterable, Mapping

from kbn.records import tags
from kbn.records.tags import Place


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts "run_2" before "run_10", for numbers of any length."""
    key = []
    for part in re.split(r"(\d+)", name):
        digits = part.lstrip("0") if part.isdecimal() else ""
        key.append((part.isdecimal(), len(digits), digits or part))
    return key


def tags_in_order(names: Iterable[str], order: Mapping[str, int]) -> list[tuple[Place, str, str]]:
    """Return (place, measure, tag) of kbn's tags among `names`.

    Args:
        names: tags of any plugin.
        order: the positions of the layers that come first; the others follow by name.
    """
    parsed = ((tags.parse(tag), tag) for tag in names)
    found = [(each[1], each[0], tag) for each, tag in parsed if each]

    def place(one: tuple[Place, str, str]) -> tuple[object, ...]:
        layer, site = one[0]
        return order.get(layer, len(order)), natural(layer), site

    return sorted(found, key=place)
