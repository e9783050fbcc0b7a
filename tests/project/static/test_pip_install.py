"""Nobody is told to install an unpublished name: every `pip install` is on a list."""

import re
import subprocess

from tests.support import ROOT

# Where "pip install" stands, and what follows it there.
EXPECTED = {
    ("CHANGELOG.md", "tensorflow-cpu"),
    ("CHANGELOG.md", "pandas"),
    ("CHANGELOG.md", "scikit-learn"),
    ("CONTRIBUTING.md", "-e ."),
    ("Makefile", "--quiet --disable-pip-version-check -e '.[$(BACKEND),demo]'"),
    ("Makefile", "--quiet --disable-pip-version-check -e '.[$(BACKEND),demo,test]'"),
    ("README.md", "-e '.[cpu,demo]'"),
    ("README.md", "'.[cpu]'"),
    ("callbacks/README.md", "pandas"),
    ("docs/results.md", "-e '.[cpu,demo]'"),
    ("kbn/common/lazy.py", "tensorflow-cpu"),
    ("kbn/common/lazy.py", "jax"),
    ("kbn/common/lazy.py", "torch"),
    ("kbn/demo/datasets.py", "scikit-learn"),
    ("kbn/records/frames.py", "pandas"),
}
# They ask what others say, or install what they have built.
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
    assert [what for _, what in EXPECTED if re.search(r"\bkbn\b", what)] == []
