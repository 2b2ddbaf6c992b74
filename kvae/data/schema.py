"""The interface of a schema: what the numbers of a series or of a table mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kvae.data.errors import DataError

if TYPE_CHECKING:
    from kvae.distributions import Distribution


class Schema(Protocol):
    """Names, units and types of the numbers of an event, learned from the training split.

    Attributes:
        kind: "series" or "table".
        names: names of the features of a series, or of the columns of a table, in the order of the last axis.
    """

    kind: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the last axis."""

    def likelihood(self) -> Distribution:
        """Return the default likelihood of x in its own units."""

    def to_json(self) -> dict[str, Any]:
        """Return the schema as JSON: part of the configuration of a run and of exported files."""


def schema_of_json(content: Mapping[str, Any]) -> Schema:
    """Return the schema of `to_json`.

    Raises:
        DataError: for another kind of schema.
    """
    if content.get("kind") == "series":
        from kvae.data.series import SeriesSchema

        return SeriesSchema.from_json(content)
    if content.get("kind") == "table":
        from kvae.data.tables import TableSchema

        return TableSchema.from_json(content)
    raise DataError(f"Expected the schema of series or of a table. Received: kind={content.get('kind')!r}")
