"""Names that a package loads on first use, and a clear error if no backend is installed."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

# Backend -> how to install it.
BACKENDS = {
    "tensorflow": "pip install tensorflow-cpu (with an NVIDIA GPU: 'tensorflow[and-cuda]')",
    "jax": "pip install jax",
    "torch": "pip install torch",
}


class MissingBackendError(ImportError):
    """Keras is installed, but the array library that it uses is not."""


def attach(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` that load the `exports` of `package` on first use.

    Args:
        package: the package's `__name__`.
        exports: public name -> module that defines it, or the module itself for a submodule.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - the name Python looks for
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = load(exports[name])
        return module if exports[name] == f"{package}.{name}" else getattr(module, name)

    return __getattr__, lambda: sorted(exports)


def load(module: str) -> Any:
    """Import `module`. If the backend is missing, raise an error that says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        backend = (error.name or "").partition(".")[0]
        if backend not in BACKENDS:
            raise
        raise MissingBackendError(
            f"Keras uses the backend {backend}, which is not installed: {BACKENDS[backend]}."
        ) from None
