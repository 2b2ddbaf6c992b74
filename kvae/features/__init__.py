"""The encoder as a feature extractor."""

from kvae.features.extract import extract, feature_model

__all__ = ["extract", "feature_model"]
