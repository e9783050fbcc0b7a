"""The experiments of docs/results.md, quick: each has the effects that its section claims.

Every bound holds for every seed. Where digits behave otherwise than Fashion-MNIST, the section says
so, and what is asserted here is what both have in common.
"""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SEEDS = (0, 1)


@pytest.fixture
def quick(python, tmp_path):
    """Run an experiment on digits, and return its rows of each seed."""

    def run(name):
        seeds = map(str, SEEDS)
        python(str(ROOT / "examples" / f"{name}.py"), "--quick", "--out", "out", "--seeds", *seeds)
        numbers = json.loads((tmp_path / "out/numbers.json").read_text())
        assert numbers["seeds"] == list(SEEDS)
        assert all((tmp_path / "out" / f"{page}.html").stat().st_size > 1e5
                   for page in (["healthy", "stale", "dying", "exploding"] if name == "how_to_read"
                                else ["picture"]))  # fmt: skip
        return [[row for row in numbers["rows"] if row["seed"] == seed] for seed in SEEDS]

    return run


def by(rows, *names):
    """Return the rows by what they are called."""
    return {tuple(row[name] for name in names) if len(names) > 1 else row[names[0]]: row
            for row in rows}  # fmt: skip


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
        assert min(accuracy["normalized", rate] for rate in (0.03, 0.3, 3.0)) > 0.7


def test_unbiased_statistics(quick):
    for rows in quick("unbiased_statistics"):
        found = by(rows, "batch", "statistics")
        for m in (2, 4, 8, 32):
            # 0.99 keeps some of the initial value, the same for both.
            for momentum, within in (("0.99", 0.12), ("0.9", 0.005), ("None", 0.005)):
                biased, unbiased = (found[m, f"momentum {momentum}, {kind}"]["variance"]
                                    for kind in ("biased", "unbiased"))  # fmt: skip
                assert biased / unbiased == pytest.approx((m - 1) / m, abs=within)
            assert found[m, "recalibrated"]["variance"] == 1
        # After 135 steps, 0.99 has not settled.
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


def test_preprocessing(quick):
    for rows in quick("preprocessing"):
        found = by(rows, "inputs", "first layer")
        raw = "raw, 0 to 255"
        first = found[raw, "normalized first"]
        assert first["test accuracy"] > found[raw, "as it is"]["test accuracy"] + 0.3
        # Normalization takes back what shifts and scales each pixel.
        for kind in ("mean subtracted", "z-scored"):
            same = found[kind, "normalized first"]["loss at the end"]
            assert same == pytest.approx(first["loss at the end"], rel=0.1)


def test_fine_tuning(quick):
    for rows in quick("fine_tuning"):
        found = by(rows, "layer", "pre-training")
        clean = [found[layer, "clean"]["new classes"] for layer in ("keras", "kbn")]
        assert clean[0] == pytest.approx(clean[1], abs=0.05)
        assert found["keras", "one bad batch"]["new classes"] is None  # it answers NaN
        assert found["kbn", "one bad batch"]["new classes"] > clean[1] - 0.05


def test_replicas(quick):
    for rows in quick("replicas"):
        found = by(rows, "layer", "statistics")
        keras, ours = found["keras", "own"], found["kbn", "own"]
        assert ours["mean off, σ"] < 0.75 * keras["mean off, σ"]
        assert ours["variance"] > keras["variance"] + 0.1
        for layer in ("keras", "kbn"):
            assert found[layer, "shared"]["accuracy"] > found[layer, "own"]["accuracy"] + 0.01
        assert found["kbn", "shared"]["variance"] == pytest.approx(1, abs=0.08)
        assert found["keras", "shared"]["variance"] < 0.92  # biased: 7/8


def test_how_to_read(quick):
    for rows in quick("how_to_read"):
        nets = by(rows, "net")
        assert nets["healthy"]["val_loss"] < 0.3
        assert nets["healthy"]["mean gap, σ"] < 0.1
        assert nets["stale"]["val_loss"] > 5 * nets["stale"]["loss"]
        assert nets["stale"]["mean gap, σ"] > 0.15
        assert nets["dying"]["dead units"] > 0.4 > nets["healthy"]["dead units"] + 0.3
        assert nets["exploding"]["width"] > 1e6
        assert nets["exploding"]["val_loss"] is None


def test_the_tables_of_the_documents_are_those_of_the_kept_numbers():
    sys.path.insert(0, str(ROOT))
    from docs.make_results import NAMES, with_tables

    texts = [(ROOT / "docs" / name).read_text() for name in ("results.md", "how-to-read.md")]
    assert [with_tables(text) for text in texts] == texts
    shown = set(re.findall(r"<!-- table: (\w+) -->", "".join(texts)))
    assert shown == set(NAMES)
    for name in NAMES:
        assert f"python examples/{name}.py" in "".join(texts)
        kept = json.loads((ROOT / f"docs/results/{name}.json").read_text())
        assert len(kept["seeds"]) >= 3
        assert not kept["quick"]
