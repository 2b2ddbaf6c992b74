"""What goes wrong with data, as one line a person can act on."""

import re


class DataError(ValueError):
    """The data cannot be used as asked: one line saying what was expected, what came, and what to do.

    Example:
        >>> import kvae
        >>> kvae.data.load("digits").split("dev")
        Traceback (most recent call last):
        ...
        kvae.data.errors.DataError: Unknown split: expected one of train, validation, test. Received: 'dev'
    """


class DataWarning(UserWarning):
    """Part of the data was left out (an unreadable image, say); the rest is used."""


def message_of(error: Exception) -> str:
    """What an error of TensorFlow says, in one line, without the places in its graphs."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())[:300]
