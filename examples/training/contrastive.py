"""Contrastive learning with a `train_step` of its own and no `call`: watch the encoder.

    python examples/training/contrastive.py [--epochs 5] [--log-dir runs/contrastive]
    tensorboard --logdir runs/contrastive

The loss compares two noisy views of each image (Chen et al. 2020, SimCLR). No target exists, so
callbacks that need a loss cannot be used. The others watch the encoder.
"""

import argparse

import keras
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import kbn

TEMPERATURE = 0.2


def encoder() -> keras.Model:
    """Build a net from images, (n, 64), to unit vectors, (n, 16)."""
    model = keras.Sequential([keras.layers.Input((64,))], name="encoder")
    for _ in range(2):
        model.add(keras.layers.Dense(64, use_bias=False))
        model.add(kbn.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(16))
    model.add(keras.layers.UnitNormalization())
    return model


class Contrastive(keras.Model):
    """Pulls two views of an image together, and pushes views of different images apart."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()
        self.view = keras.layers.GaussianNoise(0.2, seed=0)

    def train_step(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Take one step."""
        with tf.GradientTape() as tape:
            one, two = (
                self.encoder(self.view(images, training=True), training=True) for _ in range(2)
            )
            same = tf.range(tf.shape(images)[0])
            logits = tf.matmul(one, two, transpose_b=True) / TEMPERATURE
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=same, logits=logits)
            )
        variables = self.encoder.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"contrast": loss}


def main() -> None:
    """Train, and print the accuracy of nearest neighbors before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--log-dir", default="runs/contrastive")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    digits = load_digits()
    images = (digits.data / 16.0).astype("float32")
    model = Contrastive()
    model.compile(keras.optimizers.Adam(1e-3))
    # A function finds the encoder of whatever model is trained.
    callbacks = [
        watch(options.log_dir, images, model=lambda model: model.encoder, every_steps=20)
        for watch in (kbn.callbacks.CovariateShift, kbn.callbacks.MovingStatistics)
    ]
    before = accuracy(model.encoder, images, digits.target)
    model.fit(images, batch_size=128, epochs=options.epochs, verbose=2, callbacks=callbacks)
    after = accuracy(model.encoder, images, digits.target)
    print(f"accuracy of the nearest neighbor: {before:.3f} before, {after:.3f} after training")
    gap = [row.value for row in callbacks[1].history if row.measure == "mean_gap"][-1]
    print(f"distance of the moving means at the end, in standard deviations: {gap:.3f}")


def accuracy(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> float:
    """Return how many of the second half have the class of their neighbor in the first half."""
    vectors, half = model.predict(images, verbose=0), len(images) // 2
    neighbors = KNeighborsClassifier(1).fit(vectors[:half], labels[:half])
    return float(neighbors.score(vectors[half:], labels[half:]))


if __name__ == "__main__":
    main()
