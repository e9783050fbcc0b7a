"""The catalogue: each fact about a measure once, and complete."""

import collections

import pytest

import kbn.callbacks
from kbn.records import catalogue

ROWS = catalogue.measures()


def test_no_name_is_given_twice():
    names = [row.name for run in catalogue.RUNS for row in run.measures()]
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []
    assert list(ROWS) == [*names, catalogue.MONITOR]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_row_has_a_sentence(row):
    assert row.meaning.endswith(".")
    assert row.meaning[0].isupper() or not row.meaning[0].isalpha()
    assert len(row.meaning) > 15


@pytest.mark.parametrize("run", catalogue.RUNS, ids=lambda run: run.name)
def test_every_run_is_written_by_its_callback(run):
    callback = getattr(kbn.callbacks, run.callback)
    assert callback.run == run.name == catalogue.run_of(run.callback)
    assert callback.__module__ == f"kbn.callbacks.{run.name}"
    assert set(catalogue.scalars(run.name)) <= set(ROWS)


def test_measures_are_in_the_order_of_the_dashboard():
    assert catalogue.scalars("covariate_shift")[:8] == (
        "percentile_15", "percentile_50", "percentile_85", "mean", "std", "wasserstein", "jeffreys",
        "wasserstein_gaussian",
    )  # fmt: skip
    assert list(ROWS).index("gradient_shift") > list(ROWS).index("saturated")


def test_measures_have_their_still_value_and_owner():
    assert (ROWS["gradient_cosine"].still, ROWS["gradient_shift"].still) == (1, 0)
    for name in (*catalogue.scalars("loss_landscape"), "loss_training", "loss_gap"):
        assert ROWS[name].whose == "model"
    assert {ROWS[name].whose for name in catalogue.scalars("covariate_shift")} == {"layer"}
    assert not ROWS["loss_gap"].offered
    worst = ROWS["variance_log_ratio_worst"]
    assert (worst.scale, worst.unit) == ("linear", ROWS["variance_log_ratio"].unit)
    assert "farthest from 0" in worst.meaning
