"""The options that Keras's layer does not have: what is allowed, and what contradicts what."""

from typing import Any

from kbn.common import checks


def checked_zero_debias(zero_debias: Any, momentum: float | None) -> bool:
    """Check `zero_debias` against `momentum`."""
    if checks.boolean("zero_debias", zero_debias) and (momentum is None or momentum == 1):
        raise ValueError(
            "zero_debias=True needs a momentum in [0, 1): the average of all batches "
            "(momentum=None) has no bias towards its start, and with momentum=1 nothing moves. "
            f"Received: momentum={momentum!r}"
        )
    return bool(zero_debias)


def checked_virtual_batch_size(size: Any, synchronized: bool) -> int | None:
    """Check `virtual_batch_size` against `synchronized`."""
    if size is None:
        return None
    size = checks.integer("virtual_batch_size", size, low=1)
    if synchronized:
        raise ValueError(
            "virtual_batch_size makes batches smaller and synchronized=True larger: choose one. "
            f"Received: virtual_batch_size={size}, synchronized=True"
        )
    return size


def checked_fused(fused: Any, *, renorm: bool, synchronized: bool, virtual: Any) -> str | bool:
    """Check `fused` against what the fused kernel cannot do."""
    if fused is True and (renorm or synchronized or virtual is not None):
        raise ValueError(
            "fused=True contradicts renorm, synchronized and virtual_batch_size, which the fused "
            "kernel does not know: use fused='auto'. Received: fused=True, "
            f"renorm={renorm}, synchronized={synchronized}, virtual_batch_size={virtual}"
        )
    return checks.one_of("fused", fused, ("auto", True, False))
