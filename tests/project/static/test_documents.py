"""Links, tables and targets of the documents."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import callbacks_report, on_backend, report, tab_report
from tests.support import ROOT

PAGES = ("CONTRIBUTING.md", "docs/results.md", "docs/how-to-read.md")
DOCUMENTS = ("README.md", "callbacks/README.md")


def test_the_callbacks_tables_name_measures_of_the_catalogue():
    """The tables need no row for a new measure, because TensorBoard shows the catalogue's text."""
    from kbn.records import catalogue

    text = (ROOT / "callbacks/README.md").read_text()
    (*tables,) = re.findall(r"^\| tag.*\n\|[-|: ]+\n((?:\|.*\n)+)", text, re.M)
    named = {name for rows in tables for row in rows.splitlines()
             for name in re.findall(r"`(\w+)`", row.split("|")[1])}  # fmt: skip
    assert len(named) > 20
    assert named <= set(catalogue.measures())


def test_the_makefile_has_the_readmes_targets():
    for target in set(re.findall(r"`?make (\w+)`?", (ROOT / "README.md").read_text())):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_no_placeholder_is_left():
    for name in (*DOCUMENTS, *PAGES, "CHANGELOG.md"):
        assert not re.search(r"@@|TODO|FIXME|XXX", (ROOT / name).read_text()), name


def test_pictures_and_links_of_the_documents_exist():
    for name in (*DOCUMENTS, *PAGES):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert (ROOT / Path(name).parent / link).exists(), (name, link)


@pytest.mark.parametrize(
    ("page", "name"),
    [
        (report, "benchmarks"),
        (callbacks_report, "benchmarks-callbacks"),
        (tab_report, "benchmarks-tab"),
        (on_backend, "benchmarks-jax"),
        (on_backend, "benchmarks-torch"),
    ],
)
def test_the_benchmarks_pages_agree_with_the_kept_numbers(page, name):
    kept = json.loads((ROOT / f"docs/{name}.json").read_text())
    own = page is on_backend
    introduction = page.introduction(name.split("-")[1]) if own else page.INTRODUCTION
    text = report.markdown(introduction, page.tables(kept["rows"]), kept["machine"])
    assert (ROOT / f"docs/{name}.md").read_text() == text


def test_version_is_defined_in_one_place():
    import kbn

    assert sys.modules["kbn"] is kbn
    assert "version = attr: kbn.__version__" in (ROOT / "setup.cfg").read_text()
