"""What is said in words, of numbers that are known."""

import numpy as np
import pytest

from kbn.diagnosis import summary
from kbn.records.series import Series
from kbn.records.tags import Place

SHIFT = "wasserstein"


def say(**runs):
    """Return the verdict on runs, given by measure and layer as values at steps 0, 100, …"""
    measures = {
        run: {
            name: {
                Place(layer, "input"): Series(100 * np.arange(len(values)), np.array(values, float))
                for layer, values in layers.items()
            }
            for name, layers in of.items()
        }
        for run, of in runs.items()
    }
    found = summary.moved({run: of.get(SHIFT, {}) for run, of in measures.items()}, SHIFT)
    return summary.verdict(measures, SHIFT, found)


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
def test_places_are_sorted_by_how_far_they_moved(measure, order):
    cosine = measure == "gradient_cosine"
    values = {"good": [0.9, 0.99, 0.95], "bad": [0.5, -0.7, 0.1]} if cosine else {
        "good": [0.1, 0.2, 0.3], "bad": [-0.5, -2.0, -1.0]}  # fmt: skip
    runs = {"a": {Place(layer, "probe"): Series(np.arange(3), np.array(of))
                  for layer, of in values.items()}}  # fmt: skip
    found = summary.moved(runs, measure)
    assert [one.place.layer for one in found] == order
    assert found[0].farthest == min(values["bad"])
    assert found[0].records == 3  # the first one is a measurement like any other


def test_the_run_that_moved_less_is_named():
    sentences = say(normalized={SHIFT: {"a": [0, 0.1, 0.1], "b": [0, 0.3, 0.1]}},
                    plain={SHIFT: {"a": [0, 0.2, 0.4], "b": [0, 1, 1]}})  # fmt: skip
    assert sentences == [
        "normalized: mean shift 0.15 σ over 2 records; largest in b (input): 0.2 σ on average, "
        "0.3 σ at step 100.",
        "plain: mean shift 0.65 σ over 2 records; largest in b (input): 1 σ on average, 1 σ at "
        "step 100.",
        "normalized moved least (0.15), plain most (0.65, 4.3 times as far).",
    ]


@pytest.mark.parametrize(("values", "sentence"), [
    ([0, 1.05], "a and b moved about equally far (1 and 1.05)."),
    ([0, np.inf], "b diverged: the distance of one of its layers is infinite."),
])  # fmt: skip
def test_equal_and_diverged_runs_are_named(values, sentence):
    found = say(a={SHIFT: {"x": [0, 1]}}, b={SHIFT: {"x": values}})
    assert found[-1] == sentence


def test_runs_in_which_nothing_moves():
    found = say(a={SHIFT: {"x": [0, 0]}}, b={SHIFT: {"x": [0, 1]}})
    assert found[-1] == "a did not move; b moved most (1)."


@pytest.mark.parametrize(("measure", "value", "part"), [
    ("dead", 0.75, "more than half of the channels are zero"),
    ("saturated", 0.9, "at the bounds of the activation function"),
    ("mean_gap", 1.5, "more than 1 σ from the mean of the probe batch (stale"),
])  # fmt: skip
def test_what_looks_broken_is_reported_by_its_last_record(measure, value, part):
    found = say(a={SHIFT: {"x": [0, 1], "y": [0, 1]},
                             measure: {"x": [0, value], "y": [value, 0]}})  # fmt: skip
    assert len(found) == 2
    assert part in found[1]
    assert found[1].startswith("a: x (input): ")
    assert found[1].endswith(f"{measure} is {value:.3g} in the last record.")


def test_several_that_look_broken_are_one_sentence():
    found = say(a={"dead": {"x": [0.6], "y": [0.9], "z": [0.1]}})
    (sentence,) = found
    assert sentence.startswith("a: y (input) and 1 more: more than half")


def test_a_run_that_ended_in_nan_did_not_move_least():
    calm = {"x": [0, 0.1, 0.1], "y": [0, 0.2, 0.2]}
    found = say(calm={SHIFT: calm}, diverged={
        SHIFT: {"x": [0, 0, 0], "y": [0, np.nan, np.nan]},
        "non_finite": {"x": [0, 0, 0], "y": [0, 1, 1]},
    })  # fmt: skip
    assert found == [
        "calm: mean shift 0.15 σ over 2 records; largest in y (input): 0.2 σ on average, 0.2 σ at "
        "step 100.",
        "diverged: y (input): inf or NaN among the values (diverged; not compared with other "
        "runs); non_finite is 1 in the last record.",
    ]


def test_without_distances_nothing_is_claimed():
    (sentence,) = say(a={"mean": {"x": [0, 1]}})
    assert sentence == "No run has wasserstein: how far layers moved is unknown."
