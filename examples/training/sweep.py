"""A sweep over seeds and settings by Ray Tune: one run per trial, and one report over all.

    pip install 'ray[tune]'
    python examples/training/sweep.py [--seeds 3] [--epochs 3] [--folder runs/sweep]
    kbn report runs/sweep/logs -o sweep.html

Ray runs the trials side by side, on this machine or on all machines of a cluster (`ray start`). On
a cluster, `--folder` has to be one that all machines see: a shared disk, or a URL such as
`gs://bucket/sweep`. The name of a run says its settings, so the report and TensorBoard show them.
"""

import argparse
import os
import warnings
from typing import Any

import ray
from ray import tune


def train(settings: dict[str, Any]) -> dict[str, float]:
    """Train one model in a process of its own, and return its scores."""
    import keras

    import kbn
    from kbn.demo import datasets

    keras.utils.set_random_seed(settings["seed"])
    (x, y), validation, probe = datasets.load("digits", seed=0)
    model = keras.Sequential([
        keras.layers.Input((64,)), keras.layers.Dense(32, use_bias=False),
        kbn.BatchNormalization(momentum=settings["momentum"], name="bn"), keras.layers.ReLU(),
        keras.layers.Dense(10),
    ])  # fmt: skip
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    run = f"momentum={settings['momentum']},seed={settings['seed']}"
    log_dir = f"{settings['folder']}/logs/{run}"
    with warnings.catch_warnings():  # a momentum that lags is what this sweep wants to see
        warnings.filterwarnings("ignore", ".*inference will be off", UserWarning)
        history = model.fit(
            x, y, batch_size=32, epochs=settings["epochs"], validation_data=validation, verbose=0,
            callbacks=[
                kbn.callbacks.CovariateShift(log_dir, probe, every_steps=20),
                kbn.callbacks.MovingStatistics(log_dir, probe, every_steps=20),
            ],
        )  # fmt: skip
    return {"accuracy": history.history["val_accuracy"][-1]}


def main() -> None:
    """Run all trials, and print the best setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", default="runs/sweep")
    options = parser.parse_args()
    # Trials run in other working folders.
    folder = options.folder if "://" in options.folder else os.path.abspath(options.folder)
    ray.init(ignore_reinit_error=True)
    space = {
        "momentum": tune.grid_search([0.9, 0.99]),
        "seed": tune.grid_search(list(range(options.seeds))),
        "epochs": options.epochs,
        "folder": folder,
    }
    results = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        run_config=tune.RunConfig(name="ray", storage_path=folder, verbose=1),
    ).fit()
    table = results.get_dataframe()
    print(table.groupby("config/momentum")["accuracy"].agg(["mean", "min", "max"]).round(3))


if __name__ == "__main__":
    main()
