"""The shape of the package: what it lists, what it imports, how fast it starts."""

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import pytest

import kvae

ROOT = Path(__file__).resolve().parent.parent
FILES = [*ROOT.glob("kvae/**/*.py"), *ROOT.glob("export/**/*.py")]

#: room: what of kvae it may import (DESIGN: arrows point one way)
MAY_IMPORT = {
    "state": set(),
    "run": {"data", "files", "models", "networks"},
    "training": {
        "callbacks",
        "data",
        "evaluation",
        "features",
        "files",
        "likelihoods",
        "models",
        "networks",
        "objectives",
        "optimizers",
        "posteriors",
        "priors",
        "recipes",
        "report",
        "run",
        "schedules",
        "steps",
    },
    "callbacks": {"files", "state"},
    "schedules": {"arguments", "saving"},
    "saving": set(),
    "arguments": set(),
    "files": set(),
    "pages": {"arguments"},
    "steps": set(),
    "optimizers": set(),
    "distributions": {"arguments", "saving"},
    "priors": {"arguments", "distributions"},
    "objectives": {"arguments", "distributions", "priors", "saving", "schedules"},
    "networks": {"arguments", "saving"},
    "models": {
        "arguments",
        "distributions",
        "priors",
        "objectives",
        "networks",
        "saving",
        "schedules",
        "callbacks",
        "state",
    },
    "data": {"arguments", "distributions", "files"},
    "evaluation": {"arguments", "models", "distributions", "networks", "priors", "data"},
    "features": {
        "arguments",
        "callbacks",
        "models",
        "distributions",
        "networks",
        "likelihoods",
        "objectives",
        "recipes",
        "evaluation",
        "data",
        "files",
        "optimizers",
        "saving",
    },
    "posteriors": {"distributions"},
    "likelihoods": {"distributions"},
    "recipes": {"models", "networks", "posteriors", "likelihoods", "priors", "objectives", "schedules"},
    "plotting": {"arguments", "models", "evaluation", "features", "files"},
    "report": {"models", "evaluation", "features", "plotting", "files", "pages", "run", "steps"},
    "export": {"arguments", "data", "pages", "models", "distributions", "priors", "networks", "evaluation", "files"},
}
USES_TENSORFLOW = {"training", "optimizers", "state", "models", "data", "evaluation", "features", "export", "cli"}


def room(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "export" else parts[1]


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_design(file):
    here = room(file)
    if here in ("cli", "__init__", "__main__"):
        return
    used = {name.split(".")[1] for name in imports(file) if name.startswith("kvae.")}
    used &= {*MAY_IMPORT, "cli"}
    assert used <= MAY_IMPORT[here] | {here}, f"{file} imports {used - MAY_IMPORT[here] - {here}}"
    if here not in USES_TENSORFLOW:
        assert not {name for name in imports(file) if name.split(".")[0] == "tensorflow"}


def test_setup_cfg_lists_every_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("kvae/**/__init__.py")}
    found |= {"kvae." + ".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("export/**/__init__.py")}
    assert listed == found
    assert config["metadata"]["version"] == "attr: kvae.__version__"


def test_the_version_is_consistent():
    assert importlib.metadata.version("keras-vae") == kvae.__version__
    assert f"\nversion: {kvae.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def lower_bounds() -> list[str]:
    """Requirements at their lower bounds, except those that change with each release of TensorFlow."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = re.findall(r"^([\w-]+) >=([\d.]+)", config["options"]["install_requires"], flags=re.MULTILINE)
    recent = {"tensorflow", "keras", "ai-edge-litert", "litert-quantizer"}
    return [f"{name}=={version}" for name, version in found if name not in recent]


@pytest.mark.slow
def test_a_wheel_runs_the_demo_with_the_oldest_dependencies(tmp_path):
    """In an environment with this one's packages and older ones before them, but without the checkout."""
    run = partial(subprocess.run, check=True, capture_output=True, text=True, cwd=tmp_path)
    run([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT])
    (wheel,) = (tmp_path / "dist").iterdir()
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"])
    bin_ = tmp_path / "venv" / "bin"
    pip = [sys.executable, "-m", "pip", "--quiet"]
    run([*pip, "--python", bin_ / "python", "install", "--no-deps", "--no-index", wheel])
    run([*pip, "install", "--no-deps", "--only-binary", ":all:", "--target", tmp_path / "oldest", *lower_bounds()])
    path = os.pathsep.join([str(tmp_path / "oldest"), sysconfig.get_path("purelib")])
    run = partial(run, env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"})
    where = run([bin_ / "python", "-c", "import kvae, pyarrow; print(kvae.__file__, pyarrow.__file__)"]).stdout
    assert where.count(str(tmp_path)) == 2
    assert "decoder_int8.tflite" in run([bin_ / "kvae", "demo", "--out", "demo"]).stdout
    run([bin_ / "kvae", "features", "demo/run", "digits", "--no-probe", "--out", "features.parquet"])
    pages = [tmp_path / "demo" / "run" / "report.html", tmp_path / "demo" / "export" / "export.html"]
    assert all(page.stat().st_size > 10_000 for page in pages)


def test_setup_cfg_declares_what_is_imported():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line.strip() for text in asked for line in text.splitlines() if line.strip()[:1] not in ("", "#")]
    declared = {re.split(r"[ \[<>=]", line)[0].lower() for line in lines}
    modules = {name.split(".")[0] for file in FILES for name in imports(file)} - {"kvae", *sys.stdlib_module_names}
    modules -= {"tflite_runtime"}  # what older Pythons have in place of ai-edge-litert
    distributions = importlib.metadata.packages_distributions()
    found = {module: {name.lower() for name in distributions.get(module, [module])} for module in modules}
    assert {module for module, names in found.items() if not names & declared} == set()
    assert {"rich", "h5py"} <= modules


def test_import_is_lazy():
    code = (
        "import sys, kvae, kvae.cli.main; "
        "print([m for m in ('tensorflow', 'keras', 'numpy', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_can_be_imported():
    for name in kvae.__all__:
        assert getattr(kvae, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kvae.nonsense  # noqa: B018


def test_help_imports_nothing_large():
    """What it takes to start is measured by `benchmarks/footprint.py`."""
    line = [sys.executable, "-X", "importtime", "-m", "kvae", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    imported = {row.rsplit("|", 1)[-1].strip() for row in done.stderr.splitlines() if "|" in row}
    assert "typer" in imported
    assert not imported & {"tensorflow", "keras", "numpy", "matplotlib", "sklearn", "PIL", "jinja2"}


def test_every_registered_class_has_a_case():
    """A new part has a row in a case table, or this fails."""
    from keras.src.saving.object_registration import GLOBAL_CUSTOM_OBJECTS

    for name in kvae.__all__:
        getattr(kvae, name)
    registered = {cls.__name__ for key, cls in GLOBAL_CUSTOM_OBJECTS.items() if key.startswith("kvae>")}
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert registered
    assert {name for name in registered if f".{name}(" not in tests and f".{name}," not in tests} == set()
