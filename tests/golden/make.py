"""Save the golden files of this version. `README.md` in this folder says when to do this."""

import sys
from pathlib import Path

import keras
import numpy as np

import kbn

OPTIONS = {
    "default": {},
    "biased": {"unbiased_variance": False, "momentum": 0.9, "epsilon": 1e-5},
    "average_by_count": {"momentum": None},
    "zero_debias": {"zero_debias": True},
    "virtual_batches": {"virtual_batch_size": 4, "scale": False},
    "renorm_schedule": {
        "renorm": True,
        "renorm_clipping": {"rmax": keras.optimizers.schedules.PolynomialDecay(1.0, 5, 3.0)},
    },
    "channels_first": {"axis": 1, "fused": False},
    "renorm": {"renorm": True, "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0}},
    "synchronized": {"synchronized": True, "center": False},
}


def model(options: dict, seed: int) -> keras.Model:
    """Return a small trained model with two normalizations."""
    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [
            keras.layers.Input((6, 6, 2)),
            kbn.BatchNormalization(**options),
            keras.layers.Conv2D(3, 3, activation="relu"),
            kbn.BatchNormalization(**options),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    net.compile("sgd", "mse")
    x = np.random.default_rng(seed).normal(1, 2, (64, 6, 6, 2)).astype("float32")
    net.fit(x, x[:, 0, 0], batch_size=15, epochs=2, verbose=0)
    return net


def main() -> None:
    """Write the folder, or print why this is not allowed."""
    folder = Path(__file__).parent / kbn.__version__
    if folder.exists():
        sys.exit(f"{folder} exists. README.md in tests/golden says when it may be deleted.")
    folder.mkdir()
    inputs = np.random.default_rng(0).normal(1, 2, (5, 6, 6, 2)).astype("float32")
    expected = {}
    for seed, (name, options) in enumerate(OPTIONS.items()):
        net = model(options, seed)
        net.save(folder / f"{name}.keras")
        expected[name] = net.predict(inputs, verbose=0)
    np.savez(folder / "expected.npz", inputs=inputs, **expected)


if __name__ == "__main__":
    main()
