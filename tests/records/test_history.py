import copy
import json
import math
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.records.history import History, Rows
from kbn.records.json_lines import json_line
from kbn.records.tags import Place, Row

ROWS = [
    Row(0, "bn", "input", "mean", 0.5),
    Row(0, "bn", "output", "mean", -1.25),
    Row(0, "bn", "input", "std", math.inf),
    Row(7, "bn", "input", "mean", 0.75),
    Row(7, "block/bn:1", "input:0", "mean", 2.0),
    Row(9, "bn", "output", "mean", -1.5),
]


def test_it_is_a_sequence_of_rows():
    history = History(ROWS)
    assert len(history) == 6
    assert list(history) == ROWS
    assert list(reversed(history)) == ROWS[::-1]
    assert history[0] == ROWS[0]
    assert history[-1] == ROWS[-1]
    assert history[np.int64(2)] == ROWS[2]
    assert ROWS[3] in history
    assert Row(8, *ROWS[3][1:]) not in history
    assert (history.index(ROWS[4]), history.count(ROWS[4])) == (4, 1)
    assert isinstance(history[0], Row)
    assert bool(history)
    assert not History()


@pytest.mark.parametrize("index", [6, -7])
def test_beyond_the_end_is_an_index_error(index):
    with pytest.raises(IndexError):
        History(ROWS)[index]


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(2), slice(-2, None), slice(1, 5, 2), slice(None, None, -1), slice(9, 20)],
    ids=str,
)
def test_a_slice_is_a_list(index):
    found = History(ROWS)[index]
    assert type(found) is list
    assert found == ROWS[index]
    assert all(isinstance(row, Row) for row in found)


def test_rows_come_back_as_plain_python():
    history = History([Row(np.int64(3), "bn", "input", "mean", np.float32(0.5))])
    assert [type(value) for value in history[0]] == [int, str, str, str, float]
    assert json.loads(json.dumps(list(history))) == [[3, "bn", "input", "mean", 0.5]]


def test_it_equals_any_sequence_of_the_same_rows():
    history = History(ROWS)
    assert history == ROWS
    assert ROWS == history  # noqa: SIM300 - the list asks first
    assert history == tuple(ROWS)
    assert history == History(iter(ROWS))
    assert history != ROWS[:-1]
    assert history != History(ROWS[::-1])
    assert history != 3
    assert history != set(ROWS)
    assert History() == []


def test_it_cannot_be_hashed():
    with pytest.raises(TypeError, match="unhashable"):
        hash(History(ROWS))


def test_it_grows_and_places_may_come_again():
    history = History()
    history.extend(ROWS[:2])
    history.extend(iter(ROWS[2:]))
    history.extend(())
    assert history == ROWS
    history.extend(history)
    assert history == [*ROWS, *ROWS]


def test_a_record_is_kept_as_its_rows_and_rounded_as_in_the_event_file():
    found = {
        Place("bn", "input"): {"mean": 0.1, "std": math.inf},
        Place("bn", "output"): {},
        Place("block/bn:1", "input:0"): {"mean": 1e300},
    }
    rows = Rows(7, found)
    expected = [
        Row(7, "bn", "input", "mean", float(np.float32(0.1))),
        Row(7, "bn", "input", "std", math.inf),
        Row(7, "block/bn:1", "input:0", "mean", math.inf),
    ]
    assert (list(rows), len(rows), len(Rows(7, {}))) == (expected, 3, 0)
    history = History(ROWS)
    history.add(rows)
    history.add(Rows(8, {}))
    assert history == [*ROWS, *expected]


def test_records_of_more_kinds_than_are_remembered_keep_their_places():
    # Where Python runs a model, every record may be of other places.
    records = [Rows(step, {Place("bn", str(step % 11)): {"mean": step}}) for step in range(40)]
    history = History()
    for rows in records:
        history.add(rows)
    assert history == [Row(step, "bn", str(step % 11), "mean", step) for step in range(40)]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_it_can_be_copied_and_pickled(again):
    assert again(History(ROWS)) == ROWS


def test_it_is_small_in_memory():
    history = History(
        Row(step, f"layer_{i}", "input", "mean", step + 0.5)
        for step in range(10_000)
        for i in range(20)
    )
    held = (history._steps, history._keys, history._values)
    assert sum(sys.getsizeof(column) for column in held) < 30 * len(history)
    assert (len(history._places), len(history._known)) == (20, 20)


def test_its_repr_is_short():
    assert repr(History(ROWS)) == f"History(6 rows, last: {ROWS[-1]})"
    assert repr(History()) == "History(0 rows, last: None)"


def test_series_by_place_in_the_order_of_their_first_rows():
    found = History(ROWS).series("mean")
    assert list(found) == [("bn", "input"), ("bn", "output"), ("block/bn:1", "input:0")]
    steps, values = found["bn", "input"]
    np.testing.assert_array_equal(steps, [0, 7])
    np.testing.assert_array_equal(values, [0.5, 0.75])
    assert (steps.dtype, values.dtype) == (np.int64, np.float64)
    assert [value.tolist() for value in found["block/bn:1", "input:0"]] == [[7], [2.0]]
    assert History(ROWS).series("nonsense") == {}
    assert History().series("mean") == {}


def test_series_do_not_keep_the_history_in_memory():
    """An array that looks into a growing buffer would forbid it to grow."""
    history = History(ROWS)
    series = history.series("mean")
    history.extend(ROWS)
    assert len(history) == 12
    assert len(series["bn", "input"][0]) == 2


@given(
    st.lists(
        st.builds(
            Row,
            st.integers(0, 2**62), *[st.text(max_size=3)] * 3, st.floats(allow_nan=False),
        )
    )
)  # fmt: skip
def test_any_rows_come_back_unchanged(rows):
    history = History(rows)
    assert list(history) == rows
    for (layer, site), (steps, values) in history.series(rows[0].measure if rows else "").items():
        chosen = [row for row in rows if row[1:4] == (layer, site, rows[0].measure)]
        assert steps.tolist() == [row.step for row in chosen]
        assert values.tolist() == [row.value for row in chosen]


# --- pandas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, []], ids=["rows", "empty"])
def test_a_frame_has_the_rows_columns_and_dtypes(rows):
    frame = History(rows).to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(Row._fields)
    assert (frame.step.dtype, frame.value.dtype) == (np.int64, np.float64)
    for name in ("layer", "site", "measure"):
        assert frame[name].dtype == pd.Series(["a"], dtype="str").dtype
    assert list(frame.itertuples(index=False, name=None)) == [tuple(row) for row in rows]
    assert list(frame.index) == list(range(len(rows)))


def test_a_frame_keeps_nan_and_can_be_pivoted():
    frame = History([*ROWS, Row(9, "bn", "input", "mean", math.nan)]).to_frame()
    assert math.isnan(frame.value.iloc[-1])
    wide = frame[frame.measure == "mean"].pivot(
        index="step", columns=["layer", "site"], values="value"
    )
    assert wide["bn", "input"].tolist()[:2] == [0.5, 0.75]


def test_without_pandas_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"needs pandas, .* not installed: pip install pandas$"):
        History(ROWS).to_frame()


# --- JSON lines ----------------------------------------------------------------------------------


def strict(line):
    def fail(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=fail)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.1, 0.1), (-0.0, -0.0), (1e-320, 1e-320), (3.4e38, 3.4e38),
        (math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_lines_are_strict_json_in_the_order_of_the_columns(value, written):
    found = strict(json_line(Row(3, "bn", "input", "mean", value)))
    assert list(found.items()) == [
        ("step", 3), ("layer", "bn"), ("site", "input"), ("measure", "mean"), ("value", written)
    ]  # fmt: skip


@given(st.text(), st.floats())
def test_any_row_is_one_line_and_comes_back(layer, value):
    line = json_line(Row(1, layer, "input", "mean", value))
    assert "\n" not in line
    found = strict(line)
    assert found["layer"] == layer
    back = float(found["value"])
    assert back == value or (math.isnan(back) and math.isnan(value))
