"""A heat map as a PNG, for TensorBoard's Images tab."""

import functools
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

# Viridis (Smith & van der Walt 2015): even in lightness, and legible to the colour-blind.
_VIRIDIS = np.array(
    [[68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128],
     [94, 201, 98], [173, 220, 48], [253, 231, 37]]
)  # fmt: skip
_UNKNOWN = np.array([200, 200, 200])
_DECADES = 3  # that the colours span
_LINE, _LABEL, _WIDTH, _LEGEND = 16, 230, 480, 70  # pixels
_FONT_SIZE = 11


class Picture(NamedTuple):
    """A PNG file and its size, (width, height), in pixels."""

    png: bytes
    size: tuple[int, int]


def heat_map(values: np.ndarray, names: Sequence[str], steps: Sequence[int]) -> Picture:
    """Draw `values` in logarithmic colours: one line per name, one column per step.

    Args:
        values: (names, steps) floats; NaN is grey, and what is 3 decades below the greatest finite
            value is as dark as 0.
        names: what stands beside each line; long ones lose their beginning.
        steps: ascending; the first and the last are written below.
    """
    height = _LINE * (len(names) + 1)
    image = Image.new("RGB", (_LABEL + _WIDTH + _LEGEND, height + _LINE), "white")
    top = _greatest(values)
    cells = Image.fromarray(_colours(values, top))
    cells = cells.resize((_WIDTH, _LINE * len(names)), Image.Resampling.NEAREST)
    image.paste(cells, (_LABEL, 0))
    draw = ImageDraw.Draw(image)
    for line, name in enumerate(names):
        image.paste(_label(_shortened(name)), (0, line * _LINE))
    _write(draw, (_LABEL, height - _LINE + 2), f"step {steps[0]}", "la")
    _write(draw, (_LABEL + _WIDTH, height - _LINE + 2), f"step {steps[-1]}", "ra")
    _draw_legend(image, draw, top)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return Picture(buffer.getvalue(), image.size)


@functools.lru_cache(256)  # the same at every epoch's end, and half of the time
def _label(name: str) -> Image.Image:
    label = Image.new("RGB", (_LABEL, _LINE), "white")
    _write(ImageDraw.Draw(label), (_LABEL - 4, 2), name, "ra")
    return label


def _greatest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _colours(values: np.ndarray, top: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        level = 1 + np.log10(values / top) / _DECADES
    place = np.clip(np.nan_to_num(level, nan=0.0), 0, 1) * (len(_VIRIDIS) - 1)
    points = np.arange(len(_VIRIDIS))
    colours = np.stack([np.interp(place, points, channel) for channel in _VIRIDIS.T], axis=-1)
    return np.where(np.isnan(values)[..., None], _UNKNOWN, colours).astype(np.uint8)


def _draw_legend(image: Image.Image, draw: ImageDraw.ImageDraw, top: float) -> None:
    height = image.size[1] - 2 * _LINE
    shades = top * 10.0 ** (-_DECADES * np.linspace(0, 1, max(height, 2)))
    image.paste(
        Image.fromarray(_colours(shades[:, None].repeat(12, 1), top)), (image.size[0] - 64, 0)
    )
    left = image.size[0] - 48
    _write(draw, (left, 0), f"{top:.2g}", "la")
    if height > 2 * _LINE:
        _write(draw, (left, height - _LINE), f"{top / 10**_DECADES:.2g}", "la")


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, anchor: str) -> None:
    if not features.check("freetype2"):  # the built-in bitmap font knows neither
        text = text.encode("ascii", "replace").decode()
        shift = 6 * len(text) if anchor == "ra" else 0
        draw.text((place[0] - shift, place[1]), text, fill="black")
        return
    draw.text(place, text, fill="black", anchor=anchor, font=_font())


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)


def _shortened(name: str) -> str:
    most = math.floor(_LABEL / 6.2)
    return name if len(name) <= most else f"…{name[1 - most :]}"
