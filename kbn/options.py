"""The options that Keras's layer does not have: what is allowed, and what contradicts what."""

from typing import Any

from kbn import checks


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


def checked_fused(fused: Any) -> str | bool:
    """Check `fused`."""
    if fused is True:
        raise NotImplementedError(
            "This version has no fused kernel: fused must be 'auto' or False. Received: fused=True"
        )
    return checks.one_of("fused", fused, ("auto", False))
