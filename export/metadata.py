"""What a `.tflite` file says about its model: JSON in the flatbuffer's metadata, under the name "kvae"."""

import json
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

NAME = "kvae"


def write(data: bytes, facts: dict[str, Any]) -> bytes:
    """The whole, valid file `data` with `facts` in it; they survive quantisation."""
    # Not the bare schema: it loses large constants, which may lie behind the flatbuffer.
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    model.buffers = [
        *(model.buffers or [schema.BufferT()]),
        buffer,
    ]  # the first buffer is always the empty one
    entry.name, entry.buffer = NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def read(data: bytes) -> dict[str, Any]:
    """The facts in a whole, valid file; empty if there are none."""
    model = schema.Model.GetRootAs(data, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == NAME.encode():
            buffer = model.Buffers(entry.Buffer())
            if buffer.DataLength():
                return json.loads(buffer.DataAsNumpy().tobytes())
            return json.loads(data[buffer.Offset() : buffer.Offset() + buffer.Size()])
    return {}
