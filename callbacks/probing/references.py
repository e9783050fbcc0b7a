"""What a record of `CovariateShift` is compared with."""

import numbers
from collections.abc import Mapping
from typing import Any

from kbn.common import checks
from kbn.distributions.sketch import DistributionSketch
from kbn.records.tags import Place

REFERENCES = ("previous", "first")
Sketches = Mapping[Place, DistributionSketch]


class References:
    """The sketches that records are compared with, place by place.

    A place may be missing from a record, if Python runs the model; its reference stays.

    Args:
        reference: "previous", "first", or a step: the first record at or after it.
    """

    def __init__(self, reference: str | int) -> None:
        self._reference = reference
        self._kept: dict[Place, DistributionSketch] = {}

    def before(self, step: int, sketches: Sketches) -> Sketches:
        """Return what the record of `step` is compared with; the first of all with itself."""
        if not self._is_later(step):
            self._kept = {**sketches, **self._kept}
        return self._kept

    def after(self, step: int, sketches: Sketches) -> None:
        """Keep what the records after `step` are compared with."""
        if self._reference == "previous":
            self._kept = {**self._kept, **sketches}

    def _is_later(self, step: int) -> bool:
        return not isinstance(self._reference, str) and step < self._reference


def checked_reference(reference: Any) -> str | int:
    """Check the `reference` argument."""
    if isinstance(reference, numbers.Integral) and not isinstance(reference, bool):
        return checks.integer("reference", reference, low=0)
    if not isinstance(reference, str) or reference not in REFERENCES:
        raise ValueError(
            "reference must be one of 'previous', 'first', or a step. "
            f"Received: reference={reference!r}"
        )
    return reference
