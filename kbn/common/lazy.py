"""Names that a package loads on first use, with a clear word where no backend is installed."""

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
    """Keras is installed, but the array library it computes with is not."""


def attach(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` that give `package` its lazy `exports`.

    Args:
        package: name of the package, as in its `__name__`.
        exports: public name -> module that defines it, or that it is.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - the name Python looks for
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = load(exports[name])
        return module if exports[name] == f"{package}.{name}" else getattr(module, name)

    return __getattr__, lambda: sorted(exports)


def load(module: str) -> Any:
    """Import `module`, saying how to install the backend if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        backend = (error.name or "").partition(".")[0]
        if backend not in BACKENDS:
            raise
        raise MissingBackendError(
            f"Keras computes with {backend}, which is not installed: {BACKENDS[backend]}."
        ) from None
