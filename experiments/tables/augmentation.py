"""Table of classifiers trained with and without synthetic data.

Does synthetic data for a small training set help a classifier, beyond classic augmentation?

    python experiments/tables/augmentation.py --data mnist idx:FOLDER --out table.json

Run k of a row is `genmod train augmentation --fold k --seed k` with the flags of the row; all folds
of a row are one program. All classifiers have the same number of steps and the same batch size,
whatever their training data. The table has the mean +- standard error over folds of the accuracy on
the test set, and of the differences to no augmentation and to classic augmentation, which are taken
fold by fold.
"""

import functools
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from genmod import checks, data, evaluate, report, rng, train
from genmod.evaluate import classifier
from genmod.runs import catalogue

GENERATORS: dict[str, dict[str, Any]] = {
    "conditional VAE": {"model": "vae"},
    "a VAE a class": {"model": "vae", "per_class": True},
    "conditional GAN": {"model": "gan"},
    "a GAN a class": {"model": "gan", "per_class": True},
}
BASELINES = ("none", "classic")
ARMS = ("synthetic", "classic + synthetic")
# These data sets, by folder name, have their own classic augmentation in place of the default. It
# was chosen among none, mirroring, and shifts by one and by two pixels, on training images that are
# in no fold.
CLASSIC: dict[str, dict[str, Any]] = {"fashion_mnist": {"shift": 1 / 28}}

Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Options:
    """Options of the table."""

    data: tuple[str, ...] = ("mnist",)
    """Data sets: mnist, or idx:FOLDER."""
    images: tuple[int, ...] = (20, 100)
    """Labelled images of each class in a training set."""
    synthetic: tuple[int, ...] = (100, 1000)
    """Synthetic images of each class in a training set."""
    generators: tuple[str, ...] = tuple(GENERATORS)
    """Generative models, by their names in the table."""
    folds: int = 5
    """Number of disjoint training sets, each with its own seed."""
    steps: int = 1000
    """Training steps of each generative model."""
    classifier_steps: int = 600
    """Training steps of each classifier."""
    held_out: bool = False
    """Whether to judge by a hold-out set, to choose settings.

    Folds come from the first 50,000 training images. The others judge, and the test set is not
    used.
    """
    out: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """File of all accuracies; rows in it are not computed again."""
    show: bool = False
    """Whether to show the rows in the file and compute none."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None
    """File for a figure of accuracy against number of synthetic images."""

    def __post_init__(self):
        for name in self.generators:
            checks.known("generator", name, GENERATORS)
        for number in (*self.images, *self.synthetic):
            checks.positive_integer("images and synthetic", number)
        for name in ("folds", "steps", "classifier_steps"):
            checks.positive_integer(name, getattr(self, name))
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, for a standard error, got {self.folds}")


def main(options: Options) -> None:
    """Computes missing rows, prints the table and draws the figure."""
    kept = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for name, images in [] if options.show else _sets(options):
        for row, found in missing(name, images, options, kept):
            kept[row] = found
            print(row, json.dumps(found), flush=True)
            if options.out:
                options.out.write_text(json.dumps(kept, indent=1) + "\n")
    _print(kept, options)
    if options.figure:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(kept, options).savefig(options.figure, dpi=80)


def missing(
    name: str, images: int, options: Options, kept: dict[str, Any]
) -> Iterator[tuple[str, Scores]]:
    """Yields the missing rows of one size of training set.

    A row has the accuracies of each fold by arm. Its arms are "none" and "classic", or for a
    generator "synthetic, M" and "classic + synthetic, M" for each number M of synthetic images per
    class.
    """
    rows = (_BASELINE, *options.generators)
    wanted = [row for row in rows if _row(name, images, row, options) not in kept]
    if not wanted:
        return
    file = catalogue.load(Path(__file__).parents[1] / "augmentation.py")

    def config(fold: int = 0, **flags: Any) -> Any:
        return file.Config(
            seed=fold,
            dataset=name,
            splits="vamp" if options.held_out else "own",
            images_per_class=images,
            fold=fold,
            classifier_steps=options.classifier_steps,
            **CLASSIC.get(_called(name), {}),
            **flags,
        )

    test = config().load("val") if options.held_out else config().train_and_test()[1]
    built = [file.build(config(fold)) for fold in range(options.folds)]
    classes = data.num_classes(built[0].dataset)
    recipe, classic = config().recipe(classes), config().classic()
    keys = rng.of_seeds(rng.root(0), options.folds)
    batch_at = _stacked([one.batch_at for one in built])
    real = _stacked([_labelled(one.dataset) for one in built])
    judged = jax.tree.map(jnp.asarray, _labelled(test))

    @functools.partial(jax.jit, static_argnames="augment")
    def scores(keys: Any, real: Any, made: Any, judged: Any, augment: Any = None) -> Any:
        """Returns the accuracy in each fold."""

        def one(run: Any) -> Any:
            key, real, made = run
            key = rng.stream(rng.stream(key, "evaluate"), "classifier")
            return classifier.score(key, recipe, real, made, judged, augment=augment)

        return jax.lax.map(one, (keys, real, made))

    def arms(made: Any, *names: str) -> Scores:
        """Returns the scores without and with classic augmentation."""
        both = [scores(keys, real, made, judged, augment=one) for one in (None, classic)]
        return {name: found.tolist() for name, found in zip(names, both, strict=True)}

    for generator in wanted:
        began = time.perf_counter()
        found: Scores = {}
        if generator == _BASELINE:
            found = arms(None, *BASELINES)
        else:
            learner = file.build(config(**GENERATORS[generator])).learner
            labels = jnp.tile(jnp.arange(classes), max(options.synthetic))
            made_of = functools.partial(_generated, learner, options.steps, labels)
            made = jax.jit(lambda runs, f=made_of: jax.lax.map(f, runs))((keys, batch_at))
            for few in options.synthetic:
                # As many of each class, since the classes take turns in `labels`.
                some = jax.tree.map(lambda leaf, num=classes * few: leaf[:, :num], made)
                found |= arms(some, *(f"{arm}, {few}" for arm in ARMS))
        row = _row(name, images, generator, options)
        yield row, {**found, "seconds": [round(time.perf_counter() - began)]}


def _generated(
    learner: train.Learner, steps: int, labels: jax.Array, run: Any
) -> classifier.Labelled:
    """Generates an image of each label [N] for one fold.

    They are those of the experiment `augmentation`.
    """
    key, batch_at = run
    state = train.fit(learner, key, batch_at, steps)
    key = rng.stream(rng.stream(key, "evaluate"), "synthetic")
    return classifier.labelled(learner.sample(key, state, len(labels), labels), labels)


def _stacked(trees: list[Any]) -> Any:
    """Stacks the leaves of trees, with a leading axis of folds.

    The result has the structure of the first tree, with its functions.
    """
    leaves = zip(*map(jax.tree.leaves, trees), strict=True)
    return jax.tree.unflatten(jax.tree.structure(trees[0]), list(map(jnp.stack, leaves)))


def _labelled(dataset: data.Dataset) -> classifier.Labelled:
    return {"image": dataset.images, "label": dataset.labels}


_BASELINE = "real images alone"


def _sets(options: Options) -> list[tuple[str, int]]:
    """Lists each data set with each size of training set."""
    return list(itertools.product(options.data, options.images))


def _called(name: str) -> str:
    return Path(name.rpartition(":")[2]).name


def _row(name: str, images: int, generator: str, options: Options) -> str:
    numbers = "/".join(map(str, options.synthetic)) + " synthetic, " + f"{options.steps} steps, "
    what = f"{_called(name)}, {images} a class, {options.folds} folds: {generator}"
    judged = ", held out" if options.held_out else ""
    return (
        f"{what}, {'' if generator == _BASELINE else numbers}classifier "
        f"{options.classifier_steps} steps{judged}"
    )


Arms = dict[tuple[str, str, int], np.ndarray]


def _shown(kept: dict[str, Any], options: Options) -> Iterator[tuple[str, Arms]]:
    """Yields a title and the kept accuracies of each training set size.

    Accuracies are [folds], by generator ("" for none), arm, and synthetic images per class.
    """
    for name, images in _sets(options):
        rows = {
            generator: kept[row]
            for generator in (_BASELINE, *GENERATORS)
            if (row := _row(name, images, generator, options)) in kept
        }
        if _BASELINE not in rows:
            continue
        found = {("", arm, 0): np.array(rows[_BASELINE][arm]) for arm in BASELINES}
        for arm, num in itertools.product(ARMS, options.synthetic):
            for generator in list(rows)[1:]:
                found[generator, arm, num] = np.array(rows[generator][f"{arm}, {num}"])
        yield f"{_called(name)}, {images} images a class", found


def _print(kept: dict[str, Any], options: Options) -> None:
    for title, arms in _shown(kept, options):
        columns = ("arm", "generator", "synthetic a class", "accuracy %", "- none", "- classic")
        table = Table(*columns, title=f"{title}, {options.folds} folds")
        for (generator, arm, num), accuracy in arms.items():
            against = (accuracy - arms["", baseline, 0] for baseline in BASELINES)
            differences = (_percent(each, "+.1f") if each.any() else "" for each in against)
            table.add_row(arm, generator, str(num or ""), _percent(accuracy, ".1f"), *differences)
        Console(width=120).print(table)


def _percent(values: np.ndarray, form: str) -> str:
    mean, error = evaluate.estimate(100 * values)
    return f"{mean:{form}} +- {error:.1f}"


def draw(kept: dict[str, Any], options: Options) -> Any:
    """Draws accuracy against the number of synthetic images.

    The baselines are bands.
    """
    panels = []
    for title, arms in _shown(kept, options):
        of = {key: evaluate.estimate(100 * accuracy) for key, accuracy in arms.items()}
        lines = {
            f"{arm}: {generator}": {n: of[generator, arm, n] for n in options.synthetic}
            for arm in reversed(ARMS)
            for generator in GENERATORS
            if (generator, arm, options.synthetic[0]) in of
        }
        panels.append(report.Panel(title, lines, {arm: of["", arm, 0] for arm in BASELINES}))
    return report.error_bars(
        panels,
        across="synthetic images a class",
        up="test accuracy, %",
        columns=3,
        groups=len(GENERATORS),
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
