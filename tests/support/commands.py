"""The command `genmod` for the tests: in a process of its own, or in this one."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as orbax

from genmod.cli import main as cli
from genmod.runs import catalogue, configs, record, recorded, runner, several
from genmod.train import NonFiniteError, checkpoint

# Where archives of Fashion-MNIST may lie. Debian has packed them again, without the names in them:
# what is in them is the same, and their sums are not.
FASHION = {
    "originally": (
        os.environ.get("GENMOD_FASHION_MNIST_DIR"),
        Path(__file__).parents[3] / "shared" / "data" / "fashion_mnist",
    ),
    "by Debian": ("/usr/share/datasets/fashion-mnist",),
}
SMALL = Path(__file__).parent / "small_experiment.py"
CONDITIONAL = Path(__file__).parent / "conditional_experiment.py"
FAULTY = Path(__file__).parent / "faulty.py"


def fashion_archives(packed):
    """The folder with the archives of Fashion-MNIST, as packed by one of FASHION."""
    for place in FASHION[packed]:
        if place and (Path(place) / "train-images-idx3-ubyte.gz").is_file():
            return Path(place)
    pytest.skip(
        f"no archives of Fashion-MNIST, packed {packed}: give the folder of the original ones as "
        "GENMOD_FASHION_MNIST_DIR, install Debian's as dataset-fashion-mnist"
    )


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def first_line(self):
        return self.out.splitlines()[0]

    @property
    def message(self):
        """What was said about an error, as one line, without the frame around it."""
        return re.sub(r"[\s─│╭╮╰╯]+", " ", re.sub(r"(?m)^note: .*\n", "", self.err))


def refused(ended, code, *said):
    """Asserts that a command ended with a code and a message that is for people."""
    assert ended.code == code, ended
    assert "Traceback" not in ended.err
    for part in said:
        assert part in ended.message
    assert len(ended.message) < 1000, "a message, not a report"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, with an experiment in ./experiments."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "experiments").mkdir()
    shutil.copy(SMALL, folder / "experiments" / "small.py")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains a run with a condition, once for each.

    They are runs of the conditional experiment, shared by the tests of a module.
    """
    folders = {}

    def train(condition="label"):
        if condition not in folders:
            module = catalogue.load(CONDITIONAL)
            folders[condition] = tmp_path_factory.mktemp("trained") / condition
            config = module.Config(condition=condition)
            recorded.train(module, config, folders[condition], progress=False)
        return folders[condition]

    return train


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where commands in processes of their own keep what they compile: not among the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def environment(cache):
    """What real processes get; no warning goes unseen."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return {
        **inherited,
        "GENMOD_CACHE_DIR": str(cache),
        "PYTHONWARNINGS": "error",
        "COLUMNS": "200",
    }


@pytest.fixture
def shell(cache):
    """The environment of a plain shell."""
    ours = ("XLA_", "JAX_", "GENMOD_", "TF_")  # what tests set, and a shell does not
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**plain, "GENMOD_CACHE_DIR": str(cache), "COLUMNS": "200"}


class Process:
    """`genmod` as a process of its own."""

    def __init__(self, folder, environment, name, *arguments, fault=None):
        """With a fault of `faulty.py`, if one is named."""
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        program = [Path(sys.executable).with_name("genmod")]
        if fault is not None:
            program = [sys.executable, FAULTY, fault]
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                [*program, *arguments],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_for(self, text):
        """Waits until the process has printed this."""
        end = time.monotonic() + 150
        while text not in self._out.read_text() + self._err.read_text():
            assert self._process.poll() is None, self.ended()
            assert time.monotonic() < end, f"did not print {text!r}"
            time.sleep(0.05)

    def send(self, number):
        self._process.send_signal(number)

    def kill(self):
        """Has it gone, if it is still there."""
        self._process.kill()
        self._process.wait()

    def ended(self, timeout=150):
        try:
            code = self._process.wait(timeout)
        finally:
            self.kill()
        return Ended(code, self._out.read_text(), self._err.read_text())


@pytest.fixture(scope="module")
def process(place, environment):
    started = []

    def start(name, *arguments, **options):
        started.append(Process(place, environment, name, *map(str, arguments), **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def genmod(place, environment, monkeypatch, capsys):
    """`genmod` in this process, where a process of its own would show nothing more."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    for name in ("GENMOD_CACHE_DIR", "COLUMNS"):
        monkeypatch.setenv(name, environment[name])
    handlers = {n: signal.getsignal(n) for n in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM)}
    kept = jax.config.jax_persistent_cache_min_compile_time_secs  # the command keeps all programs

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return Ended(ended.value.code, *capsys.readouterr())

    monkeypatch.chdir(place)
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)


@pytest.fixture
def altered(tmp_path):
    """Writes the small experiment with some of its text replaced."""

    def write(*replacements):
        text = SMALL.read_text()
        for old, new in replacements:
            assert text.count(old) == 1, f"{old!r} is not there once"
            text = text.replace(old, new)
        path = tmp_path / "altered.py"
        path.write_text(text)
        return path

    return write


_load, _over_seeds = catalogue.load, several.over_seeds
_many = {}


@functools.cache
def _loaded(path, content):
    module = _load(path)
    module.build = functools.cache(module.build)
    return module


def load_once(path):
    """`experiment.load`, by the file's content, with what it builds: it is compiled but once."""
    content = Path(path).read_bytes()
    return _loaded(SMALL if content == SMALL.read_bytes() else path, content)


def over_seeds_once(built, seed, num):
    """`several.over_seeds`, of what `load_once` has built."""
    key = id(built.learner.step), seed, num
    if key not in _many:
        _many[key] = _over_seeds(built, seed, num)
    return _many[key]


def small_run(path, *, seeds=1, log_every=None, checkpoint_every=None, keep=2, **config):
    """The small experiment, trained into a folder in this process, as far as it gets."""
    module = load_once(SMALL)
    config = module.Config(**config)
    built = module.build(config)
    built = built if seeds == 1 else over_seeds_once(built, config.seed, seeds)
    folder, _ = record.open_folder(
        path,
        experiment="small",
        source=SMALL,
        config=configs.as_json(config),
        fingerprint=built.dataset.fingerprint,
        command="genmod train small",
        seeds=seeds,
    )
    options = {"log_every": log_every, "checkpoint_every": checkpoint_every, "keep": keep}
    # The end's evaluation and pictures are none of a step's.
    built = dataclasses.replace(
        built, evaluate=lambda key, state: {}, figures=lambda key, state: {}
    )
    with contextlib.suppress(NonFiniteError):
        runner.run(built, folder, seed=config.seed, progress=False, **options)
    return folder


def contents(folder):
    """All that a run leaves behind and that must repeat: timings are left out."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row.pop("examples_per_s", 1) > 0
    steps = checkpoint.steps(folder / "checkpoints")
    leaves = _arrays(folder / "checkpoints" / f"{steps[-1]:09d}")
    assert len(leaves) > 10
    evaluation = folder / "evaluation.json"
    return {
        "rows": rows,
        "step": steps[-1],
        "arrays": leaves,
        "evaluation": evaluation.read_text() if evaluation.exists() else None,
        "pictures": {
            str(path.relative_to(folder)): path.read_bytes()
            for path in (folder / "pictures").rglob("*.png")
        },
    }


def _arrays(path):
    """Every array in a checkpoint as bytes, read without any knowledge of what it should hold."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        orbax.metadata(str(path)).metadata,
    )
    leaves = jax.tree_util.tree_leaves_with_path(orbax.load(str(path), target))
    return {jax.tree_util.keystr(name): np.asarray(leaf).tobytes() for name, leaf in leaves}


def assert_same_end(folder, undisturbed):
    """Asserts that a run left behind what one did that nothing disturbed."""
    found, expected = contents(folder), contents(undisturbed)
    for part in expected:
        assert found[part] == expected[part], part
