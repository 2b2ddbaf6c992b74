"""The interface of a schema: what the numbers of a series or of a table mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from kvae.distributions import Distribution


class Schema(Protocol):
    """Names, units and types of the numbers of an event, learned from the training split.

    Attributes:
        kind: "series" or "table".
        names: names of the features of a series, or of the columns of a table, in the order of the last axis.
    """

    kind: ClassVar[str]
    names: tuple[str, ...]

    def likelihood(self) -> Distribution:
        """Return the default likelihood of x in its own units."""

    def to_json(self) -> dict[str, Any]:
        """Return the schema as JSON: part of the configuration of a run and of exported files."""
