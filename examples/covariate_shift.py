"""Record how activations of a small CNN move, with and without batch normalization.

python examples/covariate_shift.py [--steps 400] [--log-dir runs/cnn]
tensorboard --logdir runs/cnn
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import kbn


def network(normalized: bool) -> keras.Model:
    """Build three convolutions, each followed by normalization or not, and a classifier."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((8, 8, 1))])
    for index, filters in enumerate((16, 32, 32), start=1):
        model.add(keras.layers.Conv2D(filters, 3, padding="same", use_bias=not normalized))
        if normalized:
            model.add(kbn.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU(name=f"relu_{index}"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile(
        keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def main() -> None:
    """Train both networks with the callback and print how far each layer's inputs moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--log-dir", default="runs/cnn")
    options = parser.parse_args()

    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target
    probe, x, y = x[:200], x[200:], y[200:]
    epochs = max(1, options.steps // -(-len(x) // 64))
    for name, normalized in (("plain", False), ("batch_norm", True)):
        shift = kbn.callbacks.CovariateShift(
            f"{options.log_dir}/{name}", probe, layers=keras.layers.ReLU, every_steps=20
        )
        model = network(normalized)
        fitted = model.fit(
            x, y, batch_size=64, epochs=epochs, validation_split=0.2, verbose=0, callbacks=[shift]
        )
        print(f"{name}: validation accuracy {fitted.history['val_accuracy'][-1]:.3f}")
        for layer in ("relu_1", "relu_2", "relu_3"):
            wanted = (layer, "input", "wasserstein")
            rows = [r.value for r in shift.history if (r.layer, r.site, r.measure) == wanted]
            print(f"  {layer}: input moved {np.mean(rows[1:]):.3f} σ from record to record")
    print(f"tensorboard --logdir {options.log_dir}")


if __name__ == "__main__":
    main()
