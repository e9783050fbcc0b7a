"""Real data for the demonstration, without a download if possible."""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA_SETS = ("digits", "fashion-mnist")
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class DataError(Exception):
    """The data is not available. The message says what to do."""


class Parts(NamedTuple):
    """Images in [0, 1], float32 (n, height, width), and labels, int64 (n,), for training and test.

    Fashion-MNIST has its original split. The digits have none, so every fifth sample is for test.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


class Split(NamedTuple):
    """Inputs in [0, 1], float32 (n, features), and labels, int64 (n,), in three parts."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    probe: tuple[np.ndarray, np.ndarray]


def load(name: str, seed: int) -> Split:
    """Load one of `DATA_SETS`, shuffle it by `seed` and split it; 200 samples are the probe.

    Raises:
        DataError: if the data is not available.
    """
    x, y = parts(name).train if name == "fashion-mnist" else _digits()
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order].reshape(len(x), -1).astype("float32"), y[order].astype("int64")
    held_out = len(x) // 5
    probe, validation, train = slice(200), slice(200, 200 + held_out), slice(200 + held_out, None)
    return Split(*((x[part], y[part]) for part in (train, validation, probe)))


def parts(name: str) -> Parts:
    """Load all of one of `DATA_SETS`: digits as (n, 8, 8), Fashion-MNIST as (n, 28, 28).

    Raises:
        DataError: if the data is not available.
    """
    if name == "fashion-mnist":
        return _fashion_mnist()
    x, y = _digits()
    test = np.arange(len(x)) % 5 == 0
    return Parts(_typed(x[~test], y[~test]), _typed(x[test], y[test]))


def _typed(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.astype("float32"), y.astype("int64")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    digits = load_digits()
    return digits.images / 16.0, digits.target


def _fashion_mnist() -> Parts:
    if FASHION_MNIST_FOLDER.is_dir():
        return Parts(_read_part("train"), _read_part("t10k"))
    import keras

    try:
        found = keras.datasets.fashion_mnist.load_data()
    except Exception as error:
        raise DataError(
            f"Fashion-MNIST is not in {FASHION_MNIST_FOLDER} (Debian package "
            f"dataset-fashion-mnist) and cannot be downloaded ({error}). Install the package, or "
            "use the digits (--data digits for kbn demo, --quick for examples)"
        ) from error
    return Parts(*(_typed(images / 255.0, labels) for images, labels in found))


def _read_part(part: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read_idx(f"{part}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    return _typed(images / 255.0, _read_idx(f"{part}-labels-idx1-ubyte.gz", header=8))


def _read_idx(file: str, header: int) -> np.ndarray:
    try:
        with gzip.open(FASHION_MNIST_FOLDER / file) as stream:
            return np.frombuffer(stream.read(), np.uint8, offset=header)
    except OSError as error:
        raise DataError(f"{FASHION_MNIST_FOLDER / file} cannot be read ({error})") from error
