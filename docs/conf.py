"""How Sphinx makes the pages: `make docs`. What it makes of the package stands in `rooms.py`."""

import sys
from pathlib import Path

# Sphinx imports what it documents: this copy of genmod, wherever another is installed.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import genmod  # noqa: E402

project = "genmod"
author = "the genmod authors"
copyright = author
version = release = genmod.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "rooms"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Docstrings mark code with single backticks, and much of it is a name that has a page.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
smartquotes_action = "D"  # dashes alone: three dots and quotes are code here
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# The tests execute the notebooks; here they are shown with the outputs they were committed with.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Formulas become MathML (rooms.py): MathJax would be fetched from the network by every reader.
myst_update_mathjax = False
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"genmod {release}"
html_copy_source = False
html_show_copyright = False
