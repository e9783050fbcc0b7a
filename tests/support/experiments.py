"""The numbers of the experiments in examples/: of a quick run, or those kept for the documents."""

import json
from statistics import mean

from tests.support import ROOT

SEEDS = (0, 1)


def runner(python, tmp_path):
    """Return a function that runs an experiment on digits and returns its rows of each seed."""

    def run(name):
        seeds = map(str, SEEDS)
        python(str(ROOT / "examples" / f"{name}.py"), "--quick", "--out", "out", "--seeds", *seeds)
        numbers = json.loads((tmp_path / "out/numbers.json").read_text())
        assert numbers["seeds"] == list(SEEDS)
        assert all((tmp_path / "out" / f"{page}.html").stat().st_size > 1e5
                   for page in (["healthy", "stale", "dying", "exploding"] if name == "how_to_read"
                                else ["picture"]))  # fmt: skip
        return _by_seed(numbers)

    return run


def kept(name):
    """Return the rows of each seed that are kept for the documents (on Fashion-MNIST)."""
    numbers = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    assert len(numbers["seeds"]) >= 3
    assert not numbers["quick"]
    return _by_seed(numbers)


def _by_seed(numbers):
    return [[row for row in numbers["rows"] if row["seed"] == seed] for seed in numbers["seeds"]]


def by(rows, *names):
    """Return the rows by the values of `names`."""
    return {tuple(row[name] for name in names) if len(names) > 1 else row[names[0]]: row
            for row in rows}  # fmt: skip


def averages(name, number, *names):
    """Return the mean over seeds of a kept number, by the values of `names`."""
    seeds = [by(rows, *names) for rows in kept(name)]
    return {key: mean(seed[key][number] for seed in seeds) for key in seeds[0]}
