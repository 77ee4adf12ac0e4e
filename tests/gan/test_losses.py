"""Every adversarial loss, value and Jacobian, against formulas in float64 and 60-digit decimals."""

import decimal
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmod import gan
from genmod.gan import losses

LOSSES = {
    name: getattr(losses, name)
    for name in (
        "minimax",
        "nonsaturating",
        "least_squares",
        "wasserstein",
        "hinge",
        "relativistic",
        "relativistic_average",
    )
}
RELATIVISTIC = ("relativistic", "relativistic_average")
EDGES = np.array([-1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4])
NUM = len(EDGES) ** 2
EVERY_PAIR = tuple(np.stack(np.meshgrid(EDGES, EDGES)).reshape(2, NUM))


@np.vectorize
def sigma(a):
    """The logistic function; with 60 digits and exponents without bound, nothing overflows."""
    with decimal.localcontext(prec=60):
        return float(1 / (1 + (-decimal.Decimal(float(a))).exp()))


@np.vectorize
def log_sigma(a):
    with decimal.localcontext(prec=60):
        return float((1 / (1 + (-decimal.Decimal(float(a))).exp())).ln())


def averaged(real, fake):
    """Relativistic average: the discriminator's loss and its Jacobians by real and by fake."""
    above, below = fake.mean() - real, fake - real.mean()
    share = np.full((1, len(real)), 1 / len(real))
    return (
        -log_sigma(-above) - log_sigma(-below),
        -np.diag(sigma(above)) - sigma(below)[:, None] * share,
        np.diag(sigma(below)) + sigma(above)[:, None] * share,
    )


def reference(name, r, f):
    """(D, dD/dr, dD/df), (G, dG/dr, dG/df), probabilities; the derivatives are matrices [B, B]."""
    zero = np.zeros_like(r)
    one = np.ones_like(r)
    classification = -log_sigma(r) - log_sigma(-f), -sigma(-r), sigma(f)
    sigmoids = sigma(r), sigma(f)
    if name == "relativistic_average":
        generator, by_fake, by_real = averaged(f, r)
        probabilities = sigma(r - f.mean()), sigma(f - r.mean())
        return averaged(r, f), (generator, by_real, by_fake), probabilities
    players = {
        "minimax": (classification, (log_sigma(-f), zero, -sigma(f)), sigmoids),
        "nonsaturating": (classification, (-log_sigma(f), zero, -sigma(-f)), sigmoids),
        "least_squares": (
            ((r - 1) ** 2 / 2 + f**2 / 2, r - 1, f),
            ((f - 1) ** 2 / 2, zero, f - 1),
            (np.minimum(np.maximum(r, 0), 1), np.minimum(np.maximum(f, 0), 1)),
        ),
        "wasserstein": ((f - r, -one, one), (-f, zero, -one), sigmoids),
        "hinge": (
            (np.maximum(0, 1 - r) + np.maximum(0, 1 + f), -1.0 * (r < 1), 1.0 * (f > -1)),
            (-f, zero, -one),
            sigmoids,
        ),
        "relativistic": (
            (-log_sigma(r - f), -sigma(f - r), sigma(f - r)),
            (-log_sigma(f - r), sigma(r - f), -sigma(r - f)),
            (sigma(r - f), sigma(f - r)),
        ),
    }
    discriminator, generator, probabilities = players[name]

    def alone(value, by_real, by_fake):
        return value, np.diag(by_real), np.diag(by_fake)

    return alone(*discriminator), alone(*generator), probabilities


def functions(loss):
    return loss.discriminator, loss.generator, loss.probabilities


def evaluate(loss, real, fake):
    def player(function):
        return function(real, fake), *jax.jacobian(function, (0, 1))(real, fake)

    return player(loss.discriminator), player(loss.generator), loss.probabilities(real, fake)


COMPILED = {
    name: jax.jit(lambda r, f, loss=loss: evaluate(loss, r, f)) for name, loss in LOSSES.items()
}


def ordinary(seed):
    return np.random.default_rng(seed).normal(scale=4, size=(2, NUM)).astype(np.float32)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "logits", [ordinary(0), ordinary(1), EVERY_PAIR], ids=["ordinary", "other", "edges"]
)
def test_value_and_jacobian_are_the_closed_form(name, logits):
    real, fake = (np.asarray(a, np.float64) for a in logits)
    found = COMPILED[name](jnp.asarray(real, jnp.float32), jnp.asarray(fake, jnp.float32))
    expected = reference(name, real, fake)
    assert [a.shape for a in found[0]] == [(NUM,), (NUM, NUM), (NUM, NUM)]
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.all(np.isfinite(mine))
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", LOSSES)
def test_float64_logits_keep_their_digits(name):
    # Anything that is rounded to float32 on the way would show in the eighth digit.
    real, fake = np.array([0.3, -1.7]), np.array([-0.2, 2.1])
    with jax.enable_x64(True):
        found = jax.tree.leaves(jax.jit(lambda r, f: evaluate(LOSSES[name], r, f))(real, fake))
        assert {a.dtype for a in found} == {np.dtype(np.float64)}
        for mine, theirs in zip(found, jax.tree.leaves(reference(name, real, fake)), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-13, atol=1e-15)


LOG2 = np.log(2)


@pytest.mark.parametrize(
    ("name", "at", "discriminator", "generator"),
    [
        ("minimax", 0.0, 2 * LOG2, -LOG2),
        ("nonsaturating", 0.0, 2 * LOG2, LOG2),
        ("least_squares", 0.5, 1 / 4, 1 / 8),
        ("wasserstein", 0.7, 0.0, -0.7),
        ("hinge", 0.0, 2.0, 0.0),
        ("relativistic", 0.7, LOG2, LOG2),
        ("relativistic_average", 0.7, 2 * LOG2, 2 * LOG2),
    ],
)
def test_the_optimum_is_as_documented(name, at, discriminator, generator):
    # Real and generated images cannot be told apart: all have the same logit.
    logits = jnp.full(3, at)
    loss = LOSSES[name]
    np.testing.assert_allclose(loss.discriminator(logits, logits), [discriminator] * 3, rtol=1e-6)
    np.testing.assert_allclose(loss.generator(logits, logits), [generator] * 3, rtol=1e-6)
    if name != "wasserstein":
        np.testing.assert_allclose(loss.probabilities(logits, logits), np.full((2, 3), 0.5))


@pytest.mark.parametrize("name", ["minimax", "nonsaturating", "least_squares"])
def test_the_best_discriminator_is_the_share_of_the_data(name):
    # Where data are p times as frequent as generated images, the mean loss is least at p / (p + 1).
    p = 3.0
    share = np.linspace(0.01, 0.99, 99, dtype=np.float32)
    logits = jnp.asarray(share if name == "least_squares" else np.log(share / (1 - share)))
    nothing = jnp.full(99, -100.0 if name != "least_squares" else 0.0)
    everything = jnp.full(99, 100.0 if name != "least_squares" else 1.0)
    discriminator = LOSSES[name].discriminator
    mean = p * discriminator(logits, nothing) + discriminator(everything, logits)
    np.testing.assert_allclose(share[np.argmin(mean)], p / (p + 1), atol=1e-6)
    np.testing.assert_allclose(LOSSES[name].probabilities(logits, logits)[0], share, atol=1e-6)


def test_minimax_saturates_and_nonsaturating_does_not():
    # Under the name of minimax some libraries have a generator that does not saturate.
    sure = jnp.full(1, -20.0)

    def slope(loss):
        return jax.grad(lambda fake: loss.generator(sure, fake).sum())(sure)[0]

    np.testing.assert_allclose(slope(losses.minimax), -np.exp(-20), rtol=1e-5)
    np.testing.assert_allclose(slope(losses.nonsaturating), -1, rtol=1e-6)


# Multiples of 1/16: sums of a few of them are exact, so laws hold to the last bit.
sixteenths = st.integers(-1600, 1600).map(lambda k: k / 16)
pairs = st.lists(st.tuples(sixteenths, sixteenths), min_size=4, max_size=4).map(
    lambda rows: tuple(jnp.asarray(np.array(rows, np.float32).T))
)


@given(pairs)
def test_minimax_and_wasserstein_are_zero_sum(logits):
    # The generator receives what the discriminator loses on generated images; its own share, on
    # real images, is what remains.
    real, fake = logits
    for loss, of_real in (
        (losses.minimax, np.logaddexp(0, -real)),
        (losses.wasserstein, -real),
    ):
        left = loss.discriminator(real, fake) + loss.generator(real, fake)
        np.testing.assert_allclose(left, of_real, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", RELATIVISTIC)
@given(logits=pairs, shift=sixteenths)
def test_a_common_shift_changes_no_relativistic_number(name, logits, shift):
    loss = LOSSES[name]
    moved = [a + np.float32(shift) for a in logits]
    for function in functions(loss):
        np.testing.assert_array_equal(function(*moved), function(*logits))


@pytest.mark.parametrize("name", RELATIVISTIC)
@given(logits=pairs)
def test_relativistic_players_are_each_other_with_the_images_exchanged(name, logits):
    real, fake = logits
    loss = LOSSES[name]
    np.testing.assert_array_equal(loss.generator(real, fake), loss.discriminator(fake, real))
    np.testing.assert_array_equal(
        loss.probabilities(real, fake), loss.probabilities(fake, real)[::-1]
    )


@given(pairs)
def test_of_a_relativistic_pair_one_is_the_more_realistic(logits):
    np.testing.assert_allclose(sum(losses.relativistic.probabilities(*logits)), 1, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_only_relativistic_generators_depend_on_real_images(name):
    real, fake = (jnp.asarray(a) for a in ordinary(2))
    _, (_, by_real, _), _ = COMPILED[name](real, fake)
    assert np.any(np.asarray(by_real) != 0) == (name in RELATIVISTIC)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("real", "fake", "shapes"),
    [
        ((3,), (4,), r"got \[3\] and \[4\]"),
        ((3,), (1,), r"got \[3\] and \[1\]"),
        ((3, 1), (3, 1), r"got \[3, 1\] and \[3, 1\]"),
        ((3,), (3, 1), r"got \[3\] and \[3, 1\]"),
        ((), (), r"got \[\] and \[\]"),
    ],
)
def test_logits_of_other_shapes_are_refused(name, real, fake, shapes):
    for function in functions(LOSSES[name]):
        with pytest.raises(ValueError, match=shapes):
            function(jnp.zeros(real), jnp.zeros(fake))


def test_a_loss_of_ones_own_has_the_sigmoids_for_probabilities():
    own = losses.AdversarialLoss(lambda real, fake: fake - real, lambda real, fake: -fake)
    logits = jnp.array([0.0, 2.0])
    np.testing.assert_allclose(
        own.probabilities(logits, -logits), sigma(np.array([[0, 2], [0, -2]])), rtol=1e-6
    )


@pytest.mark.parametrize("name", gan.LOSSES)
def test_help_shows_each_losses_own_formula_and_paper(name):
    loss = gan.LOSSES[name]
    assert (loss.name, repr(loss)) == (name, f"<AdversarialLoss {name!r}>")
    doc = loss.__doc__
    assert doc != gan.AdversarialLoss.__doc__
    assert [other for other in gan.LOSSES if gan.LOSSES[other].__doc__ == doc] == [name]
    for player in "DG":
        (formula,) = re.findall(rf"^ +{player}: (.*)$", doc, re.MULTILINE)
        assert re.search("real|fake", formula)
    _, _, references = doc.partition("References:\n")
    # Author, title, year and arXiv id of each paper.
    papers = [
        " ".join(paper.split()) for paper in re.findall(r"[^()]+\(arXiv:[^()]+\)", references)
    ]
    assert papers
    for paper in papers:
        assert re.search(r"[A-Z].*, .+, 20\d\d \(arXiv:\d{4}\.\d{4,5}\)$", paper)
    text = pydoc.render_doc(loss, renderer=pydoc.plaintext)
    assert all(line.strip() in text for line in doc.splitlines())


def test_a_loss_of_ones_own_may_have_a_name_and_a_text():
    def critic(real, fake):
        return fake - real

    plain = gan.AdversarialLoss(critic, lambda real, fake: -fake)
    assert plain.__doc__ == gan.AdversarialLoss.__doc__
    own = gan.AdversarialLoss(critic, lambda real, fake: -fake, name="mine", doc="My loss.")
    assert (own.name, own.__doc__) == ("mine", "My loss.")
