"""The table of docs/reliability.md names the tests that are marked with its numbers.

`python tests/docs/test_reliability.py` writes the marks into the table.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\| (\d+) \| (.*) \| (.*) \| ?(.*) ?\|$", re.MULTILINE)


def marked():
    """The tests of each number, by file and name."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for decorator in getattr(node, "decorator_list", ()):
                if ast.unparse(decorator).startswith("pytest.mark.reliability("):
                    name = f"{path.relative_to(ROOT / 'tests').as_posix()}::{node.name}"
                    for number in decorator.args:
                        known = found.setdefault(number.value, [])
                        known += [name] * (name not in known)
    return found


def written():
    """The page, with the tests of each row as they are marked."""
    tests = marked()

    def row(match):
        named = ", ".join(f"`{name}`" for name in tests.get(int(match[1]), ())) or "-"
        return f"| {match[1]} | {match[2]} | {match[3]} | {named} |"

    return ROW.sub(row, TABLE.read_text())


def test_the_table_is_that_of_the_marks():
    assert TABLE.read_text() == written(), "run python tests/docs/test_reliability.py"


def test_every_mark_has_a_row_and_every_row_a_test():
    numbers = [int(match[0]) for match in ROW.findall(TABLE.read_text())]
    assert len(numbers) == len(set(numbers)) > 30
    # Saves in the background are not offered: there is nothing to test.
    assert set(numbers) - {2} == set(marked())


if __name__ == "__main__":
    TABLE.write_text(written())
