"""A search with KerasTuner: one run per trial, and training that resumes after a crash.

    pip install keras-tuner
    python examples/training/search.py [--trials 3] [--epochs 3] [--folder runs/search]
    tensorboard --logdir runs/search/logs

KerasTuner copies the callbacks for each trial. A `log_dir` with the field `{trial}` gives each copy
a folder of its own. `run_trial` is the place for callbacks that need the trial's own number, such
as `BackupAndRestore`: a trial that is interrupted and run again continues in the same folder.
"""

import argparse
import os
from typing import Any

import keras
import keras_tuner
from sklearn.datasets import load_digits

import kbn


def build(options: keras_tuner.HyperParameters) -> keras.Model:
    """Build a classifier with the momentum and the width that the search chooses."""
    model = keras.Sequential([keras.layers.Input((64,))])
    units = options.Choice("units", [16, 32, 64])
    model.add(keras.layers.Dense(units, use_bias=False))
    model.add(kbn.BatchNormalization(momentum=options.Choice("momentum", [0.5, 0.9, 0.99])))
    model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10))
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Resumable(keras_tuner.RandomSearch):
    """Gives each trial a backup and a log folder with its number."""

    def __init__(self, folder: str, probe: Any, **options: Any) -> None:
        super().__init__(**options, directory=folder, project_name="tuner")
        self.folder, self.probe = folder, probe

    def run_trial(self, trial: keras_tuner.engine.trial.Trial, *args: Any, **kwargs: Any) -> Any:
        """Train one model."""
        log_dir = os.path.join(self.folder, "logs", trial.trial_id)
        callbacks = [
            *kwargs.pop("callbacks", []),
            keras.callbacks.BackupAndRestore(os.path.join(self.folder, "backups", trial.trial_id)),
            kbn.callbacks.MovingStatistics(log_dir, self.probe, every_steps=10),
        ]
        return super().run_trial(trial, *args, **kwargs, callbacks=callbacks)


def main() -> None:
    """Search twice: with callbacks that are copied, and with those of `run_trial`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", default="runs/search")
    options = parser.parse_args()

    digits = load_digits()
    x, y = (digits.data / 16.0).astype("float32"), digits.target
    train, validation = (x[300:], y[300:]), (x[:300], y[:300])
    common = {"objective": "val_accuracy", "max_trials": options.trials, "seed": 0}

    search = keras_tuner.RandomSearch(
        build, **common, directory=options.folder, project_name="copied"
    )
    shift = kbn.callbacks.CovariateShift(
        os.path.join(options.folder, "logs", "copied-{trial}"), x[:256], every_steps=10
    )
    search.search(
        *train, validation_data=validation, epochs=options.epochs, verbose=0, callbacks=[shift]
    )

    resumable = Resumable(options.folder, (x[:256], y[:256]), hypermodel=build, **common)
    resumable.search(*train, validation_data=validation, epochs=options.epochs, verbose=0)
    for each in (search, resumable):
        best = each.oracle.get_best_trials(1)[0]
        chosen = best.hyperparameters.values
        print(f"best of {options.trials}: accuracy {best.score:.3f} with {chosen}")
    print("runs:", *sorted(os.listdir(os.path.join(options.folder, "logs"))))


if __name__ == "__main__":
    main()
