"""Private and undocumented names of other packages that kvae uses: all are listed, and none has changed."""

import ast
import inspect
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import kvae

ROOT = Path(kvae.__file__).parent.parent
FILES = [*ROOT.glob("kvae/**/*.py"), *ROOT.glob("export/**/*.py")]
#: names with an underscore that are documented: those of named tuples, and of `os`
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
#: parts of an import's name that mark an undocumented module
PRIVATE_MODULES = re.compile(
    r"(^|\.)_[a-z]|\.src\.|^tensorflow\.(python|lite\.python)\.|^ai_edge_litert\.(tools|schema)|"
    r"^litert_quantizer\.(?!quantizer$)"
)


class Use(NamedTuple):
    """The purpose of a name, and a function that fails if the name is missing or has another meaning."""

    purpose: str
    check: Callable[[], None]


def flatten_layers():
    inner = keras.layers.Dense(1)
    outer = keras.Sequential([inner])
    assert outer._flatten_layers() == [outer, inner]
    assert outer._flatten_layers(include_self=False) == [inner]


def inbound_nodes():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    (node,) = model.layers[0]._inbound_nodes
    assert [output.shape for output in node.output_tensors] == [(None, 2)]


def layer_metrics():
    layer = keras.layers.Dense(1)
    layer.mean = keras.metrics.Mean()
    assert layer._metrics == [layer.mean]


def compute_dtype():
    policy = keras.DTypePolicy("mixed_bfloat16")
    assert policy._compute_dtype == policy.compute_dtype == "bfloat16"
    policy._compute_dtype = "float32"
    assert policy.compute_dtype == "float32"


def adam():
    """Return an optimizer and one of its variables after a step."""
    variable, optimizer = keras.Variable([1.0, 2.0]), keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5)
    optimizer.apply([tf.constant([1.0, -1.0])], [variable])
    return optimizer, variable


def momentums():
    optimizer, variable = adam()
    index = optimizer._get_variable_index(variable)
    np.testing.assert_allclose(optimizer._momentums[index].value, [0.1, -0.1], rtol=1e-5)
    np.testing.assert_allclose(optimizer._velocities[index].value, [1e-3, 1e-3], rtol=1e-5)
    assert isinstance(optimizer._momentums[index].value, tf.Variable)


def moving_average():
    optimizer, variable = adam()
    (average,) = optimizer._model_variables_moving_average
    before = np.asarray(average)
    optimizer._update_model_variables_moving_average([variable])
    np.testing.assert_allclose(average, 0.5 * before + 0.5 * np.asarray(variable), rtol=1e-6)


def var_key():
    optimizer, variable = adam()
    assert optimizer._var_key(variable) == optimizer._var_key(variable) != optimizer._var_key(keras.Variable([0.0]))


def global_state():
    from keras.src.backend.common import global_state

    name = "uninitialized_variables"
    before = list(global_state.get_global_attribute(name, default=[], set_to_default=True))
    with keras.StatelessScope(initialize_variables=False):
        keras.Variable(lambda shape, dtype: np.zeros(shape, dtype), shape=(2,), name="held_back")
    added = global_state.get_global_attribute(name)[len(before) :]
    global_state.set_global_attribute(name, before)
    assert [variable.name for variable in added] == ["held_back"]


def stateless_scope():
    from keras.src.backend import in_stateless_scope

    assert not in_stateless_scope()
    with keras.StatelessScope():
        assert in_stateless_scope()


def symbolic_build():
    """`fit` builds through the method that kvae overrides."""
    built = []

    class Model(keras.Sequential):
        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            built.append(iterator)
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    model = Model([keras.layers.Dense(1)])
    model.compile(loss="mse")
    parameters = inspect.signature(keras.Model._maybe_symbolic_build).parameters
    assert list(parameters) == ["self", "iterator", "data_batch"]
    model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    assert built


def post_build():
    calls = []

    class Layer(keras.layers.Layer):
        def build(self, shape):
            calls.append("build")

        def _post_build(self):
            super()._post_build()
            calls.append("_post_build")

    Layer().build((None, 1))
    assert calls == ["build", "_post_build"]


def python_logging():
    assert logging._warnings_showwarning is None
    logging.captureWarnings(True)
    assert logging._warnings_showwarning is not None
    logging.captureWarnings(False)


def absl_handlers():
    import absl.logging

    assert absl.logging._attempted_to_remove_stderr_stream_handlers in (True, False)


def absl_flags():
    import absl.logging

    for name in ("verbosity", "stderrthreshold", "logger_levels"):
        assert hasattr(absl.logging.FLAGS[name], "_value")
    flag = absl.logging.FLAGS["verbosity"]
    before = flag._value
    flag._value = 1
    assert flag.value == 1
    flag._value = before


def small_file():
    """Return a float32 file with one dense layer, and signature `f` from x to y."""
    module = tf.Module()
    module.w = tf.Variable(np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3))
    function = tf.function(
        lambda x: {"y": x @ module.w}, input_signature=[tf.TensorSpec((1, 4), name="x")]
    ).get_concrete_function()
    return converted(module, function, lambda converter: None)


def converted(module, function, configure):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    configure(converter)
    return converter.convert()


def flatbuffer_tools():
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(small_file()))
    model.subgraphs[0].name = b"renamed"
    data = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    assert flatbuffer_utils.read_model_from_bytearray(bytearray(data)).subgraphs[0].name == b"renamed"
    Interpreter(model_content=data).allocate_tensors()


def schema():
    from ai_edge_litert import schema_py_generated

    model = schema_py_generated.Model.GetRootAs(small_file(), 0)
    assert model.OperatorCodes(0).BuiltinCode() == schema_py_generated.BuiltinOperator.FULLY_CONNECTED
    assert model.Subgraphs(0).Tensors(0).Type() == schema_py_generated.TensorType.FLOAT32
    for name in ("BufferT", "MetadataT"):
        assert isinstance(getattr(schema_py_generated, name)(), object)


def dense_per_channel():
    """With the flag a dense layer has one scale, and without it one for each output."""
    module = tf.Module()
    module.w = tf.Variable(np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3))
    function = tf.function(
        lambda x: {"y": x @ module.w}, input_signature=[tf.TensorSpec((1, 4), name="x")]
    ).get_concrete_function()
    scales = []
    for one in (True, False):

        def configure(converter, one=one):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: iter([[np.ones((1, 4), "float32")]])
            converter._experimental_disable_per_channel_quantization_for_dense_layers = one

        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model_from_bytearray(bytearray(converted(module, function, configure)))
        (weights,) = (t for t in model.subgraphs[0].tensors if list(t.shape) == [3, 4])
        scales.append(len(weights.quantization.scale))
    assert scales == [1, 3]


def quantizer_ranges():
    """The smallest and largest values of every tensor over all calls, whatever the recipe."""
    from litert_quantizer.calibrator import CalibrationMode, Calibrator
    from litert_quantizer.recipe_manager import RecipeManager
    from litert_quantizer.utils.qsv_utils import min_max_update

    mode = CalibrationMode.CALIBRATION_PROFILER_BASED
    calibrator = Calibrator(small_file(), mode=mode, qsv_update_func=min_max_update)
    calls = [{"x": np.full((1, 4), value, "float32")} for value in (-2.0, 3.0, 1.0)]
    calibrator.calibrate({"serving_default": calls}, RecipeManager())
    ranges = [
        tuple(float(values[end].item()) for end in ("min", "max")) for values in calibrator.get_model_qsvs().values()
    ]
    assert (-2.0, 3.0) in ranges


def quantizer_recipes():
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.qtyping import QuantGranularity, TFLOperationName
    from litert_quantizer.quantizer import Quantizer

    recipe = Quantizer(bytearray(small_file()))
    recipe.add_dynamic_config(
        ".*", TFLOperationName["FULLY_CONNECTED"], num_bits=8, granularity=QuantGranularity.TENSORWISE
    )
    assert recipe.quantize(None, enable_progress_bar=False, enable_progress_report=False).quantized_model is not None
    assert AlgorithmName.FLOAT_CASTING


#: by name, as `found()` gives it
NAMES = {
    "_flatten_layers": Use("iterate over a layer and its sublayers", flatten_layers),
    "_inbound_nodes": Use("shapes of activations of a model that a file describes", inbound_nodes),
    "_metrics": Use("variables of a layer's own metrics", layer_metrics),
    "_compute_dtype": Use("a quantised policy that computes in float32", compute_dtype),
    "_get_variable_index": Use("Adam in one fused operator", momentums),
    "_momentums": Use("Adam in one fused operator", momentums),
    "_velocities": Use("Adam in one fused operator", momentums),
    "_model_variables_moving_average": Use("moving average of weights that warms up", moving_average),
    "_update_model_variables_moving_average": Use("moving average of weights that warms up", moving_average),
    "_var_key": Use("learning rates by layer", var_key),
    "_maybe_symbolic_build": Use("prevent a pass over the data before training", symbolic_build),
    "_post_build": Use("load quantised layers inside a network", post_build),
    "keras.src.backend.common.global_state": Use("allocate no array for a file that declares too many", global_state),
    "keras.src.backend.in_stateless_scope": Use("skip a trial run of a network in a stateless scope", stateless_scope),
    "_warnings_showwarning": Use("restore logging after an export", python_logging),
    "_attempted_to_remove_stderr_stream_handlers": Use("restore absl's handlers after an export", absl_handlers),
    "_value": Use("restore absl's flags after an export", absl_flags),
    "ai_edge_litert.schema_py_generated": Use("read the content of a file", schema),
    "ai_edge_litert.tools.flatbuffer_utils": Use("change a file and its weights", flatbuffer_tools),
    "_experimental_disable_per_channel_quantization_for_dense_layers": Use(
        "integer files with the same results in older runtimes", dense_per_channel
    ),
    "litert_quantizer.calibrator.CalibrationMode": Use("ranges of activations", quantizer_ranges),
    "litert_quantizer.calibrator.Calibrator": Use("ranges of activations", quantizer_ranges),
    "litert_quantizer.recipe_manager.RecipeManager": Use("ranges of activations", quantizer_ranges),
    "litert_quantizer.utils.qsv_utils.min_max_update": Use("ranges of activations", quantizer_ranges),
    "litert_quantizer.algorithm_manager.AlgorithmName": Use("files in float16", quantizer_recipes),
    "litert_quantizer.qtyping.QuantGranularity": Use("one scale for a dense layer", quantizer_recipes),
    "litert_quantizer.qtyping.TFLOperationName": Use("operations of a recipe", quantizer_recipes),
}  # fmt: skip


def found(root: Path = ROOT, files: Sequence[Path] = FILES) -> dict[str, set[str]]:
    """Return private names of other packages in kvae's source, and the files that use them.

    They are attributes that begin with an underscore and are not defined by kvae, methods of Keras's classes that kvae
    overrides, names of attributes in strings, and imports.
    """
    trees = {str(path.relative_to(root)): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    own = {node.name for _, node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {node.id for _, node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {
        node.attr
        for _, node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) in ("self", "cls")
    }
    bases = (keras.Model, keras.optimizers.Adam, keras.callbacks.ModelCheckpoint, keras.losses.Loss, keras.metrics.Mean)
    uses: dict[str, set[str]] = {}
    for path, node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            names = [node.attr]
        elif (
            isinstance(node, ast.FunctionDef)
            and is_private(node.name)
            and any(hasattr(base, node.name) for base in bases)
        ):
            names = [node.name]
        elif isinstance(node, ast.Tuple | ast.Call):  # getattr(x, "_name"), and pairs of an object and a name
            inside = [
                item.value
                for item in getattr(node, "elts", getattr(node, "args", ()))
                if isinstance(item, ast.Constant)
            ]
            names = [name for name in inside if isinstance(name, str) and name in NAMES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [name for alias in node.names if PRIVATE_MODULES.search(name := f"{node.module}.{alias.name}")]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if PRIVATE_MODULES.search(alias.name)]
        for name in names:
            uses.setdefault(name, set()).add(path)
    return {name: paths for name, paths in uses.items() if name not in DOCUMENTED and not name.startswith("kvae.")}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_all_private_names_are_listed():
    uses = found()
    missing = {name: sorted(paths) for name, paths in uses.items() if name not in NAMES}
    assert not missing, f"list them in NAMES, each with what it is for and a check: {missing}"
    unused = sorted(set(NAMES) - set(uses))
    assert not unused, f"nothing uses them: {unused}"


def test_an_unlisted_name_is_found(tmp_path):
    source = tmp_path / "kvae.py"
    source.write_text(
        "import tensorflow.python.eager\nfrom sklearn.utils import _estimator_html_repr\nmodel._tracker.unlock()\n",
        encoding="utf-8",
    )
    assert set(found(tmp_path, [source])) == {
        "tensorflow.python.eager",
        "sklearn.utils._estimator_html_repr",
        "_tracker",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_is_unchanged(name):
    try:
        NAMES[name].check()
    except Exception as error:
        error.add_note(f"'{name}' is used in {', '.join(sorted(found()[name]))}. What for: {NAMES[name].purpose}.")
        raise
