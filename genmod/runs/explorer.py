"""Explorer of a run's latent space, for report pages."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genmod import report, rng
from genmod.experiment import Experiment
from genmod.report import page, programs
from genmod.runs import loading
from genmod.runs.gathered import Gathered, in_words

_CODES = 3000
"""Largest number of codes on the map."""
_TRIED = 16
"""Number of codes at which the browser's weights are checked.

Their pixels are compared with the decoder's.
"""
_MOST_CHOICES = 100
"""Largest number of classes to choose from."""


def explorer_of(run: Gathered) -> tuple[page.Explorer | None, list[str]]:
    """Makes the explorer of a run's latent space.

    For several seeds it shows the first.

    Returns:
      The explorer, or None; and notes on what is missing, and why.
    """
    try:
        built, state = loading.load_run(run.path)
    # An experiment file may raise any error, and SystemExit as a script does: the data may be gone,
    # genmod may have changed, or the file may need options that are not given here.
    except (Exception, SystemExit) as error:
        return None, [f"There is no explorer: the run cannot be opened ({in_words(error)})."]
    if built.latents is None:
        return None, []
    try:
        return _walked(run, built, rng.stream(rng.root(run.seeds[0]), "figures"), state)
    except Exception as error:
        return None, [f"There is no explorer: its latents cannot be shown ({in_words(error)})."]


def _walked(
    run: Gathered, built: Experiment, key: jax.Array, state: Any
) -> tuple[page.Explorer | None, list[str]]:
    latents = built.latents
    assert latents is not None
    found = _codes(run, built, state)
    codes, notes = found.codes, [found.note] * bool(found.note)
    if not len(codes) and not latents.standard_normal_prior:
        why = "no codes tell where in its latent space images lie"
        return None, [*notes, f"There is no explorer: {why}."]
    labels, why_none = _choices(built)
    if why_none and not len(codes):
        return None, [*notes, f"There is no explorer: {why_none}."]
    draws = np.asarray(jax.random.normal(key, (_TRIED, latents.dim)), np.float64)
    centre = np.zeros(latents.dim) if latents.standard_normal_prior else codes.mean(0)
    start = codes[0] if len(codes) else draws[0]
    far = np.abs(codes - centre).max(0) if len(codes) else np.zeros(latents.dim)
    spread = codes.std(0) if len(codes) else np.zeros(latents.dim)
    # The slider of a dimension still needs a range if all codes are equal in it.
    reach = np.maximum(far, 3.0 if latents.standard_normal_prior else 1e-3 * max(far.max(), 1e-6))
    tried = [codes[:_TRIED], centre[None] + reach, centre[None] - reach]
    program = None
    try:
        if why_none:
            raise programs.UnsupportedError(why_none)
        decode = latents.decoder(key, state)
        tried += [draws] * latents.standard_normal_prior
        program = programs.program(
            decode,
            latents.dim,
            conditions=None if labels is None else list(labels[:, None]),
            tried=np.concatenate(tried),
        )
    except programs.UnsupportedError as error:
        notes.append(f"There are no sliders: {error}.")
    except Exception as error:
        notes.append(f"There are no sliders: the decoder cannot be run ({in_words(error)}).")
    plane = None
    if latents.dim >= 2 and not found.are_wrong:
        axes = (
            report.latent_axes(codes)
            if len(codes)
            else report.LatentAxes(np.zeros(latents.dim), np.eye(2, latents.dim), ("z1", "z2"))
        )
        plane = axes._asdict()
        codes = (codes - axes.centre) @ axes.directions.T
    explorer = page.Explorer(
        program=program,
        order=np.argsort(-spread, kind="stable").tolist(),
        reach=reach.tolist(),
        centre=centre.tolist(),
        start=start.tolist(),
        normal=latents.standard_normal_prior,
        plane=plane,
        points=codes if plane else np.zeros((0, 2)),
        labels=found.labels if plane else np.zeros(0, int),
        classes=_classes(run, built),
        caption=found.caption,
        choices=() if labels is None else built.class_names(labels),
        choice=_first_choice(labels, found.labels),
    )
    return explorer, notes


def _choices(built: Experiment) -> tuple[np.ndarray | None, str]:
    """Returns the labels to choose from, [K], or why there is no choice.

    A model without condition has neither.
    """
    labels = built.labels
    if built.learner.conditions is None:
        return None, ""
    if labels is None:
        return None, "its conditions are no classes, of which one could be chosen here"
    if len(labels) > _MOST_CHOICES:
        return None, f"its {len(labels):,} classes are too many to choose from here"
    return labels, ""


def _first_choice(labels: np.ndarray | None, of_codes: np.ndarray) -> int:
    """Returns the index of the class of the first code, which is shown first."""
    if labels is None or not len(of_codes):
        return 0
    return int(np.argmax(labels == of_codes[0]))  # 0 if the model does not know this class


class _Codes(NamedTuple):
    """Codes of images in a latent space.

    Attributes:
      codes: the codes, float64 [N, L].
      labels: classes of the images, [N].
      caption: text that says which images they are.
      note: reason why codes are missing; empty if none are.
      are_wrong: whether codes were expected and there are none that belong to the run.
    """

    codes: np.ndarray
    labels: np.ndarray
    caption: str = ""
    note: str = ""
    are_wrong: bool = False


def _codes(run: Gathered, built: Experiment, state: Any) -> _Codes:
    """Computes the codes of test images.

    There are none if the data are no longer those of the run.
    """
    latents, test = built.latents, built.test
    assert latents is not None
    none = _Codes(np.zeros((0, latents.dim)), np.zeros(0, int))
    if latents.encode is None or test is None:
        return none
    if changed := _changed(run, built):
        return none._replace(note=f"There is no map: {changed}.", are_wrong=True)
    conditional = built.learner.conditions is not None
    if conditional and not built.is_given_labels:
        why = "the conditions of test images are not known, as they are not their labels"
        return none._replace(note=f"There is no map: {why}.", are_wrong=True)
    # The images are spread evenly over the test set, which may be sorted by class.
    num = len(test.images)
    places = np.unique(np.linspace(0, num - 1, min(num, _CODES)).round().astype(int))
    labels = np.asarray(test.labels)[places]
    try:
        images = np.asarray(test.images[places], np.float32) / 255
        encode = jax.jit(functools.partial(latents.encode, state))
        codes = np.asarray(encode(images, *[labels] * conditional), np.float64)
    except Exception as error:
        note = f"There is no map: its codes cannot be computed ({in_words(error)})."
        return none._replace(note=note, are_wrong=True)
    finite = np.isfinite(codes).all(axis=1)
    lost = int((~finite).sum())
    return _Codes(
        codes[finite],
        labels[finite],
        f"{len(places):,} of {num:,} test images",
        f"{lost:,} of {len(codes):,} codes are not finite and not on the map." if lost else "",
    )


def _changed(run: Gathered, built: Experiment) -> str:
    """Returns how the data differ from those of the run.

    The text is empty if they do not.
    """
    assert built.test is not None
    recorded = run.recorded
    for part, before, dataset in (
        ("training", recorded["data"], built.dataset),
        ("test", recorded.get("test_data"), built.test),
    ):
        now = str(getattr(dataset, "fingerprint", "none"))
        if before is not None and now != before:
            return (
                f"the {part} data are not those of the run (their fingerprint is {short(now)}, "
                f"the record's {short(before)})"
            )
    return ""


def _classes(run: Gathered, built: Experiment) -> Sequence[str]:
    """Returns the names of the classes on the map.

    They are indexed by label, and empty if unknown. Names of the test set take precedence, as the
    map shows its labels.
    """
    known = (
        getattr(built.test, "classes", ()),
        run.recorded.get("classes", ()),
        getattr(built.dataset, "classes", ()),
    )
    return next((names for names in known if names), ())


def short(fingerprint: str) -> str:
    """Shortens a fingerprint for the page."""
    return fingerprint.removeprefix("sha256:")[:12]
