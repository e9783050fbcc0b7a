"""The backends against `kbn/backend/interface.py`: the same functions with the same arguments."""

import inspect
from inspect import Parameter

import pytest

from kbn import backend
from kbn.backend import portable
from kbn.backend.interface import Backend, MissingCapabilityError
from tests.support.on_backend import BACKEND

FUNCTIONS = sorted(
    name for name, of in vars(Backend).items() if inspect.isfunction(of) and name[0] != "_"
)
# Other backends may not be installed.
MODULES = {"portable": portable, BACKEND: backend.load(BACKEND)}


def arguments(function):
    """Return the name, kind and default of each argument, without `self`."""
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in found if each.name != "self"]


def test_the_package_offers_every_function_of_the_interface():
    assert len(FUNCTIONS) > 10
    assert {*FUNCTIONS, "HiddenState"} <= set(backend.__all__)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", MODULES)
def test_a_backend_has_the_functions_of_the_interface(name, function):
    own = getattr(MODULES[name], function)
    if [kind for _, kind, _ in arguments(own)] == [Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD]:
        with pytest.raises(MissingCapabilityError):
            own()
        assert name == "portable" or (name, function[:9]) == ("jax", "normalize")
    else:
        assert arguments(own) == arguments(getattr(Backend, function))
