"""The pages of the package: one a room, listing what the room offers, with signatures as written.

A room is a module or package directly in genmod; its page is written anew at every build, so that
nothing has to be listed twice. Signatures are taken from the source: evaluated, `Key` would be
`jax.Array`, `Params` would be `Any`, and a default that is a NamedTuple would fill the page.
"""

import ast
import copy
import functools
import importlib
import inspect
import os
import pkgutil
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

import genmod

PACKAGE = Path(genmod.__file__).parent
# The command is described in README and by its own --help.
NO_ROOMS = {"__main__", "cli"}
# Modules inside a room that are used by their own name.
INNER = ["train.checkpoint"]
# Rooms that serve other rooms only: their pages stand apart.
BENEATH = {"caches", "checks", "commands", "decoding", "disk", "errors", "lock", "machine"}
BENEATH |= {"catalogue", "configs", "source", "starts", "startup", "stop", "terminal"}


def rooms():
    """The names of all rooms."""
    names = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])} - NO_ROOMS
    return sorted(name for name in names if not name.startswith("_"))


@functools.cache
def source(module):
    """The parsed source of a module."""
    path = PACKAGE.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text())


@functools.cache
def definitions(module):
    """Name -> (node, docstring) of what a module defines, in the order of its source."""
    found = {}
    body = source(module).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node, ast.get_docstring(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            doc = following.value if isinstance(following, ast.Expr) else None
            if isinstance(target, ast.Name):
                text = inspect.cleandoc(doc.value) if isinstance(doc, ast.Constant) else None
                found[target.id] = node, text
    return found


def offered(module):
    """What a module offers: (where it is defined, names), in the order of the sources."""
    own = definitions(module)
    if "__all__" not in own:
        names = [
            name
            for name, (node, doc) in own.items()
            if not name.startswith("_")
            and (doc or isinstance(node, ast.ClassDef | ast.FunctionDef) or _is_alias(node))
        ]
        return [(module, names)]
    wanted = ast.literal_eval(own["__all__"][0].value)
    found = {module: [name for name in own if name in wanted]}
    for name in sorted(set(wanted) - set(found[module]), key=lambda name: _place(module, name)):
        found.setdefault(imports(module)[name], []).append(name)
    return [(where, names) for where, names in found.items() if names]


@functools.cache
def imports(module):
    """Name -> the module of genmod that it is imported from."""
    return {
        alias.name: node.module
        for node in source(module).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genmod.")
        for alias in node.names
    }


def defined(module, name):
    """(node, docstring) of a name, wherever it comes from."""
    if name in definitions(module):
        return definitions(module)[name]
    if name not in imports(module):
        raise ValueError(f"{module}.{name}: no page can show what genmod does not define")
    return defined(imports(module)[name], name)


def _place(module, name):
    """Sorts by the order of imports, then of definitions."""
    where = imports(module).get(name, module)
    return list(imports(module).values()).index(where), defined(where, name)[0].lineno


def _is_alias(node):
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"


def page(module):
    """The page of a module."""
    lines = [module, "=" * len(module), "", f".. automodule:: {module}", ""]
    for where, names in offered(module):
        if where != module:
            title = where.split(".")[-1].replace("_", " ").capitalize()
            if _foreign(where, module):
                title = f"From {where}"
            lines += [title, "-" * len(title), "", f".. automodule:: {where}", "   :no-index:", ""]
        lines += [f".. currentmodule:: {module}", ""]
        for name in names:
            lines += [*entry(where, name), ""]
    return "\n".join(lines)


def entry(where, name):
    """The directive of one name."""
    node, doc = defined(where, name)
    if isinstance(node, ast.FunctionDef):
        return [f".. autofunction:: {name}"]
    if isinstance(node, ast.ClassDef):
        error = issubclass(getattr(importlib.import_module(where), name), BaseException)
        kind = "autoexception" if error else "autoclass"
        return [f".. {kind}:: {name}", "   :members:", "   :special-members: __call__"]
    # autodata finds no docstring for a value that is defined elsewhere than it is offered.
    lines = [f".. py:data:: {name}"]
    if isinstance(node, ast.AnnAssign):
        lines += [f"   :type: {ast.unparse(node.annotation)}"]
    value = ast.unparse(node.value)
    if _is_alias(node) or isinstance(node.value, ast.Constant):
        lines += [f"   :value: {value}"]
    return [*lines, "", *(f"   {line}" for line in as_rst((doc or "").split("\n")))]


def write(app, config):
    """Writes the pages of the package, and the notebooks, which Sphinx reads only from within."""
    pages = {name: page(f"genmod.{name}") for name in [*rooms(), *INNER]}
    for folder in ("api", "beneath"):
        mine = {n: text for n, text in pages.items() if (n in BENEATH) == (folder == "beneath")}
        _fill(
            Path(app.srcdir, folder), {f"{name}.rst": text.encode() for name, text in mine.items()}
        )
    notebooks = (PACKAGE.parent / "notebooks").glob("*.ipynb")
    _fill(Path(app.srcdir, "notebooks"), {path.name: path.read_bytes() for path in notebooks})


def _fill(folder, files):
    """Gives a folder these files and no others; what is the same is not touched, nor read again."""
    folder.mkdir(exist_ok=True)
    for path in set(folder.iterdir()) - {folder / name for name in files}:
        path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def as_rst(lines):
    """A docstring's lines as reStructuredText, of which its authors need to know nothing."""
    blocks, before = [], ""
    for block in "\n".join(lines).split("\n\n"):
        if block.startswith("    ") and before[:1].strip():
            # Code, indented under a paragraph.
            blocks += ["::", block]
        elif len(re.findall(r"^\S.*? {2,}\S", block, re.M)) > 2:
            # Columns.
            blocks += [".. code-block:: text", re.sub("^", "    ", block, flags=re.M)]
        elif block.startswith(">>> "):
            blocks.append(block)
        else:
            # |x| is no substitution, and * multiplies.
            parts = re.split(r"(`[^`]*`)", block)
            parts[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[::2]]
            blocks.append("".join(parts))
            before = block
    return "\n\n".join(blocks).split("\n")


# What stands in place of a colon that napoleon must not take for the end of a type.
COLON = "\ue000"


def before_napoleon(app, what, name, obj, options, lines):
    """Gives fields the types that their class gives them, and lets napoleon find no others."""
    lines[:] = as_rst(lines)
    types = {field: ast.unparse(node.annotation) for field, node in fields(obj, what)}
    section = "Returns:" if what == "property" else ""
    for number, line in enumerate(lines):
        if re.fullmatch(r"[A-Z]\w+:", line):
            section = line
        elif section in {"Returns:", "Yields:"}:
            lines[number] = line.replace(":", COLON)
        elif section == "Attributes:":
            match = re.match(r"( +)(\w+)(:.*)", line)
            if match and match[2] in types:
                lines[number] = f"{match[1]}{match[2]} ({types[match[2]]}){match[3]}"


def after_napoleon(app, what, name, obj, options, lines):
    """Puts colons back, and each field's type beside its name, not beneath its description."""
    text = "\n".join(lines).replace(COLON, ":")
    field = r"(\.\. attribute:: \w+\n)((?:(?!\.\. ).*\n)*?) +:type: (.*)\n"
    lines[:] = re.sub(field, r"\1   :type: \3\n\2", text).split("\n")


def located(obj):
    """The node that defines a function or class; None where the source has none."""
    obj = inspect.unwrap(obj)
    if not obj.__module__.startswith("genmod."):
        return None
    node = source(obj.__module__)
    for name in obj.__qualname__.split("."):
        kinds = ast.FunctionDef | ast.ClassDef
        node = next((n for n in node.body if isinstance(n, kinds) and n.name == name), None)
        if node is None:
            return None
    return node


def fields(kind, what="class"):
    """(name, node) of each field of a NamedTuple or dataclass."""
    node = located(kind) if what == "class" else None
    for part in node.body if node else []:
        if isinstance(part, ast.AnnAssign) and not part.target.id.startswith("_"):
            yield part.target.id, _Unquoted().visit(part)


class _Unquoted(ast.NodeTransformer):
    """Annotations that are written as strings."""

    def visit_Subscript(self, node):
        """The strings in Literal are strings, and what Annotated adds is for programs."""
        name = ast.unparse(node.value).split(".")[-1]
        if name == "Annotated":
            return self.visit(node.slice.elts[0])
        return node if name == "Literal" else self.generic_visit(node)

    def visit_AnnAssign(self, node):
        """A default is no annotation."""
        return ast.AnnAssign(node.target, self.visit(node.annotation), node.value, node.simple)

    def visit_Constant(self, node):
        """A string is the annotation that stands in it."""
        if not isinstance(node.value, str):
            return node
        return self.visit(ast.parse(node.value, mode="eval").body)


def signature(app, what, name, obj, options, old, returns):
    """The signature as written. That of a record has no types where its attributes have them."""
    if what in {"class", "exception"}:
        return old and (class_signature(obj), None)
    node = located(obj) if what in {"function", "method"} else None
    if not isinstance(node, ast.FunctionDef):
        return None
    returns = node.returns and _Unquoted().visit(copy.deepcopy(node.returns))
    return function_signature(node), returns and ast.unparse(returns)


def function_signature(node):
    """The arguments in brackets, without self."""
    arguments = copy.deepcopy(node.args)
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg) and argument.annotation:
            argument.annotation = _Unquoted().visit(argument.annotation)
    return f"({re.sub(r'^(self|cls)(, )?', '', ast.unparse(arguments))})"


def class_signature(kind):
    """Fields, or the arguments of __init__, or nothing."""
    node = located(kind)
    own = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
    if "__init__" in own:
        return function_signature(own["__init__"])
    if not (hasattr(kind, "_fields") or hasattr(kind, "__dataclass_fields__")):
        return ""
    documented = re.findall(r"^ +(\w+):", inspect.getdoc(kind).partition("Attributes:")[2], re.M)
    parts = []
    for name, part in fields(kind):
        text = name if name in documented else f"{name}: {ast.unparse(part.annotation)}"
        parts.append(text + (f"={ast.unparse(part.value)}" if part.value else ""))
    return f"({', '.join(parts)})"


def skip(app, what, name, obj, skipped, options):
    """Leaves out fields: their class's Attributes describe them."""
    shown = callable(obj) or isinstance(obj, property | classmethod)
    return True if what in {"class", "exception"} and not shown else None


def alias(app, env):
    """What a room only hands on is the same as where it comes from: a link has one end."""
    objects = env.get_domain("py").objects
    for module in (f"genmod.{room}" for room in rooms()):
        for where, names in offered(module):
            for full in (f"{module}.{name}" for name in names if _foreign(where, module)):
                objects[full] = objects[full]._replace(aliased=True)


def _foreign(where, module):
    return where != module and not where.startswith(f"{module}.")


def resolve(app, env, node, content):
    """Links names as docstrings and signatures have them: `train.run`, `Key`."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    # Sphinx takes a word of genmod.types for a class and finds data.
    for name in (target, f"genmod.{target}", f"genmod.types.{target}"):
        if name in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    return None


def included(app, path, parent, content):
    """README and its like, whose links start from where they lie, and which name rooms."""
    place, here = Path(app.srcdir, path).resolve(), Path(app.env.doc2path(app.env.docname)).parent

    def link(match):
        text, target = match.groups()
        if (place.parent / target).is_dir():
            return text[1:-1]
        if (here / target).exists() or not (place.parent / target).exists():
            return match[0]  # a page, or no file
        # A file of the repository, which Sphinx puts beside the pages.
        return f"{text}({os.path.relpath(place.parent / target, here)})"

    text = re.sub(r"(!?\[[^\]]*\])\(([^)#:]+)\)", link, content[0])
    names = "|".join(rooms())
    content[0] = re.sub(rf"(?<!`)`(genmod\.(?:{names}))`", r"{py:mod}`\1`", text)


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
    """Called by Sphinx."""
    app.connect("config-inited", write)
    app.connect("include-read", included)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    app.connect("env-updated", alias)
    app.connect("missing-reference", resolve)
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
