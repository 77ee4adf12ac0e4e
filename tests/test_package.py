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
        ("import genmod.cli", {"jax", "flax", "matplotlib", "tensorflow", "tensorflow_datasets"}),
        # What every process that decodes imports.
        ("import genmod.decoding", {"jax", "flax", "PIL", "tensorflow_datasets"}),
        (
            "from genmod import data, evaluate, nets, record, report, rng, train, types, vae",
            {"matplotlib", "tensorflow", "tensorflow_datasets"},
        ),
    ],
)
def test_imports_stay_light(code, absent):
    assert not imported_by(code) & absent


def test_every_room_can_be_reached_from_the_package():
    for room in ("data", "evaluate", "nets", "record", "report", "rng", "train", "types", "vae"):
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


# train, evaluate, vae and gan rest on the base alone (rng, types, checks, devices; train on disk
# too), so that each serves code that genmod never made; the outer rooms use the inner ones, never
# the other way round.
ALLOWED = {
    "rng.py": {"checks", "types"},
    "types.py": set(),
    "decoding.py": {"errors", "machine"},
    "disk.py": set(),
    "errors.py": set(),
    "lock.py": {"disk"},
    "machine.py": set(),
    "stop.py": {"terminal"},
    "terminal.py": {"disk"},
    "checks.py": set(),
    "devices.py": {"types"},
    "nets": {"checks", "devices", "nets", "rng", "types"},
    "vae": {"checks", "rng", "types", "vae"},
    "gan": {"checks", "devices", "gan", "rng", "types"},
    "train": {"checks", "devices", "disk", "rng", "train", "types"},
    "evaluate": {"checks", "devices", "evaluate", "rng", "types"},
    "data": {
        *("caches", "checks", "configs", "data", "decoding", "errors", "machine", "rng"),
        *("source", "types"),
    },
    "report": {"checks", "data", "errors", "evaluate", "report", "rng", "train", "types"},
}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_arrows_run_one_way(room):
    place = PACKAGE / room
    for path in [place] if place.is_file() else place.rglob("*.py"):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("genmod.")}
        rooms -= {name for name in rooms if not list(PACKAGE.glob(f"{name}*"))}
        assert rooms <= ALLOWED[room], path


def test_flax_is_imported_in_one_room_only():
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "nets"):
            continue
        assert not any(name.split(".")[0] == "flax" for name in imports(path)), path


@pytest.mark.parametrize("word", ["np.random", "eval(", "pickle", "shell=True", "yaml.load"])
def test_24_what_must_not_stand_in_the_package(word):
    for path in PACKAGE.rglob("*.py"):
        assert word not in path.read_text().replace("jax.eval", ""), path
