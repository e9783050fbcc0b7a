"""The folder of a run: a path, a path with fields, or a function of the trained model.

With fields or a function, one callback serves many models, each with a folder of its own.
"""

import os
import string
import time
import weakref
from itertools import count

import keras

from kbn.callbacks.writing.event_file import check_log_dir
from kbn.callbacks.writing.writable import remove_empty
from kbn.common.types import LogDirs
from kbn.records import file_systems

FIELDS = {
    "model": "the name of the model",
    "time": "when training of the model began, such as 20261129-134100",
    "trial": "the first number, counted from 0, whose folder does not exist",
}
# By model, what each path with fields and each function became. So all callbacks of a model write
# to one folder, in every fit.
_FILLED: weakref.WeakKeyDictionary[keras.Model, dict[LogDirs, str]] = weakref.WeakKeyDictionary()


def checked_log_dir(log_dir: LogDirs) -> LogDirs:
    """Return `log_dir`, a path as an absolute one, checked as far as possible without a model.

    Raises:
        TypeError, ValueError: if it is no path and no function, or has a field that is not in
            `FIELDS`.
    """
    if callable(log_dir) and not isinstance(log_dir, type):
        return log_dir
    path = check_log_dir(log_dir)
    for field in _fields(path):
        if field not in FIELDS:
            known = ", ".join(f"{{{name}}} ({meaning})" for name, meaning in FIELDS.items())
            raise ValueError(
                f"log_dir may have the fields {known}. Write other braces twice. "
                f"Received: log_dir={path!r} with {{{field}}}"
            )
    try:
        path.format(model="", time="", trial=0)
    except ValueError as error:
        raise ValueError(
            f"The format of a field of log_dir is not allowed: {error}. Received: log_dir={path!r}"
        ) from error
    return path


def is_per_model(log_dir: LogDirs) -> bool:
    """Return whether models can have different folders."""
    return callable(log_dir) or bool(_fields(str(log_dir)))


def folder_of(log_dir: LogDirs, model: keras.Model | None = None) -> str:
    """Return the folder of a model, the same for every callback and every `fit` of this model.

    The model is not needed for a path without fields.
    """
    if not is_per_model(log_dir):
        return str(log_dir).format()
    filled = _FILLED.setdefault(model, {})
    if log_dir not in filled:
        made = log_dir(model) if callable(log_dir) else _filled(str(log_dir), model)
        filled[log_dir] = check_log_dir(made)
    return filled[log_dir]


def give_back(log_dir: LogDirs, model: keras.Model) -> None:
    """Forget the folder of a model that was not trained, and remove it if it is empty."""
    folder = _FILLED.get(model, {}).pop(log_dir, None)
    if folder is not None and not file_systems.is_url(folder):
        remove_empty([folder])


def _fields(path: str) -> list[str]:
    try:
        return [field for _, field, _, _ in string.Formatter().parse(path) if field is not None]
    except ValueError as error:
        raise ValueError(
            f"log_dir must have a closing brace for each opening one; write braces that mean "
            f"themselves twice. Received: log_dir={path!r}: {error}"
        ) from error


def _filled(path: str, model: keras.Model) -> str:
    values = {"model": model.name, "time": time.strftime("%Y%m%d-%H%M%S")}
    if "trial" not in _fields(path):
        return path.format(**values)
    return next(
        folder
        for folder in (path.format(trial=number, **values) for number in count())
        if _reserved(folder)
    )


def _reserved(folder: str) -> bool:
    """Create `folder` and return True, or return False if it exists."""
    if file_systems.is_url(folder):
        try:
            return file_systems.in_time(folder, lambda: _reserved_elsewhere(folder))
        except OSError:
            return True  # before the first step, a check of the folder says what is wrong
    try:
        os.makedirs(folder)
    except FileExistsError:
        return False
    except OSError:
        pass  # as above
    return True


def _reserved_elsewhere(folder: str) -> bool:
    if file_systems.gfile().exists(folder):
        return False
    file_systems.gfile().makedirs(folder)
    return True
