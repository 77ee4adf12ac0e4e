"""`genmod train`: from a command line to a run."""

import contextlib
import dataclasses
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from genmod._host import lock, startup
from genmod._host.stop import Stop
from genmod.runs import catalogue, folder

_DIVERGED = 4
"""Exit code of a training that diverged."""
_TOO_EARLY = (
    "{} starts JAX while its flags are read, and its devices cannot be chosen any more "
    "(make keys and arrays in build(config); genmod.checks.seed checks a seed):"
)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run that change no number of its result."""

    run_dir: Path | None = None
    """Run folder.
    By default runs/EXPERIMENT/ and a name made of the seed and the changed flags.
    The same command continues a run that was stopped."""
    log_every: int | None = None
    """Steps between log points; by default one epoch.
    If an experiment ends by patience or keeps its best state, these are where it decides."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, written at log points; by default five epochs."""
    keep: int = 2
    """Number of checkpoints to keep."""
    seeds: int = 1
    """Number of runs to train as one program.
    They have consecutive seeds; their numbers are given as mean +- standard error."""
    devices: int | None = None
    """Number of devices to use; on a CPU they share its cores.
    By default one. For several seeds on a CPU, the default is the number of its cores,
    or fewer if the seeds cannot be shared evenly.
    If there are several processes, it is the number for each of them, by default all."""
    how: Literal["sharded", "pmap"] = "sharded"
    """Way to divide a batch among several devices.
    sharded: the compiler partitions the program; pmap: one step is mapped over the devices.
    With several seeds, the runs are divided instead."""
    cluster: bool = False
    """Whether to join several processes as the environment (SLURM, GKE, TPU) says."""
    coordinator: str | None = None
    """Address HOST:PORT of the first process, unless the environment tells it."""
    num_processes: int | None = None
    """Number of processes that train the run."""
    process_id: int | None = None
    """Index of this process, from 0."""
    data_gb: float | None = None
    """Most data to keep on the device, in GB.
    By default half of its memory.
    Larger data are streamed: read from their source, some steps ahead."""
    workers: int | None = None
    """Processes that decode streamed pictures; default one per core, 0: this one."""
    progress: bool = True
    """Whether to show a progress bar (without a terminal: each log point)."""
    debug: bool = False
    """Whether to run operations one by one, uncompiled, and show tracebacks."""

    def __post_init__(self):
        from genmod import checks

        for name in ("keep", "seeds"):
            checks.positive_integer(name, getattr(self, name))
        if self.data_gb is not None:
            checks.positive("data_gb", self.data_gb)
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        for name in ("log_every", "checkpoint_every", "devices", "num_processes"):
            if getattr(self, name) is not None:
                checks.positive_integer(name, getattr(self, name))


def train(name: str, arguments: Sequence[str], stop: Stop | None = None) -> int:
    """Trains an experiment and returns the exit code.

    Args:
      name: name or path of the experiment, or a folder of pictures.
      arguments: flags of the experiment's Config and of the run.
      stop: listener to signals; by default the training starts its own.
    """
    several = _of_several(arguments)
    if not several:
        for path in _named_run_dirs(arguments):  # before the imports, which take a second
            lock.refuse_running(path)
    if Path(name).is_dir():
        if name in catalogue.files():
            print(f"note: {name} is the experiment, and not the folder ./{name}", file=sys.stderr)
        else:
            name, arguments = _of_pictures(name, arguments)
    from genmod._host import cluster
    from genmod.runs import configs, naming, recorded

    file = catalogue.find(name)
    startup.configure_compilation_cache()
    startup.configure_gpu()  # before the experiment's own code, which may start JAX
    ready = startup.started()
    module = catalogue.load(file)
    config, options = parse(module, file.stem, arguments)
    too_early = _TOO_EARLY.format(file) if startup.started() and not ready else ""
    if several and too_early:
        raise ValueError(f"{too_early} several processes must be joined before")
    configs.as_json(config)  # refuses, before any work, what cannot be recorded
    cores = _divide_cores(options, several)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set(GENMOD_DATA_GB=options.data_gb, GENMOD_WORKERS=options.workers))
        path = options.run_dir or Path("runs") / file.stem / naming.name(config, options.seeds)
        if several:
            given = (options.coordinator, options.num_processes, options.process_id)
            stack.enter_context(cluster.joined(*given))
        else:
            lock.refuse_running(path)
        chosen = startup.choose_devices(options.devices, cores, too_early)
        if too_early and chosen[0].platform == "cpu" and len(chosen) < cores:
            print(f"note: {too_early} the seeds share one", file=sys.stderr)
        built = _built(module, config, options, chosen)
        path = _of_its_own(path, options.run_dir, built.dataset.fingerprint)
        if cluster.leads():
            command = shlex.join(["genmod", "train", name, *arguments])
            stack.enter_context(
                recorded.opened(path, module, config, built, command=command, seeds=options.seeds)
            )
        return _run(built, path, config.seed, options, stop or Stop())


def _divide_cores(options: RunOptions, several: bool) -> int:
    """Divides a CPU into devices, before JAX starts.

    Returns their default number, for runs that do not choose one.
    """
    from genmod import devices
    from genmod._host import machine

    most = min(machine.cores(), startup.forced_devices() or machine.cores())
    cores = 1 if several or options.debug else devices.evenly(options.seeds, most)
    startup.divide_cpu(options.devices or cores)
    return cores


def _built(module: Any, config: Any, options: RunOptions, chosen: Sequence[Any]) -> Any:
    """Builds the experiment over its seeds and devices.

    It is checked here, before a run folder is made.
    """
    from genmod.runs import runner, several

    built = several.over(module.build(config), config.seed, options.seeds, chosen, options.how)
    runner.check(built, config.seed)
    return built


def _run(built: Any, path: Path, seed: int, options: RunOptions, stop: Stop) -> int:
    """Trains in a run folder; returns the exit code."""
    from genmod._host import cluster
    from genmod.runs import runner
    from genmod.train import NonFiniteError

    run_folder = folder.Folder(path)
    try:
        outcome = runner.run(
            built,
            run_folder,
            seed=seed,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            keep=options.keep,
            compiled=not options.debug,
            progress=options.progress,
            stop=stop,
        )
    except NonFiniteError as error:
        if cluster.leads():
            print(
                f"genmod: error: {error}, in {run_folder.checkpoints}; to look at it: "
                f"genmod replay {shlex.quote(str(path))} --step {error.step}",
                file=sys.stderr,
            )
        return _DIVERGED
    if outcome.signal is None:
        return 0
    if cluster.leads():
        print(stop.saved_at(outcome.step))
    return 128 + outcome.signal


def _of_its_own(path: Path, asked: Path | None, fingerprint: str) -> Path:
    """Returns the run folder, or another if its name is taken.

    Names of folders hold only the last part of the path of data. So the default folder may hold a
    run on other data; then the name gets the fingerprint of the data as a suffix.
    """
    from genmod._host import cluster
    from genmod.runs import record

    with contextlib.suppress(ValueError):  # errors of the folder are reported later
        there = record.read(folder.Folder(path))["data"]
        if asked is None and there != fingerprint:
            own = path.with_name(f"{path.name}_{fingerprint.removeprefix('sha256:')[:8]}")
            if cluster.leads():
                print(f"note: {path} is of other data: this run's folder is {own}", file=sys.stderr)
            return own
    return path


def _of_pictures(folder: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the experiment and the flags for a folder of pictures.

    Prints what was chosen.
    """
    from genmod.cli import pictures

    choice = pictures.choose(folder)
    flags = pictures.arguments(choice, arguments)
    print(f"{folder}: {choice.found}", flush=True)
    print(f"chosen: genmod train {shlex.join([str(choice.experiment), *flags])}", flush=True)
    return str(choice.experiment), flags


@contextlib.contextmanager
def _set(**variables: float | None) -> Iterator[None]:
    """Sets environment variables within a context.

    A variable that is given as None is left unchanged.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: str(value) for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _of_several(arguments: Sequence[str]) -> bool:
    """Returns whether the flags ask for several processes."""
    flags = ("--cluster", "--coordinator", "--num-processes", "--process-id")
    return any(word.replace("_", "-").startswith(flags) for word in arguments)


def _named_run_dirs(arguments: Sequence[str]) -> list[Path]:
    """Returns the values of --run-dir, without parsing the flags.

    The other flags are unknown until the experiment is loaded.
    """
    joined = (
        "\0".join(arguments).replace("--run_dir", "--run-dir").replace("--run-dir=", "--run-dir\0")
    )
    words = joined.split("\0")
    return [Path(after) for word, after in itertools.pairwise(words) if word == "--run-dir"]


def parse(module: Any, name: str, arguments: Sequence[str]) -> tuple[Any, RunOptions]:
    """Parses flags into the Config and the run's options."""
    from genmod.runs import configs

    configs.check_defaults(module.Config)  # with a clearer error than tyro's
    return tyro.cli(
        options_of(module),
        args=list(arguments),
        prog=f"genmod train {name}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def options_of(module: Any) -> Callable[..., tuple[Any, RunOptions]]:
    """Returns the function from which tyro makes an experiment's flags."""

    def options(config: module.Config, run: RunOptions) -> tuple[Any, RunOptions]:
        return config, run

    return options
