"""The encoder as a feature extractor: arrays, a scikit-learn transformer, a classifier's trunk, anomaly scores.

Names that require scikit-learn are imported on first use, because scikit-learn takes a second to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kvae.features.classifiers import Classifier, GradualUnfreezing, classifier
from kvae.features.extraction import extract, feature_model

_NAMES = {
    "AnomalyDetector": "kvae.features.anomaly",
    "AttributeDirection": "kvae.features.directions",
    "TableVAE": "kvae.features.tables",
    "VAETransformer": "kvae.features.transformer",
    "Direction": "kvae.features.directions",
    "Neighbours": "kvae.features.search",
    "arithmetic": "kvae.features.directions",
    "attribute_direction": "kvae.features.attributes",
    "conformal_p_values": "kvae.features.anomaly",
    "direction": "kvae.features.directions",
    "from_linear": "kvae.features.linear",
    "latent_plane": "kvae.features.maps",
    "move": "kvae.features.directions",
    "nearest": "kvae.features.search",
    "redraw": "kvae.features.levels",
}
__all__ = ["Classifier", "GradualUnfreezing", "classifier", "extract", "feature_model", *_NAMES]

if TYPE_CHECKING:
    from kvae.features.anomaly import AnomalyDetector as AnomalyDetector, conformal_p_values as conformal_p_values
    from kvae.features.attributes import attribute_direction as attribute_direction
    from kvae.features.directions import (
        AttributeDirection as AttributeDirection,
        Direction as Direction,
        arithmetic as arithmetic,
        direction as direction,
        move as move,
    )
    from kvae.features.levels import redraw as redraw
    from kvae.features.linear import from_linear as from_linear
    from kvae.features.maps import latent_plane as latent_plane
    from kvae.features.search import Neighbours as Neighbours, nearest as nearest
    from kvae.features.tables import TableVAE as TableVAE
    from kvae.features.transformer import VAETransformer as VAETransformer


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'kvae.features' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_NAMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
