"""Sphinx configuration: `make docs`. sphinx-autoapi makes a page for each package."""

import os
import re
import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

ROOT = Path(__file__).parents[1]

project = "genmod"
author = "the genmod authors"
copyright = author
version = release = "0.1.0"

extensions = ["autoapi.extension", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# The source is read, never imported: signatures stand on the pages as they are written.
autoapi_dirs = [str(ROOT / "genmod")]
autoapi_root = "api"
autoapi_ignore = ["*/shipped_experiments/*"]
autoapi_options = ["members", "undoc-members", "imported-members", "show-module-summary"]
autoapi_member_order = "bysource"
autoapi_own_page_level = "module"
autoapi_add_toctree_entry = False
# Modules inside a package that are used by their own name; all others hand on their names to it.
_OWN_PAGES = {
    "genmod.train.checkpoint",
    *(f"genmod.evaluate.{name}" for name in ("classifier", "features", "inception", "judges")),
}

# Docstrings mark code with single backticks, and much of it is a name that has a page.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
smartquotes_action = "D"  # dashes alone: three dots and quotes are code here
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# The tests execute the notebooks; here they are shown with the outputs they were committed with.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Formulas become MathML: MathJax would be fetched from the network by every reader.
myst_update_mathjax = False
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"genmod {release}"
html_copy_source = False
html_show_copyright = False


def copy_notebooks(app, config):
    """Copies the notebooks, which Sphinx reads only from within its own folder."""
    ignored = shutil.ignore_patterns(".ipynb_checkpoints")
    shutil.copytree(
        ROOT / "notebooks", Path(app.srcdir, "notebooks"), ignore=ignored, dirs_exist_ok=True
    )


def skip(app, what, name, obj, skipped, options):
    """Leaves out private names, the command, and modules whose package hands on their names."""
    package, _, own = name.rpartition(".")
    if what in {"module", "package"}:
        inner = package.count(".") > 0 and package != "genmod.runs" and name not in _OWN_PAGES
        return True if inner or own in {"_host", "cli", "__main__"} else None
    # A name that another package hands on has its page there.
    return True if own.startswith("_") or name == "genmod.data.DataError" else None


def as_rst(app, what, name, obj, options, lines):
    """Makes reStructuredText of docstrings, of which their authors need to know nothing."""
    blocks, before = [], ""
    for block in "\n".join(lines).split("\n\n"):
        if block.startswith("    ") and before[:1].strip():
            blocks += ["::", block]  # code, or a formula, indented under a paragraph
        elif len(re.findall(r"^\S.*? {2,}\S", block, re.M)) > 2:
            blocks += [".. code-block:: text", re.sub("^", "    ", block, flags=re.M)]
        else:
            # |x| is no substitution, and * multiplies.
            parts = re.split(r"(`[^`]*`)", block)
            parts[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[::2]]
            blocks.append("".join(parts))
            before = block
    lines[:] = "\n\n".join(blocks).split("\n")


def links(app, path, parent, content):
    """Points links of README and its like, which start from where they lie, to pages or files."""
    place, here = Path(app.srcdir, path).resolve(), Path(app.env.doc2path(app.env.docname)).parent

    def link(match):
        text, target = match.groups()
        page = target.removeprefix("docs/")
        if (here / page).exists() or not (place.parent / target).exists():
            return f"{text}({page})"
        # A file of the repository, which Sphinx puts beside the pages.
        return f"{text}({os.path.relpath(place.parent / target, here)})"

    content[0] = re.sub(r"(!?\[[^\]]*\])\(([^)#:]+)\)", link, content[0])


def results_are_a_page(app, name, content):
    """Points links to the experiments' README, which is a page here, to that page."""
    content[0] = content[0].replace("](../experiments/README.md)", "](experiments/README.md)")


def losses_are_data(app, name, content):
    """Shows a GAN's losses as the values that they are; their docstring stands on a function."""
    loss = r"\.\. py:function:: (\w+)\(\) -> [\w.]*AdversarialLoss"
    content[0] = re.sub(loss, r".. py:data:: \1\n   :type: AdversarialLoss", content[0])


def resolve(app, env, node, content):
    """Links names as docstrings have them: `train.run`, `Key`."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    for name in (f"genmod.{target}", f"genmod.types.{target}"):
        if name in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    return None


def inline_math(writer, node):
    """A formula in a line."""
    _math(writer, node, False)


def display_math(writer, node):
    """A formula on lines of its own."""
    _math(writer, node, True)


def _math(writer, node, block):
    try:
        writer.body.append(tex2mathml(node.astext(), as_block=block))
    except Exception as error:  # MathError, or whatever a stray backslash makes of the parser
        message = "a formula that docutils cannot turn into MathML: %s (%r)"
        logging.getLogger(__name__).warning(message, node.astext(), error, location=node)
    raise nodes.SkipNode


def setup(app):
    """Connects the functions above; Sphinx calls it."""
    app.connect("config-inited", copy_notebooks)
    app.connect("autoapi-skip-member", skip)
    app.connect("autodoc-process-docstring", as_rst, priority=400)
    app.connect("include-read", links)
    app.connect("source-read", losses_are_data)
    app.connect("source-read", results_are_a_page)
    app.connect("missing-reference", resolve)
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
