"""The command `genmod`.

Exit codes: 0 done, 1 a bug or a disk that takes no more, 2 usage or configuration (also a run
folder in use), 3 bad data, 4 training diverged, 5 checkpoint damaged, 6 another process of the run
is gone, 130 Ctrl-C, 143 SIGTERM. `genmod verify`: 0 every bit agrees, 1 something differs.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import operator
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genmod._host import lock, startup, terminal
from genmod._host.stop import Stop
from genmod.cli import commands
from genmod.runs import catalogue

_FAILED, _USAGE, _BAD_DATA, _DIVERGED, _BAD_CHECKPOINT = 1, 2, 3, 4, 5
_TOO_EARLY = (
    "{} starts JAX while its flags are read, and its devices cannot be chosen any more "
    "(make keys and arrays in build(config); genmod.checks.seed checks a seed):"
)
_CODES = {"DiskError": _FAILED, "DataError": _BAD_DATA, "CheckpointError": _BAD_CHECKPOINT}


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
    """Trains an experiment; the flags come from its Config."""
    if not _of_several(arguments):
        for path in _named_run_dirs(arguments):  # before the imports: those take a second
            lock.refuse_running(path)
    if Path(name).is_dir():
        name, arguments = _of_pictures(name, arguments)
    from genmod import devices, experiment
    from genmod._host import cluster, machine, source
    from genmod.runs import configs, record, runner
    from genmod.train import NonFiniteError

    file = catalogue.find(name)
    startup.configure_compilation_cache()
    startup.configure_gpu()  # before the experiment's own code: it may start JAX
    ready = startup.started()
    module = catalogue.load(file)
    config, options = _parse(module, file.stem, arguments)
    too_early = _TOO_EARLY.format(file) if startup.started() and not ready else ""
    written = configs.as_json(config)  # before any work: what cannot be kept is refused
    path = options.run_dir or Path("runs") / file.stem / configs.name(config, options.seeds)
    several = _of_several(arguments)
    most = min(machine.cores(), startup.forced_devices() or machine.cores())
    cores = 1 if several or options.debug else devices.evenly(options.seeds, most)
    if several and too_early:
        raise ValueError(f"{too_early} several processes must be joined before")
    startup.divide_cpu(options.devices or cores)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set(GENMOD_DATA_GB=options.data_gb, GENMOD_WORKERS=options.workers))
        if several:
            given = (options.coordinator, options.num_processes, options.process_id)
            stack.enter_context(cluster.joined(*given))
        else:
            lock.refuse_running(path)
        chosen = startup.choose_devices(options.devices, cores, too_early)
        if too_early and chosen[0].platform == "cpu" and len(chosen) < cores:
            print(f"note: {too_early} the seeds share one", file=sys.stderr)
        built = experiment.over(
            module.build(config),
            config.seed,
            options.seeds,
            chosen,
            options.how,
        )
        runner.check(built, config.seed)  # before there is a folder
        path = _of_its_own(path, options.run_dir, built.dataset.fingerprint)
        folder, leads = record.Folder(path), cluster.leads()
        if leads:
            record.refuse_foreign(folder)
            stack.enter_context(lock.held(path))
            folder, remarks = record.open_folder(
                path,
                experiment=file.stem,
                source=source.of(module),
                config=written,
                fingerprint=built.dataset.fingerprint,
                test_fingerprint=getattr(built.test, "fingerprint", ""),
                command=shlex.join(["genmod", "train", name, *arguments]),
                seeds=options.seeds,
                protocol=_protocol(config, built),
                kind=type(config),
                classes=built.dataset.classes,
            )
            for remark in remarks:
                print(f"note: {remark}", file=sys.stderr)
        stop = stop or Stop()
        try:
            outcome = runner.run(
                built,
                folder,
                seed=config.seed,
                log_every=options.log_every,
                checkpoint_every=options.checkpoint_every,
                keep=options.keep,
                compiled=not options.debug,
                progress=options.progress,
                stop=stop,
            )
        except NonFiniteError as error:
            if leads:
                print(
                    f"genmod: error: {error}, in {folder.checkpoints}; to look at it: "
                    f"genmod replay {shlex.quote(str(path))} --step {error.step}",
                    file=sys.stderr,
                )
            return _DIVERGED
    if outcome.signal is not None:
        if leads:
            print(stop.saved_at(outcome.step))
        return 128 + outcome.signal
    return 0


def _of_its_own(path: Path, asked: Path | None, fingerprint: str) -> Path:
    """The run folder: another, where that name is of a run on other data and nobody asked for it.

    Data are named by the last part of where they lie.
    """
    from genmod._host import cluster
    from genmod.runs import record

    with contextlib.suppress(ValueError):  # what is wrong with the folder is said later
        there = record.read(record.Folder(path))["data"]
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


def main(arguments: Sequence[str] | None = None, stop: Stop | None = None) -> None:
    """Runs the command and exits with its code; `stop` listens to signals already."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    is_result = arguments[:1] != ["train"]
    with terminal.guarded(is_result=is_result), stop or Stop(arguments) as stop:
        try:
            try:
                code = _dispatch(arguments, stop)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except Exception as error:
            code = _explain(error, "--debug" in arguments)
    if "genmod._host.cluster" in sys.modules and sys.modules["genmod._host.cluster"].broken():
        sys.stderr.flush()
        os._exit(code)  # the orderly way waits for the other processes
    sys.exit(code)


def _dispatch(arguments: list[str], stop: Stop) -> int:
    # `train` is parsed in two steps: the experiment's file says which flags there are.
    if arguments[:1] == ["train"] and arguments[1:] and not arguments[1].startswith("-"):
        return train(arguments[1], arguments[2:], stop)
    return _parse_command({"train": _train_help}, arguments)


def _parse_command(train: dict[str, Callable[..., int]], arguments: list[str]) -> int:
    known = {**train, **commands.COMMANDS, "completion": completion}
    choices = _choice(
        Annotated[
            Any,
            tyro.conf.subcommand(
                name=name,
                constructor=function,
                description=_description(name, function, arguments),
            ),
        ]
        for name, function in known.items()
    )
    return tyro.cli(
        choices,
        args=arguments,
        prog="genmod",
        description="Generative modelling in JAX: `genmod COMMAND --help` says more of each.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def _choice(alternatives: Iterable[Any]) -> Any:
    """The type of what is one of several."""
    return functools.reduce(operator.or_, alternatives)


def _description(name: str, function: Callable[..., int], arguments: Sequence[str]) -> str | None:
    """A line for the list of commands; None where its own help has the whole docstring."""
    line = (function.__doc__ or "").partition("\n")[0]
    if arguments[:1] != [name]:
        return line
    if function is not _train_help:
        return None
    return f"{line}\n\nThere is: {', '.join(catalogue.files()) or 'none'}."


def _train_help(
    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")],
) -> int:
    """Trains an experiment: `genmod train EXPERIMENT --help` lists its flags.

    Args:
      experiment: a Python file, or the name of one in ./experiments or of those that come with
        genmod; or a folder of pictures of your own, for which a model and its size are chosen.
    """
    return train(experiment, [])


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "tcsh"], tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")
    ],
) -> int:
    """Prints what makes a shell complete commands, the names of experiments, their flags.

    For bash: `genmod completion bash > ~/.local/share/bash-completion/completions/genmod`.

    Args:
      shell: bash, zsh or tcsh.
    """
    found: dict[str, Any] = {}
    for name in catalogue.names():
        with contextlib.suppress(Exception, SystemExit):  # any Python file, which may not load
            found[name] = _options(catalogue.load(catalogue.find(name)))
    if not found:
        return _print_completion(shell, _train_help)
    if len(found) == 1:  # tyro wants a choice; the file itself is one
        found |= {str(catalogue.find(name)): options for name, options in found.items()}
    choices = _choice(
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=options)]
        for name, options in found.items()
    )

    def train_one(experiment: choices) -> int:  # pyrefly: ignore
        return 0

    return _print_completion(shell, train_one)


def _print_completion(shell: str, train: Callable[..., int]) -> int:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        _parse_command({"train": train}, ["--tyro-print-completion", shell])
    # Where nothing fits, as for run folders, bash shall complete the names of files.
    print(printed.getvalue().replace("complete -F", "complete -o default -F"), end="")
    return 0


def _parse(module: Any, name: str, arguments: Sequence[str]) -> tuple[Any, RunOptions]:
    from genmod.runs import configs

    configs.check_defaults(module.Config)  # tyro would say less of them
    return tyro.cli(
        _options(module),
        args=list(arguments),
        prog=f"genmod train {name}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _options(module: Any) -> Callable[..., tuple[Any, RunOptions]]:
    """What tyro makes the flags of an experiment of."""

    def options(config: module.Config, run: RunOptions) -> tuple[Any, RunOptions]:
        return config, run

    return options


def _explain(error: Exception, debug: bool) -> int:
    """Prints an error for the person at the terminal and gives its exit code."""
    problem = startup.missing_platform(error) if "jax" in sys.modules else None
    if problem and not debug:
        print(f"genmod: error: {problem}", file=sys.stderr)
        return _USAGE
    # By name: whoever has not imported their modules, which takes a second, has not raised them.
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("genmod.")]
    known = [_CODES[name] for name in names if name in _CODES]
    code = known[0] if known else _USAGE
    # A refusal of ours speaks for itself. An error from elsewhere, such as an experiment's own
    # code, is a bug that somebody has to find.
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1]) if frames else True
    expected = (isinstance(error, ValueError) or bool(known)) and ours
    if debug or not (expected or isinstance(error, OSError)):
        traceback.print_exception(error)
        return code if expected or isinstance(error, OSError) else _FAILED
    print(f"genmod: error: {error}", file=sys.stderr)
    return code
