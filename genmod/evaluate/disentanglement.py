"""Disentanglement: how separately codes hold the factors of the images.

All scores compare codes [N, L], such as the means of a VAE's posterior, with the true factors
[N, F] of the same images, whole numbers such as those of `data.sprites`. The scores here need NumPy
and JAX alone; those that train classifiers are in `disentangle_fitted`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Key, Keys


class FactorGroups(NamedTuple):
    """Groups of codes, each of images that share the value of one factor.

    Attributes:
      codes: codes of each group, [V, B, L].
      fixed: index of the factor that has one value in the group, integers [V].
    """

    codes: np.ndarray
    fixed: np.ndarray


def mig(codes: Any, factors: Any, *, num_bins: int = 20) -> float:
    """Returns the mutual information gap.

    For each factor v, it is the difference between the two codes that tell most about it, as a
    share of all there is to tell. With the codes z_1, z_2, ... in order of that:

        MIG = mean over v of (I(z_1; v) - I(z_2; v)) / H(v)

    As in disentanglement_lib, a code is divided into bins of equal width between its smallest and
    its largest value, and the information is that of the histogram. Codes that equal the factors
    score 1 if no factor has more than num_bins values, and they are independent. The information of
    a histogram is too large by about (bins - 1) (values - 1) / (2 N) nats.

    Source: Chen et al. 2018, "Isolating sources of disentanglement in VAEs", section 4.1; Locatello
    et al. 2019 for the bins.

    Args:
      codes: codes [N, L], at least two.
      factors: whole numbers [N, F].
      num_bins: number of bins of each code.

    Returns:
      The score, in [0, 1].

    Raises:
      ValueError: if a shape differs from these or there are fewer examples than bins; if codes are
        not finite; if factors are not whole, or one is constant or differs for each example.

    Example:
      >>> import numpy as np
      >>> from genmod import evaluate
      >>> factors = np.indices((5, 5)).reshape(2, 25).T
      >>> rotated = factors @ [[1, 1], [1, -1]]  # by 45 degrees
      >>> round(evaluate.mig(factors, factors), 6), round(evaluate.mig(rotated, factors), 6)
      (1.0, 0.0)
    """
    codes, factors = checked(codes, factors, least_codes=2)
    if checks.positive_integer("num_bins", num_bins) < 2:
        raise ValueError(f"num_bins must be at least 2, got {num_bins}")
    if len(codes) < num_bins:
        raise ValueError(
            f"codes must be of at least num_bins = {num_bins} examples, got {len(codes)}"
        )
    gaps = []
    binned = [_binned(code, num_bins) for code in codes.T]
    for factor in factors.T:
        least, most = np.sort([mutual_information(code, factor) for code in binned])[-2:]
        gaps.append((most - least) / entropy(factor))
    return float(np.mean(gaps))


def factor_vae_score(
    codes: Any,
    factors: Any,
    *,
    key: Key | None = None,
    num_train: int = 10_000,
    num_test: int = 5_000,
    group_size: int = 64,
    min_std: float = 0.05,
) -> float:
    """Returns the FactorVAE score, from groups that are drawn from the examples.

    It is `group_score` of groups that `factor_groups` draws. The default numbers are those of
    Locatello et al. 2019.

    Args:
      codes: codes [N, L].
      factors: whole numbers [N, F].
      key: single key of the draws; rng.root(0) if None.
      num_train: number of groups from which the classifier learns.
      num_test: number of groups that it is tested on.
      group_size: number of codes in a group B.
      min_std: smallest standard deviation of a code that takes part.

    Returns:
      The score, in [0, 1]: 1 / F by chance.

    Raises:
      ValueError: if a shape differs from these or a number is not positive; if codes are not
        finite; if factors are not whole, there is only one, one is constant, or one of its values
        has a single example.

    Example:
      >>> import numpy as np
      >>> from genmod import evaluate
      >>> factors = np.indices((5, 5)).reshape(2, 25).T
      >>> evaluate.factor_vae_score(factors, factors)
      1.0
    """
    codes, factors = checked(codes, factors, least_factors=2)
    for name, value in (("num_train", num_train), ("num_test", num_test)):
        checks.positive_integer(name, value)
    if checks.positive_integer("group_size", group_size) < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    checks.not_negative("min_std", min_std)
    key = rng.root(0) if key is None else key
    train, test = (
        factor_groups(rng.stream(key, part), codes, factors, num=num, size=group_size)
        for part, num in (("train", num_train), ("test", num_test))
    )
    return group_score(train, test, stds=codes.std(0, ddof=1), min_std=min_std)


def factor_groups(key: Key, codes: Any, factors: Any, *, num: int, size: int = 64) -> FactorGroups:
    """Draws groups of examples that share the value of one factor.

    For each group a factor is drawn, then one of its values, as often as it occurs, then `size`
    examples with this value, all with replacement. Group i depends on key i alone and is the same
    for any num.

    Args:
      key: single key.
      codes: codes [N, L].
      factors: whole numbers [N, F].
      num: number of groups V.
      size: number of codes in a group B, at least 2.

    Returns:
      The groups, with codes float64 [V, B, L].

    Raises:
      ValueError: if a shape differs from these or a number is too small; if codes are not finite,
        or factors not whole, one is constant, or one of its values has a single example.
    """
    codes, factors = checked(codes, factors)
    num = checks.positive_integer("num", num)
    if checks.positive_integer("size", size) < 2:
        raise ValueError(f"size must be at least 2, got {size}")
    refuse_rare(factors)
    members, fixed = _drawn(rng.per_example(key, num), *_by_value(factors), size)
    return FactorGroups(codes[np.asarray(members)], np.asarray(fixed))


def group_score(
    train: FactorGroups, test: FactorGroups, *, stds: Any, min_std: float = 0.05
) -> float:
    """Returns the FactorVAE score of groups of codes.

    A group votes for the code whose variance within the group is smallest, as a share of its
    variance over all data:

        argmin over l of Var_group(z_l) / stds_l^2

    The classifier names, for each code, the factor that was fixed most often if the training groups
    voted for this code. The score is its accuracy on the test groups. Codes that hardly vary over
    all data take no part; if none varies, the score is 0.

    Source: Kim & Mnih 2018, "Disentangling by factorising", section 4.

    Args:
      train: groups from which the classifier learns.
      test: groups that it is tested on.
      stds: standard deviation of each code over all data, [L].
      min_std: smallest standard deviation of a code that takes part: 0.05 in Locatello et al. 2019,
        for codes with the prior N(0, 1).

    Returns:
      The score, in [0, 1].

    Raises:
      ValueError: if a shape or type differs from these, or numbers are not finite.
    """
    stds = np.asarray(stds, np.float64)
    if stds.ndim != 1 or not np.isfinite(stds).all() or not (stds >= 0).all():
        raise ValueError(
            f"stds must be finite numbers of at least 0, [L], got {checks.described(stds)}"
        )
    checks.not_negative("min_std", min_std)
    for name, groups in (("train", train), ("test", test)):
        _check_groups(name, groups, len(stds))
    active = (stds >= min_std) & (stds > 0)
    if not active.any():
        return 0.0

    def voted(groups: FactorGroups) -> np.ndarray:
        within = np.asarray(groups.codes, np.float64)[..., active].var(1, ddof=1)
        return (within / stds[active] ** 2).argmin(1)

    votes = np.zeros((int(np.max(train.fixed)) + 1, int(active.sum())), np.int64)
    np.add.at(votes, (np.asarray(train.fixed), voted(train)), 1)
    return float(np.mean(votes.argmax(0)[voted(test)] == test.fixed))


def checked(
    codes: Any,
    factors: Any,
    *,
    least_codes: int = 1,
    least_factors: int = 1,
    vary: bool = True,
    classes: bool = True,
    of: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes as float64 [N, L] and factors as int64 [N, F].

    Args:
      codes: codes [N, L].
      factors: whole numbers [N, F].
      least_codes: smallest L.
      least_factors: smallest F.
      vary: whether each factor must have at least two values.
      classes: whether two examples must share a value of each factor that varies.
      of: start of the arguments' names in messages, such as "test ".

    Raises:
      ValueError: if a shape differs from these, codes are not finite, or factors are not whole
        numbers, one is constant, or one has another value for each example, as continuous ones
        have.
    """
    codes, factors = np.asarray(codes), np.asarray(factors)
    for name, array, letter, least in (
        ("codes", codes, "L", least_codes),
        ("factors", factors, "F", least_factors),
    ):
        shaped = array.ndim == 2 and array.shape[1] >= least and len(array) > 0
        if not shaped or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{of}{name} must be numbers [N, {letter}] with N >= 1 and {letter} >= {least}, "
                f"got {array.dtype} {list(array.shape)}"
            )
    if len(codes) != len(factors):
        raise ValueError(
            f"{of}codes and {of}factors must be of the same examples, got {len(codes)} and "
            f"{len(factors)}"
        )
    codes = codes.astype(np.float64)
    if not np.isfinite(codes).all():
        raise ValueError(
            f"{of}codes must be finite, got {int((~np.isfinite(codes)).sum())} of {codes.size} NaN "
            "or infinite"
        )
    if factors.dtype.kind == "f":
        wrong = ~((np.abs(factors) < 2**53) & (factors == np.round(factors)))
        if wrong.any():
            place = int(wrong.any(0).argmax())
            raise ValueError(
                f"{of}factors must be whole numbers (classes), got "
                f"{factors[wrong[:, place], place][0]:g} for factor {place}; divide a continuous "
                "factor into classes first"
            )
    factors = factors.astype(np.int64)
    constant = (factors == factors[:1]).all(0)
    if vary and constant.any():
        place = int(constant.argmax())
        raise ValueError(
            f"{of}factors must each have at least two values, got only {factors[0, place]} for "
            f"factor {place}"
        )
    for place, factor in enumerate(factors.T if vary and classes else ()):
        if len(np.unique(factor)) == len(factor):
            raise ValueError(
                f"{of}factors must be classes that examples share, got another value for each of "
                f"{len(factor)} examples for factor {place}; divide a continuous factor into "
                "classes first"
            )
    return codes, factors


def refuse_rare(factors: np.ndarray) -> None:
    """Refuses factors that have a value with a single example."""
    for place, factor in enumerate(factors.T):
        values, counts = np.unique(factor, return_counts=True)
        if counts.min() < 2:
            raise ValueError(
                "factors must have at least two examples of each value, got one of value "
                f"{values[counts.argmin()]} for factor {place}"
            )


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the mutual information of the histogram of two classes.

    Args:
      first: classes, integers [N].
      second: classes of the same examples, integers [N].

    Returns:
      The information, in nats.
    """
    (_, first), (_, second) = (np.unique(one, return_inverse=True) for one in (first, second))
    return entropy(first) + entropy(second) - entropy(first * (second.max() + 1) + second)


def entropy(classes: np.ndarray) -> float:
    """Returns the entropy of the frequencies of classes [N], in nats."""
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(-shares @ np.log(shares))


def _binned(code: np.ndarray, num_bins: int) -> np.ndarray:
    """Returns the bin of each value, between the smallest and the largest."""
    edges = np.linspace(code.min(), code.max(), num_bins, endpoint=False)
    return np.searchsorted(edges, code, side="right")


def _by_value(factors: np.ndarray) -> tuple[Array, Array, Array]:
    """Sorts the examples by the value of each factor.

    Returns:
      Examples in order of the values, [F, N]; and, for each factor and example, [F, N] each, the
      place in that order at which the examples with the same value begin, and their number.
    """
    found = []
    for factor in factors.T:
        _, value, counts = np.unique(factor, return_inverse=True, return_counts=True)
        first = np.cumsum(counts) - counts
        found.append((np.argsort(value, kind="stable"), first[value], counts[value]))
    order, first, count = (
        jnp.asarray(np.stack(one), jnp.int32) for one in zip(*found, strict=True)
    )
    return order, first, count


@functools.partial(jax.jit, static_argnums=4)
def _drawn(keys: Keys, order: Array, first: Array, count: Array, size: int) -> tuple[Array, Array]:
    """Draws groups from examples that `_by_value` has sorted.

    Returns:
      Examples of each group, int32 [V, size], and the factor that is fixed in it, int32 [V].
    """
    num_factors, num = order.shape

    def draw(key: Key) -> tuple[Array, Array]:
        factor = jax.random.randint(rng.stream(key, "factor"), (), 0, num_factors)
        example = jax.random.randint(rng.stream(key, "value"), (), 0, num)
        many = count[factor, example]
        rank = jax.random.randint(rng.stream(key, "members"), (size,), 0, many)
        return order[factor, first[factor, example] + rank], factor

    return jax.vmap(draw)(keys)


def _check_groups(name: str, groups: FactorGroups, num_codes: int) -> None:
    codes, fixed = np.asarray(groups.codes), np.asarray(groups.fixed)
    if codes.ndim != 3 or codes.shape[1] < 2 or codes.shape[2] != num_codes or not len(codes):
        raise ValueError(
            f"{name}.codes must have the shape [V, B, {num_codes}] with B >= 2, got "
            f"{list(codes.shape)}"
        )
    if not np.isfinite(codes).all():
        raise ValueError(f"{name}.codes must be finite, got NaN or infinity")
    if fixed.shape != codes.shape[:1] or fixed.dtype.kind not in "iu" or fixed.min() < 0:
        raise ValueError(
            f"{name}.fixed must be the index of a factor for each group, [{len(codes)}], got "
            f"{checks.described(fixed)}"
        )
