"""Settings of the documentation: `make docs` builds it into build/docs, without the network."""

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import generate
import markup
from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.inspect import stringify_signature

import kvae

project = "kvae"
author = "The kvae authors"
copyright = author
version = release = kvae.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_static"]

# Pages in Markdown, and notebooks as they were saved.
myst_enable_extensions = ["colon_fence", "dollarmath", "linkify"]
myst_linkify_fuzzy_links = False
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, Any] = {}
highlight_language = "text"

# The API.
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"

# HTML.
html_theme = "pydata_sphinx_theme"
html_title = f"kvae {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_favicon = "_static/logo.svg"
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_sidebars = {"index": [], "gallery": []}
html_theme_options = {
    "logo": {"text": "kvae", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "back_to_top_button": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "gallery": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def read_source(app: Any, docname: str, source: list[str]) -> None:
    """Links of the pages in docs/ to files of the repository; and a page that is listed, but not written yet."""
    if "/" not in docname:
        source[0] = generate.site_links(source[0], "docs")
    if docname == "index" and not (generate.DOCS / "benchmarks.md").is_file():
        source[0] = source[0].replace("\nbenchmarks\n", "\n")


def process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    module = max((module for module in generate.modules() if f"{name}.".startswith(f"{module}.")), key=len)
    lines[:] = markup.to_rst(lines, lambda code: generate.target(code, module))


def process_signature(app: Any, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """A class is shown with the arguments of its constructor (Keras's layers have a `__new__` that hides them)."""
    if not inspect.isclass(obj):
        return None
    if not inspect.isfunction(obj.__init__):  # of a named tuple, say
        return None
    signature = inspect.signature(obj.__init__)
    signature = signature.replace(
        parameters=list(signature.parameters.values())[1:], return_annotation=inspect.Signature.empty
    )
    return stringify_signature(signature, unqualified_typehints=True), None


def mathml(node: Any, as_block: bool = False) -> str:
    source = re.sub(r"\\big(?![a-z])", "", node.astext())  # parentheses grow by themselves
    tree = ElementTree.fromstring(tex2mathml(source, as_block).replace("&ApplyFunction;", "\N{FUNCTION APPLICATION}"))
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.text == "\N{FUNCTION APPLICATION}":  # between log and p
            element.set("rspace", "0.17em")
    for brace in tree.findall(".//msub[munder]"):  # what stands below a brace
        brace.tag = "munder"
    return ElementTree.tostring(tree, encoding="unicode")


def visit_math(self: Any, node: Any) -> None:
    self.body.append(mathml(node))
    raise SkipNode


def visit_math_block(self: Any, node: Any) -> None:
    self.body.append(f'<div class="math">{mathml(node, as_block=True)}</div>')
    raise SkipNode


def nothing(self: Any, node: Any) -> None:
    pass


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda app: generate.write())
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", process_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", process_signature)
    # MathML needs no script, and every browser shows it.
    app.add_html_math_renderer("mathml", (visit_math, nothing), (visit_math_block, nothing))
