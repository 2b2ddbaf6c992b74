"""The direction of a label in latent space, with the range in which it holds, checked on held-out images."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from kvae.arguments import shown
from kvae.data import Data
from kvae.evaluation import EvaluationWarning
from kvae.evaluation.probe import fit_probe, last_fifth
from kvae.features.directions import AttributeDirection, direction
from kvae.features.extraction import extract
from kvae.features.search import latents_of
from kvae.models import LatentModel

FITTED, CHECKED = 10_000, 2_000  # largest numbers of training and held-out images of a `Data`
MOVED = 500  # held-out images that are moved, decoded and encoded
RANGE = (0.025, 0.975)  # quantiles of the positions of a group
ERRORS = 2  # standard errors by which the probe must be better than the larger class
LISTED = 20  # classes in an error message


class _Labelled(NamedTuple):
    """Latent means `(N, D)` and labels `(N,)` of images."""

    z: np.ndarray
    label: np.ndarray

    def at(self, rows: np.ndarray) -> "_Labelled":
        return _Labelled(self.z[rows], self.label[rows])


def attribute_direction(
    model: LatentModel,
    data: Any,
    label: str | int,
    name: str | None = None,
    *,
    held_out: Any = None,
    method: str = "mean",
) -> AttributeDirection:
    """Return the direction in latent space from all other images to those of one class, and check it.

    The direction is that of `direction`, from training images (10,000 at most). Its range is from the 2.5 % quantile
    to the 97.5 % quantile of the positions of each group. On held-out images (2,000 at most), a logistic regression on
    the position alone predicts the label, and a few hundred images are moved, decoded and encoded.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        data: a `kvae.data.Data`, or a pair of images `(N, H, W, C)` (or latents `(N, D)`) and labels `(N,)`. Images
            with an integer label below 0 are left out.
        label: name or number of a class of a `Data`; otherwise a value of the labels.
        name: name of the direction; None takes the label.
        held_out: a pair like `data`; None takes the test split of a `Data` (or the validation split, if the test split
            has no labels), and otherwise the last fifth of each group.
        method: "mean" or "logistic", as for `direction`.

    Raises:
        ValueError: if the model is conditional, the images have no labels, the class is unknown, one of the groups has
            no images, or their means are equal up to rounding.

    Warns:
        EvaluationWarning: if the probe isn't better than the larger class, by two standard errors.

    Example:

        >>> import kvae
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(200) % 2
        >>> z = rng.normal(size=(200, 2)) + 4 * labels[:, None] * [1, 0]
        >>> found = attribute_direction(kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)), (z, labels), 1, "smile")
        >>> found.name, found.accuracy > 0.9, bool(found.low < -0.5 < 0.5 < found.high)
        ('smile', True, True)
    """
    if model.condition_dim is not None:
        raise ValueError(
            "Expected a model without conditions: the latents of a conditional model don't describe the class, which "
            f"its argument `condition` sets. Received: a model with {model.condition_dim} conditions"
        )
    train, test = _groups(model, data, label, held_out)
    is_class, z = train.label, train.z
    vector, distance = direction(model, z[~is_class], z[is_class], method)
    along = z.astype(np.float64) @ vector
    middle = float(along[is_class].mean() + along[~is_class].mean()) / 2

    def decide(z: np.ndarray) -> np.ndarray:
        return probe.predict(position(z)[:, None]).astype(bool)

    def position(z: np.ndarray) -> np.ndarray:
        return (z.astype(np.float64) @ vector - middle) / distance

    positions = position(z)
    probe = fit_probe(positions[:, None], is_class.astype(int), "positions")
    ends = np.array([np.quantile(positions[group], RANGE) for group in (is_class, ~is_class)])
    right, right_by_majority = decide(test.z) == test.label, (is_class.mean() > 0.5) == test.label
    found = AttributeDirection(
        vector,
        distance,
        str(label) if name is None else name,
        middle,
        low=float(ends[:, 0].min()),
        high=float(ends[:, 1].max()),
        accuracy=float(right.mean()),
        majority=float(right_by_majority.mean()),
        auroc=float(roc_auc_score(test.label, position(test.z))),
        flips=_flips(model, test.z, distance * vector, decide),
    )
    _warn_unless_better(found, right.astype(float) - right_by_majority)
    return found


def _flips(model: LatentModel, z: np.ndarray, step: np.ndarray, decide: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the share of images that are decided differently after one step to the other side, mean of both sides."""
    z = z[np.linspace(0, len(z) - 1, min(len(z), MOVED)).astype(int)]
    before = decide(z)
    moved = np.asarray(model.decode((z + np.where(before, -1, 1)[:, None] * step).astype(np.float32)))
    images = np.clip(moved, 0, 1) if model.bounded else moved  # the mean of a normal may be outside [0, 1]
    flipped = decide(latents_of(model, images)) != before
    return float(np.mean([flipped[before == side].mean() for side in np.unique(before)]))


def _warn_unless_better(found: AttributeDirection, gains: np.ndarray) -> None:
    """Warn unless the probe is better than the larger class; `gains` `(N,)` is 1 where only the probe is right."""
    if gains.mean() <= ERRORS * gains.std() / np.sqrt(len(gains)):
        warnings.warn(
            f"The direction '{found.name}' doesn't predict its label better than the larger class does (by {ERRORS} "
            f"standard errors): accuracy {found.accuracy:.3f} and {found.majority:.3f} on {len(gains):,} held-out "
            f"images, AUROC {found.auroc:.3f}. Moving along it may not change the attribute",
            EvaluationWarning,
            stacklevel=3,
        )


def _groups(model: LatentModel, data: Any, label: Any, held_out: Any) -> tuple[_Labelled, _Labelled]:
    """Return the training and the held-out images; labels are whether an image belongs to the class."""
    train, names = _labelled(model, data, "train", FITTED)
    value = _value(label, train.label, names)
    _check_both(train, value, label, "training")
    if held_out is not None:
        test, _ = _labelled(model, held_out)
    elif split := _held_out_split(data):
        test, _ = _labelled(model, data, split, CHECKED)
    else:
        last = last_fifth(train.label == value)
        train, test = train.at(~last), train.at(last)
    _check_both(test, value, label, "held-out")
    return train._replace(label=train.label == value), test._replace(label=test.label == value)


def _check_both(part: _Labelled, value: Any, label: Any, which: str) -> None:
    """Raise a ValueError unless there are images of the class, and others."""
    count = int(np.sum(part.label == value))
    if count in (0, len(part.label)):
        raise ValueError(
            f"Expected {which} images of the class '{label}' and of others. Received: {count:,} of the class among "
            f"{len(part.label):,} labelled images"
        )


def _held_out_split(data: Any) -> str | None:
    """Return the first held-out split with labels; None if there is none."""
    if not isinstance(data, Data):
        return None
    return next((name for name in ("test", "validation") if data.counts.get(name) and data.is_labelled(name)), None)


def _labelled(
    model: LatentModel, data: Any, split: str = "train", limit: int | None = None
) -> tuple[_Labelled, tuple[str, ...]]:
    """Return the labelled images of a split of a `Data`, or of a pair, and the names of the classes of a `Data`."""
    if isinstance(data, Data):
        if not data.is_labelled(split):
            raise ValueError(f"Expected labelled {split} images. Received: {data.name}, without labels")
        found = extract(model, data.split(split, labels=True, limit=limit), hidden=False, all_levels=True)
        z, label, names = found["mean"], found["label"], data.label_names
    else:
        if not isinstance(data, tuple) or len(data) != 2:
            raise ValueError(
                "Expected a kvae.data.Data, or a pair of images and labels. "
                f"Received: {f'a tuple of {len(data)}' if isinstance(data, tuple) else type(data).__name__}"
            )
        z, label, names = latents_of(model, data[0]), np.asarray(data[1]), ()
    if label.shape != (len(z),):
        raise ValueError(f"Expected one label per image. Received: {len(z)} images, labels of shape {label.shape}")
    known = label >= 0 if label.dtype.kind in "if" else np.ones(len(label), bool)
    return _Labelled(z, label).at(known), names


def _value(label: Any, labels: np.ndarray, names: tuple[str, ...]) -> Any:
    """Return the value among the labels that a class has, which is given by its name or its number."""
    values = dict(zip(names, range(len(names)))) if names else {str(value): value for value in np.unique(labels)}
    numbers = {str(number): number for number in range(len(names))}
    if str(label) not in numbers | values:
        known = [*values]
        more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
        raise ValueError(f"Expected a class of the data: {', '.join(known[:LISTED])}{more}. Received: {shown(label)}")
    return (numbers | values)[str(label)]
