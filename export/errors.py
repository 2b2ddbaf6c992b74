"""Errors of an export, as one line with what to do."""

import re

_HEADINGS = ("Graph execution error:", "in user code:")


class ExportError(RuntimeError):
    """The model can't be exported: one line with the expected and the received thing, and what to do.

    If a converter failed, its (long) message is the `__cause__`.

    Example:

        >>> raise ExportError("expected built-in operators only")
        Traceback (most recent call last):
        ...
        kvae.export.errors.ExportError: expected built-in operators only
    """


def one_line(error: object) -> str:
    """Shorten an error of TensorFlow, Keras or a converter to one line of at most 300 characters.

    Example:

        >>> one_line(ValueError("in user code:\\n\\n    TypeError: float() of a tensor\\n    (see above)"))
        'TypeError: float() of a tensor'
    """
    message = str(error)
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and line not in _HEADINGS] or [type(error).__name__]
    # Keras writes its own message in bold, within the arguments of the call.
    by_keras = re.search(r"\x1b\[1m(.*?)\x1b\[0m", message, re.DOTALL)
    if by_keras:
        return " ".join(by_keras[1].split())[:300]
    named = [line for line in lines if re.match(r"\w*Error: |error: |.*: error: ", line)]
    return (named or lines)[0][:300]
