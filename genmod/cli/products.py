"""Subcommands that make something of a trained run: samples, codes, reconstructions, an export."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from genmod._host import startup
from genmod.cli.options import DIFFERS, PICTURES, DataOptions, check_out, save

_SHOWN = 50
"""Number of images of a data set whose reconstructions are drawn."""

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Labels = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="LABEL[,LABEL...]")
]


def sample(
    run: Run,
    num: int = 100,
    label: Labels = (),
    seed: int = 0,
    ex_post: int | None = None,
    temperature: float | None = None,
    index: int = 0,
    best: Flag = False,
    out: str = "samples.png",
) -> int:
    """Draws images from a trained run, as a grid or into files.

    A picture shows a grid. If the run is conditional on classes, each class has a column. An NPZ
    file holds the arrays images, uint8 [N, H, W, C], and labels, if the run has any. In a folder
    each image is a PNG file, and each class a folder. In files, classes are as frequent as in the
    run's data, and image number i depends on the seed alone, not on how many are drawn.

    Args:
      run: the run folder.
      num: number of images.
      label: classes to draw in turn, by label or name; can be given several times.
      seed: seed of the draws.
      ex_post: number of Gaussians of a mixture that is fitted to the codes of the training images
        and draws the latents in place of the prior; the prior draws them if not given.
      temperature: factor of the standard deviations of the prior N(0, I); 1 if not given.
      index: index of the run, from 0, if the folder holds several seeds.
      best: whether to draw from the best checkpoint, if the run keeps one, and not the newest.
      out: a picture (.png, .pdf or .svg), an NPZ file (.npz), or a new or empty folder, whose name
        ends in a slash.
    """
    from genmod import checks, rng
    from genmod.runs import loading, redrawn, samples

    checks.positive_integer("num", num)
    checks.seed("seed", seed)
    if ex_post is not None and temperature is not None:
        raise ValueError(
            f"only one of ex_post and temperature can be given, got {ex_post} and {temperature}"
        )
    if ex_post is not None:
        checks.positive_integer("ex_post", ex_post)
    if temperature is not None:
        checks.positive("temperature", temperature)
    path = Path(out)
    is_folder = out.endswith("/") or path.is_dir()
    check_out(path, None if is_folder else [*PICTURES, ".npz"], " or, for a folder, in /")
    if is_folder:
        samples.check_folder(path)
    startup.configure()
    built, state = loading.load_run(run, index, best=best)
    if ex_post is not None:
        built = redrawn.ex_post(built, state, ex_post)
    if temperature is not None:
        built = redrawn.tempered(built, temperature)
    asked = samples.labels_asked(built, label) if label else None
    key = rng.stream(rng.root(seed), "sample")
    if not is_folder and path.suffix.lower() in PICTURES:
        save(_grid(built, state, key, num, asked), path)
        print(path)
        return 0
    chunks = samples.samples(built, state, key, num, asked)
    drawn = _with_bar(chunks, num, lambda chunk: len(chunk[0]))
    write = samples.save_pictures if is_folder else samples.save_arrays
    pixels = write(path, built, drawn, num)
    if pixels.remark:
        print(f"note: {pixels.remark}", file=sys.stderr)
    print(out)
    return 0


def _grid(built: Any, state: Any, key: Any, num: int, asked: Any) -> Any:
    """Draws samples as one figure, with a class in each column if they are of several classes."""
    import numpy as np

    from genmod import report

    classes = built.labels if asked is None and built.show is None else asked
    rows = None if classes is None else report.class_columns(classes, num)
    columns = asked if rows is None else rows[0]
    images = built.sample(key, state, num, None if columns is None else np.resize(columns, num))
    if built.show is not None:
        return built.show(images)
    if rows is not None:
        title = report.column_title("samples", built.class_names(classes))
        return report.image_grid(images, columns=len(rows[0]), title=title)
    title = None
    if asked is not None:
        title = f"samples of class {', '.join(built.class_names(asked))}"
    return report.image_grid(images, title=title)


def _with_bar(chunks: Iterable[Any], num: int, size: Callable[[Any], int] = len) -> Iterator[Any]:
    """Yields chunks of `num` images, and shows a progress bar at a terminal.

    Args:
      chunks: the chunks.
      num: number of images in all of them.
      size: number of images in a chunk.
    """
    from genmod._host.bars import tqdm

    with tqdm(total=num, unit="image", disable=not sys.stderr.isatty()) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(size(chunk))


def encode(
    run: Run,
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    source: DataOptions,
    index: int = 0,
    best: Flag = False,
    out: Path = Path("codes.npz"),
) -> int:
    """Encodes the images of a data set by a trained run.

    An NPZ file gets the arrays codes, float32 [N, L], labels [N], and for a folder of pictures
    names [N], the paths of the pictures within the folder. A code is the mean of q(z|x). A
    conditional run gets the labels of the data; classes with names are matched by their names.

    Args:
      run: the run folder; its model must have an encoder.
      data: data set, as for `genmod data`: mnist, npz:FILE, folder:DIR or another.
      source: part of the data, and how they are read.
      index: index of the run, from 0, if the folder holds several seeds.
      best: whether to use the best checkpoint, if the run keeps one, and not the newest.
      out: the NPZ file to write.
    """
    import os

    import numpy as np

    from genmod.runs import arrays, codes, loading

    check_out(out, [".npz"])
    startup.configure()
    built, state = loading.load_run(run, index, best=best)
    codes.encoder(built)
    dataset = source.load(data)
    condition = codes.conditions_of(built, data, dataset)
    num = len(dataset.images)
    made = _with_bar(codes.codes(built, state, dataset, condition), num)
    others = {"labels": np.asarray(dataset.labels)}
    if dataset.files:
        root = Path(data.partition(":")[2]).expanduser()
        others["names"] = np.array([os.path.relpath(path, root) for path in dataset.files])
    arrays.write_npz(out, "codes", num, made, lambda: others)
    print(f"{out}: {num:,} images: {', '.join(['codes', *others])}")
    return 0


def reconstruct(
    run: Run,
    what: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(name="what", metavar="DATA | PICTURE [PICTURE ...]"),
    ],
    source: DataOptions,
    num: int | None = None,
    label: Labels = (),
    index: int = 0,
    best: Flag = False,
    out: Path = Path("reconstructions.png"),
) -> int:
    """Draws images above their reconstructions by a trained run.

    A reconstruction is the decoded mean of q(z|x). Of a data set, the first images are drawn.

    Args:
      run: the run folder; its model must have an encoder.
      what: a data set, as for `genmod data`, or picture files of the size of the run's images
        (resized and cropped to it by --image-size).
      source: part of the data, and how they are read.
      num: number of images of a data set; 50 if not given.
      label: class of the picture files, by label or name, for a conditional run: one for all files,
        or one for each. A data set has its own labels.
      index: index of the run, from 0, if the folder holds several seeds.
      best: whether to use the best checkpoint, if the run keeps one, and not the newest.
      out: the picture to write; its name ends in .png, .pdf or .svg.
    """
    from genmod import checks, report
    from genmod.runs import codes, loading

    check_out(out)
    if num is not None:
        checks.positive_integer("num", num)
    startup.configure()
    built, state = loading.load_run(run, index, best=best)
    codes.encoder(built)
    of_data = _is_data(what)
    if of_data:
        if label:
            raise ValueError(f"label is for picture files, as {what[0]} has labels of its own")
        dataset = source.load(what[0])
        condition = codes.conditions_of(built, what[0], dataset)
        rows = slice(num or _SHOWN)
        images, condition = dataset.images[rows], tuple(leaf[rows] for leaf in condition)
    else:
        _refuse_options(source, num)
        images = codes.pictures(built, what, source.image_size, source.background or "white")
        condition = codes.labels_of_pictures(built, label, len(images))
    made = codes.reconstructions(built, state, images, condition)
    title = "images, each above its reconstruction"
    save(report.comparison(images, made, columns=min(10, len(images)), title=title), out)
    print(out)
    return 0


def _is_data(what: Sequence[str]) -> bool:
    """Returns whether an argument names a data set; else all must be picture files.

    Raises:
      ValueError: if it is neither.
    """
    from genmod.data import sources

    if not what:
        raise ValueError("expected a data set or picture files to reconstruct, got none")
    kinds = [kind.form for kind in sources.KINDS.values()]
    for word in what:
        kind, colon, _ = word.partition(":")
        if kind in sources.KINDS and bool(colon) == (":" in sources.KINDS[kind].form):
            if len(what) > 1:
                raise ValueError(f"expected one data set or picture files, got {', '.join(what)}")
            return True
        if not Path(word).is_file():
            hint = f"; folder:{word} is a data set" if Path(word).is_dir() else ""
            raise ValueError(
                f"{word!r} is neither a picture file nor a data set, {', '.join(kinds)}{hint}"
            )
    return False


def _refuse_options(source: DataOptions, num: int | None) -> None:
    """Refuses options of data sets that say nothing of picture files."""
    plain = DataOptions()
    given = {
        name: getattr(source, name)
        for name in ("split", "data_dir", "manual_dir", "skip_corrupt")
        if getattr(source, name) != getattr(plain, name)
    }
    for name, value in (given if num is None else {**given, "num": num}).items():
        raise ValueError(f"{name} is for data sets, and not for picture files, got {value}")


def export(
    run: Run, num: int = 100, index: int = 0, best: Flag = False, out: Path | None = None
) -> int:
    """Exports a run's sampler as StableHLO.

    Other programs can run it without genmod; the parameters are written beside it. The sampler of a
    conditional run takes the condition, such as labels, as an argument. The files are loaded again,
    and their images are compared with the run's own, bit for bit. The exit code is 0 if every bit
    agrees, and 1 if not.

    Args:
      run: the run folder.
      num: number of images in a call of the sampler.
      index: index of the run, from 0, if the folder holds several seeds.
      best: whether to export the best checkpoint, if the run keeps one, and not the newest.
      out: the folder to write; RUN/export by default.
    """
    from genmod.runs import export as exporting

    startup.configure()
    folder, loaded, same = exporting.run(run, out, num=num, index=index, best=best)
    images = loaded.about["images"]
    size = sum(value.nbytes for value in loaded.parameters.values())
    for path in sorted(folder.iterdir()):
        print(f"{path} ({path.stat().st_size / 1e6:,.2f} MB)")
    condition = "".join(
        f"; condition{'.' * bool(name)}{name} {one['dtype']} {one['shape']}"
        for name, one in loaded.about.get("condition", {}).items()
    )
    print(
        f"{len(loaded.parameters)} parameters, {size / 1e6:,.2f} MB; images {images['dtype']} "
        f"{images['shape']}{condition}, on {', '.join(loaded.about['platforms'])}"
    )
    print(
        "loaded again: " + ("every bit agrees" if same else "the images DIFFER from the run's own")
    )
    return 0 if same else DIFFERS
