"""The ways of training in examples/training/, as a user runs them."""

import re

import numpy as np
import pytest

from tests.support import ROOT, events

FOLDER = ROOT / "examples" / "training"


@pytest.fixture
def example(python, tmp_path):
    """Return a function that runs an example in an empty folder and returns what it printed."""
    return lambda name, *arguments: python(str(FOLDER / f"{name}.py"), *arguments).stdout


def steps(run, tag):
    return list(events.series(run, tag))


def test_every_example_of_this_folder_is_run_here():
    names = {path.stem for path in FOLDER.glob("*.py")}
    text = (ROOT / "tests/examples/test_training.py").read_text()
    assert names == {*re.findall(r'example\("(\w+)"', text)}


@pytest.mark.thorough
def test_a_gan(example, tmp_path):
    printed = example("gan", "--epochs", "2")
    assert re.search(r"generator: 6 records; mean shift between records 0\.\d+", printed)
    for part in ("generator", "discriminator"):
        run = tmp_path / "runs/gan" / part / "covariate_shift"
        layer = {"generator": "batch_normalization", "discriminator": "dense_3"}[part]
        # 29 batches an epoch. No optimizer of compile takes a step.
        assert steps(run, f"mean/{layer}/output") == [0, 10, 20, 30, 40, 50]


@pytest.mark.thorough
def test_contrastive_learning(example, tmp_path):
    printed = example("contrastive", "--epochs", "3")
    before, after = map(float, re.findall(r"(0\.\d+) before, (0\.\d+) after", printed)[0])
    assert after > before + 0.05
    for run, tag in (
        ("covariate_shift", "mean/{}/input"),
        ("moving_statistics", "mean_gap/{}/probe"),
    ):
        folder = tmp_path / "runs/contrastive" / run
        assert steps(folder, tag.format("batch_normalization_1")) == [0, 20, 40]


@pytest.mark.thorough
def test_a_loop_of_one_s_own(example, tmp_path):
    printed = example("own_loop", "--epochs", "3")
    losses = [float(loss) for loss in re.findall(r"validation loss (\d\.\d+)", printed)]
    assert len(losses) == 3
    assert losses[2] < losses[0] / 1.5
    run = tmp_path / "runs/own_loop/covariate_shift"
    assert steps(run, "mean/batch_normalization/input") == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.thorough
def test_fine_tuning_a_nested_backbone(example):
    printed = example("nested_backbone", "--epochs", "3")
    watched = "backbone/block_1/conv backbone/block_2/conv head"
    assert f"layers with a gradient shift: {watched}" in printed
    gaps = {
        layer: [float(gap) for gap in re.findall(r"\d\.\d+", rest)]
        for layer, rest in re.findall(r"^(block_\d/bn): .*by epoch:(.*)$", printed, re.MULTILINE)
    }
    assert len(set(gaps["block_0/bn"])) == 1  # frozen
    assert gaps["block_2/bn"][-1] < max(gaps["block_2/bn"])


@pytest.mark.thorough
def test_a_search(example, tmp_path):
    printed = example("search", "--trials", "2", "--epochs", "2")
    assert "runs: 0 1 copied-0 copied-1" in printed
    logs = tmp_path / "runs/search/logs"
    for name in ("copied-0", "copied-1"):
        run = logs / name / "covariate_shift"
        assert steps(run, "mean/batch_normalization/input") == list(range(0, 91, 10))
    for name in ("0", "1"):
        assert (
            steps(logs / name / "moving_statistics", "mean_gap/batch_normalization/probe")[0] == 0
        )


@pytest.mark.thorough
def test_a_sweep(example, python, tmp_path):
    printed = example("sweep", "--seeds", "1", "--epochs", "1")
    assert re.search(r"0\.90 +0\.\d+ .*\n0\.99 +0\.\d+ ", printed)
    python("-m", "kbn", "report", "runs/sweep/logs", "-o", "sweep.html")
    report = (tmp_path / "sweep.html").read_text()
    for momentum in (0.9, 0.99):
        assert f"momentum={momentum},seed=0: CovariateShift" in report
        run = tmp_path / f"runs/sweep/logs/momentum={momentum},seed=0/moving_statistics"
        assert steps(run, "mean_gap/bn/probe") == [0, 20]


CRASH = """
import os, sys
sys.path.insert(0, sys.argv[1])
import keras, search
from sklearn.datasets import load_digits

class Crash(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        second = os.path.exists("runs/logs/1")
        if second and self.model.optimizer.iterations.numpy() == 45 and sys.argv[2] == "crash":
            os._exit(7)

x, y = (load_digits().data / 16.0).astype("float32"), load_digits().target
tuner = search.Resumable(
    "runs", (x[:256], y[:256]), hypermodel=search.build, objective="val_accuracy", max_trials=2,
    seed=0,
)
tuner.search(
    x[:640], y[:640], validation_data=(x[640:], y[640:]), epochs=3, verbose=0, callbacks=[Crash()]
)
"""


@pytest.mark.thorough
def test_a_trial_that_crashed_goes_on_in_its_folder(python, tmp_path):
    """640 samples are 20 steps an epoch, so the crash at step 45 is in the third epoch.

    KerasTuner can only resume a search whose first trial has ended, so the second trial crashes.
    """
    assert python("-c", CRASH, str(FOLDER), "crash", check=False).returncode == 7
    run = tmp_path / "runs/logs/1/moving_statistics"
    tag = "mean_gap/batch_normalization/probe"
    assert steps(run, tag) == [0, 10, 20, 30, 40]
    python("-c", CRASH, str(FOLDER), "go on")
    # It resumes at the end of the second epoch, step 40.
    assert steps(run, tag) == [0, 10, 20, 30, 40, 50, 60]
    assert len(list(run.glob("*tfevents*"))) == 2
    found = events.series(run, tag)
    assert np.isfinite([float(value) for value in found.values()]).all()
