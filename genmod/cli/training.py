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
    """How to run, which changes no number of the result."""

    run_dir: Path | None = None
    """Run folder; runs/EXPERIMENT/ and a name made of the seed and the changed flags by default.
    The same command continues where it stopped."""
    log_every: int | None = None
    """Steps between log points; an epoch's by default."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; five epochs' by default."""
    keep: int = 2
    """How many checkpoints to keep."""
    seeds: int = 1
    """How many runs to train as one program: of the seed, the next one, and so on. Their numbers
    are given as mean +- standard error."""
    devices: int | None = None
    """How many devices to use; on a CPU they share its cores. By default one, or for several seeds
    on a CPU as many as there are cores and as share the seeds evenly. Of each process where there
    are several, all by default."""
    how: Literal["sharded", "pmap"] = "sharded"
    """A batch over several devices by a program that the compiler partitions, or by one step mapped
    over them. Seeds are spread by runs."""
    cluster: bool = False
    """Be one of several processes that are one run, as the environment says (SLURM, GKE, TPU)."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, where the environment does not say it."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    data_gb: float | None = None
    """How much data may live on the device, in GB; half of its memory by default. More is streamed:
    read from where it lies, some steps ahead."""
    workers: int | None = None
    """How many processes decode pictures that are streamed; one a core by default. 0: this one."""
    progress: bool = True
    """Show progress: a bar on a terminal, else a line for each log point."""
    debug: bool = False
    """Run every operation on its own, uncompiled, and show tracebacks."""

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
    """Trains an experiment; the flags come from its Config. Returns the exit code."""
    several = _of_several(arguments)
    if not several:
        for path in _named_run_dirs(arguments):  # before the imports: those take a second
            lock.refuse_running(path)
    if Path(name).is_dir():
        name, arguments = _of_pictures(name, arguments)
    from genmod._host import cluster
    from genmod.runs import configs

    file = catalogue.find(name)
    startup.configure_compilation_cache()
    startup.configure_gpu()  # before the experiment's own code: it may start JAX
    ready = startup.started()
    module = catalogue.load(file)
    config, options = parse(module, file.stem, arguments)
    too_early = _TOO_EARLY.format(file) if startup.started() and not ready else ""
    if several and too_early:
        raise ValueError(f"{too_early} several processes must be joined before")
    configs.as_json(config)  # before any work: what cannot be kept is refused
    cores = _divide_cores(options, several)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set(GENMOD_DATA_GB=options.data_gb, GENMOD_WORKERS=options.workers))
        path = options.run_dir or Path("runs") / file.stem / configs.name(config, options.seeds)
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
            folder.Folder(path).refuse_foreign()
            stack.enter_context(lock.held(path))
            command = shlex.join(["genmod", "train", name, *arguments])
            _open_folder(path, file.stem, module, config, options.seeds, built, command)
        return _run(built, path, config.seed, options, stop or Stop())


def _divide_cores(options: RunOptions, several: bool) -> int:
    """Chooses among how many devices a CPU is divided, before JAX starts; returns their number."""
    from genmod import devices
    from genmod._host import machine

    most = min(machine.cores(), startup.forced_devices() or machine.cores())
    cores = 1 if several or options.debug else devices.evenly(options.seeds, most)
    startup.divide_cpu(options.devices or cores)
    return cores


def _built(module: Any, config: Any, options: RunOptions, chosen: Sequence[Any]) -> Any:
    """Builds the experiment over its seeds and devices, and checks it before there is a folder."""
    from genmod import experiment
    from genmod.runs import runner

    built = experiment.over(module.build(config), config.seed, options.seeds, chosen, options.how)
    runner.check(built, config.seed)
    return built


def _open_folder(
    path: Path, name: str, module: Any, config: Any, seeds: int, built: Any, command: str
) -> None:
    """Makes or reopens the run folder, and says what has changed since the run began."""
    from genmod._host import source
    from genmod.runs import configs, record

    _, remarks = record.open_folder(
        path,
        experiment=name,
        source=source.of(module),
        config=configs.as_json(config),
        fingerprint=built.dataset.fingerprint,
        test_fingerprint=getattr(built.test, "fingerprint", ""),
        command=command,
        seeds=seeds,
        protocol=_protocol(config, built),
        kind=type(config),
        classes=built.dataset.classes,
    )
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)


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
    """The run folder: another, where that name is of a run on other data and nobody asked for it.

    Data are named by the last part of where they lie.
    """
    from genmod._host import cluster
    from genmod.runs import record

    with contextlib.suppress(ValueError):  # what is wrong with the folder is said later
        there = record.read(folder.Folder(path))["data"]
        if asked is None and there != fingerprint:
            own = path.with_name(f"{path.name}_{fingerprint.removeprefix('sha256:')[:8]}")
            if cluster.leads():
                print(f"note: {path} is of other data: this run's folder is {own}", file=sys.stderr)
            return own
    return path


def _of_pictures(folder: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The experiment for a folder of pictures, and its flags; says what was chosen."""
    from genmod.cli import pictures

    choice = pictures.choose(folder)
    flags = pictures.arguments(choice, arguments)
    print(f"{folder}: {choice.found}", flush=True)
    print(f"chosen: genmod train {shlex.join([str(choice.experiment), *flags])}", flush=True)
    return str(choice.experiment), flags


@contextlib.contextmanager
def _set(**variables: float | None) -> Iterator[None]:
    """Variables of the environment, as long as this lasts; those that are None stay."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: str(value) for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _protocol(config: Any, built: Any) -> dict[str, Any]:
    """What is done with the data, for the record."""
    from genmod import data

    source = config.protocol() if isinstance(config, data.Source) else {}
    held_out = built.dataset.held_out
    return {
        **source,
        **({"held_out": held_out} if held_out else {}),
        **data.describe(built.batch_at),
    }


def _of_several(arguments: Sequence[str]) -> bool:
    """Whether this is to be one of several processes, by the flags that say so."""
    flags = ("--cluster", "--coordinator", "--num-processes", "--process-id")
    return any(word.replace("_", "-").startswith(flags) for word in arguments)


def _named_run_dirs(arguments: Sequence[str]) -> list[Path]:
    """What stands after --run-dir, without knowing yet what else may stand there."""
    joined = (
        "\0".join(arguments).replace("--run_dir", "--run-dir").replace("--run-dir=", "--run-dir\0")
    )
    words = joined.split("\0")
    return [Path(after) for word, after in itertools.pairwise(words) if word == "--run-dir"]


def parse(module: Any, name: str, arguments: Sequence[str]) -> tuple[Any, RunOptions]:
    """Parses the flags of an experiment into its Config and the options of the run."""
    from genmod.runs import configs

    configs.check_defaults(module.Config)  # tyro would say less of them
    return tyro.cli(
        options_of(module),
        args=list(arguments),
        prog=f"genmod train {name}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def options_of(module: Any) -> Callable[..., tuple[Any, RunOptions]]:
    """What tyro makes the flags of an experiment of."""

    def options(config: module.Config, run: RunOptions) -> tuple[Any, RunOptions]:
        return config, run

    return options
