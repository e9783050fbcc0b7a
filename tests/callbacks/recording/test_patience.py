"""The sign that a callback is at work."""

import re

import keras
import numpy as np

from kbn.callbacks import CovariateShift
from kbn.callbacks.recording import patience

X = np.ones((8, 3), "float32")


def fit(folder):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], verbose=0, callbacks=[CovariateShift(folder, X, every_steps=1)])


def test_slow_preparations_are_shown(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(patience, "AFTER", 0.0)
    fit(tmp_path)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Covariate")]
    assert [re.sub(r"\d+ s", "N s", line) for line in lines] == [
        "CovariateShift prepares to record. For a large model this takes a while.",
        "CovariateShift prepares to record: took N s.",
        "CovariateShift takes a first record. For a large model this takes a while.",
        "CovariateShift takes a first record: took N s.",
    ]


def test_fast_preparations_are_not_shown(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(patience, "AFTER", 1e6)
    fit(tmp_path)
    assert "CovariateShift" not in capfd.readouterr().err
