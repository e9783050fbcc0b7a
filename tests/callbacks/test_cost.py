"""What watching costs by the callbacks' own count, and that it does not grow."""

import json
import re

import pytest

from kbn.callbacks.recording.cost import Cost
from tests.support import ROOT, events, models
from tests.support.callbacks import CALLBACKS, first_step, steps
from tests.support.warned import user_warnings

X, Y = models.X, models.Y
every_callback = pytest.mark.parametrize("name", CALLBACKS)


def fitted(callback, **options):
    with user_warnings():
        models.compiled("functional").fit(
            X, Y, verbose=0, callbacks=[callback], **{"batch_size": 8, **options}
        )


@pytest.mark.basic("GradientShift")
@every_callback
def test_every_record_has_its_milliseconds_and_bytes(name, tmp_path):
    callback = CALLBACKS[name](tmp_path, (X, Y), every_steps=2)
    fitted(callback)
    spent = {
        site: {row.step: row.value for row in callback.history if row[1:3] == ("record", site)}
        for site in ("milliseconds", "bytes")
    }
    assert list(spent["milliseconds"]) == list(spent["bytes"]) == steps(callback)
    assert min(spent["milliseconds"].values()) > 0
    run = tmp_path / callback.run
    for site, values in spent.items():
        written = events.series(run, f"monitor/record/{site}")
        assert {step: float(value) for step, value in written.items()} == values
    (file,) = run.glob("events*")
    # The header, the layout and the table are no records' bytes.
    assert sum(spent["bytes"].values()) < callback.cost.bytes < file.stat().st_size
    assert callback.cost.records == len(steps(callback))


@pytest.mark.thorough
def test_json_lines_count_among_the_bytes(tmp_path):
    callback = CALLBACKS["LossLandscape"](tmp_path, (X, Y), every_steps=2, json_lines=True)
    fitted(callback)
    lines = (tmp_path / callback.run / "history.jsonl").stat().st_size
    plain = CALLBACKS["LossLandscape"](tmp_path / "plain", (X, Y), every_steps=2)
    fitted(plain)
    assert callback.cost.bytes == pytest.approx(plain.cost.bytes + lines, abs=8)


class Clock:
    """A clock that a test sets, in place of the module `time`."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("kbn.callbacks.recording.cost.time", clock)
    return clock


def spend(cost, clock, on, seconds):
    with cost.spending(on):
        clock.now += seconds


def test_a_look_before_the_step_is_part_of_the_record(clock):
    cost = Cost()
    spend(cost, clock, "look", 0.5)
    spend(cost, clock, "record", 0.25)
    assert (cost.seconds, cost.last) == (0.75, 0.75)
    spend(cost, clock, "record", 0.25)
    assert (cost.seconds, cost.last) == (1.0, 0.25)


def test_a_failed_record_is_not_counted(tmp_path):
    class Failing(CALLBACKS["LossLandscape"]):
        def record(self, step):
            if step == 4:
                raise ValueError("on purpose")
            return super().record(step)

    callback = Failing(tmp_path, (X, Y), every_steps=2)
    fitted(callback)
    assert (callback.cost.records, callback.lost_records) == (4, 1)


@pytest.mark.basic("MovingStatistics")
@every_callback
def test_the_total_cost_is_written_at_the_end(name, tmp_path):
    callback = CALLBACKS[name](tmp_path, (X, Y), every_steps=4)
    fitted(callback)
    ((step, text),) = events.series(tmp_path / callback.run, "monitor/cost").items()
    assert step == 8
    table = text.item().decode().splitlines()
    names, values = (re.findall(r"[^|]+?(?= \|)", line) for line in (table[0], table[2]))
    numbers = dict(zip(map(str.strip, names), map(str.strip, values), strict=True))
    assert int(numbers["records"]) == len(steps(callback))
    assert float(numbers["ms"]) == pytest.approx(1e3 * callback.cost.seconds, abs=0.1)
    assert int(numbers["bytes"]) == callback.cost.bytes
    assert 0 < callback.cost.share() < 1


@pytest.mark.basic("CovariateShift")
@every_callback
def test_a_budget_stretches_the_cadence(name, tmp_path):
    tight = CALLBACKS[name](tmp_path / "tight", (X, Y), every_steps=1, budget=1e-9)
    wide = CALLBACKS[name](tmp_path / "wide", (X, Y), every_steps=1, budget=1.0)
    for callback in (tight, wide):
        fitted(callback)
    first = first_step(name)
    assert steps(tight) == [first]  # the first is always taken
    assert tight.cost.postponed == 8 - first
    assert steps(wide) == list(range(first, 9))
    assert wide.cost.postponed == 0
    assert f"| 1 | {8 - first} |" in tight.cost.table()


def test_a_record_is_taken_if_the_share_stays_within_the_budget(clock):
    cost = Cost()
    spend(cost, clock, "record", 0.5)
    spend(cost, clock, "record", 0.5)
    clock.now = 100.0
    assert cost.affords(None)
    assert cost.affords(0.02)
    assert not cost.affords(0.014)


def test_the_time_of_the_first_record_is_not_an_estimate_for_the_next(clock):
    cost = Cost()
    spend(cost, clock, "record", 5.0)
    clock.now = 105.0
    assert cost.affords(0.06)
    spend(cost, clock, "record", 2.0)
    assert not cost.affords(0.075)


def test_json_lines_contain_the_rows(tmp_path):
    callback = CALLBACKS["CovariateShift"](tmp_path, X, every_steps=4, json_lines=True)
    fitted(callback)
    lines = (tmp_path / callback.run / "history.jsonl").read_text().splitlines()
    read = [tuple(json.loads(line).values()) for line in lines]
    assert read == [tuple(row) for row in callback.history]
    assert list(json.loads(lines[0])) == ["step", "layer", "site", "measure", "value"]


@pytest.mark.thorough
def test_a_second_fit_adds_its_lines(tmp_path):
    callback = CALLBACKS["LossLandscape"](tmp_path, (X, Y), every_steps=4, json_lines=True)
    model = models.compiled("functional")
    for _ in range(2):
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    lines = (tmp_path / callback.run / "history.jsonl").read_text().splitlines()
    assert len(lines) == len(callback.history)


def test_history_is_a_table(tmp_path):
    callback = CALLBACKS["MovingStatistics"](tmp_path, (X, Y), every_steps=4)
    fitted(callback)
    frame = callback.to_frame()
    assert list(frame.columns) == ["step", "layer", "site", "measure", "value"]
    read = [tuple(row) for row in frame.itertuples(index=False)]
    assert repr(read) == repr([tuple(row) for row in callback.history])  # NaN is no other NaN
    gaps = frame[(frame.layer == "bn") & (frame.measure == "mean_gap")].set_index("step").value
    assert gaps.to_dict() == {
        row.step: row.value for row in callback.history if row[1] == "bn" and row[3] == "mean_gap"
    }


MEMORY = """
import os, sys, tempfile, warnings
import numpy as np, keras
from tests.support.callbacks import CALLBACKS
from tests.support import models
warnings.simplefilter("ignore")

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

seen = {}
def look(batch, logs):
    step = int(model.optimizer.iterations.numpy())
    if step in (100, 2000):
        seen[step] = resident()

x, y = np.tile(models.X, (10, 1)), np.tile(models.Y, (10, 1))
folder = tempfile.mkdtemp(dir=sys.argv[1])
callbacks = [callback(folder, (x, y), every_steps=1) for callback in CALLBACKS.values()]
model = models.compiled("functional")
model.fit(x, y, batch_size=10, epochs=34, verbose=0,
          callbacks=[*callbacks, keras.callbacks.LambdaCallback(on_train_batch_end=look)])
records = min(callback.cost.records for callback in callbacks)
print("RESULT", records, seen[2000] - seen[100])
"""


@pytest.mark.thorough
def test_two_thousand_records_take_no_more_memory_than_a_hundred(tmp_path, python, summary):
    """Of every callback at once, in one process."""
    done = python("-c", MEMORY, str(tmp_path), PYTHONPATH=str(ROOT))
    records, grown = (float(x) for x in done.stdout.split("RESULT")[1].split())
    summary(f"memory: +{grown:.1f} MB from record 100 to 2,000 of all callbacks together")
    assert records >= 2000
    assert grown < 20
