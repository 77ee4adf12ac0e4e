"""M2: its bounds against sums over all classes, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, nets, rng, train, vae
from genmod.types import Net, Parts
from genmod.vae.semi_supervised import semi_supervised

K, L, SHAPE = 3, 2, (4, 4, 1)
CLASSIFIER = nets.mlp((5,), K, activation=jnp.tanh)


def model_of(classes):
    return vae.make(
        nets.conditional(nets.mlp((5,), 2 * L, heads=2), classes),
        nets.conditional(nets.mlp((5,), SHAPE), classes),
        latent_dim=L,
        condition=lambda batch: (batch["image"], batch["label"]),
    )


MODEL = model_of(K)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(7, *SHAPE)), jnp.float32)
FEW = {"image": X[:2], "label": jnp.array([2, 0])}
BATCH = Parts(labelled=FEW, unlabelled=X[2:])


def keys_of(num_few=2, num_many=5):
    few, many = (rng.stream(rng.root(3), name) for name in ("few", "many"))
    return {
        "labelled": rng.per_example(few, num_few),
        "unlabelled": rng.per_example(many, num_many),
    }


def made(**options):
    return semi_supervised(MODEL, CLASSIFIER, **({"num_classes": K, "weight": 0.7} | options))


def losses_of(m2, keys, params, batch):
    return jax.jit(m2.objective)(keys, params, batch)


PARAMS = jax.jit(made().init.function)(rng.root(1), BATCH)
BOUND = jax.jit(vae.elbo(MODEL))


def test_unlabelled_images_have_the_sum_over_their_classes():
    """In NumPy, from the bound of each class and the probabilities of all."""
    losses, aux = losses_of(made(), keys_of(), PARAMS, BATCH)
    logits = np.asarray(CLASSIFIER.apply(PARAMS.classifier, X[2:]), np.float64)
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.zeros(5)
    for label in range(K):
        batch = {"image": X[2:], "label": jnp.full(5, label)}
        keys = rng.at_step(keys_of()["unlabelled"], label)
        bound = np.asarray(BOUND(keys, PARAMS.vae, batch)[0], np.float64)
        expected += q[:, label] * (bound + np.log(K) + np.log(q[:, label]))
    np.testing.assert_allclose(losses["unlabelled"], expected, rtol=1e-5)
    np.testing.assert_allclose(aux["entropy"], -(q * np.log(q)).sum(1), rtol=1e-5)


def test_labelled_images_have_their_bound_and_the_classification():
    losses, aux = losses_of(made(labelled=0.3), keys_of(), PARAMS, BATCH)
    bound = BOUND(keys_of()["labelled"], PARAMS.vae, FEW)[0] + np.log(K)
    logits = np.asarray(CLASSIFIER.apply(PARAMS.classifier, X[:2]), np.float64)
    told = np.log(np.exp(logits).sum(1)) - logits[[0, 1], [2, 0]]
    np.testing.assert_allclose(aux["classification"], told, rtol=1e-5)
    np.testing.assert_allclose(losses["labelled"], 0.3 * bound + 0.7 * told, rtol=1e-5)


def test_of_one_class_it_is_the_elbo():
    model = model_of(1)
    m2 = semi_supervised(model, nets.mlp((5,), 1), num_classes=1, weight=5.0)
    few = {"image": X[:2], "label": jnp.zeros(2, jnp.int32)}
    batch = Parts(labelled=few, unlabelled=X[2:])
    params = jax.jit(m2.init.function)(rng.root(1), batch)
    losses, _ = losses_of(m2, keys_of(), params, batch)
    elbo = jax.jit(vae.elbo(model))
    many = {"image": X[2:], "label": jnp.zeros(5, jnp.int32)}
    own = rng.at_step(keys_of()["unlabelled"], 0)
    np.testing.assert_allclose(losses["unlabelled"], elbo(own, params.vae, many)[0], rtol=1e-6)
    own = keys_of()["labelled"]
    np.testing.assert_allclose(losses["labelled"], elbo(own, params.vae, few)[0], rtol=1e-6)


def test_the_best_classifier_is_that_of_the_bounds():
    """U is least, over q(y|x), where q is proportional to exp(-L): there it is -log sum exp(-L)."""
    own = Net(lambda key, x: jnp.zeros((5, K)), lambda logits, x: logits)
    m2 = semi_supervised(MODEL, own, num_classes=K, weight=0.0)
    batch = Parts(labelled={"image": X[:5], "label": jnp.zeros(5, jnp.int32)}, unlabelled=X[2:])
    keys = keys_of(5)

    def bound(label):
        one_class = {"image": X[2:], "label": jnp.full(5, label)}
        return BOUND(rng.at_step(keys["unlabelled"], label), PARAMS.vae, one_class)[0]

    negative = -jnp.stack([bound(label) + np.log(K) for label in range(K)], axis=1)

    def loss(logits):
        return m2.objective(keys, PARAMS._replace(classifier=logits), batch)[0]["unlabelled"].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(negative)
    np.testing.assert_allclose(value, -jax.nn.logsumexp(negative, axis=1).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, jnp.zeros_like(gradient), atol=1e-4)


@pytest.mark.slow
def test_it_learns_classes_from_few_labels():
    """Bright rows of 120 images, of which three have a label."""
    label = np.arange(120) % K
    images = np.random.default_rng(1).integers(0, 100, (120, *SHAPE))
    images[np.arange(120), label] += 150
    images = images.astype(np.uint8)
    m2 = made(weight=1.0)
    learner = train.learner(
        m2.init, m2.objective, optax.adam(1e-2), sample=m2.generate, conditions=jnp.arange(K)
    )
    few = {"image": images[:3], "label": label[:3].astype(np.int32)}
    batch_at = data.together(
        labelled=data.batches(few, batch_size=3, prepare={"image": data.unit_interval}),
        unlabelled=data.batches(images, batch_size=40),
    )
    state = jax.jit(lambda key: train.fit(learner, key, batch_at, 150))(rng.root(0))
    told = m2.classify(state.params, images / 255.0).argmax(1)
    assert (np.asarray(told) == label).mean() > 0.95
    asked = np.arange(30) % K
    drawn = learner.sample(rng.root(1), state, 30, asked)
    assert (np.asarray(drawn)[:, :K].sum((2, 3)).argmax(1) == asked).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a positive whole number, got 0"),
        ({"weight": -1.0}, "weight must be a number of at least 0, got -1.0"),
        ({"labelled": -0.5}, "labelled must be a number of at least 0, got -0.5"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"unlabelled": X}, "must have the parts 'labelled' and 'unlabelled'"),
        (X, "must have the parts 'labelled' and 'unlabelled'.*got an array"),
        ({"labelled": FEW, "unlabelled": X[:, :2]}, r"as the labelled ones \(2, 4, 4, 1\), got"),
        ({"labelled": {**FEW, "label": X[:2, 0, 0, 0]}, "unlabelled": X}, r"whole numbers \[2\]"),
        ({"labelled": {**FEW, "label": X[:2]}, "unlabelled": X}, r"whole numbers \[2\]"),
    ],
)
def test_batches_of_another_form(batch, message):
    with pytest.raises(ValueError, match=message):
        made().init(rng.root(0), batch)


def test_a_classifier_of_another_width_and_data_out_of_range():
    with pytest.raises(ValueError, match=r"num_classes\] = \[2, 3\], got \[2, 4\]"):
        semi_supervised(MODEL, nets.mlp((), 4), num_classes=K, weight=1.0).init(rng.root(0), BATCH)
    check = made().init.check
    check(BATCH)
    wrong = Parts(labelled={**FEW, "label": jnp.array([1, 3])}, unlabelled=X)
    with pytest.raises(ValueError, match=r"in \[0, 3\)|range \[0, 2\], got values from 1 to 3"):
        check(wrong)
    with pytest.raises(ValueError, match=r"unlabelled images must lie .* \[0, 1\]"):
        check(Parts(labelled=FEW, unlabelled=X + 1))
