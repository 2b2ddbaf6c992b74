"""The documentation: every public name has an entry, and every link leads somewhere."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import kvae

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: the modules that the API reference has at least
MODULES = [
    "kvae", "kvae.callbacks", "kvae.data", "kvae.distributions", "kvae.evaluation", "kvae.export",
    "kvae.export.runtime", "kvae.export.web", "kvae.features", "kvae.likelihoods", "kvae.networks", "kvae.objectives",
    "kvae.optimizers", "kvae.plotting", "kvae.posteriors", "kvae.priors", "kvae.recipes", "kvae.schedules",
]  # fmt: skip
PAGES = [*sorted(DOCS.glob("*.md")), DOCS / "api" / "index.md", DOCS / "tutorials" / "index.md"]


@pytest.fixture(scope="module")
def docs():
    """docs/generate.py and docs/markup.py."""
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("generate"), importlib.import_module("markup")
    sys.path.remove(str(DOCS))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_described(docs, module):
    generate, _ = docs
    assert module in generate.modules()
    entries = {entry.name: entry for entry in generate.entries(module)}
    listed = getattr(importlib.import_module(module), "__all__", entries)
    submodules = {name for name in listed if f"{module}.{name}" in generate.modules() and name not in entries}
    assert set(entries) == {*listed} - submodules
    page = generate.api_page(module)
    for name, entry in entries.items():
        home = generate.home(entry)
        assert f":py:obj:`{name} <{home.full_name}>`" in page
        described = rf"(auto(class|exception|function):: {re.escape(home.module)}::|py:data:: ){home.name}$"
        assert re.search(described, generate.api_page(home.module), flags=re.MULTILINE), home


def test_every_module_is_on_the_first_page_of_the_reference(docs):
    generate, _ = docs
    assert {f"kvae.{name}" for name in kvae.__all__ if f"kvae.{name}" in sys.modules} <= {*generate.modules()}
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert [name for name in generate.modules() if f"[{name}]({name}.rst)" not in index] == []


def anchors(text: str) -> set[str]:
    """What GitHub, and MyST, make of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(docs, page):
    generate, markup = docs
    made = {str(Path(path).with_suffix("")) for path in generate.sources()}
    for path, anchor in markup.links(page.read_text(encoding="utf-8")):
        file = (page.parent / path).resolve() if path else page
        if not (file.is_relative_to(DOCS) and str(file.relative_to(DOCS).with_suffix("")) in made):
            assert file.exists(), path
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{path}#{anchor}"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["The mean of `x`."], ["The mean of ``x``."]),
        (["See `VAE` and ``kept``."], ["See :py:obj:`VAE <kvae.VAE>` and ``kept``."]),
        (["`D`s of |x − y|²"], [r"``D``\ s of \|x − y\|²"]),
        (["Σ_i R_·k of w_k"], [r"Σ_i R\_·k of w_k"]),
        (["It is", "", "    a = `b`"], ["It is", "", "::", "", "    a = `b`"]),
        (["It is", "", "    >>> a | b"], ["It is", "", ">>> a | b"]),
        (["* one", "", "    `two`"], ["* one", "", "    ``two``"]),
        (["Args:", "    x: one", "", "    `two`"], ["Args:", "    x: one", "", "    ``two``"]),
    ],
)
def test_docstrings_become_restructured_text(docs, lines, expected):
    _, markup = docs
    assert markup.to_rst(lines, {"VAE": "kvae.VAE"}.get) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](training.md#b)", "[a](/training.md#b)"),
        ("[a](../notebooks/03_on_the_phone.ipynb)", "[a](/tutorials/03_on_the_phone.ipynb)"),
        ("[`kvae/recipes.py`](../kvae/recipes.py)", "`kvae/recipes.py`"),
        ("[tests](../tests/conftest.py)", "tests (`tests/conftest.py`)"),
        ("[a](../README.md#numbers)", "[a](/index.md)"),
        ("![a](page.png)", "![a](/page.png)"),
        ("[a](nowhere.md) [b](#c) [d](https://e.org)", "[a](nowhere.md) [b](#c) [d](https://e.org)"),
        ("```\n[a](training.md)\n```", "```\n[a](training.md)\n```"),
    ],
)
def test_links_become_those_of_the_site(docs, text, expected):
    generate, _ = docs
    assert generate.site_links(text, "docs") == expected
