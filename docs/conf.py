"""How Sphinx makes the site: `make docs`, which writes it to build/site.

The source folder is the repository's root, so that the README, the pages here and the reports under experiments/ link
to each other by paths that work on the site and in the repository alike.
"""

from importlib.metadata import version as installed_version
from typing import Any

project = "mtdnn"
author = "the authors of mtdnn"
version = release = installed_version("mtdnn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = ["docs/*.md", "experiments/*/README.md", "experiments/*.md", "benchmarks/README.md", "[A-Z]*.md"]
exclude_patterns = [".*", "build", "demo", "mtdnn", "tests"]  # folders that need not be searched

myst_heading_anchors = 3
pygments_style = "friendly"

autodoc_member_order = "bysource"
default_role = "code"  # docstrings quote names in single backticks
napoleon_custom_sections = [("Class attributes", "params_style")]
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "mtdnn"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["site_root"]  # an index.html at the top, which leads to docs/index.html


def quote_places(app: Any, kind: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Quote `file:line` in docstrings: reStructuredText reads it as an address."""
    lines[:] = [line.replace("`file:line`", "file:line").replace("file:line", "`file:line`") for line in lines]


def setup(app: Any) -> None:
    """Connect the function above."""
    app.connect("autodoc-process-docstring", quote_places)
