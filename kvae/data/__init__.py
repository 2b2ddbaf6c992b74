"""Images, series and rows by name, file or array, as `tf.data` pipelines of float32.

    >>> import kvae
    >>> data = kvae.data.load("digits", binarize="stochastic", seed=1)
    >>> data.train.element_spec.shape
    TensorShape([None, 8, 8, 1])

Train with `vae.fit(data.train, validation_data=data.validation)`. `data.split` returns a split in a stable order, with
labels if requested. `data.arrays` returns NumPy arrays. `kvae.data.shapes` and `kvae.data.faces` return images with
known factors, `kvae.data.machine` series with known faults.
"""

from kvae.data.catalogue import Changes
from kvae.data.dataset import Data
from kvae.data.errors import DataError, DataWarning
from kvae.data.faces import faces, render_faces
from kvae.data.loading import load
from kvae.data.machine import MachineData, machine
from kvae.data.series import SeriesSchema
from kvae.data.shapes import FactorData, shapes

__all__ = [
    "Changes", "Data", "DataError", "DataWarning", "FactorData", "MachineData", "SeriesSchema", "faces", "load",
    "machine", "render_faces", "shapes",
]  # fmt: skip
