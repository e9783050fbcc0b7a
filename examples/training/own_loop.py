"""A training loop of one's own with a GradientTape: the same callbacks, without `fit`.

    python examples/training/own_loop.py [--epochs 5] [--log-dir runs/own_loop]
    tensorboard --logdir runs/own_loop

`kbn.callbacks.watching` calls Keras callbacks around the steps of any loop. The model is not
compiled, so callbacks that need no loss are used. `EarlyStopping` is Keras's own.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf

import kbn
from kbn.demo import datasets

BATCH_SIZE = 64


def network() -> keras.Model:
    """Build a classifier of images, (n, 64)."""
    model = keras.Sequential([keras.layers.Input((64,))])
    for _ in range(2):
        model.add(keras.layers.Dense(64, use_bias=False))
        model.add(kbn.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10))
    return model


def main() -> None:
    """Train, and print the loss of validation and the shift of every epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--log-dir", default="runs/own_loop")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    train, validation, probe = datasets.load("digits", seed=0)
    batches = tf.data.Dataset.from_tensor_slices(train).shuffle(2000, seed=0).batch(BATCH_SIZE)
    model, optimizer = network(), keras.optimizers.Adam(1e-3)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    shift = kbn.callbacks.CovariateShift(options.log_dir, probe[0], every_steps=10)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=3)
    with kbn.callbacks.watching([shift, stop], model, epochs=options.epochs) as watch:
        for epoch in range(options.epochs):
            for x, y in batches:
                watch.step({"loss": train_step(x, y)})
            val_loss = float(loss_of(validation[1], model(validation[0], training=False)))
            watch.end_epoch({"val_loss": val_loss})
            print(f"epoch {epoch}: validation loss {val_loss:.3f}")
            if watch.stop_training:
                break
    moved = [row.value for row in shift.history if row.measure == "wasserstein"]
    print(f"{len({row.step for row in shift.history})} records; mean shift {np.mean(moved):.3f}")


if __name__ == "__main__":
    main()
