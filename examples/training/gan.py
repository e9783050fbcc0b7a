"""A GAN with two optimizers: watch the generator, and count batches as steps.

    python examples/training/gan.py [--epochs 5] [--log-dir runs/gan]
    tensorboard --logdir runs/gan

`train_step` uses two optimizers, and `compile` gets none of them. So the batches of `fit` are the
steps of the records. The model has no `call`: `model=` names the parts to watch.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import kbn

NOISE = 16


def generator() -> keras.Model:
    """Build a net from noise, (n, NOISE), to images, (n, 64)."""
    model = keras.Sequential([keras.layers.Input((NOISE,))], name="generator")
    for units in (64, 128):
        model.add(keras.layers.Dense(units, use_bias=False))
        model.add(kbn.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(64, activation="sigmoid"))
    return model


def discriminator() -> keras.Model:
    """Build a net from images, (n, 64), to a logit that is positive for real ones, (n, 1)."""
    return keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(128),
            keras.layers.LeakyReLU(),
            keras.layers.Dense(1),
        ],
        name="discriminator",
    )


class Gan(keras.Model):
    """Trains both nets with optimizers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = generator(), discriminator()
        self.of_generator = keras.optimizers.Adam(2e-4, beta_1=0.5)
        self.of_discriminator = keras.optimizers.Adam(2e-4, beta_1=0.5)
        self.seeds = keras.random.SeedGenerator(0)
        self.cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def train_step(self, real: tf.Tensor) -> dict[str, tf.Tensor]:
        """Take one step of each net."""
        noise = keras.random.normal((tf.shape(real)[0], NOISE), seed=self.seeds)
        with tf.GradientTape(persistent=True) as tape:
            fake = self.generator(noise, training=True)
            of_real = self.discriminator(real, training=True)
            of_fake = self.discriminator(fake, training=True)
            fooled = self.cross_entropy(tf.ones_like(of_fake), of_fake)
            found = self.cross_entropy(tf.ones_like(of_real), of_real) + self.cross_entropy(
                tf.zeros_like(of_fake), of_fake
            )
        for net, loss, optimizer in (
            (self.generator, fooled, self.of_generator),
            (self.discriminator, found, self.of_discriminator),
        ):
            variables = net.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        return {"generator": fooled, "discriminator": found}


def main() -> None:
    """Train, and print how far the layers of both nets moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--log-dir", default="runs/gan")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    images = (load_digits().data / 16.0).astype("float32")
    noise = np.random.default_rng(0).normal(size=(256, NOISE)).astype("float32")
    gan = Gan()
    gan.compile()
    watch_generator = kbn.callbacks.CovariateShift(
        f"{options.log_dir}/generator", noise, model=gan.generator, every_steps=10
    )
    watch_discriminator = kbn.callbacks.CovariateShift(
        f"{options.log_dir}/discriminator", images, model=gan.discriminator, every_steps=10
    )
    gan.fit(
        images, batch_size=64, epochs=options.epochs, verbose=2,
        callbacks=[watch_generator, watch_discriminator],
    )  # fmt: skip
    for name, watch in (
        ("generator", watch_generator),
        ("discriminator", watch_discriminator),
    ):
        moved = [row.value for row in watch.history if row.measure == "wasserstein"]
        recorded = len({row.step for row in watch.history})
        print(f"{name}: {recorded} records; mean shift between records {np.mean(moved):.3f}")


if __name__ == "__main__":
    main()
