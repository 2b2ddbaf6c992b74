"""Pages and pictures that are made before each build of the documentation; git ignores them.

| written to | made from |
|---|---|
| `api/kvae*.rst` | the public names of each module, and the docstrings of what they stand for |
| `tutorials/*.ipynb` | `notebooks/`, with links that fit |
| `pictures/*.png` | the saved outputs of the notebooks |
| `project/*.md` | the pages of the repository's root that are there |
"""

import base64
import functools
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from markup import inline, relink

import kvae

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: what is generated, as patterns below docs/
GENERATED = ("api/kvae*.rst", "tutorials/*.ipynb", "pictures/*.png", "project/*.md")
ROOT_PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
#: the modules of the API reference. A name that is in two of them is described in the first.
MODULES = (
    "kvae",
    "kvae.data",
    "kvae.networks",
    "kvae.posteriors",
    "kvae.likelihoods",
    "kvae.priors",
    "kvae.objectives",
    "kvae.schedules",
    "kvae.distributions",
    "kvae.recipes",
    "kvae.models",
    "kvae.optimizers",
    "kvae.callbacks",
    "kvae.training",
    "kvae.evaluation",
    "kvae.features",
    "kvae.plotting",
    "kvae.report",
    "kvae.export",
    "kvae.export.runtime",
    "kvae.export.web",
)


class Entry(NamedTuple):
    """A public name of a module."""

    module: str
    name: str
    value: Any

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def kind(self) -> str:
        return "class" if inspect.isclass(self.value) else "function" if callable(self.value) else "data"


def modules() -> list[str]:
    """`MODULES`, and whatever else `kvae` lists."""
    listed = [f"kvae.{name}" for name in kvae.__all__ if inspect.ismodule(getattr(kvae, name))]
    return [*MODULES, *(name for name in listed if name not in MODULES)]


@functools.cache
def entries(module: str) -> tuple[Entry, ...]:
    """The public names of a module: its `__all__`, or else the classes and functions that it defines.

    Submodules have pages of their own.
    """
    members = importlib.import_module(module)
    names = getattr(members, "__all__", None)
    if names is None:
        values = vars(members).items()
        names = [name for name, value in values if name[0] != "_" and getattr(value, "__module__", "") == module]
        names = [
            name for name in names if inspect.isroutine(vars(members)[name]) or inspect.isclass(vars(members)[name])
        ]
    found = [Entry(module, name, getattr(members, name)) for name in names]
    return tuple(entry for entry in found if not inspect.ismodule(entry.value))


@functools.cache
def homes() -> dict[int, Entry]:
    """By the identity of each class and function: where it is described."""
    result: dict[int, Entry] = {}
    for module in modules():
        for entry in entries(module):
            if entry.kind != "data":
                result.setdefault(id(entry.value), entry)
    return result


def home(entry: Entry) -> Entry:
    return homes().get(id(entry.value), entry)


def target(name: str, module: str) -> str | None:
    """The full name under which `name`, as a docstring of `module` writes it, is described; None if it isn't public."""
    names = _targets()
    return names.get(name) or names.get(f"{module}.{name}") or names.get(f"*.{name}")


@functools.cache
def _targets() -> dict[str, str]:
    """What a docstring may write: full names, names of the module itself, and classes of any module ("*.VAE")."""
    public = [entry for module in modules() for entry in entries(module)]
    classes = {f"*.{entry.name}": home(entry).full_name for entry in reversed(public) if entry.kind == "class"}
    return classes | {entry.full_name: home(entry).full_name for entry in public} | {name: name for name in modules()}


def members(cls: type) -> dict[str, type]:
    """Methods and properties that kvae's classes among the bases of `cls` define and describe, each with its class."""
    found: dict[str, type] = {}
    for base in cls.__mro__:
        if base.__module__.split(".")[0] == "kvae":
            for name, value in vars(base).items():
                value = getattr(value, "__func__", value)
                described = inspect.isroutine(value) or isinstance(value, (property, functools.cached_property))
                if not name.startswith("_") and described and value.__doc__:
                    found.setdefault(name, base)
    return found


def api_page(module: str) -> str:
    """The page of a module, for `sphinx.ext.autodoc`: a table of its names, then each one that has its home here."""
    found = entries(module)
    lines = [module, "=" * len(module), "", f".. automodule:: {module}", ""]
    if found:
        lines += [".. list-table::", "   :class: api-names", "   :widths: 30 70", ""]
    for entry in found:
        lines.append(f"   * - :py:obj:`{entry.name} <{home(entry).full_name}>`")
        lines.append(f"     - {_summary(entry)}")
    for title, kind in (("Classes", "class"), ("Functions", "function"), ("Constants", "data")):
        here = [entry for entry in found if entry.kind == kind and home(entry) == entry]
        if here:
            lines += ["", title, "-" * len(title), ""]
        for entry in here:
            lines += [*_directive(entry), ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary(entry: Entry) -> str:
    if entry.kind == "data":
        return f"``{_short(entry.value)}``"
    first, *_ = (inspect.getdoc(entry.value) or "").split("\n\n")
    return inline(" ".join(first.split()), lambda name: target(name, entry.module))


def _directive(entry: Entry) -> list[str]:
    if entry.kind == "data":
        return [f".. py:data:: {entry.name}", f"   :module: {entry.module}", f"   :value: {_short(entry.value)}"]
    if entry.kind == "function":
        return [f".. autofunction:: {entry.module}::{entry.name}"]
    kind = "exception" if issubclass(entry.value, BaseException) else "class"
    lines = [f".. auto{kind}:: {entry.module}::{entry.name}"]
    where = members(entry.value)
    inherited = {
        name: homes()[id(base)] for name, base in where.items() if base is not entry.value and id(base) in homes()
    }
    if own := [name for name in where if name not in inherited]:
        lines.append(f"   :members: {', '.join(own)}")
    for base in dict.fromkeys(inherited.values()):
        names = sorted(name for name, home in inherited.items() if home == base)
        links = ", ".join(f":py:obj:`{name} <{base.full_name}.{name}>`" for name in names)
        lines += ["", f"   From :py:obj:`{base.name} <{base.full_name}>`: {links}."]
    return lines


def _short(value: Any) -> str:
    text = " ".join(str(value).split()) if hasattr(value, "__args__") else repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def pages() -> dict[str, str]:
    """The files of the repository that are pages of the site, and where they are in it."""
    result = {"README.md": "/index.md"}
    for path in (*DOCS.glob("*.md"), *DOCS.glob("*/index.md")):
        result[f"docs/{path.relative_to(DOCS).as_posix()}"] = f"/{path.relative_to(DOCS).as_posix()}"
    result |= {f"notebooks/{path.name}": f"/tutorials/{path.name}" for path in notebooks()}
    return result | {name: f"/project/{name.lower()}" for name in ROOT_PAGES if (ROOT / name).is_file()}


def site_links(text: str, folder: str) -> str:
    """A page's links, made those of the site; `folder` is where the page lies in the repository."""
    return relink(text, folder, pages(), ROOT)


def tutorial(notebook: Path) -> str:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = site_links("".join(cell["source"]), "notebooks")
    content["metadata"].setdefault("language_info", {})["pygments_lexer"] = "ipython3"
    return json.dumps(content, ensure_ascii=False, indent=1)


def pictures(notebook: Path) -> Iterator[tuple[str, bytes]]:
    """The pictures of a notebook, named for the cell that drew them: `01_train_and_generate-17.png`."""
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        drawn = [
            output["data"]["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        for data, suffix in zip(drawn, ["", *"bcdefgh"]):
            yield f"{notebook.stem}-{number:02d}{suffix}.png", base64.b64decode("".join(data))


def sources() -> dict[str, bytes]:
    """Everything that is generated, by its place below docs/."""
    result = {f"api/{module}.rst": api_page(module).encode() for module in modules()}
    for notebook in notebooks():
        result[f"tutorials/{notebook.name}"] = tutorial(notebook).encode()
        result |= {f"pictures/{name}": data for name, data in pictures(notebook)}
    for name in ROOT_PAGES:
        if (ROOT / name).is_file():
            result[f"project/{name.lower()}"] = site_links((ROOT / name).read_text(encoding="utf-8"), "").encode()
    return result


def write() -> None:
    """Write what has changed, and remove what isn't generated any more."""
    wanted = {DOCS / path: data for path, data in sources().items()}
    for pattern in GENERATED:
        for path in DOCS.glob(pattern):
            if path not in wanted:
                path.unlink()
    for path, data in wanted.items():
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
