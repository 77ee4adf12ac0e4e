"""Synthetic data for a small training set: does it help a classifier, beyond classic augmentation?

    python experiments/tables/augmentation.py --data mnist idx:FOLDER --out table.json

Run k of a row is `genmod train augmentation --fold k --seed k` with its flags; all folds of a row
are one program. Every classifier has the same number of steps and the same batches, whatever it is
shown. Printed are mean +- standard error over folds of the accuracy on the test set, and of the
differences to no augmentation and to classic augmentation, fold by fold.
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
# Classic augmentation that is not the default's, by the name of the folder: chosen among none,
# mirroring, and shifts by one and by two pixels, on training images that are in no fold.
CLASSIC: dict[str, dict[str, Any]] = {"fashion_mnist": {"shift": 1 / 28}}

Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Options:
    """How much to compute."""

    data: tuple[str, ...] = ("mnist",)
    """Data sets: mnist, or idx:FOLDER."""
    images: tuple[int, ...] = (20, 100)
    """Labelled images of each class in a training set."""
    synthetic: tuple[int, ...] = (100, 1000)
    """Synthetic images of each class beside them."""
    generators: tuple[str, ...] = tuple(GENERATORS)
    """Generative models, by their names in the table."""
    folds: int = 5
    """Disjoint training sets, each with a seed of its own."""
    steps: int = 1000
    """Steps of each generative model."""
    classifier_steps: int = 600
    """Steps of each classifier."""
    held_out: bool = False
    """Take folds from the first 50,000 training images, and judge by the others instead of by the
    test set: to choose by."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """Where to keep all accuracies; rows that it holds already are not computed again."""
    show: bool = False
    """Compute nothing more: show what there is."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None
    """Where to draw accuracy against the number of synthetic images."""

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
    """Computes what is missing, prints the table and draws the figure."""
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
    """The rows of one size of training set that are not kept yet: accuracies of each fold by arm.

    A row has the arms "none" and "classic", or for a generator "synthetic, M" and
    "classic + synthetic, M" for each number M of synthetic images a class.
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
    classes = int(built[0].dataset.labels.max()) + 1
    recipe, classic = config().recipe(classes), config().classic()
    keys = rng.of_seeds(rng.root(0), options.folds)
    batch_at = _stacked([one.batch_at for one in built])
    real = _stacked([_labelled(one.dataset) for one in built])
    judged = jax.tree.map(jnp.asarray, _labelled(test))

    @functools.partial(jax.jit, static_argnames="augment")
    def scores(keys: Any, real: Any, made: Any, judged: Any, augment: Any = None) -> Any:
        """The accuracy in each fold."""

        def one(run: Any) -> Any:
            key, real, made = run
            key = rng.stream(rng.stream(key, "evaluate"), "classifier")
            return classifier.score(key, recipe, real, made, judged, augment=augment)

        return jax.lax.map(one, (keys, real, made))

    def arms(made: Any, *names: str) -> Scores:
        """Without classic augmentation, and with it."""
        both = [scores(keys, real, made, judged, augment=one) for one in (None, classic)]
        return {name: found.tolist() for name, found in zip(names, both, strict=True)}

    for generator in wanted:
        began = time.perf_counter()
        found: Scores = {}
        if generator == _BASELINE:
            found = arms(None, *BASELINES)
        else:
            learner = file.build(config(**GENERATORS[generator])).learner
            num = classes * max(options.synthetic)
            images_of = functools.partial(_generated, learner, options.steps, num)
            made = jax.jit(lambda runs, f=images_of: jax.lax.map(f, runs))((keys, batch_at))
            for few in options.synthetic:
                some = jax.vmap(functools.partial(classifier.made_of_classes, classes=classes))(
                    made[:, : classes * few]
                )
                found |= arms(some, *(f"{arm}, {few}" for arm in ARMS))
        row = _row(name, images, generator, options)
        yield row, {**found, "seconds": [round(time.perf_counter() - began)]}


def _generated(learner: train.Learner, steps: int, num: int, run: Any) -> Any:
    """Images of the generative model of one fold, [num, H, W, C]: those of its experiment."""
    key, batch_at = run
    state = train.fit(learner, key, batch_at, steps)
    return learner.sample(rng.stream(rng.stream(key, "evaluate"), "synthetic"), state, num)


def _stacked(trees: list[Any]) -> Any:
    """Trees of one structure with a leading axis of folds, whatever functions they carry."""
    leaves = zip(*map(jax.tree.leaves, trees), strict=True)
    return jax.tree.unflatten(jax.tree.structure(trees[0]), list(map(jnp.stack, leaves)))


def _labelled(dataset: data.Dataset) -> classifier.Labelled:
    return {"images": dataset.images, "labels": dataset.labels}


_BASELINE = "real images alone"


def _sets(options: Options) -> list[tuple[str, int]]:
    """Each data set with each size of training set."""
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
    """What is kept of each size of training set, by its name.

    Accuracies, [folds], by generator ("" for none), arm, and synthetic images a class.
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
    """Accuracy against the number of synthetic images, with the baselines as bands."""
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
