"""Every notebook runs from top to bottom, unedited, and is committed with what it printed and drew.

`python tests/docs/test_notebooks.py NOTEBOOK...` runs notebooks and writes their outputs into them.
"""

import base64
import io
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Numbers of steps, and fewer in their place: the notebooks as they stand run in `make test-all`.
FEWER = {
    "num_epochs=3": "num_epochs=1",
    "num_steps=1200": "num_steps=400",
    "num_steps=1800": "num_steps=300",
    "num_steps=2400": "num_steps=300",
    "num_steps=3000": "num_steps=1000",
    "num_samples=20)": "num_samples=2)",
    '"num_temperatures": 500': '"num_temperatures": 100',
    ", 1200)": ", 300)",
    ", 2400)": ", 300)",
    "num_steps=500": "num_steps=100",
}
# Those whose parts are tried by other tests of `make test-end-to-end`.
SLOWEST = {
    *("00_the_article", "03_gan_on_a_ring", "04_seeds_and_error_bars", "05_many_devices"),
    "07_evaluate_any_model",
}
LARGEST = 300_000  # bytes: what a reader waits for, and what a repository keeps of every change
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+|[A-Z]:\\\w")


def executed(path, shortened=False):
    """The notebook with fresh outputs, without what differs from machine to machine."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells if shortened else ():
        for steps, fewer in FEWER.items():
            cell.source = cell.source.replace(steps, fewer)
    metadata = dict(notebook.metadata)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=240, resources=resources, record_timing=False).execute()
    notebook.metadata = nbformat.from_dict(metadata)
    return notebook


def with_small_pictures(notebook):
    """The notebook, its pictures with 64 colours: a third of the bytes, to the eye the same."""
    for output in outputs(notebook):
        found = output.get("data", {})
        if "image/png" in found:
            picture = Image.open(io.BytesIO(base64.b64decode(found["image/png"]))).convert("RGB")
            small = io.BytesIO()
            picture.quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
            found["image/png"] = base64.b64encode(small.getvalue()).decode()
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def complaints(notebook):
    """What a reader of the notebook on the web would miss or should not see."""
    found = outputs(notebook)
    text = [str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in found]
    return [
        complaint
        for complaint, holds in {
            "no pictures": not any("image/png" in o.get("data", {}) for o in found),
            "nothing printed": not any(o.output_type == "stream" for o in found),
            "an error": any(o.output_type == "error" for o in found),
            "a warning": any(o.get("name") == "stderr" for o in found),
            "a path of the machine": any(map(MACHINE_PATH.search, text)),
        }.items()
        if holds
    ]


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02}" for i in range(9)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert complaints(notebook) == []
    assert path.stat().st_size < LARGEST
    assert notebook.metadata.kernelspec.name == "python3"
    run = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert run == list(range(1, len(run) + 1)), "run from top to bottom, in one go"


@pytest.mark.parametrize(
    ("path", "shortened"),
    [
        pytest.param(
            path,
            shortened,
            marks=[pytest.mark.slow] * (not shortened or path.stem in SLOWEST),
            id=f"{path.stem}{'' if shortened else ' whole'}",
        )
        for path in NOTEBOOKS
        for shortened in (True, False)
    ],
)
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("default")  # the kernel is a process of its own, outside our rules
def test_notebook_runs(path, shortened, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    assert complaints(executed(path, shortened)) == []


def test_what_is_shortened_is_there():
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    code = "".join(cell.source for notebook in notebooks for cell in notebook.cells)
    assert all(steps in code for steps in FEWER)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[]), "an error"),
        (nbformat.v4.new_output("stream", name="stderr", text="slow"), "a warning"),
        (
            nbformat.v4.new_output("stream", text="kept in /home/somebody/data.npz"),
            "a path of the machine",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_reader_should_not_see_is_found(output, complaint):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    notebook.cells[1].outputs = [output]
    assert complaints(notebook) == [complaint]
    notebook.cells = notebook.cells[:1]
    assert complaints(notebook) == ["no pictures", "nothing printed"]


if __name__ == "__main__":
    os.environ.pop("XLA_FLAGS", None)
    for name in sys.argv[1:]:
        nbformat.write(with_small_pictures(executed(Path(name))), name)
