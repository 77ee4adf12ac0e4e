"""The language of docstrings: what CONTRIBUTING.md asks for, as far as it can be counted."""

import ast
import re
from pathlib import Path

import pytest

import genmod

PACKAGE = Path(genmod.__file__).parent
FILES = [*sorted(PACKAGE.rglob("*.py")), *sorted((PACKAGE.parent / "experiments").rglob("*.py"))]
OPENERS = {"What", "Where", "How", "Which", "That", "Those", "Of", "As", "Whose", "Who"}
MOST_WORDS = 9.0


def documented(path):
    """Each docstring of a file with its line, those below a field or a constant among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", [])
        for child in body if isinstance(body, list) else ():
            value = getattr(child, "value", None) if isinstance(child, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield child.lineno, value.value


def first_line(doc):
    return doc.strip().partition("\n")[0]


def entries(doc):
    """The entries of a docstring's Args and Attributes: name and text."""
    found = re.search(r"\n\s+(?:Args|Attributes):\n(.*?)(?=\n\s*\n|\Z)", doc, re.DOTALL)
    sections = re.findall(r"^( +)(\*{0,2}\w+): (.*)$", found[1], re.MULTILINE) if found else []
    least = min((len(indent) for indent, _, _ in sections), default=0)
    return [(name, text) for indent, name, text in sections if len(indent) == least]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_docstrings_open_with_a_verb_or_a_noun(path):
    for line, doc in documented(path):
        assert first_line(doc).split()[0] not in OPENERS, f"{path}:{line}"
        for name, text in entries(doc):
            assert not re.match(r"(of|from|in|at|by|for|as) ", text), f"{path}:{line} {name}"


def test_first_lines_are_short():
    lengths = [len(first_line(doc).split()) for path in FILES for _, doc in documented(path)]
    assert sum(lengths) / len(lengths) <= MOST_WORDS
