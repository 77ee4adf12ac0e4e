"""What `import genmod` brings in, and that the house keeps its order."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import genmod

PACKAGE = Path(genmod.__file__).parent


def imported_by(code):
    """The top-level modules that a fresh process has imported after running `code`."""
    code += "\nimport sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import genmod", {"jax", "flax", "matplotlib", "tensorflow", "tensorflow_datasets"}),
        (
            "import genmod.cli.main",
            {"jax", "flax", "matplotlib", "tensorflow", "tensorflow_datasets"},
        ),
        # What every process that decodes imports.
        ("import genmod._host.decoding", {"jax", "flax", "PIL", "tensorflow_datasets"}),
        pytest.param(
            "from genmod import data, evaluate, experiment, nets, report, rng, train, types, vae;"
            "from genmod.runs import record, runner",
            {"matplotlib", "scipy", "sklearn", "tensorflow", "tensorflow_datasets"},
            marks=pytest.mark.end_to_end,
        ),
    ],
)
def test_imports_stay_light(code, absent):
    assert not imported_by(code) & absent


def test_every_room_can_be_reached_from_the_package():
    for room in ALLOWED.keys() - {"__init__", "__main__", "_host", "cli"}:
        assert getattr(genmod, room).__name__ == f"genmod.{room}"
    assert set(dir(genmod)) >= {"vae", "train", "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'vea'"):
        _ = genmod.vea


def imports(path):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


WORDS = {"checks", "devices", "errors", "rng", "types"}
# What a file at the root, or the files of a folder, may import of genmod beside themselves. nets,
# vae, gan, train and evaluate do not import each other, so that each serves code that genmod never
# made; the judges in evaluate alone are nets, and are trained. runs uses vae's density of codes for
# any model.
ALLOWED = {
    "__init__": set(),
    "__main__": {"_host", "cli"},
    "checks": set(),
    "devices": {"types"},
    "errors": set(),
    "rng": {"checks", "types"},
    "types": {"checks"},
    "_host": {"errors"},
    "nets": WORDS,
    "vae": WORDS,
    "gan": WORDS,
    "train": WORDS | {"_host"},
    "data": WORDS | {"_host"},
    "evaluate": WORDS | {"_host", "data", "nets", "train"},
    "report": WORDS | {"data"},
    "experiment": WORDS | {"data", "evaluate", "report", "train"},
    "runs": WORDS | {"_host", "data", "evaluate", "experiment", "report", "train", "vae"},
    "cli": WORDS | {"_host", "data", "experiment", "report", "runs", "train"},
}


def test_every_file_at_the_root_and_every_folder_has_its_place():
    found = {path.stem for path in PACKAGE.glob("*.py")}
    found |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found - {"shipped_experiments"} == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_arrows_run_one_way(room):
    place = PACKAGE / f"{room}.py"
    for path in [place] if place.is_file() else (PACKAGE / room).rglob("*.py"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("genmod.")}
        assert (used & set(ALLOWED)) - {room} <= ALLOWED[room], path


def test_flax_is_imported_in_one_room_only():
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "nets"):
            continue
        assert not any(name.split(".")[0] == "flax" for name in imports(path)), path


@pytest.mark.parametrize("word", ["np.random", "eval(", "pickle", "shell=True", "yaml.load"])
@pytest.mark.reliability(24)
def test_what_must_not_stand_in_the_package(word):
    for path in PACKAGE.rglob("*.py"):
        if (word, path.name) == ("np.random", "_legacy.py"):
            continue  # torch-fidelity's draws, which no other generator repeats
        assert word not in path.read_text().replace("jax.eval", ""), path
