"""Fine-tune a nested backbone: watch its last blocks, and recalibrate it alone.

    python examples/training/nested_backbone.py [--epochs 5] [--log-dir runs/backbone]
    tensorboard --logdir runs/backbone

A CNN learns the digits 0 to 4. Then it becomes the backbone of a model for all ten digits, with
brighter images. Its first block stays frozen. The moving statistics of frozen normalization do not
follow the brighter images; `MovingStatistics` records how far off the others are, and
`Recalibrate` measures them again.
"""

import argparse

import keras
import numpy as np

import kbn
from kbn.demo import datasets

BLOCKS = 3


def backbone() -> keras.Model:
    """Build three convolutional blocks, each a model of its own."""
    model = keras.Sequential([keras.layers.Input((8, 8, 1))], name="backbone")
    for number in range(BLOCKS):
        block = keras.Sequential(name=f"block_{number}")
        block.add(keras.layers.SeparableConv2D(24, 3, padding="same", use_bias=False, name="conv"))
        block.add(kbn.BatchNormalization(momentum=0.9, name="bn"))
        block.add(keras.layers.ReLU(name="relu"))
        model.add(block)
    model.add(keras.layers.GlobalAveragePooling2D(name="pool"))
    return model


def with_head(base: keras.Model, classes: int) -> keras.Model:
    """Put a classifier after `base`."""
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(classes, name="head")(base(inputs))
    return keras.Model(inputs, outputs)


def compiled(model: keras.Model, rate: float) -> keras.Model:
    """Compile `model`. Freezing takes effect here."""
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main() -> None:
    """Train, fine-tune, and print accuracies and the distances of the moving statistics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--log-dir", default="runs/backbone")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    (x, y), test = datasets.parts("digits")
    x, test_x = x[..., None], np.sqrt(test[0][..., None])
    base = backbone()
    first = compiled(with_head(base, 5), 3e-3)
    first.fit(x[y < 5], y[y < 5], epochs=options.epochs, verbose=2)

    brighter = np.sqrt(x)
    base.get_layer("block_0").trainable = False
    tuned = compiled(with_head(base, 10), 1e-3)
    probe = brighter[:256], y[:256]
    shift = kbn.callbacks.CovariateShift(
        options.log_dir, probe, layers=["backbone/block_*/conv", "backbone/block_*/bn"],
        every_steps=20,
    )  # fmt: skip
    gradients = kbn.callbacks.GradientShift(options.log_dir, probe, every_steps=40)
    # The backbone alone takes images too, so it can be watched and recalibrated by itself.
    statistics = kbn.callbacks.MovingStatistics(
        options.log_dir, brighter[:256], model=base, every_epochs=1
    )
    recalibrate = kbn.callbacks.Recalibrate(
        brighter, model=base, every_epochs=options.epochs, batch_size=256
    )
    tuned.fit(
        brighter, y, validation_data=(test_x, test[1]), epochs=options.epochs, verbose=2,
        callbacks=[shift, gradients, statistics, recalibrate],
    )  # fmt: skip
    watched = dict.fromkeys(row.layer for row in gradients.history if row.layer != "record")
    print("layers with a gradient shift:", *watched)
    for layer in dict.fromkeys(row.layer for row in statistics.history if row.layer != "record"):
        gaps = [r.value for r in statistics.history if r[1:4] == (layer, "probe", "mean_gap")]
        print(f"{layer}: distance of the moving means, by epoch:", *(f"{gap:.2f}" for gap in gaps))
    print(f"accuracy: {tuned.evaluate(test_x, test[1], verbose=0)[1]:.3f}")


if __name__ == "__main__":
    main()
