"""What was read of late: kept while its source is the same, and not for longer."""

from kbn.dashboard.board import Dashboard
from kbn.dashboard.cache import Cache
from kbn.dashboard.folder import open_folder
from kbn.dashboard.reader import RunReader
from tests.support.logs import write

SHIFT = "wasserstein"


def test_a_value_is_read_once_per_stamp():
    recent, read = Cache(), iter(range(9))
    take = [recent.get("a", stamp, lambda: next(read)) for stamp in (1, 1, 2, 2, 1)]
    assert take == [0, 0, 1, 1, 2]


def test_none_is_cached_too():
    recent = Cache()
    assert recent.get("a", (), lambda: None) is None
    assert recent.get("a", (), lambda: "again") is None


def test_the_least_recently_used_value_is_dropped():
    recent = Cache(most=2)
    for name in "abac":
        recent.get(name, 0, lambda name=name: f"first {name}")
    found = [recent.get(name, 0, lambda name=name: f"second {name}") for name in "acb"]
    assert found == ["first a", "first c", "second b"]


class Counted:
    """A provider that says how often scalars were read."""

    def __init__(self, provider):
        self._provider, self.reads = provider, 0

    def __getattr__(self, name):
        return getattr(self._provider, name)

    def read_scalars(self, *args, **options):
        self.reads += 1
        return self._provider.read_scalars(*args, **options)


def opened(folder, recent):
    provider = Counted(open_folder(folder)._provider)
    return RunReader(provider, recent=recent), provider


def test_only_runs_that_were_written_to_are_read_again(tmp_path):
    recent = Cache()
    for run in ("still", "grows"):
        write(tmp_path / run, {SHIFT: {"layer": [0.0, 1.0]}})
    log, provider = opened(tmp_path, recent)
    before = {run: log.series(run, SHIFT) for run in log.runs()}
    assert provider.reads == 2
    write(tmp_path / "grows", {SHIFT: {"layer": [2.0]}}, steps=[200])
    log, provider = opened(tmp_path, recent)
    after = {run: log.series(run, SHIFT) for run in log.runs()}
    assert provider.reads == 1
    (old,), (new,) = (of["grows"].values() for of in (before, after))
    assert (list(old.values), list(new.values)) == ([0.0, 1.0], [0.0, 1.0, 2.0])
    assert list(after["still"]) == list(before["still"])


def test_the_figures_of_a_page_share_their_reads(tmp_path):
    write(tmp_path / "run", {SHIFT: {"layer": [0.0, 1.0]}})
    log, provider = opened(tmp_path, Cache())
    board = Dashboard(log)
    for draw in (board.heat_map, board.worst_layers, board.compare, board.verdict):
        draw()
    assert provider.reads == 1
