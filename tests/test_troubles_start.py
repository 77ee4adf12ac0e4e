"""Starting as people start: a plain shell, which has none of the tests' variables."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, Ended, refused

from genmod import checks, rng

SHIPPED = Path(__file__).parents[1] / "experiments"
EARLY = (
    "    def __post_init__(self):\n",
    "    def __post_init__(self):\n        rng.root(self.seed)\n",
)
OURS = ("XLA_", "JAX_", "GENMOD_", "TF_")
"""How the variables begin that tests set, and a shell does not."""


@pytest.fixture
def shell(place, tmp_path):
    """The environment of a plain shell; compiled programs are not kept among the user's."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**plain, "GENMOD_CACHE_DIR": str(place / "cache"), "COLUMNS": "200"}


@pytest.fixture
def plainly(shell, tmp_path):
    """Runs a line of bash in a plain shell, in a folder of its own; $GENMOD is the command."""

    def run(command, **variables):
        environment = {**shell, "GENMOD": f"{sys.executable} -m genmod", **variables}
        shell_command = ["bash", "-c", command]
        done = subprocess.run(shell_command, cwd=tmp_path, env=environment, capture_output=True)
        out, err = (said.decode(errors="replace") for said in (done.stdout, done.stderr))
        return Ended(done.returncode, out, err)

    return run


def recorded(folder):
    return json.loads((folder / "record.json").read_text())


# Case 2: what only parses starts nothing.

PARSING = """
import contextlib, io, sys
from pathlib import Path
from jax._src import xla_bridge
from genmod import cli, experiment

for path in map(Path, sys.argv[1:]):
    module = experiment.load(path)
    assert not xla_bridge.backends_are_initialized(), f"{path} starts JAX when it is imported"
    config, options = cli._parse(module, path.stem, ["--seed", "3"])
    assert config.seed == 3
    assert not xla_bridge.backends_are_initialized(), f"{path} starts JAX for its flags"
    for arguments in (["--help"], ["--seed", "-1"], ["--epochs", "0"]):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with contextlib.suppress(SystemExit, ValueError):
                cli._parse(module, path.stem, arguments)
        assert not xla_bridge.backends_are_initialized(), f"{path} starts JAX for {arguments}"
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main(["completion", "bash"])
assert not xla_bridge.backends_are_initialized(), "completion starts JAX"
"""


def test_02_what_only_parses_never_starts_jax(shell, tmp_path):
    files = [str(path) for path in [*sorted(SHIPPED.glob("*.py")), SMALL]]
    command = [sys.executable, "-c", PARSING, *files]
    done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_02_a_seed_is_checked_without_a_key(seed):
    assert checks.seed("seed", seed) == seed


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "1", None])
def test_02_what_is_no_seed_is_refused(seed):
    for refuse in (lambda: checks.seed("seed", seed), lambda: rng.root(seed)):
        with pytest.raises(ValueError, match=r"seed must be a whole number in \[0, 2\*\*32\), got"):
            refuse()


TINY = "--epochs 1 --batch-size 2000 --hidden 8 --no-progress --run-dir run"


@pytest.mark.end_to_end
@pytest.mark.parametrize("flags", ["--devices 2", "--devices 2 --how pmap", "--seeds 2"])
def test_02_a_shipped_experiment_uses_the_devices_that_readme_promises(plainly, tmp_path, flags):
    if "seeds" in flags and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("seeds are spread over the cores, and here is one")
    ended = plainly(f"$GENMOD train {SHIPPED / 'mixtures.py'} {TINY} {flags}")
    assert (ended.code, ended.err) == (0, "")
    assert [start["devices"] for start in recorded(tmp_path / "run")["starts"]] == [2]


@pytest.mark.end_to_end
def test_02_two_processes_of_a_shipped_experiment_are_one_run(plainly, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = f"$GENMOD train {SHIPPED / 'mnist_vae.py'} {TINY} --num-processes 2 "
    command += f"--coordinator localhost:{port} --process-id"
    ended = plainly(f"{command} 1 & {command} 0; code=$?; wait $! && exit $code")
    assert ended.code == 0, ended
    assert ended.out.count("a new run of") == 1
    assert [start["devices"] for start in recorded(tmp_path / "run")["starts"]] == [2]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--devices 2",
            "devices must be at most 1 here, got 2: early.py starts JAX while its flags",
        ),
        (
            "--coordinator localhost:1 --num-processes 2 --process-id 0",
            "early.py starts JAX while its flags are read",
        ),
    ],
)
def test_02_an_experiment_that_starts_jax_too_early_is_named(plainly, tmp_path, flags, said):
    early = SMALL.read_text().replace(*EARLY).replace("import checks", "import rng, checks")
    (tmp_path / "early.py").write_text(early)
    refused(plainly(f"$GENMOD train early.py --run-dir run {flags}"), 2, said, "checks.seed")
    assert not (tmp_path / "run").exists()
