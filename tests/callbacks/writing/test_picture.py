"""The heat map, read back pixel by pixel, and which layers are in it and in the table."""

import html
import io
import math
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.plugin_util import markdown_to_safe_html

from kbn.callbacks.writing import picture, worst_layers
from kbn.callbacks.writing.picture import heat_map
from kbn.callbacks.writing.worst_layers import COLUMNS, LINES, Movements
from kbn.records import catalogue
from kbn.records.tags import Place

DARKEST, MIDDLE, BRIGHTEST, GRAY = (68, 1, 84), (33, 145, 140), (253, 231, 37), (200, 200, 200)


def decoded(drawn):
    """Return the pixels (height, width, 3) of a picture, of which all is checked."""
    image = Image.open(io.BytesIO(drawn.png))
    assert image.format == "PNG"
    image.load()
    assert image.size == drawn.size
    return np.array(image.convert("RGB"))


def cells(drawn, shape):
    """Return the color in the middle of every cell, as a list of lines of tuples."""
    pixels = decoded(drawn)
    lines = (np.arange(shape[0]) + 0.5) * picture._LINE
    columns = picture._LABEL + (np.arange(shape[1]) + 0.5) * picture._WIDTH / shape[1]
    middles = pixels[np.ix_(lines.astype(int), columns.astype(int))]
    return [[tuple(map(int, color)) for color in line] for line in middles]


def drawn(values):
    values = np.array(values, float)
    names = [f"layer_{i}" for i in range(len(values))]
    return cells(heat_map(values, names, range(values.shape[1])), values.shape)


def test_the_size_is_as_returned_and_grows_by_one_line_per_name():
    sizes = [
        heat_map(np.ones((lines, columns)), ["a"] * lines, list(range(columns))).size
        for lines, columns in [(1, 1), (2, 1), (24, 160), (24, 1)]
    ]
    assert sizes[2] == sizes[3]
    assert {width for width, _ in sizes} == {sizes[0][0]}
    assert sizes[1][1] - sizes[0][1] == picture._LINE
    assert sizes[2][1] - sizes[0][1] == 23 * picture._LINE


def test_the_greatest_is_brightest_and_three_decades_below_it_is_dark():
    assert drawn([[5, 5e-3], [5e-5, 5 / 10**1.5]]) == [[BRIGHTEST, DARKEST], [DARKEST, MIDDLE]]


def test_brighter_means_farther():
    (line,) = drawn([np.geomspace(1e-3, 1, 30)])
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in line]
    assert lightness == sorted(lightness)
    assert len(set(line)) == 30


def test_unknown_values_are_gray_and_zero_is_dark():
    assert drawn([[math.nan, 0, 1]]) == [[GRAY, DARKEST, BRIGHTEST]]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1, 1e38, 1e300])
def test_inf_is_bright_and_does_not_darken_the_rest(scale):
    found = drawn([[math.inf, scale, 0, -math.inf, scale / 10**1.5]])
    assert found == [[BRIGHTEST, BRIGHTEST, DARKEST, DARKEST, MIDDLE]]


@pytest.mark.parametrize(
    ("value", "color"),
    [(0, DARKEST), (math.nan, GRAY), (math.inf, BRIGHTEST), (-math.inf, DARKEST), (-1, DARKEST)],
)
def test_a_picture_of_one_thing_only(value, color):
    assert drawn(np.full((2, 3), value)) == [[color] * 3] * 2


def test_every_line_and_column_has_its_place():
    values = np.full((3, 4), np.nan)
    values[1, 2] = 1
    expected = [[GRAY] * 4 for _ in range(3)]
    expected[1][2] = BRIGHTEST
    assert drawn(values) == expected


NAMES = {
    "short": "bn input",
    "empty": "",
    "long": "encoder/" + "x" * 300,
    "wide": "W" * 300,
    "chinese": "编码器/归一化 " * 30,
    "emoji": "🔥" * 300,
    "right_to_left": "טבלה " * 60,
    "several_lines": "a\nb\r\nc\td",
    "nul": "a\0b",
}


def check_drawn_beside_the_cells(name, pixels):
    """Check the picture of a bright line and a gray one, both called `name`."""
    inside = pixels[:, picture._LABEL : picture._LABEL + picture._WIDTH]
    assert (inside[: picture._LINE] == BRIGHTEST).all()
    assert (inside[picture._LINE : 2 * picture._LINE] == GRAY).all()
    if name:
        assert (pixels[: picture._LINE, : picture._LABEL] < 128).any()  # ink


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_is_drawn_beside_the_cells(name):
    drawn = heat_map(np.array([[1.0], [np.nan]]), [name, name], [0])
    check_drawn_beside_the_cells(name, decoded(drawn))


def test_any_name_is_drawn_without_freetype(tmp_path, python):
    """The process cannot import Pillow's FreeType module."""
    code = f"""
import sys
sys.modules["PIL._imagingft"] = None
import numpy as np
from kbn.callbacks.writing.picture import heat_map

for kind, name in {NAMES!r}.items():
    drawn = heat_map(np.array([[1.0], [np.nan]]), [name, name], [0])
    open({str(tmp_path)!r} + f"/{{kind}}.png", "wb").write(drawn.png)
"""
    python("-c", code)
    for kind, name in NAMES.items():
        with Image.open(tmp_path / f"{kind}.png") as image:
            check_drawn_beside_the_cells(name, np.array(image.convert("RGB")))


def test_the_beginning_of_long_names_is_cut_off():
    assert picture._shortened("x" * 20) == "x" * 20
    shortened = picture._shortened("encoder/" + "x" * 300 + "/last")
    assert len(shortened) < 50
    assert shortened.startswith("…x")
    assert shortened.endswith("x/last")


def test_steps_and_scale_are_written():
    texts = []

    class Recording(type(picture.ImageDraw.Draw(Image.new("RGB", (1, 1))))):
        def text(self, place, text, **options):
            texts.append(text)
            super().text(place, text, **options)

    picture._ink.cache_clear()
    draw = picture.ImageDraw.Draw
    try:
        picture.ImageDraw.Draw = Recording
        heat_map(np.array([[1, 250.0]] * 4), ["a", "b", "c", "d"], [3, 12_345_678])
    finally:
        picture.ImageDraw.Draw = draw
    assert texts == ["a", "b", "c", "d", "step 3", "step 12345678", "2.5e+02", "0.25"]


# --- which layers --------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """What is handed to the picture: values, names and steps of the last one."""
    found = {}

    def look(values, names, steps):
        found.update(values=np.array(values), names=list(names), steps=list(steps))
        return heat_map(values, names, steps)

    monkeypatch.setattr(worst_layers, "heat_map", look)
    return found


def summary(moved, steps=None):
    """Sum up `moved`: lists of values by layer; None where a record has none."""
    movements = Movements("wasserstein")
    for i, step in enumerate(steps or range(len(next(iter(moved.values()))))):
        found = {Place(layer, "input"): values[i] for layer, values in moved.items()}
        movements.add(step, {place: value for place, value in found.items() if value is not None})
    return movements.summary()


def table(record):
    """Return the lines of the table, as (place, value), and its title."""
    title, rule, *lines = record.texts[catalogue.WORST_LAYERS].splitlines()
    assert rule == "| --- | --- |"
    return [tuple(re.fullmatch(r"\| (.*) \| (\S+) \|", line).groups()) for line in lines], title


def test_without_the_measure_there_is_no_summary():
    for empty in (Movements("wasserstein").summary(), summary({"a": [None]})):
        assert (empty.rows, empty.histograms, empty.pictures, empty.texts) == (None, {}, {}, {})


def test_picture_and_table_of_a_few_layers(seen):
    record = summary({"a": [0, 0.5, 1], "b": [0, 2, 0.25], "c": [0, 0, 12_345.678]}, [0, 50, 70])
    assert seen["names"] == ["a input", "b input", "c input"]
    assert seen["steps"] == [0, 50, 70]
    np.testing.assert_array_equal(seen["values"], [[0, 0.5, 1], [0, 2, 0.25], [0, 0, 12_345.678]])
    assert list(record.pictures) == [catalogue.HEAT_MAP]
    decoded(record.pictures[catalogue.HEAT_MAP])
    lines, title = table(record)
    assert title == "| place | wasserstein at step 70 |"
    assert lines == [("c input", "1.235e+04"), ("a input", "1"), ("b input", "0.25")]


def test_a_place_that_lacks_a_record_is_unknown_there(seen):
    record = summary({"a": [0, None, 1], "b": [None, 2, None]}, [0, 50, 70])
    np.testing.assert_array_equal(seen["values"], [[0, np.nan, 1], [np.nan, 2, np.nan]])
    assert table(record)[0] == [("a input", "1"), ("b input", "nan")]


def test_of_many_layers_the_worst_are_kept_in_the_order_of_the_model(seen):
    many = 3 * LINES
    means = np.random.default_rng(0).permutation(many) + 1.0
    moved = {f"layer\t{i}": [0, mean, 2 * mean] for i, mean in enumerate(means)}
    record = summary(moved)
    worst = np.flatnonzero(means > many - LINES)
    assert seen["names"] == [f"layer\t{i} input" for i in worst]
    np.testing.assert_array_equal(seen["values"][:, 1], means[worst])
    lines, _ = table(record)
    assert [float(value) for _, value in lines] == [2.0 * (many - i) for i in range(LINES)]


def test_inf_is_sorted_first_and_unknown_values_last(seen):
    moved = {f"unknown_{i}": [math.nan, math.nan] for i in range(LINES)}
    moved |= {f"still_{i}": [0, 0] for i in range(LINES - 2)}
    moved |= {"once_inf": [math.inf, 0.0], "moved": [0, 3.0]}
    record = summary(moved)
    assert seen["names"] == [f"{layer} input" for layer in moved if "unknown" not in layer]
    lines, _ = table(record)
    assert lines[0] == ("moved input", "3")
    assert all(value == "0" for _, value in lines[1:])


def test_the_table_ranks_by_the_last_record():
    moved = {"nan": [9.0, math.nan], "zero": [9.0, 0.0], "inf": [0, math.inf], "one": [0, 1.0]}
    lines, _ = table(summary(moved))
    assert lines == [
        ("inf input", "inf"), ("one input", "1"), ("zero input", "0"), ("nan input", "nan")
    ]  # fmt: skip


@pytest.mark.parametrize("records", [COLUMNS, COLUMNS + 1, 2 * COLUMNS, 1777])
def test_of_many_records_several_share_a_column_and_the_greatest_shows(records, seen):
    values = np.random.default_rng(0).random((3, records))
    values[0, 1::2] = np.nan
    values[2] = np.nan
    values[1, -1] = math.inf
    moved = {"a": values[0].tolist(), "b": values[1].tolist(), "c": values[2].tolist()}
    record = summary(moved)
    found = seen["values"]
    assert found.shape == (3, COLUMNS)
    assert seen["steps"] == list(range(records))
    assert found[1, -1] == math.inf
    assert np.isnan(found[2]).all()
    for line in (0, 1):
        assert np.nanmax(found[line]) == np.nanmax(values[line])
        assert set(found[line][~np.isnan(found[line])]) <= set(values[line])
    assert found[1, 0] == np.nanmax(values[1, : records // COLUMNS])
    assert decoded(record.pictures[catalogue.HEAT_MAP]).shape[0] == 5 * picture._LINE


QUOTED = [
    "plain", "a|b", "a||b|", "_x_", "__x__", "a*b*", "`code`", "[text](http://x)", "![x](y)",
    "1. x", "# x", "- x", "+ x", "a\\b", "a\\|b", "~~x~~", "$x$", "<b>bold</b>", "<script>",
    "&lt;", "x & y", "http://example.com", "ünï/层", "block_1/bn:1", "{x}", "several\nlines",
]  # fmt: skip


@pytest.mark.parametrize("name", QUOTED)
def test_tensorboard_shows_names_as_they_are(name):
    record = summary({name: [0, 0.5], "other": [0, 0.25]})
    page = markdown_to_safe_html(record.texts[catalogue.WORST_LAYERS])
    rows = re.findall(r"<td>(.*?)</td>\s*<td>(.*?)</td>\s*</tr>", page, re.DOTALL)
    assert len(rows) == 2
    shown = html.unescape(re.sub(r"</?[a-z]+[^>]*>", "", rows[0][0]))
    assert shown == f"{' '.join(name.split())} input"
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", page)
    assert [value for _, value in rows] == ["0.5", "0.25"]
