"""Steps that do without each other: one that can't be done says why, and the others are done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST = 300  # characters of a message that isn't ours


class Steps:
    """What could not be done, and why.

    Args:
        say: gets a line for each step that can't be done.

    Attributes:
        failed: the reason of each, by what is said of it.

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
        """Do what is inside; if it raises an error, `failure`, a dash and the reason are what is said of it."""
        try:
            yield
        except Exception as error:
            self.failed[failure] = reason_of(error)
            self.say(f"{failure}{dash}{self.failed[failure]}")


def is_for_users(error: Exception) -> bool:
    """Whether the message was written for users, as far as the type tells."""
    return isinstance(error, ValueError | OSError) or type(error).__module__.startswith("kvae.")


def reason_of(error: Exception) -> str:
    """The message of an error in one line; with its type, and cut, where it isn't written for users.

    Example:

        >>> reason_of(ValueError("Expected a\\n  number.")), reason_of(KeyError("a"))
        ('Expected a number.', "KeyError: 'a'")
    """
    message = " ".join(str(error).split())
    if is_for_users(error):
        return message or type(error).__name__
    return f"{type(error).__name__}: {message[:LONGEST]}"
