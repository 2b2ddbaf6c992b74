"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import kvae
import kvae.export

MODULES = sorted(
    module.name
    for package, prefix in ((kvae.__path__[:1], "kvae."), (kvae.export.__path__, "kvae.export."))
    for module in pkgutil.walk_packages(package, prefix)
    if not module.name.endswith("__main__")
)


#: modules whose examples train for some seconds
SLOW = {
    "kvae.callbacks", "kvae.evaluation.quality", "kvae.export.pipeline", "kvae.features.anomaly",
    "kvae.features.tables", "kvae.features.transformer", "kvae.models.semi_supervised",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["kvae", *(pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in MODULES)]
)
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples failed; see above"


def test_there_are_examples():
    from kvae import models

    assert doctest.DocTestFinder().find(models.VAE)[0].examples
