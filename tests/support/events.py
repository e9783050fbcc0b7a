"""Read event files with TensorBoard's own reader."""

from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


def accumulate(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0})
    return accumulator.Reload()


def series(run: Path, tag: str) -> dict:
    """Return the values under `tag` by step, as arrays."""
    return {e.step: make_ndarray(e.tensor_proto) for e in accumulate(run).Tensors(tag)}


def tags(run: Path) -> list[str]:
    return sorted(accumulate(run).Tags()["tensors"])


def text(run: Path, tag: str) -> str:
    """Return the last text under `tag`, without the backslashes that Markdown needs."""
    last = accumulate(run).Tensors(tag)[-1]
    return last.tensor_proto.string_val[0].decode().replace("\\", "")
