"""The reason of an error on one line, for warnings and for sentences of the report."""

import re

LONGEST = 300
"""The most characters of a reason."""
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
# TensorFlow and Keras put frames of the stack, in several formats, before the reason.
_PREAMBLE = re.compile(
    r"Graph execution error:|Detected at node .* defined at .*|in user code:|<stack traces .*>"
    r"|\d+ root error\(s\) found\.|Exception encountered when calling .*|File \".*"
)
# From one of these lines on, no line says more about the reason.
_TAIL = re.compile(r"Traceback \(most recent call last\):|Arguments received by |The op is created")
_NODES = re.compile(r"\{\{function_node .*?\}\}|\[\[.*?\]\]|\[Op:.*?\]( name:.*)?$|^\(\d+\) ")
_NODE = re.compile(r"\{\{node (.*?)\}\}")


def reason(error: BaseException) -> str:
    """Return the type of `error` and the line of its message that says what is wrong."""
    kind = type(error).__name__
    text = telling_line(error)
    if text == kind:
        return kind
    line = text if text.startswith(f"{kind}: ") else f"{kind}: {text}"
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def telling_line(error: BaseException) -> str:
    """Return the first line of the message that says what is wrong, or else the error's type.

    If the line ends with a colon, the next one follows.
    """
    # A KeyError writes its message as a literal in quotes, with escape codes.
    of_key = isinstance(error, KeyError) and error.args and isinstance(error.args[0], str)
    text = error.args[0] if of_key and "\x1b" in error.args[0] else str(error)
    return _first_telling_line(_COLORS.sub("", text)) or type(error).__name__


def _first_telling_line(text: str) -> str:
    found: list[str] = []
    frame: int | None = None  # indentation of the frame of the stack in the line before
    for line in text.splitlines():
        plain, indent = line.strip(), len(line) - len(line.lstrip())
        if _TAIL.match(plain):
            break
        is_source = frame is not None and indent > frame
        is_frame = plain.startswith('File "')
        frame = indent if is_frame else None
        said = (
            ""
            if is_source or _PREAMBLE.fullmatch(plain)
            else _NODE.sub(r"\1", _NODES.sub("", plain))
        )
        if said.strip():
            found.append(" ".join(said.split()))
            if not said.endswith(":"):
                break
    return " ".join(found).rstrip(".")
