"""Tables with columns of mixed types: `.csv` and `.parquet` files and pandas data frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from kvae.data.catalogue import Catalogue
from kvae.data.columns import TYPES, Column, category_names, infer
from kvae.data.dataset import Data
from kvae.data.errors import DataError, warn
from kvae.data.frames import read_frame
from kvae.data.splits import Memory, MemorySplit, Request, Source, Split, complete_splits

if TYPE_CHECKING:
    from kvae.distributions import Columns

SUFFIXES = (".csv", ".tsv", ".parquet")
SHOWN = 5  # names in a warning


@dataclass
class TableSchema:
    """Names, types and ranges of the columns of a table, learned from training rows.

    | type | columns | encoded as |
    |---|---|---|
    | "boolean" | truth values; integers with the values 0 and 1 | 0 or 1 |
    | "category" | text, categorical columns, and integers with at most 10 different values, each found twice on \
average | index of the category |
    | "count" | integers from 0 to at most 1,000 that include 0 and whose variance is at least their mean | as it is |
    | "date" | dates, and text that is a date such as 2024-12-31 or 2024-12-31 23:59:59 | days since the first one, or \
seconds if one is not at midnight (float32 holds 24 bits: a minute in 30 years) |
    | "number" | all other numbers | as it is |

    Columns that say nothing are left out: one value; text that differs in more than half of the rows; integers that
    grow or fall from row to row without large gaps; more than 1,000 categories.

    Attributes:
        columns: the columns that are kept, in the order of the table.
        names: their names.
        dropped: the columns that are left out, with the reason.

    Example:

        >>> frame = pd.DataFrame({"age": [31.5, 45.0, None], "city": ["Oslo", "Rome", "Rome"]})
        >>> schema = TableSchema.infer(frame)
        >>> schema.encode(frame).tolist()
        [[31.5, 0.0], [45.0, 1.0], [nan, 1.0]]
        >>> schema.decode([[99.0, 1.0]]).to_dict("records")  # limited to the range of the training rows
        [{'age': 45.0, 'city': 'Rome'}]
    """

    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    dropped: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.columns = tuple(self.columns)
        self.names = tuple(column.name for column in self.columns)

    @classmethod
    def infer(cls, frame: pd.DataFrame, types: Mapping[str, str] | None = None) -> TableSchema:
        """Find the types of the columns.

        Args:
            frame: training rows, in the order of their source.
            types: types of columns by name, instead of the inferred ones; "ignore" leaves a column out.

        Raises:
            DataError: for an unknown type or column, values that don't fit the type, or if no column is left.

        Warns:
            DataWarning: names the columns that are left out.
        """
        frame, types = _checked(frame), dict(types or {})
        for name, kind in types.items():
            if kind not in TYPES:
                raise DataError(
                    f"Argument 'types' must have the types {', '.join(TYPES)}. Received: {kind!r} for {name!r}"
                )
            if name not in frame.columns:
                raise DataError(
                    f"Argument 'types' must have names of columns: {_listed(frame.columns)}. Received: {name!r}"
                )
        found = {
            name: infer(name, frame[name], types.get(name)) for name in frame.columns if types.get(name) != "ignore"
        }
        dropped = {name: column for name, column in found.items() if isinstance(column, str)}
        columns = tuple(column for column in found.values() if isinstance(column, Column))
        if dropped:
            warn(
                f"table: {len(dropped)} of {len(frame.columns)} columns left out: "
                + _listed([f"{name} ({reason})" for name, reason in dropped.items()])
                + '; keep one with types={"NAME": "category"} or another type'
            )
        if not columns:
            raise DataError(f"Expected a column with values that differ. Received: {_listed(dropped)}")
        return cls(columns, dropped)

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """Return rows as numbers, `(N, columns)` float32; missing values, and columns that are missing, are NaN.

        Raises:
            DataError: for values of another type, or if the frame has none of the columns.

        Warns:
            DataWarning: for values that the training rows don't have, such as a new category; they become NaN.
        """
        frame = _checked(frame)
        if not set(self.names) & set(frame.columns):
            raise DataError(
                f"Expected a table with the columns {_listed(self.names)}. Received: {_listed(frame.columns)}"
            )
        encoded, unseen = np.full((len(frame), len(self.columns)), np.nan, np.float32), []
        for i, column in enumerate(self.columns):
            if column.name in frame.columns:
                encoded[:, i], new = column.encode(frame[column.name])
                unseen += [f"{column.name}={value}" for value in new]
        if unseen:
            warn(f"table: values that the training rows don't have count as missing: {_listed(unseen)}")
        return encoded

    def decode(self, values: Any) -> pd.DataFrame:
        """Return encoded rows `(N, columns)` as a table with the names, order and dtypes of the training rows.

        Numbers and dates are limited to the range of the training rows (as in CTGAN and TVAE, Xu et al. 2019,
        https://arxiv.org/abs/1907.00503) and rounded to their digits; the nearest category and truth value is taken.

        Raises:
            DataError: for another number of columns.
        """
        values = np.asarray(values)
        if values.ndim != 2 or values.shape[1] != len(self.columns):
            raise DataError(f"Expected rows of {len(self.columns)} columns. Received: shape {values.shape}")
        return pd.DataFrame({column.name: column.decode(values[:, i]) for i, column in enumerate(self.columns)})

    def likelihood(self, components: int = 1, mask_all: bool = False) -> Columns:
        """Return the likelihood of encoded rows (`kvae.likelihoods.Columns`)."""
        from kvae.distributions import Columns

        columns = self.to_json()["columns"]
        return Columns(columns, components, mask_all)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as JSON."""
        return {"kind": self.kind, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TableSchema:
        """Return the schema of `to_json`, or of `kvae.likelihoods.Columns.describe`.

        Example:

            >>> schema = TableSchema.infer(pd.DataFrame({"age": [31.5, 45.0]}))
            >>> TableSchema.from_json(schema.likelihood().describe()) == schema
            True
        """
        return cls(tuple(Column(**column) for column in content["columns"]))


def read(path: str | Path) -> pd.DataFrame:
    """Read a `.csv`, `.tsv` or `.parquet` file.

    Text such as "NA", "None" or nothing at all is a missing value, as in `pandas.read_csv`.

    Raises:
        DataError: for another suffix, or a file that can't be read.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"Expected a table: a file that ends in {', '.join(SUFFIXES)}. Received: {path}")
    return read_frame(path)


def table(source: Path | pd.DataFrame, request: Request) -> Source:
    """Make a source of the rows of a table, encoded with the schema of the training rows.

    Args:
        source: path of a file (`read`), or a data frame.
        request: fractions and seed; `types` and `label`, as in `load_table`; `schema`, the schema of the run that
            resumes, instead of one from the training rows.

    Raises:
        DataError: if the table can't be used as requested.
    """
    path = None if isinstance(source, pd.DataFrame) else Path(source)
    name = "table" if path is None else path.stem
    frame = _checked(source if isinstance(source, pd.DataFrame) else read(source))
    label = request.label
    labels, label_names = (None, ()) if label is None else _labels(name, frame, label)
    features = frame if label is None else frame.drop(columns=label)
    cut = complete_splits({"train": len(frame)}, labels, request, name)
    types = {column: kind for column, kind in (request.types or {}).items() if column != label}
    known = request.schema
    schema = (
        known if isinstance(known, TableSchema) else TableSchema.infer(features.iloc[np.sort(cut["train"][1])], types)
    )
    encoded = schema.encode(features)
    memory = Memory(lambda: (encoded, labels))

    def pick(rows: np.ndarray) -> Split:
        return MemorySplit(memory, rows)

    rows = {split: found for split, (_, found) in cut.items()}
    return Source(
        name,
        {split: pick(found) for split, found in rows.items()},
        event_shape=(len(schema.columns),),
        scale=1.0,
        has_labels=labels is not None,
        label_names=label_names,
        path=path and path.resolve(),
        catalogue=Catalogue(lambda: _keys(frame), rows, pick),
        schema=schema,
    )


def load_table(
    source: str | Path | pd.DataFrame,
    *,
    types: Mapping[str, str] | None = None,
    label: str | None = None,
    batch_size: int = 128,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> Data:
    """Load the rows of a table with columns of mixed types, split for training and evaluation.

    The rows are `(columns,)` float32 in their own units, NaN if missing (`TableSchema`). `data.schema` decodes them,
    and `data.schema.likelihood()` is their likelihood.

    Args:
        source: path of a `.csv`, `.tsv` or `.parquet` file, or a data frame.
        types: types of columns by name, instead of the inferred ones (`TableSchema`).
        label: name of a column that is the label, and not part of the rows.
        batch_size, seed, validation_fraction, test_fraction: as in `kvae.data.load`.

    Raises:
        DataError: if the table can't be used as requested.

    Example:

        >>> import kvae
        >>> rng = np.random.default_rng(0)
        >>> frame = pd.DataFrame({"age": rng.normal(40, 9, 50), "city": rng.choice(["Oslo", "Rome"], 50)})
        >>> data = load_table(frame)
        >>> data.num_train, data.event_shape, data.schema.names
        (40, (2,), ('age', 'city'))
        >>> vae = kvae.VAE(latent_dim=2, event_shape=(2,), bounded=False, likelihood=data.schema.likelihood())
    """
    request = Request(
        validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed, types=types, label=label
    )
    found = table(source if isinstance(source, pd.DataFrame) else Path(source).expanduser(), request)
    return Data.of(found, batch_size, seed)


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with names that are text; raise a DataError if two columns have the same name."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"Expected a pandas.DataFrame. Received: {type(frame).__name__}")
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        raise DataError(
            "Expected columns with different names. "
            f"Received: {_listed(frame.columns[frame.columns.duplicated()])} more than once"
        )
    return frame


def _labels(name: str, frame: pd.DataFrame, label: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the label of each row, −1 if it is missing, and the names of the classes."""
    if label not in frame.columns:
        raise DataError(f"{name}: expected a column {label!r} of labels. Received: {_listed(frame.columns)}")
    column = infer(label, frame[label], "category")
    if isinstance(column, str):
        raise DataError(f"{name}: expected classes in the column {label!r} of labels. Received: {column}")
    encoded = column.encode(frame[label])[0]
    return np.nan_to_num(encoded, nan=-1).astype(np.int64), tuple(column.categories or ())


def _keys(frame: pd.DataFrame) -> np.ndarray:
    """Return a key of the content of each row, `(N,)` uint64."""
    texts = pd.DataFrame({name: pd.Series(category_names(frame[name]), dtype=object) for name in frame.columns})
    return pd.util.hash_pandas_object(texts.fillna("\0"), index=False).to_numpy(np.uint64)


def _listed(names: Any) -> str:
    """Join the first names of a list."""
    names = [str(name) for name in names]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
