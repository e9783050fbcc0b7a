"""Places (layers and sites), rows of numbers, and the TensorBoard tags of places.

A tag is `measure/layer/site`. TensorBoard groups tags by their first segment, so each group is a
measure with a list of layers.
"""

from typing import NamedTuple

from kbn.records import catalogue

SITES = ("input", "output")
PROBE = "probe"
"""The site of measures of a whole layer, or of the model, on the probe batch."""
MODEL = "model"
"""Used in place of a layer if a number belongs to the whole model."""


class Place(NamedTuple):
    """One watched place in the model.

    Attributes:
        layer: the layer's path, with `:i` for the i-th call of a shared layer.
        site: "input" or "output", with `:i` for the i-th of several tensors.
    """

    layer: str
    site: str


class Row(NamedTuple):
    """One number of one record, as kept in a callback's `history` and in the event file."""

    step: int
    layer: str
    site: str
    measure: str
    value: float


def tag(measure: str, place: Place) -> str:
    """Return the tag under which `measure` of `place` is written."""
    return f"{measure}/{place.layer}/{place.site}"


def parse(tag: str) -> tuple[str, Place] | None:
    """Return the measure and the place of a tag that `tag` wrote; None for any other tag."""
    measure, _, place = tag.partition("/")
    layer, _, site = place.rpartition("/")
    known = measure in catalogue.measures() and site.split(":")[0] in (*SITES, PROBE)
    return (measure, Place(layer, site)) if known and layer else None
