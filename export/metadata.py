"""TFLite Metadata: descriptions of inputs and outputs for Android Studio, MediaPipe and TFLite Support.

(https://ai.google.dev/edge/litert/conversion/tensorflow/metadata; its schema, metadata_schema.fbs, numbers the fields
of tables.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers.number_types import Int8Flags, Uint8Flags, Uint32Flags

from kvae.networks import kind_of

TFLITE_METADATA, MIN_RUNTIME = "TFLITE_METADATA", "min_runtime_version"
LABELS, CONDITIONS = "labels.txt", "conditions.txt"
_TENSOR_AXIS_LABELS = 2  # kind of an associated file: one line per entry of the last axis
_RGB, _GREYSCALE = 1, 2
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1  # in their unions

#: descriptions of tensors by name
_DESCRIPTIONS = {
    "z": "latents",
    "image": "image, values from 0 to 1",
    "reconstruction": "encoded and decoded image, values from 0 to 1",
    "mean": "mean of the latents of the image",
    "variance": "variance of the latents of the image",
    "condition": "class of the image: 1 for its class, 0 for the others",
    "probability": "probabilities of the classes",
}
_IMAGES = ("image", "reconstruction")


def attached(info: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the lists of names in the file: one line per class, and one per condition."""
    lists = {LABELS: info.get("classes"), CONDITIONS: info.get("condition")}
    return {
        file: "".join(f"{' '.join(name.split())}\n" for name in entry["names"]).encode()
        for file, entry in lists.items()
        if entry and entry["names"]
    }


def tflite_metadata(info: Mapping[str, Any], signature: Mapping[str, Any]) -> bytes:
    """Return the metadata of a file with one subgraph.

    Args:
        info: facts of the file (`kvae.export.info`).
        signature: inputs and outputs of the subgraph's signature, from `info`.
    """
    write = _Writer()
    files = attached(info)
    sides = [[_tensor(write, name, spec, info, files) for name, spec in signature[side].items()]
             for side in ("inputs", "outputs")]  # fmt: skip
    inputs, outputs = (write.vector(side) for side in sides)
    subgraph = write.table(10, {0: write.text(info["serving_default"]), 2: inputs, 3: outputs})
    parts = {
        0: write.text(f"kvae {info['kind']}: {info['serving_default']}"),
        1: write.text(description(info)),
        3: write.vector([subgraph]),
        7: write.text("1.0.0"),
    }
    if info["license"]:
        parts[5] = write.text(info["license"])
    return write.finished(write.table(8, parts))


def description(info: Mapping[str, Any]) -> str:
    """Describe a file in one line."""
    size = "×".join(map(str, info["event_shape"]))
    what = f"{info['kind']} of {size} {kind_of(info['event_shape'])}"
    if info["latent_dim"] is not None:
        what += f" with {info['latent_dim']} latents"
    return f"{what}, trained on {info['data']}" if info["data"] else what


def _tensor(write: "_Writer", name: str, spec: Mapping[str, Any], info: Mapping[str, Any], files: Any) -> int:
    parts = {0: write.text(name), 1: write.text(_DESCRIPTIONS.get(name, name))}
    low, high = (0.0, 255.0) if spec["dtype"] == "uint8" else info["value_range"]
    if name in _IMAGES and "image_shape" in info:
        height, width, channels = info["image_shape"]
        if channels in (1, 3):
            shape = write.table(2, {0: (Uint32Flags, width), 1: (Uint32Flags, height)})
            properties = write.table(2, {0: (Uint8Flags, _RGB if channels == 3 else _GREYSCALE), 1: shape})
            parts[3] = write.table(3, {0: (Uint8Flags, _IMAGE_PROPERTIES), 1: properties})
        # Readers of the metadata have pixels as bytes: the model takes (byte − mean) / std.
        scale = 255.0 if (low, high) == (0.0, 1.0) else 1.0
        options = write.table(2, {0: write.floats(0.0), 1: write.floats(scale)})
        parts[4] = write.vector([write.table(2, {0: (Uint8Flags, _NORMALIZATION_OPTIONS), 1: options})])
        parts[5] = write.table(2, {0: write.floats(high), 1: write.floats(low)})
    file = {"probability": LABELS, "condition": CONDITIONS}.get(name, "")
    if file in files:
        entry = {0: write.text(file), 1: write.text("names, one per line"), 2: (Int8Flags, _TENSOR_AXIS_LABELS)}
        parts[6] = write.vector([write.table(5, entry)])
    return write.table(7, parts)


class _Writer:
    """Writer of tables, texts and vectors of a flatbuffer; inner objects are written first."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return self._builder.CreateString(value)

    def vector(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def floats(self, *values: float) -> int:
        return self._builder.CreateNumpyVector(np.array(values, "float32"))

    def table(self, fields: int, parts: Mapping[int, Any]) -> int:
        """Write a table with `fields` fields; a part is the result of another method, or a pair of type and number."""
        self._builder.StartObject(fields)
        for number, part in parts.items():
            if isinstance(part, tuple):
                kind, value = part
                self._builder.PrependSlot(kind, number, value, 0)
            else:
                self._builder.PrependUOffsetTRelativeSlot(number, part, 0)
        return self._builder.EndObject()

    def finished(self, root: int) -> bytes:
        self._builder.Finish(root, file_identifier=b"M001")
        return bytes(self._builder.Output())
