"""`TableVAE`: synthetic rows, imputation and scores of tables with columns of mixed types."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from kvae.arguments import integer, real, shown
from kvae.data.errors import DataError
from kvae.data.tables import TableSchema
from kvae.features.estimator import LatentEstimator
from kvae.features.imputation import Imputer
from kvae.models import VAE, LatentModel
from kvae.models.loading import load
from kvae.networks import MLP, Decoder, Encoder
from kvae.objectives import IWAE


@dataclass(eq=False, repr=False, kw_only=True)
class TableVAE(TransformerMixin, LatentEstimator):
    """A variational autoencoder of a table with columns of mixed types and missing values.

    It draws synthetic rows, fills missing values with their uncertainty, and scores rows. Tables are
    `pandas.DataFrame`s; the types of the columns are found in the training rows (`kvae.data.tables.TableSchema`), and
    the likelihood is `kvae.likelihoods.Columns`. It follows scikit-learn's protocol, but takes only data frames.

    **Missing values.** Training maximises a bound on the likelihood of the observed values alone, which is right if
    values are missing at random (HI-VAE, Nazábal et al. 2020, https://arxiv.org/abs/1807.03653; MIWAE, Mattei &
    Frellsen 2019, https://arxiv.org/abs/1812.02633). A missing value is filled with its expectation given the observed
    values of its row, by self-normalised importance sampling (Mattei & Frellsen 2019, eq. 12):

        E[x_m | x_o] ≈ Σ_k w_k E[x_m | z_k],  w_k ∝ p(x_o|z_k) p(z_k) / q(z_k|x_o),  z_k ~ q(z|x_o).

    So that the encoder knows rows of which little is observed, `hidden` of the observed values are hidden at random in
    each training step: the bound is then that of a part of the row, and the parts belong to one distribution.

    Args:
        latent_dim: D.
        types: types of columns by name, instead of the inferred ones: "number", "count", "category", "boolean", "date",
            or "ignore".
        components: number of normal components of the density of each number. More than one fits numbers with several
            peaks more closely, but the latents then say less about them.
        hidden: largest share of the values that a training row hides. Half of the rows hide a share between 0 and
            `hidden`; 0 hides none.
        objective: one of `kvae.objectives`; None is `IWAE(num_samples=10)`, the bound of MIWAE. With `ELBO()`, rows
            between two groups are more frequent.
        num_samples: K of `impute`, `sample` with conditions, and `score_samples`.
        units, epochs, batch_size, learning_rate, patience, validation_fraction, random_state, verbose: settings of the
            networks and their training, as in `kvae.features.VAETransformer`.
        proposal: distribution of the samples of `score_samples`, "posterior" or "refined".
        model, event_shape, image_shape: must be None; they belong to the other estimators.

    Attributes:
        schema_: the `TableSchema` of the training rows.
        model_: the trained model.
        history_: metrics of `fit` by epoch, in nats.
        n_features_in_, feature_names_in_: number and names of the columns of the training rows.

    Example:

        >>> rng = np.random.default_rng(0)
        >>> warm = rng.random(400) < 0.5
        >>> frame = pd.DataFrame({"degrees": np.where(warm, 25, 5) + rng.normal(size=400).round(1),
        ...                       "season": np.where(warm, "summer", "winter")})
        >>> vae = TableVAE(latent_dim=2, epochs=60, random_state=0).fit(frame)
        >>> vae.sample(3, seed=0).columns.tolist()
        ['degrees', 'season']
        >>> vae.impute(pd.DataFrame({"degrees": [4.0, 26.0], "season": [None, None]}))["season"].tolist()
        ['winter', 'summer']
    """

    epochs: int = 200
    learning_rate: float = 2e-3
    num_samples: int = 64
    types: Mapping[str, str] | None = None
    components: int = 1
    hidden: float = 0.5
    objective: Any = None

    schema_: TableSchema = field(init=False)
    n_features_in_: int = field(init=False)
    feature_names_in_: np.ndarray = field(init=False)

    def fit(self, X: Any, y: Any = None) -> "TableVAE":
        """Train the model.

        Args:
            X: data frame `(N, columns)`; missing values are NaN, None or NaT.
            y: ignored.

        Raises:
            DataError: if the columns can't be used.
            ValueError: if a setting is out of range.

        Warns:
            DataWarning: names the columns that are left out.
        """
        super().fit(X, y)
        return self

    def sample(self, n: int, seed: int | None = None, conditions: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Draw synthetic rows: x ~ p(x|z), z ~ p(z).

        Row i depends only on the seed, i and the conditions.

        Args:
            n: number of rows.
            seed: seed of the rows; None draws a new one each time.
            conditions: values of some columns, such as `{"city": "Paris"}`. The other columns are drawn given these:
                the latents of each row are one of `num_samples` samples of q(z|x_o), chosen with the probabilities w_k.

        Returns:
            A table with the columns of the training rows, in their dtypes and ranges.

        Raises:
            ValueError: if n < 1, or for a condition that no training row has.
        """
        check_is_fitted(self)
        n = integer("n", n, least=1)
        seed = secrets.randbelow(2**63) if seed is None else integer("seed", seed, least=0)
        if not conditions:
            return self.schema_.decode(np.asarray(self.model_.generate(n, seed, pixel_noise=True)))
        rows = np.repeat(self._condition(conditions), n, axis=0)
        return self.schema_.decode(self._imputer().drawn(rows, seed))

    def impute(self, X: pd.DataFrame, *, return_std: bool = False, draws: int | None = None, seed: int = 0) -> Any:
        """Fill the missing values of rows.

        Numbers, counts and dates get the mean, categories and truth values the most probable value, given the observed
        values of the row.

        Args:
            X: data frame; a column that it lacks counts as missing.
            return_std: whether to return the uncertainties as well: the standard deviation of numbers and counts, of
                dates in days (seconds if they have times), and the probability that a category or truth value is
                wrong; 0 for observed values.
            draws: number of tables to return instead, with values drawn from p(x_m | x_o) (multiple imputation).
            seed: seed of the draws.

        Returns:
            X with its missing values filled, and with the columns that it lacks; or the pair `(table, uncertainties)`;
            or a list of tables.

        Raises:
            DataError: if the columns can't be used.
            ValueError: if draws < 1.
        """
        check_is_fitted(self)
        x, imputer = self._validate(X), self._imputer()
        if draws is not None:
            count = integer("draws", draws, least=1)
            return [self._filled(X, imputer.drawn(x, seed + i)) for i in range(count)]
        values, uncertainty = imputer.averaged(x)
        table = self._filled(X, values)
        if not return_std:
            return table
        return table, self._by_column(X, np.where(np.isnan(x), uncertainty, 0))

    def score_samples(self, X: pd.DataFrame) -> np.ndarray:
        """Return an importance-weighted estimate of the log-likelihood of the observed values of each row, `(N,)`.

        It is in nats, with `num_samples` samples (Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8).
        """
        check_is_fitted(self)
        return -self._scores(self._validate(X))["nll"]

    def score(self, X: pd.DataFrame, y: Any = None) -> float:
        """Return the mean of `score_samples`, which `GridSearchCV` maximises."""
        return float(np.mean(self.score_samples(X)))

    def score_columns(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return how well the rest of the row explains each value: Σ_k w_k log p(x_j|z_k) in nats, NaN if missing.

        The lowest entries of a row say why its score is low.
        """
        check_is_fitted(self)
        return self._by_column(X, self._imputer().explained(self._validate(X)))

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Return the means of the latents, `(N, D)` float32."""
        check_is_fitted(self)
        return self._rows(self.model_.encode_mean, self._validate(X))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the model as a `.keras` file, which contains the schema."""
        check_is_fitted(self)
        self.model_.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> "TableVAE":
        """Return a fitted estimator with the model of a `.keras` file, such as one of `save`.

        Args:
            path: path of the file; it may be untrusted (`kvae.load`).
            **settings: arguments of the constructor, such as `num_samples`.

        Raises:
            ValueError: if the file has no model of a table.
        """
        model = load(path)
        describe = getattr(getattr(model, "likelihood", None), "describe", None)
        if describe is None or not isinstance(model, VAE):
            raise ValueError(f"Expected a VAE with the likelihood Columns. Received: {shown(model)}")
        estimator = cls(**{"latent_dim": model.latent_dim, **settings})
        estimator.model_, estimator.schema_ = model, TableSchema.from_json(describe())
        estimator.seed_, estimator.history_, estimator.n_iter_ = 0, {}, 0
        estimator.row_shape_ = model.event_shape
        estimator.feature_names_in_ = np.array(estimator.schema_.names, object)
        estimator.n_features_in_ = len(estimator.schema_.names)
        estimator._samplers = {}
        return estimator

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return names of the latents."""
        check_is_fitted(self)
        return np.array([f"tablevae{i}" for i in range(self.model_.latent_dim)], object)

    def _imputer(self) -> Imputer:
        key = "imputer", self.num_samples
        if key not in self._samplers:
            self._samplers[key] = Imputer(self.model_, self.num_samples, self.seed_)
        return self._samplers[key]

    def _condition(self, conditions: Mapping[str, Any]) -> np.ndarray:
        """Return a row with the values of conditions, `(1, columns)`."""
        row = np.full((1, len(self.schema_.columns)), np.nan, np.float32)
        for name, value in conditions.items():
            if name not in self.schema_.names:
                raise ValueError(
                    f"Argument `conditions` must have names of columns: {', '.join(self.schema_.names)}. "
                    f"Received: {name!r}"
                )
            i = self.schema_.names.index(name)
            encoded, _ = self.schema_.columns[i].encode(pd.Series([value]))
            if np.isnan(encoded[0]):
                known = self.schema_.columns[i].categories
                raise ValueError(
                    f"Argument `conditions` must have values that the column {name!r} has in the training rows"
                    + (f", such as {', '.join(known[:5])}" if known else "")
                    + f". Received: {shown(value)}"
                )
            row[0, i] = encoded[0]
        return row

    def _filled(self, X: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
        """Return a copy of X with values `(N, columns)` in the place of its missing ones."""
        decoded, table = self.schema_.decode(values).set_axis(X.index), X.rename(columns=str)
        for name in self.schema_.names:
            if name not in table.columns:
                table[name] = decoded[name]
            elif (missing := table[name].isna()).any():
                filled = table[name].astype(object).where(~missing, decoded[name].astype(object))
                dtype = decoded[name].dtype
                known = not isinstance(dtype, pd.CategoricalDtype) or filled.isin(dtype.categories).all()
                table[name] = filled.astype(dtype) if known else filled
        return table

    def _by_column(self, X: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=X.index, columns=[*self.schema_.names])

    def _validate(self, X: Any, reset: bool = False) -> np.ndarray:
        if not isinstance(X, pd.DataFrame) or not len(X):
            raise DataError(f"Expected a pandas.DataFrame with rows. Received: {type(X).__name__}")
        if reset:
            self.schema_ = TableSchema.infer(X, self.types)
            self.feature_names_in_ = np.array([str(name) for name in X.columns], object)
            self.n_features_in_ = len(X.columns)
        return self.schema_.encode(X)

    def _check_settings(self) -> None:
        super()._check_settings()
        integer("components", self.components, least=1)
        if not 0 <= real("hidden", self.hidden) <= 1:
            raise ValueError(f"Argument `hidden` must be from 0 to 1. Received: hidden={self.hidden}")
        for name in ("model", "event_shape", "image_shape"):
            if getattr(self, name) is not None:
                raise ValueError(f"Argument `{name}` must be None: the schema makes the model. Received: {name}=…")

    def _shape(self) -> tuple[int, ...]:
        return self.row_shape_

    def _model_of_rows(self, shape: tuple[int, ...], X: np.ndarray) -> LatentModel:
        return VAE(
            Encoder(self.latent_dim, MLP(tuple(self.units))),
            Decoder(shape, MLP(tuple(self.units)[::-1])),
            likelihood=self.schema_.likelihood(self.components, mask_all=self.hidden > 0),
            objective=IWAE(num_samples=10) if self.objective is None else self.objective,
            bounded=False,
            seed=self.seed_,
        )

    def _training_batches(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Hide values: half of the rows hide each value with a probability between 0 and `hidden`."""
        if not self.hidden:
            return batches
        seeds = tf.data.Dataset.random(self.seed_, rerandomize_each_iteration=True).batch(2)

        def hide(x: Any, seed: Any) -> Any:
            rows, columns = tf.unstack(tf.shape(x))
            u = tf.random.stateless_uniform((rows, columns + 1), seed)
            share = self.hidden * tf.maximum(2 * u[:, :1] - 1, 0.0)
            return tf.where(u[:, 1:] < share, np.nan, x)

        return tf.data.Dataset.zip((batches, seeds)).map(hide)
