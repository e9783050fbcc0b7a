"""Collect the warnings that users see."""

import contextlib
import warnings


@contextlib.contextmanager
def user_warnings():
    """Collect the texts of UserWarnings. Unlike `pytest.warns`, do not change other filters."""
    texts = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        yield texts
        texts += [str(w.message) for w in warned if w.category is UserWarning]
