"""When a record is taken. Time is an argument: a schedule keeps no state."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kbn import checks

DEFAULT_EVERY_STEPS = 100


@dataclass(frozen=True)
class Schedule:
    """The cadence of a hook; exactly one of the three fields is set.

    Attributes:
        every_steps: a record whenever a multiple of it was crossed.
        every_epochs: a record at the end of every so many epochs.
        on_steps: a record whenever one of these steps was crossed.
    """

    every_steps: int | None = None
    every_epochs: int | None = None
    on_steps: tuple[int, ...] | None = None

    def due_at_step(self, before: int, now: int) -> bool:
        """Say whether a record is due after the optimizer went from step `before` to `now`.

        Several steps may pass between two looks (`steps_per_execution`), so the question is
        what was crossed, not what was hit.
        """
        if self.every_steps is not None:
            return now // self.every_steps > before // self.every_steps
        return any(before < step <= now for step in self.on_steps or ())

    def due_at_epoch(self, epochs: int) -> bool:
        """Say whether a record is due at the end of the epoch that makes it `epochs` in all."""
        return self.every_epochs is not None and epochs % self.every_epochs == 0


def schedule(every_steps: Any, every_epochs: Any, on_steps: Any) -> Schedule:
    """Check the cadence arguments of a hook and return the schedule they mean.

    Raises:
        TypeError, ValueError: for a cadence that is not a positive integer, or more than one.
    """
    given = {"every_steps": every_steps, "every_epochs": every_epochs, "on_steps": on_steps}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        received = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"Only one of every_steps, every_epochs and on_steps may be given. Received: {received}"
        )
    if not given:
        return Schedule(every_steps=DEFAULT_EVERY_STEPS)
    if on_steps is not None:
        return Schedule(on_steps=_steps(on_steps))
    ((name, value),) = given.items()
    number = checks.integer(name, value, low=1)
    return Schedule(every_steps=number) if name == "every_steps" else Schedule(every_epochs=number)


def _steps(on_steps: Any) -> tuple[int, ...]:
    if not isinstance(on_steps, Iterable) or isinstance(on_steps, str | bytes):
        raise TypeError(f"on_steps must be a list of steps. Received: on_steps={on_steps!r}")
    steps = tuple(checks.integer("each of on_steps", step, low=0) for step in on_steps)
    if not steps:
        raise ValueError(f"on_steps must name at least one step. Received: on_steps={on_steps!r}")
    return steps
