"""The experiments on the papers' own claims; tests/test_experiments.py has the others and the rule.

Two files, because files run side by side.
"""

import pytest

from tests.experiments import by


def test_figure_1(quick):
    for rows in quick("figure_1"):
        nets = by(rows, "net")
        plain, normalized = nets["plain"], nets["normalized"]
        early = [net["accuracy over steps"][3] for net in (plain, normalized)]
        assert early[1] > early[0] + 0.4
        # The first record: the plain net leaves its initial weights' distributions far behind.
        assert normalized["shift, first, σ"] < plain["shift, first, σ"] / 5


def test_learning_rates(quick):
    for rows in quick("learning_rates"):
        accuracy = {key: row["accuracy"] for key, row in by(rows, "net", "rate").items()}
        assert accuracy["normalized", 3.0] > accuracy["plain", 3.0] + 0.3
        assert accuracy["normalized", 0.03] > accuracy["plain", 0.03] + 0.05
        assert min(accuracy["normalized", rate] for rate in (0.03, 3.0)) > 0.7


def test_unbiased_statistics(quick):
    for rows in quick("unbiased_statistics"):
        found = by(rows, "batch", "statistics")
        for m in (2, 4, 8, 32):
            # 0.99 keeps some of the initial value, the same for both; 0.9 feels the last batch,
            # which is shorter.
            for momentum, within in (("0.99", 0.12), ("0.9", 0.02), ("None", 0.005)):
                biased, unbiased = (found[m, f"momentum {momentum}, {kind}"]["variance"]
                                    for kind in ("biased", "unbiased"))  # fmt: skip
                assert biased / unbiased == pytest.approx((m - 1) / m, abs=within)
            assert found[m, "recalibrated"]["variance"] == 1
        # After 45 steps, 0.99 has not settled.
        late, fresh = (found[32, name]["loss"] for name in ("momentum 0.99, unbiased",
                                                            "recalibrated"))  # fmt: skip
        assert late > 2 * fresh


def test_gradient_shift(quick):
    for rows in quick("gradient_shift"):
        nets = by(rows, "net")
        plain, normalized, noisy = (nets[name] for name in ("plain", "normalized", "noisy"))
        # Shifting distributions on purpose shows in them, and does not keep the net from learning.
        assert noisy["distribution shift, σ"] > 3 * normalized["distribution shift, σ"]
        assert noisy["mean training loss"] < plain["mean training loss"] - 0.5
        assert noisy["test accuracy"] == pytest.approx(normalized["test accuracy"], abs=0.05)
        for net in nets.values():
            assert 0 < net["gradient shift, relative"] < 2
            assert net["β-smoothness"] > 0
