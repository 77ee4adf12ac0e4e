"""Metrics of a run, for `genmod evaluate`.

Each group of metrics is a function of a `Subject`: one trained run with all that several metrics
use, such as samples and features, which are made once.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from genmod import checks, evaluate, rng, train
from genmod.data.protocols import Prepare, as_function, name_of
from genmod.evaluate import Result, features
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
    prepared = {} if told.prepare is None else {"prepare": _named(told.prepare)}
    protocol = functools.partial(subject.protocol, unit="nats", **prepared)
    estimate = functools.partial(
        evaluate.importance,
        subject.key("likelihood"),
        train.drawn_from(subject.state),
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
            protocol=subject.protocol("effective_samples", num_draws=num_draws, **prepared),
        ),
    }


def _named(prepare: Prepare) -> str:
    """Returns the name of a preprocessing function."""
    found = name_of(as_function(prepare))
    if isinstance(found, str):
        return found
    return ", ".join(f"{field}: {name}" for field, name in found.items())


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
    described = functools.partial(subject.protocol, inputs="grey values in [0, 1]")
    mean, logvar = codes.encoded(encode, subject.test, condition)
    keys = rng.per_example(subject.key("posterior"), len(mean))
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    parts = evaluate.aggregate_posterior(
        mean, logvar, mean + np.exp(0.5 * logvar) * np.asarray(noise), progress=subject.progress
    )
    units = evaluate.active_units(mean)
    found = {"active_units": Result(float(units.num_active), protocol=described("active_units"))}
    for name in ("kl", "mutual_information", "total_correlation", "dimension_wise_kl"):
        protocol = described(name, unit="nats", aggregate="all test examples")
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

    Results of the other groups are written also if one fails.

    Args:
      path: the run folder.
      options: options of the metrics.
      groups: names of groups of metrics; all that apply to the experiment if there are none.
      best: whether to evaluate the best checkpoint and not the newest.
      progress: whether to show progress bars on a terminal.

    Returns:
      Notes on groups that do not apply or fail, if none was asked for, and on metrics that are NaN.

    Raises:
      ValueError: if a group is unknown; at the end, if one that was asked for does not apply or
        fails, or if none applies.
    """
    known = list(GROUPS) if options.ex_post is None else list(_OF_SAMPLES)
    for name in groups:
        checks.known("metrics" if options.ex_post is None else "metrics with ex_post", name, known)
    loaded = loading.load_runs(path, best=best)
    if options.features is not None:
        features.named(options.features, loaded.built.dataset)
    wanted = list(dict.fromkeys(groups or known))
    notes: list[str] = []
    found: dict[str, dict[str, list[Result]]] = {name: {} for name in wanted}
    failed: dict[str, ValueError] = {}
    told = {"checkpoint": f"best by {loaded.built.best}"} if best else {}
    if options.ex_post is not None:
        told["latents"] = f"a mixture of {options.ex_post} Gaussians fitted to the codes"
    for state in loaded.states:
        built = loaded.built
        if options.ex_post is not None:
            built = redrawn.ex_post(built, state, options.ex_post)
        subject = Subject(built, state, options, progress)
        for name in wanted:
            if name in failed:
                continue
            try:
                with jax.default_matmul_precision("highest"):
                    own = GROUPS[name](subject)
            except ValueError as reason:
                failed[name] = reason
                continue
            for metric, result in own.items():
                protocol = {**result.protocol, **told}
                found[name].setdefault(metric, []).append(result._replace(protocol=protocol))
        notes += [f"{path}: {remark}" for remark in subject.remarks]
    entries = [
        results.Entry(metric, loaded.step, tuple(runs))
        for name, metrics in found.items()
        if name not in failed
        for metric, runs in metrics.items()
    ]
    if entries:
        results.write(Folder(Path(path)), entries)
    for name, reason in failed.items():
        applies = not isinstance(reason, NotApplicable)
        if groups:
            what = "fails" if applies else "does not apply"
            raise ValueError(f"{path}: {name} {what}: {reason}") from reason
        notes.append(f"{path}: {name} is left out{', as it fails' * applies}: {reason}")
    if not entries:
        raise ValueError(f"{path}: no metrics apply: {'; '.join(notes)}")
    return notes
