"""Metrics of a run, for `genmod evaluate`.

Each group of metrics is a function of a `Subject`: one trained run with all that several metrics
use, such as samples and features, which are made once.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from genmod import checks, evaluate, rng
from genmod.evaluate import Result
from genmod.experiment import drawn_from
from genmod.runs import codes, loading, redrawn, results
from genmod.runs.folder import Folder
from genmod.runs.sample_metrics import class_distances, classes, distances, memorisation
from genmod.runs.subject import NotApplicable, Options, Subject


def likelihood(subject: Subject) -> dict[str, Result]:
    """Returns log-likelihood and evidence lower bound of the test examples, in nats."""
    told = subject.built.likelihood
    if told is None:
        raise NotApplicable("the experiment names no likelihood (Experiment.likelihood)")
    num_draws = subject.options.num_draws
    protocol = functools.partial(subject.protocol, unit="nats")
    estimate = functools.partial(
        evaluate.importance,
        subject.key("likelihood"),
        drawn_from(subject.state),
        jax.tree.map(lambda array: array[subject.first], told.examples),
        told.log_weight,
        prepare=told.prepare,
        progress=subject.progress,
    )
    bound, found = estimate(num_samples=1).average, estimate(num_samples=num_draws)
    mean = found.average
    return {
        "elbo": Result(bound.mean, bound.error, protocol=protocol("elbo", num_draws=1)),
        "log_likelihood": Result(
            mean.mean, mean.error, protocol=protocol("log_likelihood", num_draws=num_draws)
        ),
        "effective_samples": Result(
            *evaluate.estimate(found.effective_samples),
            protocol=subject.protocol("effective_samples", num_draws=num_draws),
        ),
    }


def posterior(subject: Subject) -> dict[str, Result]:
    """Returns the number of active units, and the parts of the KL divergence in nats."""
    latents = subject.built.latents
    if latents is None or latents.posterior is None:
        raise NotApplicable("the experiment has no latents with a diagonal Gaussian posterior")
    if not latents.standard_normal_prior:
        raise NotApplicable("the prior is not N(0, I)")
    try:
        condition = codes.conditions_of(subject.built, "the test data", subject.test)
    except ValueError as reason:
        raise NotApplicable(str(reason)) from None
    encode = functools.partial(latents.posterior, subject.state)
    mean, logvar = codes.encoded(encode, subject.test, condition)
    keys = rng.per_example(subject.key("posterior"), len(mean))
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    parts = evaluate.aggregate_posterior(
        mean, logvar, mean + np.exp(0.5 * logvar) * np.asarray(noise), progress=subject.progress
    )
    units = evaluate.active_units(mean)
    found = {
        "active_units": Result(float(units.num_active), protocol=subject.protocol("active_units"))
    }
    for name in ("kl", "mutual_information", "total_correlation", "dimension_wise_kl"):
        protocol = subject.protocol(name, unit="nats", aggregate="all test examples")
        found[name] = Result(*getattr(parts, name), protocol=protocol)
    return found


GROUPS: dict[str, Callable[[Subject], Mapping[str, Result]]] = {
    "likelihood": likelihood,
    "posterior": posterior,
    "classes": classes,
    "distances": distances,
    "class_distances": class_distances,
    "memorisation": memorisation,
}
"""Groups of metrics by name."""
_OF_SAMPLES = ("classes", "distances", "class_distances", "memorisation")
"""Groups that look at samples."""


def evaluate_run(
    path: str | Path,
    options: Options,
    groups: Sequence[str] = (),
    *,
    best: bool = False,
    progress: bool = True,
) -> list[str]:
    """Evaluates the runs of a folder and adds the results to it.

    Args:
      path: the run folder.
      options: options of the metrics.
      groups: names of groups of metrics; all that apply to the experiment if there are none.
      best: whether to evaluate the best checkpoint and not the newest.
      progress: whether to show progress bars on a terminal.

    Returns:
      Notes on groups that do not apply, if none was asked for, and on metrics that are NaN.

    Raises:
      ValueError: if a group is unknown or does not apply, or no group applies.
    """
    known = list(GROUPS) if options.ex_post is None else list(_OF_SAMPLES)
    for name in groups:
        checks.known("metrics" if options.ex_post is None else "metrics with ex_post", name, known)
    loaded = loading.load_runs(path, best=best)
    notes: list[str] = []
    found: dict[str, list[Result]] = {}
    for index, state in enumerate(loaded.states):
        built, latents = loaded.built, {}
        if options.ex_post is not None:
            built = redrawn.ex_post(built, state, options.ex_post)
            latents = {"latents": f"a mixture of {options.ex_post} Gaussians fitted to the codes"}
        subject = Subject(built, state, options, progress)
        for name in groups or known:
            try:
                with jax.default_matmul_precision("highest"):
                    own = GROUPS[name](subject)
            except NotApplicable as reason:
                if groups:
                    raise ValueError(f"{path}: {name} does not apply: {reason}") from None
                notes += [f"{path}: {name} is left out: {reason}"] * (index == 0)
                continue
            for metric, result in own.items():
                told = result._replace(protocol={**result.protocol, **latents})
                found.setdefault(metric, []).append(told)
        notes += [f"{path}: {remark}" for remark in subject.remarks]
    if not found:
        raise ValueError(f"{path}: no metrics apply: {'; '.join(notes)}")
    entries = [results.Entry(name, loaded.step, tuple(runs)) for name, runs in found.items()]
    results.write(Folder(Path(path)), entries)
    return notes
