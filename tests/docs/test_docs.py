"""The documentation builds without a warning or a network, and shows all that genmod offers."""

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import genmod

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "genmod"

# Sphinx as `make docs` calls it, in a process that no socket leaves.
BUILD = """
import socket, sys

def refuse(*args, **kwargs):
    raise OSError("the documentation must build without a network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    html = folder / "html"
    options = ["-q", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    # The tests' own settings of JAX are no matter of the documentation.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *options, str(ROOT / "docs"), str(html)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return html


@pytest.fixture(scope="module")
def pages(built):
    found = {str(path.relative_to(built)): path.read_text() for path in built.rglob("*.html")}
    assert len(found) > 30
    return found


@pytest.fixture(scope="module")
def inventory(built):
    """Each name that has an entry -> the page it is on."""
    from sphinx.util.inventory import InventoryFile

    data = InventoryFile.loads((built / "objects.inv").read_bytes(), uri="").data
    return {
        name: item.uri.partition("#")[0]
        for kind, items in data.items()
        if kind.startswith("py:")
        for name, item in items.items()
    }


def packages():
    """What is directly in genmod and public."""
    names = {path.stem for path in PACKAGE.glob("*.py")}
    names |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted(name for name in names - {"cli"} if not name.startswith("_"))


@functools.cache
def defined(module):
    """The public functions and classes that a module defines itself."""
    body = ast.parse(Path(module.__file__).read_text()).body
    kinds = ast.FunctionDef | ast.ClassDef
    return [n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")]


def test_every_package_has_a_page(inventory):
    assert set(packages()) > {"rng", "vae", "gan", "train", "data", "runs"}
    for name in packages():
        assert inventory[f"genmod.{name}"] == f"api/genmod/{name}/index.html"


def test_every_public_name_has_an_entry_on_the_page_of_its_package(inventory):
    for package in packages():
        module = importlib.import_module(f"genmod.{package}")
        for name in getattr(module, "__all__", None) or defined(module):
            if f"{package}.{name}" != "data.DataError":  # it stands among the errors
                page = inventory[f"genmod.{package}"]
                assert inventory.get(f"genmod.{package}.{name}") == page, name
    assert "genmod.vae.Vae.encode" in inventory
    assert "genmod.gan.Penalty.of" in inventory


def test_docstrings_are_rendered(pages):
    for name, page in pages.items():
        if name.startswith("api/"):
            # Sections that were understood have their colon in an element of its own.
            page = re.sub(r'<span class="colon">:</span>|<pre>.*?</pre>', "", page, flags=re.DOTALL)
            text = re.sub(r"<[^>]+>", "", page)
            left = re.search(r"\b(Args|Parameters|Returns|Raises|Attributes|Yields):.*", text)
            assert left is None, (name, left)
            for wrong in ("Alias for field number", " object at 0x", "&lt;function", "``"):
                assert wrong not in text, name
    make = (
        pages["api/genmod/vae/index.html"]
        .partition('id="genmod.vae.make"')[2]
        .partition("</dl>\n</dd>")[0]
    )
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", make))
    for part in ("latent_dim: int", "Likelihood = bernoulli", "number of latent"):
        assert part in words
    for field in ("Parameters", "Raises"):
        assert f"{field}<span" in make


def test_every_notebook_is_a_page_with_its_outputs(pages):
    notebooks = list((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        assert "<img" in pages[f"notebooks/{path.stem}.html"]


def test_readme_and_its_like_are_pages_with_pictures_and_links(pages, built):
    readme = (ROOT / "README.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert pictures
    for picture in pictures:
        assert (built / "_images" / Path(picture).name).exists(), picture
    for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", readme):
        if link.endswith(("ipynb", "md")):
            page = Path(link).with_suffix(".html").as_posix().removeprefix("docs/")
            assert f'href="{page}"' in pages["index.html"], link
    assert "Unreleased" in pages["CHANGELOG.html"]
    assert "Measured" in pages["performance.html"]
    assert "stacked_mnist" in pages["experiments/README.html"]


class Resources(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "link" and attrs.get("rel") not in {"canonical", "author", "license"}:
            self.found.append(attrs.get("href"))
        elif tag in {"script", "img", "iframe", "source", "video", "audio", "embed"}:
            self.found.append(attrs.get("src"))


def test_nothing_is_fetched_from_elsewhere(pages, built):
    for name, page in pages.items():
        parser = Resources()
        parser.feed(page)
        assert parser.found
        for url in filter(None, parser.found):
            assert not re.match(r"(https?:)?//", url), (name, url)
            if not url.startswith(("data:", "#")):
                file = (built / name).parent / url.partition("?")[0].partition("#")[0]
                assert file.exists(), (name, url)
    for path in built.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path


def test_formulas_need_no_script(pages):
    with_formulas = [page for page in pages.values() if "<math" in page]
    assert with_formulas
    assert not any("mathjax" in page.lower() for page in pages.values())
    assert genmod.__version__ in pages["index.html"]


def test_make_builds_it_with_warnings_as_errors():
    done = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"sphinx-build .*-W", done.stdout)
