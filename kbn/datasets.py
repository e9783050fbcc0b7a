"""Real data for the demonstration, without a download where that can be had."""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA_SETS = ("digits", "fashion-mnist")
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class DataError(Exception):
    """The data cannot be had; the message says what to do."""


class Split(NamedTuple):
    """Inputs in [0, 1], float32 (n, features), and labels, int64 (n,), in three parts."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    probe: tuple[np.ndarray, np.ndarray]


def load(name: str, seed: int) -> Split:
    """Load one of `DATA_SETS`, shuffle it by `seed` and split it; 200 samples are the probe.

    Raises:
        DataError: where the data is missing.
    """
    x, y = {"digits": _digits, "fashion-mnist": _fashion_mnist}[name]()
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order].reshape(len(x), -1).astype("float32"), y[order].astype("int64")
    held_out = len(x) // 5
    probe, validation, train = slice(200), slice(200, 200 + held_out), slice(200 + held_out, None)
    return Split(*((x[part], y[part]) for part in (train, validation, probe)))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: pip install 'kbn[demo]'"
        ) from None
    digits = load_digits()
    return digits.data / 16.0, digits.target


def _fashion_mnist() -> tuple[np.ndarray, np.ndarray]:
    if FASHION_MNIST_FOLDER.is_dir():
        images = _read_idx("train-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        return images / 255.0, _read_idx("train-labels-idx1-ubyte.gz", header=8)
    import keras

    try:
        (images, labels), _ = keras.datasets.fashion_mnist.load_data()
    except Exception as error:
        raise DataError(
            f"Fashion-MNIST is not in {FASHION_MNIST_FOLDER} (Debian package "
            f"dataset-fashion-mnist) and cannot be downloaded ({error}); or take --data digits"
        ) from error
    return images / 255.0, labels


def _read_idx(file: str, header: int) -> np.ndarray:
    try:
        with gzip.open(FASHION_MNIST_FOLDER / file) as stream:
            return np.frombuffer(stream.read(), np.uint8, offset=header)
    except OSError as error:
        raise DataError(f"{FASHION_MNIST_FOLDER / file} cannot be read ({error})") from error
