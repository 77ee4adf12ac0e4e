"""Disentanglement by classifiers and estimators that scikit-learn fits: SAP, DCI and InfoMEC.

They need scikit-learn. Arguments and settings are those of the authors' code, so that scores can be
compared with published ones.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.data.order import shuffled
from genmod.evaluate.disentanglement import checked, entropy, mutual_information, refuse_rare
from genmod.types import Key


class Dci(NamedTuple):
    """Disentanglement, completeness and informativeness.

    Attributes:
      disentanglement: degree to which a code tells about one factor only, in [0, 1].
      completeness: degree to which a factor is told by one code only, in [0, 1].
      informativeness: accuracy of the classifiers on the test examples, in [0, 1].
      importance: importance of each code for each factor, float64 [L, F].
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray


class InfoMec(NamedTuple):
    """Modularity, compactness and explicitness.

    Attributes:
      modularity: degree to which a code tells about one factor only, in [0, 1].
      compactness: degree to which a factor is told by one code only, in [0, 1]; NaN if only one
        code is active.
      explicitness: share of the factors' entropy that a linear classifier can predict.
      information: mutual information of each code with each factor, as a share of the factor's
        entropy, float64 [L, F].
      active: whether a code takes part in modularity and compactness, bool [L].
    """

    modularity: float
    compactness: float
    explicitness: float
    information: np.ndarray
    active: np.ndarray


def sap(
    codes: Any,
    factors: Any,
    *,
    ordered: bool = False,
    test: tuple[Any, Any] | None = None,
    key: Key | None = None,
    progress: bool = True,
) -> float:
    """Returns the separated attribute predictability.

    Each factor is predicted from each code alone. For each factor, the score is the difference of
    the two codes that predict it best; SAP is the mean over the factors. As in disentanglement_lib,
    a prediction is scored by

    - the accuracy on the test examples of a linear support vector machine, with C = 0.01 and
      balanced classes. The second code is no worse than chance, so codes that equal factors of K
      values score at most about 1 - 1 / K; and a linear machine tells few of many values apart.
    - the squared correlation of code and factor if factors are `ordered`. Codes that equal
      independent factors score 1.

    Source: Kumar et al. 2018, "Variational inference of disentangled latent concepts", section 3;
    Locatello et al. 2019 for the machine, with 10,000 examples and 5,000 to test on.

    Args:
      codes: codes [N, L], at least two.
      factors: whole numbers [N, F].
      ordered: whether factors are quantities, not classes.
      test: codes and factors of the test examples; if None, half of the examples are held out.
        Ordered factors need none.
      key: single key that chooses this half; rng.root(0) if None.
      progress: whether to show a progress bar.

    Returns:
      The score, in [0, 1].

    Raises:
      ValueError: if a shape differs from these; if codes are not finite; if factors are not whole,
        or one is constant or, unless ordered, differs for each example; if test or key is given
        though it has no use.
      ModuleNotFoundError: if scikit-learn is not installed and factors are not ordered.

    Example:
      >>> import numpy as np
      >>> from genmod import evaluate
      >>> factors = np.indices((5, 5)).reshape(2, 25).T
      >>> round(evaluate.sap(factors, factors, ordered=True), 6)
      1.0
    """
    if key is not None and (ordered or test is not None):
        raise ValueError("key must be None, as it only chooses test examples, got a key")
    if ordered:
        if test is not None:
            raise ValueError("test must be None if factors are ordered, got test examples")
        return _mean_gap(
            _squared_correlation(*checked(codes, factors, least_codes=2, classes=False))
        )
    train, held_out = _divided(codes, factors, test, key, least_codes=2)
    _require_sklearn("sap")
    from sklearn.svm import LinearSVC

    accuracies = np.zeros((train[0].shape[1], train[1].shape[1]))
    for place, (factor, truth) in enumerate(_over_factors(train[1], held_out[1], progress)):
        for code in range(len(accuracies)):
            machine = LinearSVC(C=0.01, class_weight="balanced")
            machine.fit(train[0][:, code, None], factor)
            accuracies[code, place] = np.mean(machine.predict(held_out[0][:, code, None]) == truth)
    return _mean_gap(accuracies)


def dci(
    codes: Any,
    factors: Any,
    *,
    test: tuple[Any, Any] | None = None,
    key: Key | None = None,
    progress: bool = True,
) -> Dci:
    """Returns disentanglement, completeness and informativeness.

    Gradient boosted trees predict each factor from all codes; R_lf is the importance of code l for
    factor f. With the shares P_lf = R_lf / sum over f of R_lf, disentanglement is

        sum over l of w_l (1 - H(P_l) / ln F),  w_l = sum over f of R_lf / sum of R

    Completeness is the same for the columns of R, with ln L in place of ln F. The trees are
    disentanglement_lib's, scikit-learn's GradientBoostingClassifier as it is: 100 trees for each
    value of each factor, which takes long for many values.

    Source: Eastwood & Williams 2018, "A framework for the quantitative evaluation of disentangled
    representations", section 2; Locatello et al. 2019 for the trees and the accuracy as
    informativeness, with 10,000 examples and 5,000 to test on.

    Args:
      codes: codes [N, L], at least two.
      factors: whole numbers [N, F], at least two.
      test: codes and factors of the test examples; if None, half of the examples are held out.
      key: single key of that half and of the trees' random choices; rng.root(0) if None.
      progress: whether to show a progress bar.

    Raises:
      ValueError: if a shape differs from these; if codes are not finite; if factors are not whole,
        or one is constant or differs for each example.
      ModuleNotFoundError: if scikit-learn is not installed.
    """
    key = rng.root(0) if key is None else key
    train, held_out = _divided(codes, factors, test, key, least_codes=2, least_factors=2)
    _require_sklearn("dci")
    from sklearn.ensemble import GradientBoostingClassifier

    importance, accuracies = [], []
    for factor, truth in _over_factors(train[1], held_out[1], progress):
        trees = GradientBoostingClassifier(random_state=_seed(key, "trees")).fit(train[0], factor)
        importance.append(trees.feature_importances_)
        accuracies.append(np.mean(trees.predict(held_out[0]) == truth))
    of_codes = np.stack(importance, axis=1)
    return Dci(_focus(of_codes), _focus(of_codes.T), float(np.mean(accuracies)), of_codes)


def infomec(
    codes: Any,
    factors: Any,
    *,
    discrete: bool = False,
    key: Key | None = None,
    progress: bool = True,
) -> InfoMec:
    """Returns modularity, compactness and explicitness.

    With the information I_lf = I(code l; factor f) / H(factor f) of the active codes, modularity is

        (mean over l of (max over f of I_lf / sum over f of I_lf) - 1 / F) / (1 - 1 / F)

    Compactness is the same for factors in place of codes, over the number of active codes. Codes or
    factors without any information are left out of the mean; if all are, the score is 0.
    Explicitness is the mean over the factors of

        1 - (cross entropy of a logistic regression on all codes) / ln(number of values)

    The settings are those of the authors' code. The information of continuous codes is an estimate
    by the 10 nearest neighbours (Ross 2014), that of discrete codes is exact for the examples.
    Continuous codes are active if their range is above 1/20 of the largest one, discrete ones if
    they vary. The regression has no penalty, weighs the values equally, is tested on the examples
    that it is fitted to, and ends after 100 iterations at most, so that codes which separate the
    values fully score a little below 1.

    Source: Hsu et al. 2023, "Disentanglement via latent quantization", and their file
    `infomec.py`.

    Args:
      codes: codes [N, L], at least two.
      factors: whole numbers [N, F], at least two.
      discrete: whether codes are classes, such as quantised ones.
      key: single key of the noise of 1e-10 that breaks ties between neighbours; rng.root(0) if
        None.
      progress: whether to show a progress bar.

    Raises:
      ValueError: if a shape differs from these; if codes are not finite, or discrete and one has
        another value for each example; if factors are not whole, one is constant, or one of its
        values has a single example.
      ModuleNotFoundError: if scikit-learn is not installed.
    """
    codes, factors = checked(codes, factors, least_codes=2, least_factors=2)
    refuse_rare(factors)
    for place, code in enumerate(codes.T if discrete else ()):
        if len(np.unique(code)) == len(code):
            raise ValueError(
                f"codes must be classes that examples share, as discrete=True says, got another "
                f"value for each of {len(code)} examples for code {place}"
            )
    key = rng.root(0) if key is None else key
    _require_sklearn("infomec")

    information, explicit = [], []
    for factor, _ in _over_factors(factors, factors, progress):
        found = _discrete(codes, factor) if discrete else _continuous(codes, factor, key)
        information.append(np.where(found < _ROUNDING, 0, found) / entropy(factor))
        explicit.append(_predictable(codes, factor, discrete))
    of_codes = np.stack(information, axis=1)
    ranges = np.ptp(codes, axis=0)
    active = ranges > (0 if discrete else ranges.max() / 20)
    return InfoMec(
        modularity=_preference(of_codes[active]),
        compactness=_preference(of_codes[active].T),
        explicitness=float(np.mean(explicit)),
        information=of_codes,
        active=active,
    )


def _mean_gap(scores: np.ndarray) -> float:
    """Returns the mean over columns of the largest less the second largest value."""
    second, first = np.sort(scores, axis=0)[-2:]
    return float(np.mean(first - second))


def _squared_correlation(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Returns the squared correlation of each code with each factor, [L, F].

    A constant code has none: as in disentanglement_lib, its variance is at most 1e-12.
    """
    codes, factors = codes - codes.mean(0), factors - factors.mean(0)
    covariances, variances = codes.T @ factors, (codes**2).sum(0)
    products = variances[:, None] * (factors**2).sum(0)
    varies = variances[:, None] > 1e-12 * (len(codes) - 1)
    return np.where(varies, covariances**2 / np.where(varies, products, 1), 0)


_ROUNDING = 1e-12
"""Information below this is a rounding error, in nats."""


def _discrete(codes: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Returns each code's information about a factor, nats [L]."""
    classes = [np.unique(code, return_inverse=True)[1] for code in codes.T]
    return np.array([mutual_information(code, factor) for code in classes])


def _continuous(codes: Any, factor: Any, key: Key) -> Any:
    """Estimates each code's information about a factor, nats [L]."""
    from sklearn.feature_selection import mutual_info_classif

    return mutual_info_classif(
        codes, factor, discrete_features=False, n_neighbors=10, random_state=_seed(key, "noise")
    )


def _predictable(codes: Any, factor: Any, discrete: bool) -> float:
    """Returns the share of a factor's entropy that a linear classifier predicts.

    A classifier that knows nothing, with all values weighed equally, has the cross entropy
    ln(number of values).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    seen = (OneHotEncoder() if discrete else StandardScaler()).fit_transform(codes)
    classifier = LogisticRegression(C=np.inf, class_weight="balanced", tol=1e-4, max_iter=100)
    with warnings.catch_warnings():
        # The end after 100 iterations is a part of the score's definition.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(seen, factor)
    loss = log_loss(factor, classifier.predict_proba(seen))
    return 1 - float(loss) / float(np.log(len(classifier.classes_)))


def _preference(information: np.ndarray) -> float:
    """Returns how much of its information a row has in one column, 0 to 1."""
    total = information.sum(1)
    told = total > 0
    if not told.any():
        return 0.0
    chance = 1 / information.shape[1]
    if chance == 1:
        return float("nan")
    share = (information[told].max(1) / total[told]).mean()
    return float((share - chance) / (1 - chance))


def _focus(importance: np.ndarray) -> float:
    """Returns how much of its importance a row has in one column, 0 to 1.

    Rows count by their importance. Without any importance the score is 0.
    """
    total = importance.sum(1)
    rows = importance[total > 0] / total[total > 0, None]
    if not len(rows):
        return 0.0
    logs = np.log(np.where(rows > 0, rows, 1))
    sparse = 1 + (rows * logs).sum(1) / np.log(importance.shape[1])
    return float(sparse @ total[total > 0] / total.sum())


def _divided(
    codes: Any,
    factors: Any,
    test: Any,
    key: Key | None,
    least_codes: int = 1,
    least_factors: int = 1,
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Returns codes and factors to train on, and those to test on."""
    codes, factors = checked(codes, factors, least_codes=least_codes, least_factors=least_factors)
    if test is not None:
        if not isinstance(test, tuple | list) or len(test) != 2:
            raise ValueError(f"test must be (codes, factors), got {checks.described(test)}")
        unseen = checked(*test, of="test ", vary=False)
        for name, known, other in zip(("codes", "factors"), (codes, factors), unseen, strict=True):
            if known.shape[1] != other.shape[1]:
                raise ValueError(
                    f"test {name} must have the shape [N, {known.shape[1]}], as {name} have, got "
                    f"{list(other.shape)}"
                )
        return (codes, factors), unseen
    num = len(codes)
    if num < 4:
        raise ValueError(
            f"codes must be of at least 4 examples, half of them to test on, got {num}"
        )
    key = rng.root(0) if key is None else key
    order = np.asarray(shuffled(rng.stream(key, "halves"), jnp.arange(num, dtype=jnp.int32), num))
    known, unseen = order[: num - num // 2], order[num - num // 2 :]
    return checked(codes[known], factors[known], of="training "), (codes[unseen], factors[unseen])


def _over_factors(factors: np.ndarray, others: np.ndarray, progress: bool) -> Any:
    """Yields each factor of two sets, with a progress bar."""
    pairs = list(zip(factors.T, others.T, strict=True))
    from genmod._host.bars import tqdm

    return tqdm(pairs, desc="factors", leave=False, disable=None if progress else True)


def _seed(key: Key, name: str) -> int:
    """Returns the seed of scikit-learn's random numbers."""
    return int(jax.random.bits(rng.stream(key, name), dtype=jnp.uint32))


def _require_sklearn(metric: str) -> None:
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{metric} needs scikit-learn: pip install 'scikit-learn>=1.9'"
        ) from error
