"""Every test belongs to one tier, and every test that is marked basic has basic cases."""

import re
import subprocess
import sys

import pytest

from tests.support import ROOT


def collected(*options):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {line for line in done.stdout.splitlines() if "::" in line}


@pytest.fixture(scope="module")
def tiers():
    """Return the tests that each target of the Makefile runs."""
    text = (ROOT / "Makefile").read_text()
    found = dict(re.findall(r"^(STATIC|BASIC|THOROUGH) := -m '(.*)'$", text, re.M))
    return {name: collected("-m", marks) for name, marks in found.items()}


def test_every_test_is_in_one_tier(tiers):
    assert set(tiers) == {"STATIC", "BASIC", "THOROUGH"}
    assert set.union(*tiers.values()) == collected()
    assert sum(map(len, tiers.values())) == len(set.union(*tiers.values()))


def test_tests_marked_basic_have_basic_cases(tiers):
    named = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for match in re.finditer(
            r"^@pytest\.mark\.basic\((?:(?!^def).)*?^def (test_\w+)", path.read_text(), re.M | re.S
        ):
            named.add(f"{path.relative_to(ROOT).as_posix()}::{match[1]}")
    assert len(named) > 20
    assert named <= {name.partition("[")[0] for name in tiers["BASIC"]}
