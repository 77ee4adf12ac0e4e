"""Terms of both players' losses against float64 references, and in the step of a learner."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from genmod import devices, gan, nets, rng, train
from genmod.types import Seen

NUM, CLASSES = 5, 3
LABELS = np.array([2, 0, 0, 1, 2], np.int32)
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(2, NUM, 2 * CLASSES))
VECTORS = RANDOM.normal(size=(3, NUM, 4))
MATRIX = RANDOM.normal(size=(2, 12))


def keys(num=NUM, seed=0):
    return rng.per_example(rng.root(seed), num)


def generate(z):
    """Images of 3 x 2 pixels and two channels, linear in the latent."""
    z = jnp.asarray(z)
    return jnp.matmul(z, jnp.asarray(MATRIX, z.dtype), precision="highest").reshape(-1, 3, 2, 2)


def seen(condition=LABELS, num=NUM):
    """Outputs of no network, but numbers."""
    real = {"class": LOGITS[0, :, :CLASSES], "twin": LOGITS[0, :, CLASSES:], "pair": LOGITS[0]}
    fake = {"class": LOGITS[1, :, :CLASSES], "twin": LOGITS[1, :, CLASSES:], "pair": LOGITS[1]}
    real |= {"embedding": VECTORS[0], "proxy": VECTORS[1], "features": VECTORS[0].reshape(-1, 2, 2)}
    fake |= {"embedding": VECTORS[1], "proxy": VECTORS[2], "features": VECTORS[1].reshape(-1, 2, 2)}
    judge = lambda x: {"logit": jnp.sum(jnp.square(x), axis=(1, 2, 3))}  # noqa: E731
    z = np.random.default_rng(1).normal(size=(num, 2))
    return Seen(jnp.zeros((num, 3, 2, 2)), generate(z), real, fake, z, condition, generate, judge)


def values(term, **options):
    """Values of both players in float64; None for one without a term."""
    with jax.enable_x64(True):
        what = seen(**options)
        found = [each and each(keys(), what) for each in (term.discriminator, term.generator)]
    return found


def entropy(logits, places):
    """Cross entropies of the entries at these places."""
    return -special.log_softmax(logits, axis=1)[np.arange(len(logits)), places]


def test_the_auxiliary_classifier_is_cross_entropy_of_both_kinds_of_images():
    discriminator, generator = values(gan.auxiliary_classifier())
    real, fake = (entropy(each[:, :CLASSES], LABELS) for each in LOGITS)
    np.testing.assert_allclose(discriminator, real + fake, rtol=1e-12)
    np.testing.assert_allclose(generator, fake, rtol=1e-12)


def test_twin_classifiers_learn_real_and_generated_classes_apart():
    discriminator, generator = values(gan.twin_classifier())
    real, fake = LOGITS[0, :, :CLASSES], LOGITS[1, :, :CLASSES]
    twin = entropy(LOGITS[1, :, CLASSES:], LABELS)
    np.testing.assert_allclose(discriminator, entropy(real, LABELS) + twin, rtol=1e-12)
    np.testing.assert_allclose(generator, entropy(fake, LABELS) - twin, rtol=1e-12)
    # Twins that agree say nothing to the generator: classes may overlap.
    _, none = values(gan.twin_classifier(twin="class"))
    np.testing.assert_array_equal(none, 0)


def test_the_discriminative_classifier_has_twice_the_classes():
    discriminator, generator = values(gan.discriminative_classifier(output="pair"))
    as_real, as_fake = entropy(LOGITS[1], LABELS), entropy(LOGITS[1], LABELS + CLASSES)
    np.testing.assert_allclose(discriminator, entropy(LOGITS[0], LABELS) + as_fake, rtol=1e-12)
    np.testing.assert_allclose(generator, as_real - as_fake, rtol=1e-12)
    # The generator's term is a difference of two logits.
    rows = np.arange(NUM)
    between = LOGITS[1][rows, LABELS + CLASSES] - LOGITS[1][rows, LABELS]
    np.testing.assert_allclose(generator, between, rtol=1e-12)


def data_to_data(f, v, temperature, positive, negative):
    """The loss of embeddings f and proxies v, image by image."""
    f, v = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (f, v))
    found = []
    for i in range(NUM):
        own = np.exp(min(f[i] @ v[i] - positive, 0) / temperature)
        others = [
            np.exp(max(f[i] @ f[j] - negative, 0) / temperature)
            for j in range(NUM)
            if LABELS[j] != LABELS[i]
        ]
        found.append(-np.log(own / (own + sum(others))))
    return found


@pytest.mark.parametrize("margins", [(0.98, 0.02), (0.1, -0.3)])
def test_data_to_data_compares_images_of_other_classes(margins):
    term = gan.data_to_data(temperature=0.7, positive_margin=margins[0], negative_margin=margins[1])
    found = values(term)
    for place in (0, 1):
        expected = data_to_data(VECTORS[place], VECTORS[place + 1], 0.7, *margins)
        np.testing.assert_allclose(found[place], expected, rtol=1e-12)


def test_data_to_data_of_a_single_class_is_zero():
    found, _ = values(gan.data_to_data(), condition=np.zeros(NUM, np.int32))
    np.testing.assert_array_equal(np.asarray(found), 0)


def test_feature_matching_compares_mean_features():
    discriminator, generator = values(gan.feature_matching())
    expected = np.square(VECTORS[0].mean(0) - VECTORS[1].mean(0)).sum()
    np.testing.assert_allclose(generator, [expected] * NUM, rtol=1e-12)
    assert discriminator is None


def test_latent_consistency_is_of_images_and_of_logits():
    term = gan.latent_consistency(sigma=0.3, discriminator_weight=5.0, generator_weight=0.5)
    assert (term.discriminator_weight, term.generator_weight) == (5.0, 0.5)
    discriminator, generator = values(term)
    with jax.enable_x64(True):
        z = seen().latents
        noise = np.stack([jax.random.normal(key, (2,), z.dtype) for key in keys()])
    before, after = (np.asarray(each @ MATRIX) for each in (z, z + 0.3 * noise))
    np.testing.assert_allclose(generator, -np.square(before - after).mean(1), rtol=1e-10)
    logits = [np.square(each).sum(1) for each in (before, after)]
    np.testing.assert_allclose(discriminator, np.square(logits[0] - logits[1]), rtol=1e-10)


def test_the_path_length_of_a_linear_generator_is_that_of_its_matrix():
    num = 4000
    term = gan.path_length(jnp.float32(0.25), weight=2.0)
    what = seen(num=num)._replace(condition=None)
    found, notes = term.generator(keys(num), what)
    lengths = np.asarray(notes["path_lengths"], np.float64)
    np.testing.assert_allclose(found, np.square(lengths - 0.25), rtol=1e-4, atol=1e-5)
    # E |A y|^2 = |A|^2 / (H W) for y ~ N(0, I) / sqrt(H W), of 3 x 2 pixels.
    expected = np.square(MATRIX).sum() / 6
    squares = np.square(lengths)
    assert abs(squares.mean() - expected) < 4 * squares.std() / np.sqrt(num)
    assert term.discriminator is None


def test_the_path_length_of_a_constant_generator_has_a_gradient():
    def loss(scale):
        what = seen()._replace(generate=lambda z: scale * generate(z))
        return gan.path_length(0.5, weight=1.0).generator(keys(), what)[0].mean()

    assert np.isfinite(jax.grad(loss)(0.0))


def test_the_average_length_moves_by_its_share():
    remember = gan.moving_length(decay=0.9, name="mine")
    moved = remember(None, {"mine": jnp.float32(2)}, {"path_lengths": jnp.array([1.0, 3.0, 5.0])})
    np.testing.assert_allclose(moved["mine"], 0.9 * 2 + 0.1 * 3, rtol=1e-6)
    assert moved["mine"].dtype == jnp.float32


# In the step of a learner

X = np.random.default_rng(2).normal(size=(4, 3, 2)).astype(np.float32)
BATCH = {"image": X, "label": LABELS[:4]}
JUDGE = nets.heads(nets.mlp((), 4, output=jnp.tanh), digit=nets.mlp((), CLASSES))
MODEL = gan.make(
    nets.conditional(nets.mlp((), (3, 2)), CLASSES),
    JUDGE,
    latent_dim=2,
    condition=lambda batch: (batch["image"], batch["label"]),
)


def stepped(terms, **options):
    """State and metrics after a step of plain gradient descent with rate 1."""
    learner = train.adversarial(MODEL, gan.wasserstein, optax.sgd(1.0), terms=terms, **options)
    state = jax.jit(learner.init)(rng.root(0), BATCH)
    return state, *jax.jit(learner.step)(rng.root(1), state, BATCH)


def moved(before, after):
    return jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), before.params, after.params)


@pytest.mark.costly
def test_terms_add_to_the_losses_of_their_players():
    plain_before, plain, _ = stepped({})
    before, after, metrics = stepped({"digit": gan.auxiliary_classifier(output="digit")})
    jax.tree.map(np.testing.assert_array_equal, before.params, plain_before.params)
    without, found = moved(before, plain), moved(before, after)
    # Without the term nothing moves its output; with it that of the discriminator's turn alone.
    assert not np.any(without.discriminator["digit"]["output"]["kernel"])
    shared = ("features", "digit")

    def classify(params):
        """Mean cross entropy of the real images, and of those of the generator before its turn."""
        full = before.params._replace(discriminator={**before.params.discriminator, **params})
        update = rng.per_example(rng.at_step(rng.stream(rng.root(1), "discriminator"), 0), 4)
        z = MODEL.latent(rng.stream(update, "latent"))
        fake = MODEL.generate(before.params, z, LABELS[:4])
        total = 0.0
        for x in (X, fake):
            log_c = jax.nn.log_softmax(MODEL.outputs(full, x, LABELS[:4])["digit"])
            total -= log_c[jnp.arange(4), LABELS[:4]].mean()
        return total

    own = {name: before.params.discriminator[name] for name in shared}
    slope = jax.grad(classify)(own)
    for name in shared:
        added = jax.tree.map(
            lambda a, b: a - b, found.discriminator[name], without.discriminator[name]
        )
        jax.tree.map(
            lambda a, g: np.testing.assert_allclose(a, -g, rtol=1e-4, atol=1e-6),
            added,
            slope[name],
        )
    np.testing.assert_allclose(metrics["discriminator_digit"], classify(own), rtol=1e-5)
    assert metrics["generator_digit"] > 0
    assert np.any(found.generator["output"]["kernel"] != without.generator["output"]["kernel"])


@pytest.mark.costly
def test_weights_may_follow_hyper_and_the_metrics_are_unweighted():
    found = [
        stepped(
            lambda now: {"digit": gan.auxiliary_classifier(output="digit", weight=now["weight"])},
            hyper={"weight": weight},
        )
        for weight in (1.0, 2.0, 0.0)
    ]
    steps = [moved(*each[:2]).discriminator["digit"]["output"]["kernel"] for each in found]
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=1e-5)
    assert not np.any(steps[2])
    assert len({float(each[2]["discriminator_digit"]) for each in found}) == 1


@pytest.mark.costly
def test_memory_follows_the_notes_of_a_term():
    _, after, metrics = stepped(
        lambda now: {"path": gan.path_length(now["path_length"], weight=0.0)},
        memory={"path_length": 0.0},
        remember=gan.moving_length(decay=0.0),
    )
    # (length - 0)^2 has the mean of a square: at least the square of the mean.
    assert 0 < float(after.memory["path_length"]) ** 2 <= float(metrics["generator_path"])
    with pytest.warns(UserWarning, match=r"nobody reads the notes \['path_lengths'\]"):
        stepped({"path": gan.path_length(0.0, weight=1.0)})


def test_a_term_of_your_own_sees_everything():
    def drift(keys, seen):
        assert set(seen.real_outputs) == {"features", "digit", "logit"}
        assert seen.latents.shape == (4, 2)
        again = seen.judge(seen.real)["logit"]
        return jnp.square(seen.real_outputs["logit"]) + 0 * again

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, _, metrics = stepped({"drift": gan.Term(drift, discriminator_weight=0.1)})
    logits = MODEL.discriminate(before.params, X, LABELS[:4])
    np.testing.assert_allclose(metrics["discriminator_drift"], np.square(logits).mean(), rtol=1e-5)
    assert "generator_drift" not in metrics


@pytest.mark.parametrize(
    "term", [gan.feature_matching(), gan.data_to_data(embedding="features", proxy="digit")]
)
def test_terms_of_the_whole_batch_refuse_microbatches(term):
    with devices.microbatch(), pytest.raises(ValueError, match="microbatches must be 1"):
        term.generator(keys(), seen())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stepped([]), r"terms must be a dict of gan.Term by name, got"),
        (lambda: stepped({"digit": gan.r1}), r"terms\['digit'\] must be a gan.Term, got"),
        (lambda: stepped({"loss": gan.Term()}), "a term must not have the name 'loss'"),
        (
            lambda: stepped({"digit": gan.auxiliary_classifier()}),
            "unknown output of the discriminator 'class'; .*there is: digit, features, logit",
        ),
        (
            lambda: stepped({"one": gan.Term(lambda keys, seen: jnp.zeros(3))}),
            r"the discriminator's term one must be one number per example, of shape \(4,\)",
        ),
        (
            lambda: gan.auxiliary_classifier(weight=-1.0),
            "weight must be a number of at least 0, got -1.0",
        ),
        (lambda: gan.data_to_data(temperature=0.0), "temperature must be .*, got 0.0"),
        (
            lambda: gan.latent_consistency(sigma=0, discriminator_weight=1, generator_weight=1),
            "sigma must be .*, got 0",
        ),
        (
            lambda: gan.latent_consistency(sigma=1, discriminator_weight=1, generator_weight=-2),
            "generator_weight must be a number of at least 0, got -2",
        ),
        (lambda: gan.moving_length(decay=1.0), r"decay must be a number in \[0, 1\), got 1.0"),
        (
            lambda: values(gan.auxiliary_classifier(), condition=None),
            "the condition must be a label for each of 5 examples, .* got None",
        ),
        (
            lambda: values(gan.auxiliary_classifier(), condition=LABELS[:4]),
            r"the condition must be a label for each of 5 examples, .*int32 \[4\]",
        ),
        (
            lambda: values(gan.discriminative_classifier()),
            "the output 'class' must have an even number of logits, .* got 3",
        ),
        (
            lambda: values(gan.data_to_data(proxy="class")),
            r"the outputs 'embedding' and 'class' must be vectors of one size, got \[5, 4\] and",
        ),
        (lambda: nets.heads(JUDGE, features=JUDGE), "outputs must not have the name 'features'"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_label_out_of_range_makes_its_loss_nan(wrong):
    labels = LABELS.copy()
    labels[1] = wrong
    found, _ = values(gan.auxiliary_classifier(), condition=labels)
    assert np.isnan(found).tolist() == [False, True, False, False, False]


def test_narrow_labels_do_not_wrap():
    logits = np.zeros((2, 300), np.float32)
    logits[0, 270] = 9
    what = seen(condition=None, num=2)._replace(condition=np.array([120, 3], np.uint8))
    found = gan.discriminative_classifier().discriminator(
        keys(2), what._replace(real_outputs={"class": logits}, fake_outputs={"class": logits})
    )
    as_real, as_fake = entropy(logits, [120, 3]), entropy(logits, [270, 153])
    np.testing.assert_allclose(found, as_real + as_fake, rtol=1e-5)


def test_names_that_clash_are_refused():
    same = {"a": gan.path_length(0.0, weight=1.0), "b": gan.path_length(0.0, weight=1.0)}
    memory = {"memory": {"p": 0.0}, "remember": lambda key, params, notes: {"p": params["p"]}}
    with pytest.raises(ValueError, match="each note differently, got 'path_lengths'"):
        stepped(same, **memory)
    named = gan.Penalty.of(lambda keys, critic, real, fake: jnp.zeros(len(keys)), "discriminator_x")
    term = gan.Term(lambda keys, seen: jnp.zeros(len(keys)))
    with pytest.raises(ValueError, match="each metric differently, got 'discriminator_x'"):
        stepped({"x": term}, penalty=named)


def test_a_discriminator_of_several_outputs_needs_logits():
    net = nets.wrapped(JUDGE, after=lambda outputs: {"digit": outputs["digit"]})
    model = gan.make(nets.mlp((), (3, 2)), net, latent_dim=2)
    with pytest.raises(ValueError, match=r"must have the output 'logit', got \['digit'\]"):
        model.init(rng.root(0), X)


def test_memory_that_is_not_there_is_named():
    remember = gan.moving_length()
    with pytest.raises(ValueError, match="the memory must hold an average length as 'path_length'"):
        remember(rng.root(0), {}, {})
