"""Show the effect of `momentum` and `unbiased_variance` on the moving variance.

Batches have 4 values from N(0, 1), so the true variance is 1. The biased estimate approaches 3/4.
Momentum determines how much the estimate varies, and how long the initial value has an effect.
`momentum=None` averages all batches, so the estimate becomes better and better.

    python examples/momentum_and_variance.py [--steps 300] [--picture FILE.html]
"""

import argparse
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

import kbn

SETTINGS = {
    "momentum 0.9, unbiased": {"momentum": 0.9},
    "momentum 0.9, biased (Keras)": {"momentum": 0.9, "unbiased_variance": False},
    "momentum 0.99, unbiased": {"momentum": 0.99},
    "momentum None, unbiased": {"momentum": None},
}


def trace(batches: np.ndarray, **options: object) -> list[float]:
    """Return the moving variance, averaged over channels, after each batch."""
    layer = kbn.BatchNormalization(**options)
    values = []
    for batch in batches:
        layer(batch, training=True)
        values.append(float(np.mean(layer.moving_variance.numpy())))
    return values


def main() -> None:
    """Run every setting on the same batches, print the final values and draw all values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--picture", type=Path, default=Path("runs/momentum_and_variance.html"))
    options = parser.parse_args()

    batches = np.random.default_rng(0).normal(size=(options.steps, 4, 64)).astype("float32")
    figure = go.Figure()
    for name, setting in SETTINGS.items():
        values = trace(batches, **setting)
        print(f"{name:30} moving variance after {options.steps} batches: {values[-1]:.3f}")
        figure.add_scatter(y=values, name=name, mode="lines")
    figure.add_hline(y=1.0, line_dash="dot", annotation_text="true variance")
    figure.update_layout(
        title="Moving variance on batches of 4 from N(0, 1)",
        xaxis_title="batches",
        yaxis_title="moving variance, mean of 64 channels",
        template="plotly_white",
    )
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(options.picture)
    print(f"Picture: {options.picture}")


if __name__ == "__main__":
    main()
