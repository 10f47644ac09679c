"""How Sphinx makes the site: `make docs`, which writes it to build/site.

The source folder is the repository's root, so that the README, the pages here and the reports under experiments/ link
to each other by paths that work on the site and in the repository alike.
"""

from importlib.metadata import version as installed_version

project = "mtdnn"
author = "the authors of mtdnn"
version = release = installed_version("mtdnn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = ["docs/*.md", "experiments/*/README.md", "benchmarks/README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "demo", "mtdnn", "tests"]  # folders that need not be searched

myst_heading_anchors = 3
pygments_style = "friendly"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_type_comments = False
default_role = "code"  # docstrings quote names in single backticks
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False

html_theme = "furo"
html_title = "mtdnn"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["site_root"]  # an index.html at the top, which leads to docs/index.html
