"""The command `genmod`.

Exit codes: 0 done, 1 a bug or a disk that takes no more, 2 usage or configuration (also a run
folder in use), 3 bad data, 4 training diverged, 5 checkpoint damaged, 6 another process of the run
is gone, 130 Ctrl-C, 143 SIGTERM. `genmod verify`: 0 every bit agrees, 1 something differs.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genmod import lock
from genmod.stop import Stop

_FAILED, _USAGE, _BAD_DATA, _DIVERGED, _BAD_CHECKPOINT = 1, 2, 3, 4, 5
_CODES = {"DiskError": _FAILED, "DataError": _BAD_DATA, "CheckpointError": _BAD_CHECKPOINT}
_CLASSES = 30
"""How many classes a histogram shows."""
_PICTURES = (".png", ".pdf", ".svg")
_SAME_BITS_ON_GPU = (
    "--xla_gpu_exclude_nondeterministic_ops=true",
    "--xla_gpu_autotune_level=0",
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
    """Trains an experiment; the flags come from its Config."""
    if not _of_several(arguments):
        for path in _named_run_dirs(arguments):  # before the imports: those take a second
            lock.refuse_running(path)
    import jax

    from genmod import cluster, devices, experiment, machine, record, runner
    from genmod.train import NonFiniteError

    source = experiment.find(name)
    module = experiment.load(source)
    config, options = _parse(module, source.stem, arguments)
    path = options.run_dir or Path("runs") / source.stem / experiment.default_name(
        config, options.seeds
    )
    configure_compilation_cache()
    configure_gpu()
    several = _of_several(arguments)
    cores = 1 if several or options.debug else devices.evenly(options.seeds, machine.cores())
    with contextlib.suppress(RuntimeError):  # too late where the devices are known already
        if options.devices or cores > 1:
            jax.config.update("jax_num_cpu_devices", options.devices or cores)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set(GENMOD_DATA_GB=options.data_gb, GENMOD_WORKERS=options.workers))
        if several:
            given = (options.coordinator, options.num_processes, options.process_id)
            stack.enter_context(cluster.joined(*given))
        else:
            lock.refuse_running(path)
        leads = cluster.leads()
        built = experiment.over(
            module.build(config),
            config.seed,
            options.seeds,
            choose_devices(options.devices, cores),
            options.how,
        )
        runner.check(built, config.seed)  # before there is a folder
        folder = record.Folder(path)
        if leads:
            record.refuse_foreign(folder)
            stack.enter_context(lock.held(path))
            folder, remarks = record.open_folder(
                path,
                experiment=source.stem,
                source=source,
                config=experiment.config_as_json(config),
                fingerprint=built.dataset.fingerprint,
                command=shlex.join(["genmod", "train", name, *arguments]),
                seeds=options.seeds,
                protocol=_protocol(config, built.batch_at),
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


def _protocol(config: Any, batch_at: Any) -> dict[str, Any]:
    """What is done with the data, for the record."""
    from genmod import data

    source = config.protocol() if isinstance(config, data.Source) else {}
    return {**source, **data.protocol(batch_at)}


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


def sample(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    num: int = 100,
    seed: int = 0,
    index: int = 0,
    out: Path = Path("samples.png"),
) -> int:
    """Draws images from a trained run and writes them as a grid.

    Args:
      run: the run folder.
      num: how many images.
      seed: seed of the draws.
      index: which of the runs, where the folder holds several seeds; the first is 0.
      out: the picture to write.
    """
    import jax

    from genmod import checks, record, report, rng, runner
    from genmod.train import checkpoint, pick

    checks.positive_integer("num", num)
    key = rng.stream(rng.root(seed), "sample")
    _check_picture(out)
    configure_compilation_cache()
    folder = record.Folder(run)
    opened = runner.reopen(folder)
    built, seeds = opened.single, opened.whole.learner.seeds
    checks.index_of_run(index, seeds or 1)
    carry = checkpoint.restore(folder.checkpoints, runner.check(opened.whole, opened.config.seed))
    if seeds is not None:
        carry = pick(carry, index)
    images = jax.jit(built.learner.sample, static_argnums=2)(key, carry.state, num)
    (built.show or report.image_grid)(images).savefig(out)
    print(out)
    return 0


def _check_picture(out: Path) -> None:
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out: the folder {str(out.absolute().parent)!r} does not exist")
    if out.suffix.lower() not in _PICTURES:
        raise ValueError(f"out must end in {', '.join(_PICTURES)}, got {out.name!r}")


def runs(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs"),
) -> int:
    """Lists the runs below a folder, with how far they are and where they stand.

    Args:
      folder: where to look.
    """
    from rich.console import Console
    from rich.table import Table

    from genmod import record

    table = Table("run", "begun", "epoch", "loss", "evaluation", box=None, pad_edge=False)
    for path in sorted(folder.glob("**/record.json")):
        found = record.Folder(path.parent)
        try:
            recorded, rows = record.read(found), record.read_metrics(found)
        except ValueError as error:
            print(f"note: {error}", file=sys.stderr)
            continue
        last = rows[-1] if rows else {"epoch": 0}
        table.add_row(
            str(found.path),
            recorded["created"][:16].replace("T", " "),
            f"{last['epoch']:g} of {recorded['config'].get('epochs', '?')}",
            ", ".join(record.readable(record.losses(last)).values()) or "-",
            ", ".join(
                f"{k} {v}" for k, v in record.readable(record.read_evaluation(found)).items()
            ),
        )
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    else:
        print(f"no runs below {str(folder)!r}")
    return 0


def data(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")],
    split: str = "train",
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
    image_size: int | None = None,
    skip_corrupt: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    num: int = 100,
    out: Path = Path("data.png"),
) -> int:
    """Shows what is in a data set: counts, classes, mean, fingerprint, pictures, speed.

    Args:
      name: mnist, tfds:NAME, idx:FOLDER, npz:FILE, npy:FILE, folder:DIR or call:FILE:F.
      split: train or test, or parts of them such as train[:90%].
      data_dir: folder to read from instead of the usual one.
      manual_dir: folder with the original archives of a data set of tensorflow-datasets.
      image_size: side of the square to which pictures of a folder are resized and cropped.
      skip_corrupt: leave out pictures of a folder that cannot be read, and count them.
      num: how many images to draw, spread over the whole split.
      out: the picture to write.
    """
    import numpy as np

    from genmod import checks, report
    from genmod import data as sets

    checks.positive_integer("num", num)
    _check_picture(out)
    dataset = sets.load(
        name,
        split,
        data_dir=data_dir,
        manual_dir=manual_dir,
        image_size=image_size or None,
        skip_corrupt=skip_corrupt,
    )
    found = sets.summary(dataset)
    configure_compilation_cache()
    places = np.linspace(0, found.num - 1, min(num, found.num)).astype(int)
    report.image_grid(dataset.images[places]).savefig(out)
    batch_size = min(100, found.num)
    batch_at = sets.batches(dataset.images, batch_size=batch_size)
    speed = batch_size * sets.batches_per_second(batch_at)
    where = sets.whereabouts(batch_at)
    values = [", ".join(f"{x:.4f}" for x in each) for each in (found.mean, found.std)]
    rows = {
        "data set": f"{name}, {split}",
        "images": f"{found.num:,}, uint8 {list(found.shape)}, {found.num_bytes / 1e6:,.1f} MB",
        "mean": f"{values[0]} (grey values in [0, 1])",
        "standard deviation": values[1],
        "fingerprint": dataset.fingerprint,
        "in training": where.partition(", ")[2],
        "batches": f"{speed:,.0f} images/s, shuffled",
    }
    _print_table(["", ""], [[key, value] for key, value in rows.items()], right=False)
    most = max(found.counts.values())
    bars = [
        [str(label), f"{count:,}", "#" * max(1, round(40 * count / most))]
        for label, count in list(found.counts.items())[:_CLASSES]
    ]
    _print_table(["class", "images", ""], bars, right=False)
    if len(found.counts) > _CLASSES:
        print(f"and {len(found.counts) - _CLASSES:,} more classes")
    print(out)
    return 0


def replay(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    step: int,
    top: int = 8,
    index: int = 0,
) -> int:
    """Rebuilds one step of a run: its loss example by example, its gradients, who was the cause.

    The step is rebuilt from the nearest checkpoint before it, or from the start. The examples that
    are not finite, or else those of the largest loss, are drawn to RUN/replay/step-K.png.

    Args:
      run: the run folder.
      step: which step, counted from 1, as the log and the error of a run that diverged do.
      top: how many examples to show.
      index: which of the runs, where the folder holds several seeds; the first is 0.
    """
    import numpy as np

    from genmod import checks, record, report
    from genmod import replay as replaying

    checks.positive_integer("top", top)
    configure_compilation_cache()
    again = replaying.step(run, step, index=index)
    origin = f"the checkpoint of step {again.origin:,}" if again.origin else "the start"
    print(f"{run}: step {step:,} of {again.num_steps:,}, rebuilt from {origin}")
    if again.inspection is None:
        _print_table(["metric", "value"], [[n, f"{v:.6g}"] for n, v in again.metrics.items()])
        print("the learner has no inspect: there is nothing to see of each example")
        return 0
    with np.errstate(all="ignore"):
        rows = [
            [name, *(f"{x:.6g}" for x in (v.mean(), v.min(), v.max())), _share(np.isfinite(v))]
            for name, (v, _) in replaying.by_example(again).items()
        ]
    _print_table(["term", "mean", "min", "max", "not finite"], rows)
    _print_table(
        ["gradient", "norm", "not finite"],
        [
            [path, f"{found.norm:.6g}", f"{found.num_bad:,} of {found.size:,}"]
            for path, found in replaying.gradients(again).items()
        ],
    )
    found = replaying.offenders(again, top)
    what = "that are not finite" if found.term is None else f"of the largest {found.term}"
    print(f"examples {what}: {len(found.places)} of {found.num}")
    _print_table(*_example_rows(again, found.places))
    if again.images is not None and len(found.places):
        picture = record.Folder(run).replay / f"step-{step}.png"
        picture.parent.mkdir(exist_ok=True)
        report.image_grid(again.images[found.places]).savefig(picture)
        print(picture)
    return 0


def _share(finite: Any) -> str:
    return f"{(~finite).sum():,} of {finite.size:,}"


def _example_rows(again: Any, places: Any) -> tuple[list[str], list[list[str]]]:
    """What is known of examples, a row each: their places, and the mean of each term's values."""
    from genmod import replay as replaying

    terms = replaying.by_example(again)
    indices = again.indices
    rows = [
        [
            str(place),
            "?" if indices is None else str(indices[place]),
            *(
                f"{values[at == place].mean():.6g}" if (at == place).any() else "-"
                for values, at in terms.values()
            ),
        ]
        for place in places
    ]
    return ["in the batch", "in the data set", *terms], rows


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, show_header=any(columns))
    for column in table.columns[1:] if right else ():
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def verify(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    steps: int | None = None,
    everything: Annotated[bool, tyro.conf.arg(name="all"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Repeats the first steps of a run from its record, and says whether every bit agrees.

    Compared are the logged values, apart from timings, and the arrays of the checkpoints. The exit
    code is 0 if every bit agrees, and 1 if something differs, which is named.

    Args:
      run: the run folder; nothing in it is changed.
      steps: how many steps; up to the first log point by default.
      everything: repeat the whole run, as far as it has got.
    """
    from genmod import verify as verifying

    if steps is not None and everything:
        raise ValueError(f"--steps {steps} and --all cannot be given together; expected one")
    configure_compilation_cache()
    found = verifying.run(run, steps=steps, everything=everything)
    for change in found.changes:
        print(f"note: {change}", file=sys.stderr)
    parts = {"log point": found.log_points, "checkpoint": found.checkpoints}
    compared = ", ".join(
        f"{len(at)} {what}{'s' * (len(at) != 1)} (step {', '.join(f'{s:,}' for s in at[-3:])})"
        if len(at) <= 3
        else f"{len(at)} {what}s (to step {at[-1]:,})"
        for what, at in parts.items()
        if at
    )
    if found.difference is None:
        print(
            f"{run}: every bit agrees over {found.steps:,} steps: {compared}, "
            f"{found.num_values:,} values"
        )
        return 0
    print(f"{run}: differs at {found.difference}")
    print(f"what agrees before: {compared or 'nothing was compared'}")
    return _FAILED


def main(arguments: Sequence[str] | None = None, stop: Stop | None = None) -> None:
    """Runs the command and exits with its code; `stop` listens to signals already."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with stop or Stop(arguments) as stop:
        try:
            try:
                code = _dispatch(arguments, stop)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BrokenPipeError:
            # The reader of standard output went away: no error worth a traceback, nor at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 128 + signal.SIGPIPE
        except Exception as error:
            code = _explain(error, "--debug" in arguments)
    if "genmod.cluster" in sys.modules and sys.modules["genmod.cluster"].broken():
        sys.stderr.flush()
        os._exit(code)  # the orderly way waits for the other processes
    sys.exit(code)


def configure_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the second start of an experiment is quick.

    The folder is $GENMOD_CACHE_DIR, or the user's cache folder; JAX's own variable
    JAX_COMPILATION_CACHE_DIR takes precedence.
    """
    import jax

    from genmod import caches

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(caches.folder()))
    # By default JAX keeps only what took a second to compile; here a start is many small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def configure_gpu() -> None:
    """Has a GPU repeat its bits: no kernels whose sums come in any order, none chosen by a race.

    Flags of your own in XLA_FLAGS take precedence. Nothing of JAX may have been used before; where
    there is no plugin for GPUs, nothing is changed.
    """
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return
    given = os.environ.get("XLA_FLAGS", "")
    flags = [flag for flag in _SAME_BITS_ON_GPU if flag.partition("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *flags])


def choose_devices(num: int | None, on_cpu: int = 1) -> list[Any]:
    """The devices of a run: `num` of each process, which on a CPU share its cores.

    By default one, or `on_cpu` where they are those of a CPU, or all where there are several
    processes.

    Raises:
      ValueError: if there are fewer.
    """
    import jax

    here = jax.local_devices()
    if num is not None and len(here) < num:
        raise ValueError(f"devices must be at most {len(here)} here, got {num}")
    if jax.process_count() == 1:
        spare = min(on_cpu, len(here)) if here[0].platform == "cpu" else 1
        return here[: num or spare]
    own = [[d for d in jax.devices() if d.process_index == k] for k in range(jax.process_count())]
    return [device for devices in own for device in devices[: num or len(devices)]]


def _dispatch(arguments: list[str], stop: Stop) -> int:
    # `train` is parsed in two steps: the experiment's file says which flags there are.
    if arguments[:1] == ["train"] and arguments[1:] and not arguments[1].startswith("-"):
        return train(arguments[1], arguments[2:], stop)
    return tyro.extras.subcommand_cli_from_dict(
        {
            "train": _train_help,
            "sample": sample,
            "runs": runs,
            "data": data,
            "replay": replay,
            "verify": verify,
        },
        args=arguments,
        prog="genmod",
        description="Generative modelling in JAX.",
    )


def _train_help(
    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")],
) -> int:
    """Trains an experiment: `genmod train EXPERIMENT --help` lists its flags.

    Args:
      experiment: a Python file, or the name of one in ./experiments.
    """
    return train(experiment, [])


def _parse(module: Any, name: str, arguments: Sequence[str]) -> tuple[Any, RunOptions]:
    def options(config: module.Config, run: RunOptions) -> tuple[Any, RunOptions]:
        return config, run

    return tyro.cli(
        options,
        args=list(arguments),
        prog=f"genmod train {name}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _explain(error: Exception, debug: bool) -> int:
    """Prints an error for the person at the terminal and gives its exit code."""
    # By name: whoever has not imported their modules, which takes a second, has not raised them.
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("genmod.")]
    known = [_CODES[name] for name in names if name in _CODES]
    code = known[0] if known else _USAGE
    # A refusal of ours speaks for itself. An error from elsewhere, such as an experiment's own
    # code, is a bug that somebody has to find.
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(frames[-1].filename).is_relative_to(Path(__file__).parent) if frames else True
    expected = (isinstance(error, ValueError) or bool(known)) and ours
    if debug or not (expected or isinstance(error, OSError)):
        traceback.print_exception(error)
        return code if expected or isinstance(error, OSError) else _FAILED
    print(f"genmod: error: {error}", file=sys.stderr)
    return code
