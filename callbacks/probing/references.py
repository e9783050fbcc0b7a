"""The references of `CovariateShift`, which its records are compared with."""

import numbers
from collections.abc import Mapping

from kbn.common import checks
from kbn.distributions.sketch import DistributionSketch
from kbn.records.tags import Place

REFERENCES = ("previous", "first")
Sketches = Mapping[Place, DistributionSketch]


class References:
    """The sketches that records are compared with, by place.

    If the model runs eagerly, a place may be missing from a record. Its reference stays.

    Args:
        reference: "previous", "first", or a step: the first record at or after it.
    """

    def __init__(self, reference: str | int) -> None:
        self._reference = reference
        self._kept: dict[Place, DistributionSketch] = {}

    def before(self, step: int, sketches: Sketches) -> Sketches:
        """Return the references of the record at `step`; a first record is its own reference."""
        if not self._is_later(step):
            self._kept = {**sketches, **self._kept}
        return self._kept

    def after(self, step: int, sketches: Sketches) -> None:
        """Keep the references of the records after `step`."""
        if self._reference == "previous":
            self._kept = {**self._kept, **sketches}

    def _is_later(self, step: int) -> bool:
        return not isinstance(self._reference, str) and step < self._reference


def checked_reference(reference: object) -> str | int:
    """Check the `reference` argument."""
    if isinstance(reference, numbers.Integral) and not isinstance(reference, bool):
        return checks.integer("reference", reference, low=0)
    if not isinstance(reference, str) or reference not in REFERENCES:
        raise ValueError(
            "reference must be 'previous', 'first' or a step, an integer of at least 0. "
            f"Received: reference={reference!r}"
        )
    return reference
