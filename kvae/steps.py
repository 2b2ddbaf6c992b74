"""Independent steps: a step that fails is reported, and the others run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST = 300  # characters of a message of another library


class Steps:
    """Independent steps, and the reasons of those that failed.

    Args:
        say: function that is called with one line for each failed step.

    Attributes:
        failed: reason of each failure, by the name of the failure.

    Example:

        >>> steps = Steps(print)
        >>> with steps("Not drawn: thumbnail map"):
        ...     raise ValueError("Expected three latents or more. Received: 2")
        Not drawn: thumbnail map — Expected three latents or more. Received: 2
        >>> steps.failed
        {'Not drawn: thumbnail map': 'Expected three latents or more. Received: 2'}
    """

    def __init__(self, say: Callable[[str], object] = lambda line: None):
        self.say = say
        self.failed: dict[str, str] = {}

    @contextmanager
    def __call__(self, failure: str, dash: str = " — ") -> Iterator[None]:
        """Run the block; if it raises an error, report `failure`, a dash and the reason."""
        try:
            yield
        except Exception as error:
            self.failed[failure] = reason_of(error)
            self.say(f"{failure}{dash}{self.failed[failure]}")


def is_for_users(error: Exception) -> bool:
    """Return whether the message was written for users, judging by the type of the error."""
    return isinstance(error, ValueError | OSError) or type(error).__module__.startswith("kvae.")


def reason_of(error: Exception) -> str:
    """Return the message of an error in one line. If it wasn't written for users, add the type and cut it.

    Example:

        >>> reason_of(ValueError("Expected a\\n  number.")), reason_of(KeyError("a"))
        ('Expected a number.', "KeyError: 'a'")
    """
    message = " ".join(str(error).split())
    if is_for_users(error):
        return message or type(error).__name__
    return f"{type(error).__name__}: {message[:LONGEST]}"
