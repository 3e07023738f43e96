"""The site: `python -m sphinx -W docs OUT` builds it, and runs the notebooks of the course.

`python -m sphinx -D nb_execution_mode=off docs OUT` builds it without running them.
"""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not the user's own

project = "captioner"
version = release = version_of("captioner")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "reference",
    "repository_files",
]
exclude_patterns = ["_ext", "_static", "course/*.ipynb"]  # each notebook has a page of its own

# Pages: Markdown as GitHub shows it, with links to headings, and formulas in dollars.
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 6
myst_fence_as_directive = {"math"}
suppress_warnings = ["misc.highlighting_failure"]  # examples of JSON leave values out: ...

# Pages that are files of the repository: a link to the file leads to the page.
repository_pages = {
    "README.md": "readme",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "captioner/pretrained/README.md": "model_card",
}

# Notebooks.
nb_execution_mode = "force"
nb_execution_timeout = 300  # seconds a cell
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# Docstrings: Google's style; one pair of backticks marks code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

smartquotes = False  # it makes a dash of the two hyphens of an option
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "captioner"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
