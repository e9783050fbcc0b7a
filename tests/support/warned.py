"""What users are warned of."""

import contextlib
import warnings


@contextlib.contextmanager
def user_warnings():
    """Collect the texts of UserWarnings; unlike `pytest.warns`, leave other filters as they are."""
    texts = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        yield texts
        texts += [str(w.message) for w in warned if w.category is UserWarning]
