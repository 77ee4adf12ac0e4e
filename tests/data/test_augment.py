"""Augmentations against loops and formulas, their gradients, and the game played on them."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genmod import data, gan, nets, rng, train
from genmod.runs import catalogue

# Compiled as one program each: their operations one by one take ten times as long to compile.
flip = jax.jit(data.flip)
GEOMETRIC = {
    "flip": flip,
    "translate": jax.jit(data.translate()),
    "cutout": jax.jit(data.cutout()),
}
COLOUR = {
    "brightness": jax.jit(data.brightness),
    "saturation": jax.jit(data.saturation),
    "contrast": jax.jit(data.contrast),
}
ALL = {**GEOMETRIC, **COLOUR, "diffaugment": jax.jit(data.diffaugment())}
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "dcgan_mnist.py"


@functools.partial(jax.jit, static_argnums=1)
def _keys(key, num):
    return rng.per_example(rng.stream(key, "keys"), num)


def keys_of(num, seed=0):
    """The keys of a batch, new arrays each time: JAX watches that none is used twice."""
    return _keys(rng.root(seed), num)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def pixels(*shape):
    """Grey values from 1: a 0 has been put there."""
    return np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def shifted(image, down, right, fill=0):
    """The truth of a translation: image [H, W, C], pixel by pixel."""
    moved = np.full_like(image, fill)
    height, width = image.shape[:2]
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                moved[i, j] = image[i - down, j - right]
    return moved


def drawn_shifts(keys, share, height, width):
    """How far each image goes, (down, right), seen at a dot in the middle of a large canvas."""
    dots = np.zeros((len(keys), height, width, 1), np.float32)
    dots[:, height // 2, width // 2] = 1
    moved = np.asarray(jax.jit(data.translate(share))(keys, jnp.asarray(dots)))
    where = np.argwhere(moved[..., 0] == 1)
    assert list(where[:, 0]) == list(range(len(keys)))
    return where[:, 1:] - [height // 2, width // 2]


@pytest.mark.costly
@settings(max_examples=12)
@given(
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([0, 1 / 8, 0.3, 0.5, 1]),
    st.sampled_from(["uint8", "float32"]),
    st.integers(0, 99),
)
@example(4, 9, 7, 3, 1, "float32", 0)
def test_a_translation_is_one_of_the_shifts_by_loops(num, height, width, channels, share, dtype, s):
    images = (
        pixels(num, height, width, channels)
        if dtype == "uint8"
        else floats(num, height, width, channels)
    )
    fill = 7 if dtype == "uint8" else -1.5
    translate = jax.jit(data.translate(share, fill=fill))
    found = translate(keys_of(num, s), jnp.asarray(images))
    assert (found.dtype, found.shape) == (images.dtype, images.shape)
    most = [int(n * share + 0.5) for n in (height, width)]
    for image, moved in zip(images, np.asarray(found), strict=True):
        assert any(
            np.array_equal(moved, shifted(image, down, right, fill))
            for down in range(-most[0], most[0] + 1)
            for right in range(-most[1], most[1] + 1)
        )


def test_a_translation_goes_as_far_as_its_keys_say():
    # The shift is of the keys and the size alone: a dot tells how far, loops do the rest.
    images = floats(50, 13, 9, 2)
    moves = drawn_shifts(keys_of(50), 1 / 4, 13, 9)
    expected = [shifted(image, *move) for image, move in zip(images, moves, strict=True)]
    found = jax.jit(data.translate(1 / 4))(keys_of(50), jnp.asarray(images))
    np.testing.assert_array_equal(found, expected)


def assert_uniform(drawn, values):
    """Each value as often as the others, to 4 standard errors."""
    count = np.array([np.sum(drawn == value) for value in values])
    assert count.sum() == len(drawn)
    p = 1 / len(values)
    assert np.all(np.abs(count - len(drawn) * p) <= 4 * np.sqrt(len(drawn) * p * (1 - p)))


def test_shifts_are_uniform_and_those_of_both_axes_independent():
    moves = drawn_shifts(keys_of(8000), 1 / 8, 20, 28)
    # 20 / 8 = 2.5 and 28 / 8 = 3.5: halves are rounded up, as in the paper's code.
    assert_uniform(moves[:, 0], range(-3, 4))
    assert_uniform(moves[:, 1], range(-4, 5))
    assert_uniform(9 * (moves[:, 0] + 3) + moves[:, 1] + 4, range(63))


@pytest.mark.parametrize(("height", "width"), [(8, 10), (7, 9), (6, 3), (1, 1)])
def test_cutout_is_a_hole_of_its_size_at_a_uniform_place(height, width):
    num = 3000
    images = jnp.asarray(pixels(num, height, width, 2))
    found = np.asarray(GEOMETRIC["cutout"](keys_of(num), images))
    hole = np.all(found == 0, axis=3)
    np.testing.assert_array_equal(found, np.where(hole[..., None], 0, images))
    places = []
    for size, axis in ((height, 2), (width, 1)):
        side = int(size * 0.5 + 0.5)
        # By the definition: every centre's stretch, cut off at the border.
        centers = range(size + 1 - side % 2)
        stretches = [
            [0 <= i - (c - side // 2) < side for i in range(size)] for c in centers
        ]  # the larger part of each lies inside
        assert all(any(stretch) for stretch in stretches)
        seen = np.any(hole, axis=axis)
        place = [stretches.index(row.tolist()) for row in seen]
        assert_uniform(np.array(place), centers)
        places.append(seen)
    np.testing.assert_array_equal(hole, places[0][:, :, None] & places[1][:, None, :])


@pytest.mark.parametrize("share", [0, 1])
def test_cutout_of_nothing_and_of_all(share):
    images = floats(40, 5, 6, 1)
    found = np.asarray(jax.jit(data.cutout(share, fill=9))(keys_of(40), jnp.asarray(images)))
    count = np.sum(found == 9, axis=(1, 2, 3))
    # A hole of the image's size is centred anywhere in it: at least 3 of 5 rows, 3 of 6 columns.
    assert np.all(count == 0) if share == 0 else np.all((count >= 9) & (count <= 30))


def test_half_of_the_images_are_flipped():
    num = 10_000
    images = np.broadcast_to(np.arange(6).reshape(1, 2, 3, 1), (num, 2, 3, 1)).astype(np.uint8)
    found = np.asarray(flip(keys_of(num), jnp.asarray(images)))
    flipped = found[:, 0, 0, 0] == 2
    np.testing.assert_array_equal(found[flipped], images[flipped][:, :, ::-1])
    np.testing.assert_array_equal(found[~flipped], images[~flipped])
    assert abs(flipped.sum() - num / 2) < 4 * np.sqrt(num) / 2


def means_of(name, images):
    axes = {"brightness": (), "saturation": (3,), "contrast": (1, 2, 3)}[name]
    return np.mean(images, axis=axes, keepdims=True) if axes else images


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("brightness", -0.5, 0.5), ("saturation", 0, 2), ("contrast", 0.5, 1.5)],
)
def test_colours_are_their_formulas_in_double_precision(name, low, high):
    num = 4000
    with jax.enable_x64(True):
        images = floats(num, 2, 3, 3).astype(np.float64)
        found = np.asarray(COLOUR[name](keys_of(num), jnp.asarray(images)))
    assert found.dtype == np.float64
    mean = means_of(name, images)
    # The number drawn, from the pixel that tells it best; the formula must then give the others.
    if name == "brightness":
        u = (found - images)[:, :1, :1, :1]
        expected = images + u
    else:
        from_mean = (images - mean).reshape(num, -1)
        best = np.argmax(np.abs(from_mean), axis=1)
        u = ((found - mean).reshape(num, -1) / from_mean)[np.arange(num), best]
        u = u.reshape(-1, 1, 1, 1)
        expected = (images - mean) * u + mean
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert low - 1e-9 <= u.min() < u.max() <= high + 1e-9
    share = (u.ravel() - low) / (high - low)
    # A uniform number's mean is 1/2 and its variance 1/12, that of its square's 1/180.
    assert abs(share.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / num)
    assert abs(np.mean((share - 1 / 2) ** 2) - 1 / 12) < 4 * np.sqrt(1 / 180 / num)


@pytest.mark.parametrize("name", COLOUR)
def test_colours_keep_what_they_promise_in_single_precision(name):
    images = floats(20, 4, 4, 3)
    found = COLOUR[name](keys_of(20), jnp.asarray(images))
    with jax.enable_x64(True):
        expected = COLOUR[name](keys_of(20), jnp.asarray(images.astype(np.float64)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if name != "brightness":
        np.testing.assert_allclose(
            means_of(name, np.asarray(found)), means_of(name, images), rtol=1e-4, atol=1e-6
        )
    half = COLOUR[name](keys_of(20), jnp.asarray(images, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), expected, rtol=0.05, atol=0.05)


def test_saturation_leaves_one_channel_as_it_is():
    images = jnp.asarray(floats(5, 4, 4, 1))
    np.testing.assert_array_equal(COLOUR["saturation"](keys_of(5), images), images)


@pytest.mark.parametrize("name", ALL)
def test_the_noise_belongs_to_the_example(name):
    augment, images = ALL[name], jnp.asarray(floats(12, 8, 8, 3))
    whole = augment(keys_of(12), images)
    np.testing.assert_array_equal(augment(keys_of(4), images[:4]), whole[:4])
    np.testing.assert_array_equal(augment(keys_of(12)[5:6], images[5:6]), whole[5:6])
    # To the last bits, where the compiler fuses a product and a sum.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    close(jax.jit(augment)(keys_of(12), images), whole)
    many = jax.vmap(augment)(keys_of(12).reshape(3, 4), images.reshape(3, 4, 8, 8, 3))
    close(many.reshape(whole.shape), whole)
    assert bits(augment(keys_of(12, seed=1), images)) != bits(whole)


@settings(max_examples=12)
@given(
    st.sampled_from(sorted(ALL)),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 5),
    st.sampled_from(["float32", "bfloat16", "uint8"]),
)
def test_any_size_and_any_number_of_channels(name, num, height, width, channels, dtype):
    dtype = "float32" if dtype == "uint8" and name not in GEOMETRIC else dtype
    images = jnp.asarray(100 * floats(num, height, width, channels), dtype)
    found = ALL[name](keys_of(num), images)
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert np.all(np.isfinite(np.asarray(found, np.float32)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.end_to_end
def test_gradients_are_those_of_finite_differences(name):
    with jax.enable_x64(True):
        images, weights = (jnp.asarray(floats(2, 4, 5, 3, seed=s), jnp.float64) for s in (0, 1))

        def value(x):
            return jnp.sum(weights * jnp.sin(ALL[name](keys_of(2), x)))

        found = np.asarray(jax.jit(jax.grad(value))(images)).ravel()
        steps = 1e-6 * jnp.eye(images.size).reshape(-1, *images.shape)
        many = jax.jit(jax.vmap(lambda s: value(images + s)))
        ahead, behind = (many(sign * steps) for sign in (1, -1))
        np.testing.assert_allclose(found, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_what_is_kept_passes_and_of_what_is_lost_does_not():
    images = jnp.asarray(floats(30, 9, 8, 2))
    weights = floats(30, 9, 8, 2, seed=1)

    def gradient(augment):
        return jax.jit(jax.grad(lambda x: jnp.sum(weights * augment(keys_of(30), x))))(images)

    moves = drawn_shifts(keys_of(30), 1 / 4, 9, 8)
    back = [shifted(w, -down, -right) for w, (down, right) in zip(weights, moves, strict=True)]
    np.testing.assert_array_equal(gradient(data.translate(1 / 4, fill=-1)), back)
    kept = np.asarray(jax.jit(data.cutout(fill=9))(keys_of(30), images)) != 9
    np.testing.assert_array_equal(gradient(data.cutout(fill=9)), np.where(kept, weights, 0))
    # A flip is its own transpose.
    np.testing.assert_array_equal(gradient(flip), flip(keys_of(30), jnp.asarray(weights)))


def test_r1_goes_through_an_augmentation():
    with jax.enable_x64(True):
        keys, images = keys_of(3), jnp.asarray(floats(3, 4, 4, 3), jnp.float64)
        augment = data.diffaugment()

        @jax.jit
        def squared_gradient(scale):
            def critic(x):
                return jnp.sum(jnp.tanh(scale * augment(keys, x)), axis=(1, 2, 3))

            return jnp.sum(gan.r1(keys, critic, images, images))

        found = jax.jit(jax.grad(squared_gradient))(0.7)
        near = (squared_gradient(0.7 + 1e-6) - squared_gradient(0.7 - 1e-6)) / 2e-6
        np.testing.assert_allclose(found, near, rtol=1e-6)

        second = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(augment(keys, x) ** 3))(x)))
        assert np.all(np.isfinite(jax.jit(second)(images)))


def test_compose_is_one_after_the_other_with_noise_of_their_own():
    add, double = (lambda keys, x: x + 1), (lambda keys, x: 2 * x)
    images, keys = jnp.asarray(floats(40, 6, 6, 1)), keys_of(40)
    np.testing.assert_array_equal(data.compose(add, double)(keys, images), 2 * (images + 1))
    # Two flips with the same noise would be none.
    twice = jax.jit(data.compose(data.flip, data.flip))
    assert np.any(twice(keys, images) != images)
    first, and_nothing = data.compose(data.flip), data.compose(data.flip, lambda keys, x: x)
    np.testing.assert_array_equal(jax.jit(and_nothing)(keys, images), jax.jit(first)(keys, images))


def test_a_policy_is_its_parts_in_their_order():
    images, keys = jnp.asarray(floats(6, 8, 8, 3)), keys_of(6)
    parts = data.compose(
        data.cutout(fill=-1), data.compose(data.brightness, data.saturation, data.contrast)
    )
    found = jax.jit(data.diffaugment("cutout,color", fill=-1))(keys, images)
    np.testing.assert_array_equal(found, jax.jit(parts)(keys, images))
    full = data.compose(
        data.compose(data.brightness, data.saturation, data.contrast),
        data.translate(1 / 8),
        data.cutout(1 / 2),
    )
    np.testing.assert_array_equal(ALL["diffaugment"](keys, images), jax.jit(full)(keys, images))


@pytest.mark.end_to_end
def test_batches_are_augmented_as_they_are_stored_and_then_prepared(digits):
    seen = []

    def spy(name, function):
        def call(keys, images):
            seen.append(np.asarray(jax.random.key_data(keys)))
            assert images.dtype == jnp.uint8, name
            return function(keys, images)

        return call

    prepare = data.augmented(spy("a", data.translate()), spy("p", data.binarized))
    with jax.disable_jit():
        prepare(keys_of(5), jnp.asarray(digits[:5]))
    assert len(np.unique(np.concatenate(seen), axis=0)) == 10

    flipped = data.augmented(lambda keys, x: x[:, :, ::-1], data.unit_interval)
    batch_at = data.batches(digits, batch_size=16, prepare=flipped)
    plain = data.batches(digits, batch_size=16)
    found, expected = (jax.jit(at)(rng.root(0), 3) for at in (batch_at, plain))
    np.testing.assert_array_equal(found, expected[:, :, ::-1])
    batch_at = data.batches(
        digits, batch_size=16, prepare=data.augmented(data.flip, data.binarized)
    )
    at = jax.jit(batch_at)
    batches = [at(rng.root(0), step) for step in (0, 0, 1)]
    assert bits(batches[0]) == bits(batches[1]) != bits(batches[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.translate(1.5), r"share must be a number in \[0, 1\], got 1.5"),
        (lambda: data.cutout(-0.1), r"share must be a number in \[0, 1\], got -0.1"),
        (lambda: data.cutout(float("nan")), r"share must be a number in \[0, 1\], got nan"),
        (lambda: data.translate(fill=np.inf), "fill must be a finite number, got inf"),
        (lambda: data.compose(), "compose must get at least one augmentation, got none"),
        (
            lambda: data.diffaugment("color,translatoin"),
            "unknown augmentation 'translatoin'; did you mean 'translation'",
        ),
        (lambda: data.diffaugment(""), "unknown augmentation ''; there is: color, cutout, transl"),
        (
            lambda: data.cutout(fill=-1)(keys_of(2), jnp.zeros((2, 3, 3, 1), jnp.uint8)),
            r"fill must be a whole number in \[0, 255\] for images of uint8, got -1",
        ),
        (
            lambda: data.translate(fill=0.5)(keys_of(2), jnp.zeros((2, 3, 3, 1), jnp.uint8)),
            r"fill must be a whole number in \[0, 255\] for images of uint8, got 0.5",
        ),
    ],
)
def test_bad_augmentations_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ALL)
def test_bad_images_and_keys_are_refused(name):
    augment = ALL[name]
    with pytest.raises(ValueError, match=r"images must be \[B, H, W, C\], got \[3, 2\]"):
        augment(keys_of(3), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"keys must be one per image, \[3\], got \[2\]"):
        augment(keys_of(2), jnp.zeros((3, 2, 2, 1)))
    if name not in GEOMETRIC:
        with pytest.raises(ValueError, match=r"must be floating, got uint8 \(scale the images"):
            augment(keys_of(3), jnp.zeros((3, 2, 2, 1), jnp.uint8))


def small(**options):
    """A game on images 4 x 4, and a batch of 16."""
    model = gan.make(nets.mlp((8,), (4, 4, 1)), nets.mlp((8,), 1), latent_dim=3)
    learner = train.adversarial(
        options.pop("model", model),
        options.pop("loss", gan.nonsaturating),
        optax.sgd(0.1),
        **options,
    )
    return model, learner, jnp.asarray(floats(16, 4, 4, 1))


def one_step(**options):
    _, learner, x = small(**options)
    return jax.jit(learner.step)(rng.root(1), jax.jit(learner.init)(rng.root(0), x), x)


@pytest.mark.end_to_end
def test_the_identity_as_augmentation_is_the_game_without():
    options = {"penalty": 0.5 * gan.r1 + 1.0 * gan.gradient_penalty, "discriminator_steps": 2}
    with_it = one_step(augment=lambda keys, images: images, **options)
    assert bits(with_it) == bits(one_step(**options))


@pytest.mark.end_to_end
def test_real_and_generated_images_are_augmented_in_both_updates():
    seen = []

    def penalty(keys, critic, real, fake):
        seen.append((real, fake))
        return critic(real) - critic(fake)

    def black(keys, images):
        return jnp.zeros_like(images)

    _, learner, x = small(penalty=penalty, augment=black)
    state = jax.jit(learner.init)(rng.root(0), x)
    with jax.disable_jit():
        after, metrics = learner.step(rng.root(1), state, x)
    assert metrics["real_probability"] == metrics["fake_probability"]
    assert metrics["penalty"] == 0
    ((real, fake),) = seen
    assert not np.any(real)
    assert not np.any(fake)
    # The generator cannot be seen, so it cannot learn.
    assert metrics["generator_gradient"] == 0
    assert bits(after.params.generator) == bits(state.params.generator)
    # In its update the real images are augmented too: a loss that compares finds no difference.
    _, metrics = one_step(loss=gan.relativistic, augment=black)
    np.testing.assert_allclose(metrics["generator_loss"], np.log(2), rtol=1e-6)


@pytest.mark.end_to_end
def test_an_augmented_step_is_the_step_on_augmented_images():
    augment = data.diffaugment("color,translation")
    model, learner, x = small(augment=augment)
    state = jax.jit(learner.init)(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, x)
    params = state.params

    def seen(player):
        keys = rng.per_example(rng.at_step(rng.stream(rng.root(1), player), 0), len(x))
        z = model.latent(rng.stream(keys, "latent"))
        return [rng.stream(keys, f"augmentation of {kind}") for kind in ("real", "fake")], z

    (real_keys, fake_keys), z = seen("discriminator")
    fake = augment(fake_keys, model.generate(params, z))
    real = augment(real_keys, x)
    logits = [model.discriminate(params, images) for images in (real, fake)]
    expected = jnp.mean(gan.nonsaturating.discriminator(*logits))
    np.testing.assert_allclose(metrics["discriminator_loss"], expected, rtol=1e-5)

    params = params._replace(discriminator=after.params.discriminator)
    (_, fake_keys), z = seen("generator")

    def loss(own):
        fake = model.generate(params._replace(generator=own), z)
        return jnp.mean(jax.nn.softplus(-model.discriminate(params, augment(fake_keys, fake))))

    gradient = jax.jit(jax.grad(loss))(params.generator)
    for now, then, g in zip(
        *map(jax.tree.leaves, (after.params.generator, params.generator, gradient)), strict=True
    ):
        np.testing.assert_allclose(now, then - 0.1 * g, rtol=1e-5, atol=1e-6)


@pytest.mark.end_to_end
def test_keys_are_fresh_for_every_use_and_example():
    seen = []

    def spy(keys, images):
        seen.append(np.asarray(jax.random.key_data(keys)))
        return images

    model, _, _ = small()

    def latent(keys):
        spy(keys, None)
        return model.latent(keys)

    _, learner, x = small(
        model=model._replace(latent=latent), augment=spy, discriminator_steps=2, generator_steps=2
    )
    state = jax.jit(learner.init)(rng.root(0), x)
    with jax.disable_jit():
        learner.step(rng.root(1), state, x)
        learner.step(rng.root(2), state, x)
    keys = np.concatenate(seen)
    # Two steps of four updates on 8 examples: latents, real images, generated images.
    assert len(keys) == 2 * 4 * 8 * 3
    assert len(np.unique(keys, axis=0)) == len(keys)


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.end_to_end
def test_gradients_in_pieces_see_the_same_augmentation():
    options = {"augment": data.diffaugment(), "penalty": 0.5 * gan.r1, "loss": gan.nonsaturating}
    assert_close(one_step(microbatches=4, **options), one_step(**options))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sharded", "pmap"])
def test_several_devices_see_the_same_augmentation(how):
    _, learner, _ = small(augment=data.diffaugment(), penalty=0.5 * gan.r1)
    images = np.asarray(255 * (floats(48, 4, 4, 1) > 0), np.uint8)
    batch_at = data.batches(images, batch_size=16, prepare=data.signed_unit_interval)

    def end(learner):
        (*_, point) = train.run(learner, rng.root(0), batch_at, num_steps=10, log_every=10)
        return point.metrics, point.state

    assert_close(end(train.over_devices(learner, how, jax.devices()[:2])), end(learner))


def test_an_augmentation_that_changes_the_images_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"augment must keep .* \[16, 4, 4, 1\] float32, got \[16, 2, 4, 1\] float"
    ):
        one_step(augment=lambda keys, images: images[:, ::2])


@pytest.mark.end_to_end
def test_the_experiment_takes_a_policy_and_refuses_what_is_none():
    module = catalogue.load(EXPERIMENT)
    assert module.augmentation(module.Config().augment) is None
    # Digits are on black, which is -1 there: a hole in black is none.
    black = -jnp.ones((3, 28, 28, 1))
    augment = module.augmentation(module.Config(augment="translation,cutout").augment)
    np.testing.assert_array_equal(augment(keys_of(3), black), black)
    with pytest.raises(ValueError, match="unknown augmentation 'cutuot'; did you mean 'cutout'"):
        module.Config(augment="translation,cutuot")
