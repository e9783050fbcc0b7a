"""What is said in words, of numbers that are known."""

import numpy as np
import pytest

from kbn.dashboard.folder import open_folder
from kbn.dashboard.reader import Series
from kbn.diagnosis import summary
from kbn.records.tags import Place
from tests.support.logs import write

SHIFT = "wasserstein"


def say(tmp_path, **runs):
    for name, measures in runs.items():
        write(tmp_path / name, measures)
    log = open_folder(tmp_path)
    found = summary.moved({run: log.series(run, SHIFT) for run in log.runs()}, SHIFT)
    return summary.verdict(log, log.runs(), SHIFT, found)


def test_how_far_places_moved_leaves_out_the_first_record():
    def of(*values):
        return Series(np.arange(len(values)) * 10, np.array(values, float))

    near, far = Place("near", "input"), Place("far", "input")
    runs = {"a": {near: of(9, 1, 3), far: of(0, np.nan, 4)}, "b": {near: of(5), far: of(0, np.inf)}}
    assert summary.moved(runs, SHIFT) == [
        ("b", far, np.inf, np.inf, 10, 1),
        ("a", far, 4.0, 4.0, 20, 1),
        ("a", near, 2.0, 3.0, 20, 2),
    ]
    assert summary.totals(summary.moved(runs, SHIFT)) == {"b": np.inf, "a": 3.0}


@pytest.mark.parametrize(("measure", "order"), [
    ("gradient_cosine", ["bad", "good"]), ("variance_log_ratio", ["bad", "good"]),
])  # fmt: skip
def test_the_farthest_from_where_nothing_moves_stands_first(measure, order):
    cosine = measure == "gradient_cosine"
    values = {"good": [0.9, 0.99, 0.95], "bad": [0.5, -0.7, 0.1]} if cosine else {
        "good": [0.1, 0.2, 0.3], "bad": [-0.5, -2.0, -1.0]}  # fmt: skip
    runs = {"a": {Place(layer, "probe"): Series(np.arange(3), np.array(of))
                  for layer, of in values.items()}}  # fmt: skip
    found = summary.moved(runs, measure)
    assert [one.place.layer for one in found] == order
    assert found[0].farthest == min(values["bad"])
    assert found[0].records == 3  # the first one is a measurement like any other


def test_the_run_that_moved_less_is_named(tmp_path):
    sentences = say(tmp_path, plain={SHIFT: {"a": [0, 0.2, 0.4], "b": [0, 1, 1]}},
                    normalized={SHIFT: {"a": [0, 0.1, 0.1], "b": [0, 0.3, 0.1]}})  # fmt: skip
    assert sentences == [
        "normalized: over 2 records, layers moved by 0.15 from each reference record, in the mean "
        "(wasserstein); most moved b (input), by 0.2, and at step 100 by 0.3.",
        "plain: over 2 records, layers moved by 0.65 from each reference record, in the mean "
        "(wasserstein); most moved b (input), by 1, and at step 100 by 1.",
        "normalized moved least (0.15), plain most (0.65, 4.3 times).",
    ]


@pytest.mark.parametrize(("values", "sentence"), [
    ([0, 1.05], "a and b moved about equally far (1 and 1.05)."),
    ([0, np.inf], "b diverged: a layer of it moved infinitely far."),
])  # fmt: skip
def test_what_is_equal_or_diverged_is_called_so(values, sentence, tmp_path):
    found = say(tmp_path, a={SHIFT: {"x": [0, 1]}}, b={SHIFT: {"x": values}})
    assert found[-1] == sentence


def test_runs_that_stand_still(tmp_path):
    found = say(tmp_path, a={SHIFT: {"x": [0, 0]}}, b={SHIFT: {"x": [0, 1]}})
    assert found[-1] == "a did not move; b moved most (1)."


@pytest.mark.parametrize(("measure", "value", "part"), [
    ("dead", 0.75, "more than half of its channels at zero"),
    ("saturated", 0.9, "at the bounds of its activation"),
    ("mean_gap", 1.5, "more than 1 σ off the probe's (stale"),
])  # fmt: skip
def test_what_looks_broken_is_told_by_its_last_record(measure, value, part, tmp_path):
    found = say(tmp_path, a={SHIFT: {"x": [0, 1], "y": [0, 1]},
                             measure: {"x": [0, value], "y": [value, 0]}})  # fmt: skip
    assert len(found) == 2
    assert part in found[1]
    assert found[1].startswith("a: x (input) ")
    assert found[1].endswith(f"{measure} {value:.3g} in the last record.")


def test_several_that_look_broken_are_one_sentence(tmp_path):
    found = say(tmp_path, a={"dead": {"x": [0.6], "y": [0.9], "z": [0.1]}})
    (sentence,) = found
    assert sentence.startswith("a: y (input), like 1 more, has")


def test_a_run_that_ended_in_nan_is_not_called_the_calm_one(tmp_path):
    calm = {"x": [0, 0.1, 0.1], "y": [0, 0.2, 0.2]}
    found = say(tmp_path, calm={SHIFT: calm}, diverged={
        SHIFT: {"x": [0, 0, 0], "y": [0, np.nan, np.nan]},
        "non_finite": {"x": [0, 0, 0], "y": [0, 1, 1]},
    })  # fmt: skip
    assert found == [
        "calm: over 2 records, layers moved by 0.15 from each reference record, in the mean "
        "(wasserstein); most moved y (input), by 0.2, and at step 100 by 0.2.",
        "diverged: y (input) has inf or NaN among its values (diverged, and not compared): "
        "non_finite 1 in the last record.",
    ]


def test_without_distances_nothing_is_claimed(tmp_path):
    (sentence,) = say(tmp_path, a={"mean": {"x": [0, 1]}})
    assert "nothing can be said" in sentence
