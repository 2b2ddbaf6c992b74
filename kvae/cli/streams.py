"""Streams that accept every character: those they can't encode are replaced by look-alikes in ASCII."""

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Iterator

LOOK_ALIKES = "kvae.look-alikes"  # the name of the error handler
LOOKS = {
    "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "•": "*", "…": "...", "‖": "||", "±": "+/-", "≈": "~", "≠": "!=",
    "≤": "<=", "≥": ">=", "→": "->", "←": "<-", "↑": "^", "↓": "v", "√": "sqrt", "∞": "inf", "µ": "u", "λ": "lambda",
    "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "⁄": "/",
}  # fmt: skip


def look_alike(character: str) -> str:
    """Return the ASCII look-alike of a character: the name of a Greek letter, a line for a box; "?" if there is none.

    Example:

        >>> [look_alike(character) for character in "−βé²─╭█文"]
        ['-', 'beta', 'e', '^2', '-', '+', '#', '?']
    """
    if character in LOOKS:
        return LOOKS[character]
    kind, _, rest = unicodedata.name(character, "").partition(" ")
    if kind == "GREEK" and " LETTER " in rest:
        name = rest.partition(" LETTER ")[2].partition(" ")[0].lower()
        return name.capitalize() if rest.startswith("CAPITAL") else name
    if kind == "BOX":
        return "+" if " AND " in rest else "|" if rest.endswith(("VERTICAL", "UP", "DOWN")) else "-"
    if rest.endswith("BLOCK"):
        return "#"
    parts = unicodedata.normalize("NFKD", character)
    plain = "".join(part if part.isascii() else LOOKS.get(part, "") for part in parts)
    return ("^" if kind == "SUPERSCRIPT" else "") + plain or "?"


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(look_alike, error.object[error.start : error.end])), error.end


codecs.register_error(LOOK_ALIKES, _handle)


@contextlib.contextmanager
def any_character() -> Iterator[None]:
    """Make `sys.stdout` and `sys.stderr` accept every character.

    If a stream is missing or closed (`pythonw`, `>&-`), its text is discarded.
    """
    with contextlib.ExitStack() as before:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or getattr(stream, "closed", False):
                nowhere = before.enter_context(open(os.devnull, "w", encoding="utf-8", errors=LOOK_ALIKES))
                before.callback(setattr, sys, name, stream)
                setattr(sys, name, nowhere)
            elif isinstance(stream, io.TextIOWrapper):
                before.callback(_set_errors, stream, stream.errors)
                _set_errors(stream, LOOK_ALIKES)
        yield


def _set_errors(stream: io.TextIOWrapper, errors: str | None) -> None:
    with contextlib.suppress(OSError, ValueError):  # broken pipe, closed or detached stream
        stream.reconfigure(errors=errors)


def encodable(text: str, stream: object) -> str:
    """Return the text as the stream will show it.

    Example:

        >>> encodable("−ELBO", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        '-ELBO'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, LOOK_ALIKES).decode(encoding)
