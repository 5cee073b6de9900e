"""Settings of Sphinx. `make docs` runs `build.py`, which writes all sources of the site into one folder first."""

from __future__ import annotations

from typing import Any

project = "nbcompress"
author = "the nbcompress developers"
html_title = "nbcompress"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["extra"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
templates_path: list[str] = []
smartquotes = False  # two dashes begin an option
nitpicky = False  # docstrings name types of other libraries

# The notebooks come with their outputs. Nothing is run here, and no page loads anything from the network.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_merge_streams = True
# The widgets of a notebook need a kernel.
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# One backtick is code in our docstrings.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False
napoleon_google_docstring = True
napoleon_use_rtype = False


def mathml(self: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers draw by themselves."""
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    is_block = isinstance(node, nodes.math_block)
    self.body.append(tex2mathml(node.astext(), as_block=is_block))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
