"""The experiments of docs/results.md, quick: each has the effects that its section claims.

Every bound holds for every seed. Where digits behave otherwise than Fashion-MNIST, the section says
so, and what is asserted here is what both have in common.
"""

import json
import re
import sys

import pytest

from tests.experiments import ROOT, by


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
