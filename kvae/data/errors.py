"""Errors and warnings about data."""

import inspect
import re
import warnings


class DataError(ValueError):
    """The data cannot be used as requested.

    The message is one line: what was expected, what was received, and what to do.

    Example:
        >>> import kvae
        >>> kvae.data.load("digits").split("dev")
        Traceback (most recent call last):
        ...
        kvae.data.errors.DataError: Unknown split: expected one of train, validation, test. Received: 'dev'
    """


class DataWarning(UserWarning):
    """Part of the data was left out or changed, such as an unreadable image or clipped values; the rest is used."""


def warn(message: str) -> None:
    """Show a `DataWarning` that points to the line outside kvae which led to it."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("kvae."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DataWarning, stacklevel=level)


def message_of(error: Exception) -> str:
    """Return the message of a TensorFlow error as one line, without graph node names."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())[:300]
