"""A heat map as a PNG, for TensorBoard's Images tab."""

import functools
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

# Viridis (Smith & van der Walt 2015): uniform in lightness, and readable for color-blind people.
_VIRIDIS = np.array(
    [[68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128],
     [94, 201, 98], [173, 220, 48], [253, 231, 37]]
)  # fmt: skip
# With a palette, a picture takes a third of the bytes and a fifth of the compression time. The
# palette has shades for values, one color for unknown values, and grays for text.
_SHADES, _GRAYS = 241, 14
_UNKNOWN, _INK = _SHADES, _SHADES + 1  # indices in the palette; `_INK` is the darkest gray
_DECADES = 3  # range of the colors
_LINE, _LABEL, _WIDTH, _LEGEND = 16, 230, 480, 70  # pixels
_BAR = 12
_FONT_SIZE = 11


class Picture(NamedTuple):
    """A PNG file and its size, (width, height), in pixels."""

    png: bytes
    size: tuple[int, int]


def heat_map(values: np.ndarray, names: Sequence[str], steps: Sequence[int]) -> Picture:
    """Draw `values` in logarithmic colors: one line per name, one column per step.

    Args:
        values: (names, steps) floats. NaN is gray. Values at least 3 decades below the largest
            finite value have the color of 0.
        names: labels of the lines; the beginning of long ones is cut off.
        steps: ascending; the first and the last are labels below the picture.
    """
    height, right = _LINE * len(names), _LABEL + _WIDTH
    pixels = np.full((height + 2 * _LINE, right + _LEGEND), _INK + _GRAYS - 1, np.uint8)
    top = _greatest(values)
    columns = np.arange(_WIDTH) * values.shape[1] // _WIDTH
    pixels[:height, _LABEL:right] = _shades(values, top)[:, columns].repeat(_LINE, axis=0)
    for line, name in enumerate(names):
        _write(pixels, (_LABEL - 4, line * _LINE), _shortened(name), right=True)
    _write(pixels, (_LABEL, height), f"step {steps[0]}")
    _write(pixels, (right, height), f"step {steps[-1]}", right=True)
    _draw_legend(pixels, top)
    image = Image.fromarray(pixels, "P")
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return Picture(buffer.getvalue(), image.size)


def _greatest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _shades(values: np.ndarray, top: float) -> np.ndarray:
    """Return the index of each value's color in the palette."""
    with np.errstate(divide="ignore", invalid="ignore"):
        level = 1 + np.log10(values / top) / _DECADES
    place = np.rint(np.clip(np.nan_to_num(level, nan=0.0), 0, 1) * (_SHADES - 1))
    return np.where(np.isnan(values), _UNKNOWN, place).astype(np.uint8)


@functools.cache
def _palette() -> bytes:
    places, points = np.linspace(0, len(_VIRIDIS) - 1, _SHADES), np.arange(len(_VIRIDIS))
    shades = np.stack([np.interp(places, points, channel) for channel in _VIRIDIS.T], axis=-1)
    grays = np.linspace(0, 255, _GRAYS)[:, None].repeat(3, axis=1)
    return np.concatenate([shades, [[200] * 3], grays]).astype(np.uint8).tobytes()


def _draw_legend(pixels: np.ndarray, top: float) -> None:
    height, left = len(pixels) - 2 * _LINE, pixels.shape[1] - 64
    shades = top * 10.0 ** (-_DECADES * np.linspace(0, 1, max(height, 2)))[:height]
    pixels[:height, left : left + _BAR] = _shades(shades, top)[:, None]
    left += _BAR + 4
    _write(pixels, (left, 0), f"{top:.2g}")
    if height > 2 * _LINE:
        _write(pixels, (left, height - _LINE), f"{top / 10**_DECADES:.2g}")


def _write(pixels: np.ndarray, place: tuple[int, int], text: str, *, right: bool = False) -> None:
    """Write a line of text to the right of `place`; if `right`, to its left."""
    ink = _ink(text)
    x, y = place
    width = min(ink.shape[1], x if right else pixels.shape[1] - x)
    x -= width if right else 0
    pixels[y : y + _LINE, x : x + width] = ink[:, :width]


@functools.lru_cache(256)  # most texts are the same after every epoch
def _ink(text: str) -> np.ndarray:
    """Return a line of text as (_LINE, width) indices in the palette."""
    font = _font()
    if not _has_freetype():  # the built-in bitmap font has only ASCII
        text = text.encode("ascii", "replace").decode()
    image = Image.new("L", (max(1, math.ceil(font.getlength(text))), _LINE), "white")
    ImageDraw.Draw(image).text((0, 2), text, fill="black", font=font)
    return _INK + (np.asarray(image).astype(np.uint16) * (_GRAYS - 1) // 255).astype(np.uint8)


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # With a size, Pillow raises if it was built without FreeType.
    return ImageFont.load_default(_FONT_SIZE if _has_freetype() else None)


@functools.cache
def _has_freetype() -> bool:
    return features.check("freetype2")


def _shortened(name: str) -> str:
    most = math.floor(_LABEL / 6.2)
    return name if len(name) <= most else f"…{name[1 - most :]}"
