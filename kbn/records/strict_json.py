"""JSON without NaN and infinities, which are not valid JSON numbers: they become strings."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"


def strict(value: Json) -> Json:
    """Return `value`, nested or not, with NaN and infinities replaced by strings.

    The strings are "NaN", "Infinity" and "-Infinity".
    """
    if isinstance(value, Mapping):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
