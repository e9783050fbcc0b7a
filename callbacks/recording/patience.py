"""A sign that a callback is at work, if it takes long."""

import contextlib
import threading
import time
from collections.abc import Iterator

from rich.console import Console

AFTER = 5.0
"""Seconds after which the sign is shown."""


@contextlib.contextmanager
def shown_if_slow(who: str, what: str) -> Iterator[None]:
    """Show on stderr what `who` does, if the context takes more than `AFTER` seconds.

    On a terminal this is a spinner, else a line. When the context ends, a line with its duration
    follows.

    Args:
        who: the name of the callback.
        what: what it does, as the rest of a sentence.
    """
    begun, done, shown = time.perf_counter(), threading.Event(), threading.Event()
    console = Console(stderr=True, soft_wrap=True)

    def show() -> None:
        if done.wait(AFTER):
            return
        shown.set()
        text = f"{who} {what}. For a large model this takes a while."
        if not console.is_terminal:
            console.print(text, highlight=False)
        with console.status(text):
            done.wait()

    thread = threading.Thread(target=show, name="kbn-patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if shown.is_set():
            took = time.perf_counter() - begun
            console.print(f"{who} {what}: took {took:.0f} s.", highlight=False)
