"""Run the experiments of `examples/` and put their tables and pictures into docs/results.

    python -m docs.make_results [NAME ...]     # all by default: about an hour on 2 cores

Each experiment writes numbers.json and HTML pages to runs/<name>. This script takes screenshots of
the pages, keeps the numbers as docs/results/<name>.json, and writes the tables in docs/results.md
from them.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import machine
from docs.make_pictures import photograph

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
EXAMPLES = DOCS.parent / "examples"
NAMES = ("figure_1", "learning_rates", "unbiased_statistics", "gradient_shift", "preprocessing",
         "fine_tuning", "replicas", "how_to_read")  # fmt: skip


def main() -> None:
    """Run the named experiments, and write their results."""
    by = machine()  # first, because the commit may change while the experiments run
    for name in sys.argv[1:] or NAMES:
        out = DOCS.parent / "runs" / name
        for stale in out.glob("*.html"):
            stale.unlink()
        subprocess.run([sys.executable, EXAMPLES / f"{name}.py", "--out", out], check=True)
        keep(name, out, by)
    write_tables()


def keep(name: str, out: Path, by: dict[str, Any]) -> None:
    """Keep the numbers and pictures of the run in `out`, made `by` this machine and commit."""
    RESULTS.mkdir(exist_ok=True)
    numbers = json.loads((out / "numbers.json").read_text())
    numbers["rows"] = _rounded(numbers["rows"])
    by = {key: str(by[key]) for key in ("date", "commit", "cpu", "tensorflow", "keras")}
    kept = {"by": by, **numbers}
    text = json.dumps(kept, indent=1, ensure_ascii=False)
    one_line = re.sub(r"\[[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text)
    (RESULTS / f"{name}.json").write_text(one_line + "\n")
    for page in sorted(out.glob("*.html")):
        picture = name if page.stem == "picture" else f"{name}-{page.stem}"
        photograph(page, RESULTS / f"{picture}.png")


def _rounded(value: Any) -> Any:
    """Return `value` with every number rounded to five digits, as many as the tables need."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def table(name: str) -> str:
    """Return the kept table in Markdown, with its seeds, commit, machine and versions."""
    kept = json.loads((RESULTS / f"{name}.json").read_text())
    lines = [kept["table"]["head"], ["---"] * len(kept["table"]["head"]), *kept["table"]["cells"]]
    by = kept["by"]
    seeds = ", ".join(map(str, kept["seeds"]))
    made = (f"*Mean ± standard deviation over seeds {seeds}; commit {by['commit']}, {by['date']}, "
            f"{by['cpu']}, TensorFlow {by['tensorflow']}, Keras {by['keras']}.*")  # fmt: skip
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", made])


def write_tables() -> None:
    """Write the kept tables into the documents, between their marks."""
    for document in (DOCS / "results.md", DOCS / "how-to-read.md"):
        text = document.read_text()
        document.write_text(with_tables(text))


def with_tables(text: str) -> str:
    """Return `text` with the kept table between each pair of marks."""
    mark = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return mark.sub(lambda found: f"{found[1]}{table(found[2])}\n{found[3]}", text)


if __name__ == "__main__":
    main()
