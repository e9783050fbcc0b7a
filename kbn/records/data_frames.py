"""Import pandas, which only `to_frame` needs."""

import importlib
from types import ModuleType


def pandas() -> ModuleType:
    """Return pandas.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise ImportError(
            "to_frame needs pandas, which is not installed: pip install pandas"
        ) from None
