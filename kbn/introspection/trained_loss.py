"""Which loss a model trains on, as far as its code shows."""

import dis
import types
from collections.abc import Iterator
from typing import NamedTuple

import keras

ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")


class Use(NamedTuple):
    """An attribute that a function uses.

    Attributes:
        of: the name of the variable whose attribute it is, "super", or "" if it is another value.
        name: the name of the attribute.
    """

    of: str
    name: str


def trains_on_its_loss(model: keras.Model) -> bool:
    """Return whether `fit` trains on `model.compute_loss`, as far as the code shows.

    Keras's own `train_step` does. A custom one does if it calls `self.compute_loss` or the
    `train_step` of Keras, itself or in a method or function that it uses.
    """
    step = getattr(model, "train_step", None)
    step = getattr(step, "__func__", step)
    if step is None or _is_of_keras(step):
        return step is not None
    return _calls_it(step, type(model), set())


def _calls_it(function: object, owner: type, seen: set[int]) -> bool:
    """Return whether `function`, of a model of class `owner`, calls its `compute_loss`."""
    function = getattr(function, "__wrapped__", function)
    code = getattr(function, "__code__", None)
    if code is None or id(code) in seen:
        return False
    seen.add(id(code))
    of_class = any(function in vars(each).values() for each in owner.__mro__)
    own = code.co_varnames[:1] if of_class else ()
    return any(
        _leads_to_it(use, function, owner, own, seen)
        for part in _parts(code)
        for use in _uses(part)
    )


def _leads_to_it(
    use: Use, function: object, owner: type, own: tuple[str, ...], seen: set[int]
) -> bool:
    if use.of == "global":  # a function of the module, which may get the model as an argument
        found = getattr(function, "__globals__", {}).get(use.name)
        return isinstance(found, types.FunctionType) and _calls_it(found, owner, seen)
    if own and use.of not in (*own, "super"):
        return False  # an attribute of something else, such as the loss of another model
    if use.name in ("compute_loss", "_compute_loss"):
        return True
    target = _inherited(function, owner, use.name) if use.of == "super" else None
    target = target or (getattr(owner, use.name, None) if own and use.of != "super" else None)
    target = target.fget if isinstance(target, property) else target
    if use.name == "train_step" and target is not None and _is_of_keras(target):
        return True
    return target is not None and not _is_of_keras(target) and _calls_it(target, owner, seen)


def _inherited(function: object, owner: type, name: str) -> object:
    """Return what `super().name` is inside `function`, a method of a class that `owner` extends."""
    classes = owner.__mro__
    here = [i for i, each in enumerate(classes) if function in vars(each).values()]
    after = classes[here[0] + 1 :] if here else ()
    return next((vars(each)[name] for each in after if name in vars(each)), None)


def _uses(code: types.CodeType) -> Iterator[Use]:
    """Yield the attributes and the global functions that `code` uses."""
    before = ""
    for step in dis.get_instructions(code):
        if step.opname in ATTRIBUTES:
            yield Use("super" if step.opname == "LOAD_SUPER_ATTR" else before, step.argval)
            before = ""
        elif step.opname in ("LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK"):
            before = step.argval if before != "super" else before
        elif step.opname == "LOAD_GLOBAL":
            before = "super" if step.argval == "super" else ""
            yield Use("global", step.argval)
        elif step.opname not in ("PRECALL", "CALL", "CACHE", "PUSH_NULL", "LOAD_CLOSURE"):
            before = ""


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield `code` and the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts(constant)


def _is_of_keras(function: object) -> bool:
    return getattr(function, "__module__", "").partition(".")[0] == "keras"
