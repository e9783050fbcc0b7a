"""Train three steps on the backend in use, and save models and numbers for the other backends.

Run it once for each backend: `KERAS_BACKEND=jax python -m tests.golden.make_backends`.
"""

import numpy as np

from tests.support.on_backend import BACKEND
from tests.support.three_steps import FILES, OPTIONS, trained


def main() -> None:
    """Write the files."""
    FILES.mkdir(exist_ok=True)
    arrays = {}
    for name, options in OPTIONS.items():
        model, result = trained(options)
        model.save(FILES / f"{name}-{BACKEND}.keras")
        arrays |= {f"{name}/losses": result.losses, f"{name}/predicted": result.predicted}
        arrays |= {f"{name}/weight_{i:02}": each for i, each in enumerate(result.weights)}
    np.savez_compressed(FILES / f"{BACKEND}.npz", **arrays)


if __name__ == "__main__":
    main()
