"""Every `pip install` in the project is on a list, so that none has an unpublished name."""

import re
import subprocess

from tests.support import ROOT

# Each file with "pip install", and the text that follows it.
EXPECTED = {
    ("CHANGELOG.md", "tensorflow-cpu"),
    ("CHANGELOG.md", "pandas"),
    ("CHANGELOG.md", "scikit-learn"),
    ("CONTRIBUTING.md", "-e ."),
    ("Makefile", "--quiet --disable-pip-version-check -e '.[$(EXTRA),demo]'"),
    ("Makefile", "--quiet --disable-pip-version-check -e '.[$(EXTRA),demo,test]'"),
    ("README.md", "-e '.[cpu,demo]'"),
    ("README.md", "'.[cpu]'"),
    ("callbacks/README.md", "pandas"),
    ("docs/results.md", "-e '.[cpu,demo]'"),
    ("docs/several-machines.md", "'ray[tune]'"),
    ("examples/training/search.py", "keras-tuner"),
    ("examples/training/sweep.py", "'ray[tune]'"),
    ("examples/several_machines/torch_processes.py", "'ray[train]'"),
    ("kbn/common/lazy.py", "tensorflow-cpu"),
    ("kbn/common/lazy.py", "jax"),
    ("kbn/common/lazy.py", "torch"),
    ("kbn/demo/datasets.py", "scikit-learn"),
    ("kbn/records/data_frames.py", "pandas"),
}
# Tests check the text of others, and CI installs wheels that it has built.
EXEMPT = ("tests/", ".ci/")


def found():
    """Return every `pip install` of the files under version control."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout.splitlines()
    texts = {
        name: (ROOT / name).read_bytes().decode("utf-8", errors="replace")
        for name in names
        if not name.startswith(EXEMPT) and (ROOT / name).is_file()
    }
    assert len(texts) > 50
    return {
        (name, match[1])
        for name, text in texts.items()
        for match in re.finditer(r"pip3? install ((?:--?[\w-]+ )*(?:'[^']*'|[^\s`\"',)]+))", text)
    }


def test_every_pip_install_is_on_the_list():
    assert found() == EXPECTED


def test_no_unpublished_name_is_installed():
    assert [what for _, what in found() if re.search(r"\bkbn\b", what)] == []
