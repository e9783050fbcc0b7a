"""The TensorBoard plugin that serves the Covariate shift tab."""

import contextlib
import functools
import gzip
import logging
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tensorboard.backend import http_util
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin
from tensorboard.util import tb_logging
from werkzeug import Request, Response, wrappers

from kbn.dashboard.cache import Cache
from kbn.dashboard.folder import UnreadableFiles
from kbn.dashboard.reader import RunReader
from kbn.dashboard.run_names import KINDS
from kbn.records import catalogue, tags
from kbn.records.series import Series
from kbn.records.strict_json import Json
from kbn.records.tags import Place

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from kbn.dashboard.board import Dashboard

STATIC = Path(__file__).parent / "static"
MOST_STEPS = 1000  # per series, as in TensorBoard's Scalars tab
PATIENCE = 0.5  # seconds that a page waits for the check of all files
SETTLED = 5.0  # seconds; a file that is being written may look incomplete
HINT = """import kbn
shift = kbn.callbacks.CovariateShift("runs/first", x_train)
model.fit(x_train, y_train, callbacks=[shift])"""

Answer = Callable[["CovariateShiftPlugin", Request], Json]


def _answers_json(answer: Answer) -> Callable[["CovariateShiftPlugin"], "WSGIApplication"]:
    """Return an application that sends JSON: what `answer` returns, or its error message."""

    @functools.wraps(answer)
    def bound(plugin: "CovariateShiftPlugin") -> "WSGIApplication":
        @wrappers.Request.application
        def respond(request: Request) -> Response:
            try:
                return _json(request, answer(plugin, request))
            except ValueError as error:
                return _json(request, {"error": str(error)}, code=400)
            except Exception as error:  # the page shows it; TensorBoard's other tabs still work
                tb_logging.get_logger().log(logging.ERROR, "kbn's tab failed", exc_info=True)
                return _json(request, {"error": f"{type(error).__name__}: {error}"}, code=500)

        return respond

    return bound


class CovariateShiftPlugin(TBPlugin):
    """Serves the page, and the state of the log and the figures as JSON."""

    plugin_name = "kbn"

    def __init__(self, context: TBContext) -> None:
        self._provider = context.data_provider
        self._unreadable = UnreadableFiles(_folders(context), settled=SETTLED)
        self._check: threading.Thread | None = None
        self._found: list[str] = []
        self._recent = Cache()
        _get_ready()

    def get_plugin_apps(self) -> dict[str, "WSGIApplication"]:
        """Return the routes, relative to TensorBoard's route for the plugin."""
        return {
            "/tab.js": functools.partial(_static, "tab.js", "text/javascript"),
            "/tab.css": functools.partial(_static, "tab.css", "text/css"),
            "/plotly.js": _plotly,
            "/state": self._state(),
            "/verdict": self._verdict(),
            "/figure": self._figure(),
        }

    def is_active(self) -> bool:
        """Return whether any run has data. It must be fast, because TensorBoard calls it often."""
        if self._provider is None:
            return False
        runs = self._provider.list_runs(RequestContext(), experiment_id="")
        names = [run.run_name for run in runs]
        if "." in names:  # this may be the folder of one callback
            return bool(RunReader(self._provider).runs())
        return any(name.rpartition("/")[2] in KINDS for name in names)

    def frontend_metadata(self) -> FrontendMetadata:
        """Return the path of the page's script."""
        return FrontendMetadata(es_module_path="/tab.js", tab_name="Covariate shift")

    @_answers_json
    def _state(self, request: Request) -> Json:
        """Return the choices for the page's controls, and the figures that can be drawn."""
        log, board = self._opened(request)
        rows = catalogue.measures()
        offered = [name for name in board.measures if rows[name].offered]
        asked = request.args.get("measure")
        measure = asked if asked in offered else board.distance or next(iter(offered), None)
        places = board.places(measure) if measure else []
        return {
            "runs": log.runs(), "names": {run: log.label(run) for run in log.runs()},
            "foreign": log.foreign, "hint": HINT, "skipped": self._skipped(),
            "measures": [{"name": name, "text": rows[name].meaning} for name in offered],
            "measure": measure,
            "sites": list(dict.fromkeys(place.site for place in places)),
            "layers": board.layers,
            "figures": _figures(board),
            "newest": log.newest(), "written": log.written(),
        }  # fmt: skip

    @_answers_json
    def _verdict(self, request: Request) -> Json:
        """Return the findings on the chosen runs."""
        _, board = self._opened(request)
        return board.verdict() if board.runs else []

    @_answers_json
    def _figure(self, request: Request) -> Json:
        """Return one figure as JSON."""
        from kbn.dashboard.figures import FIGURES, style
        from kbn.dashboard.selection import NotRecordedError

        name = request.args.get("name", "")
        if name not in FIGURES:
            raise ValueError(f"name must be one of {list(FIGURES)}. Received: name={name!r}")
        figure = FIGURES[name]
        _, board = self._opened(request)
        options = {key: request.args[key] for key in figure.options if request.args.get(key)}
        for key in figure.required:
            if key not in options:
                raise ValueError(f"{name} needs a {key}. Received: {key}=''")
        try:
            drawn = figure.draw(board, **options)
        except NotRecordedError:
            if options["layer"] not in board.layers:
                raise
            drawn = style.nothing(figure.title, f"Not recorded for {options['layer']}.")
        return str(style.themed(drawn, dark="dark" in request.args).to_json())

    def _skipped(self) -> list[str]:
        """Return sentences about unreadable files; the previous ones if the check takes long."""
        if self._check is None or not self._check.is_alive():
            self._check = threading.Thread(
                target=self._check_files, name="kbn-unreadable", daemon=True
            )
            self._check.start()
            self._check.join(PATIENCE)
        return self._found

    def _check_files(self) -> None:
        self._found = self._unreadable.sentences()

    def _opened(self, request: Request) -> tuple[RunReader, "Dashboard"]:
        """Return the log, and a board with the runs of the request, or with all runs."""
        from kbn.dashboard.board import Dashboard

        log = self._log(request)
        board = Dashboard(log)
        wanted = request.args.getlist("run") or board.runs
        board.runs = [run for run in board.runs if run in wanted]
        return log, board

    def _log(self, request: Request) -> RunReader:
        from tensorboard import plugin_util

        context = plugin_util.context(request.environ)
        experiment = plugin_util.experiment_id(request.environ)
        return RunReader(self._provider, experiment, context, MOST_STEPS, self._recent)


def _figures(board: "Dashboard") -> list[Json]:
    """Return the rows of all figures that can be drawn, in order."""
    from kbn.dashboard.figures import FIGURES

    return [
        {"name": figure.name, "title": figure.title, "text": figure.text, "group": figure.group,
         "options": figure.options, "required": figure.required}
        for figure in FIGURES.values() if not figure.needs or board.recorded(figure.needs)
    ]  # fmt: skip


def _folders(context: TBContext) -> list[str]:
    """Return the folders that TensorBoard reads, from `--logdir` or `--logdir_spec`."""
    flags = context.flags
    if getattr(flags, "logdir", ""):
        return [flags.logdir]
    specs = (getattr(flags, "logdir_spec", "") or "").split(",")
    return [_path_of(spec) for spec in specs if spec]


def _path_of(spec: str) -> str:
    """Return the path of name:path, or of a path or URL without a name, as TensorBoard does."""
    is_plain = spec.startswith("/") or re.match(r"[A-Za-z][0-9A-Za-z.]*://", spec)
    return spec if is_plain else spec.split(":", 1)[-1]


def _json(request: Request, content: Json, code: int = 200) -> Response:
    return http_util.Respond(request, content, "application/json", code=code)


def _static(
    name: str, kind: str, environ: "WSGIEnvironment", start_response: "StartResponse"
) -> Iterable[bytes]:
    request = wrappers.Request(environ)
    content = (STATIC / name).read_text(encoding="utf-8")
    return http_util.Respond(request, content, kind)(environ, start_response)


def _plotly(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    request = wrappers.Request(environ)
    day = 24 * 3600
    return http_util.Respond(
        request, _packed_plotly(), "text/javascript", expires=day, content_encoding="gzip"
    )(environ, start_response)


@functools.cache
def _packed_plotly() -> bytes:
    """Return the script, compressed once for all pages."""
    from plotly.offline import get_plotlyjs

    return gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)


@functools.cache
def _get_ready() -> None:
    """Load what the first figure needs before it is requested: once, in a thread."""
    threading.Thread(target=_draw_anything, name="kbn-tab", daemon=True).start()


def _draw_anything() -> None:
    """Make Plotly import its modules, which takes most of a second on first use."""
    with contextlib.suppress(Exception):  # the request for a figure reports the error
        from kbn.dashboard.figures import heat_map, style

        _packed_plotly()
        point = Series(np.zeros(1, np.int64), np.ones(1))
        places = {Place("layer", tags.SITES[0]): point}
        figure = heat_map.plot({"run": places}, catalogue.distances()[0])
        style.themed(figure, dark=False).to_json()
