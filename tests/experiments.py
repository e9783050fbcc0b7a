"""Running the experiments of examples/, quick, on two seeds."""

import json
from pathlib import Path

SEEDS = (0, 1)
ROOT = Path(__file__).parent.parent


def runner(python, tmp_path):
    """Return what runs an experiment on digits, and returns its rows of each seed."""

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
