import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import gan, nets, rng


def make(**options):
    return gan.make(nets.mlp((8,), (4, 4, 2)), nets.mlp((8,), 1), latent_dim=3, **options)


def images(num=6):
    return jax.random.uniform(rng.root(5), (num, 4, 4, 2))


def test_a_gan_is_its_two_networks():
    generator, discriminator = nets.mlp((8,), (4, 4, 2)), nets.mlp((8,), 1)
    model = gan.make(generator, discriminator, latent_dim=3)
    x = images()
    params = model.init(rng.root(0), x)
    z = model.latent(rng.per_example(rng.root(1), 6))
    assert (z.shape, model.generate(params, z).shape) == ((6, 3), x.shape)
    np.testing.assert_array_equal(model.generate(params, z), generator.apply(params.generator, z))
    np.testing.assert_array_equal(
        model.discriminate(params, x), discriminator.apply(params.discriminator, x)[:, 0]
    )


def test_the_players_are_initialised_from_streams_of_their_own():
    other = gan.make(nets.mlp((8,), (4, 4, 2)), nets.mlp((5, 5), 1), latent_dim=3)
    first, second = (m.init(rng.root(0), images()) for m in (make(), other))
    for a, b in zip(
        jax.tree.leaves(first.generator), jax.tree.leaves(second.generator), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_latents_belong_to_their_example():
    for latent in (gan.normal_latent(5), gan.uniform_latent(5)):
        few, many = (latent(rng.per_example(rng.root(2), num)) for num in (3, 50))
        # Up to the last bit, which depends on how many numbers a vector instruction takes.
        np.testing.assert_allclose(few, many[:3], rtol=1e-6)


def test_latents_have_the_moments_they_should():
    for latent, variance, fourth in (
        (gan.normal_latent(2), 1.0, 3.0),
        (gan.uniform_latent(2), 1 / 3, 1 / 5),
    ):
        z = np.asarray(latent(rng.per_example(rng.root(3), 20_000)), np.float64).ravel()
        error = np.sqrt(np.array([variance, fourth - variance**2]) / len(z))
        assert abs(z.mean()) < 4 * error[0]
        assert abs((z**2).mean() - variance) < 4 * error[1]
    assert np.abs(z).max() <= 1


@settings(max_examples=15)
@given(num=st.sampled_from([1, 2, 3]), packs=st.sampled_from([1, 4]), key=st.integers(0, 9))
def test_a_pack_is_its_examples_side_by_side(num, packs, key):
    x = jax.random.normal(rng.root(key), (packs * num, 2, 3, 2))
    seen = []

    def apply(params, x):
        seen.append(x)
        return jnp.sum(x, axis=(1, 2, 3))

    net = gan.packed(nets.Net(lambda key, x: x.shape, apply), num)
    assert net.init(rng.root(0), x) == (packs, 2, 3, 2 * num)
    assert net.apply(None, x).shape == (packs,)
    for i in range(packs):
        expected = np.concatenate(list(x[i * num : (i + 1) * num]), axis=-1)
        np.testing.assert_array_equal(seen[0][i], expected)


def test_packs_of_points():
    net = gan.packed(nets.Net(lambda key, x: (), lambda params, x: x), 2)
    x = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(net.apply((), x), x.reshape(2, 4))


def test_a_packing_discriminator_judges_packs_and_not_their_neighbours():
    model = gan.make(nets.mlp((8,), (4, 4, 2)), gan.packed(nets.mlp((8,), 1), 2), latent_dim=3)
    x = images()
    params = model.init(rng.root(0), x)
    logits = model.discriminate(params, x)
    assert logits.shape == (3,)
    changed = model.discriminate(params, x.at[2].set(0))
    assert list(np.asarray(logits == changed)) == [True, False, True]


def test_standing_statistics_let_every_image_be_made_alone():
    generator = nets.mlp((8,), (4, 4, 2), norm="batch")
    model = gan.make(generator, nets.mlp((8,), 1), latent_dim=3)
    params = model.init(rng.root(0), images())
    z = model.latent(rng.per_example(rng.root(1), 6))
    together = model.generate(params, z)
    assert not np.allclose(together[:3], model.generate(params, z[:3]), atol=1e-3)
    standing = model.standing(rng.root(2), params)
    alone = model.generate(standing, z[:3])
    np.testing.assert_allclose(model.generate(standing, z)[:3], alone, rtol=1e-5, atol=1e-6)
    again = model.generate(model.standing(rng.root(2), params), z[:3])
    np.testing.assert_array_equal(again, alone)
    # A thousand draws: the batch's own statistics differ from these by its small size alone.
    many = model.latent(rng.per_example(rng.root(3), 4000))
    np.testing.assert_allclose(
        model.generate(standing, many), model.generate(params, many), atol=0.15
    )
    # What does not look at its batch comes back as it is.
    plain = make()
    params = plain.init(rng.root(0), images())
    assert plain.standing(rng.root(2), params) is params


def test_a_generator_that_mixes_its_batch_must_be_able_to_stand():
    """Wrapped by hand it lost its standing, and each sample depended on the others."""
    inner = nets.mlp((8,), (4, 4, 2), norm="batch")
    by_hand = nets.Net(inner.init, lambda params, z: inner.apply(params, 2 * z))
    critic = nets.mlp((8,), 1, norm="batch")
    model = gan.make(by_hand, nets.Net(critic.init, critic.apply), latent_dim=3)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must have a standing, got None .* \(norm_0\)"):
            model.init(rng.root(0), images())
    good = nets.wrapped(inner, before=lambda z: 2 * z)
    model = gan.make(good, nets.Net(critic.init, critic.apply), latent_dim=3)
    params = model.standing(rng.root(1), model.init(rng.root(0), images()))
    z = model.latent(rng.per_example(rng.root(2), 4))
    alone = model.generate(params, z[:1])
    np.testing.assert_allclose(alone, model.generate(params, z)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [2, 4])
def test_a_latent_of_the_wrong_width_is_refused(width):
    model = make()
    params = model.init(rng.root(0), images())
    with pytest.raises(ValueError, match=rf"z must have the shape \[B, 3\], got \[5, {width}\]"):
        model.generate(params, jnp.zeros((5, width)))


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="latent_dim must be a positive whole number, got 0"):
        gan.make(nets.mlp((8,), 2), nets.mlp((8,), 1), latent_dim=0)
    model = gan.make(nets.mlp((8,), (4, 4, 1)), nets.mlp((8,), 1), latent_dim=3)
    with pytest.raises(ValueError, match=r"data's shape \[6, 4, 4, 2\], got \[6, 4, 4, 1\]"):
        model.init(rng.root(0), images())
    model = gan.make(nets.mlp((8,), (4, 4, 2)), nets.mlp((8,), 2), latent_dim=3)
    with pytest.raises(ValueError, match=r"logits \[B\] or \[B, 1\].*got \[6, 2\]"):
        model.init(rng.root(0), images())


def test_a_batch_that_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="num must be a positive whole number, got 0"):
        gan.packed(nets.mlp((8,), 1), 0)
    model = gan.make(nets.mlp((8,), (4, 4, 2)), gan.packed(nets.mlp((8,), 1), 2), latent_dim=3)
    with pytest.raises(ValueError, match="a batch of 5 cannot be cut into packs of 2"):
        model.init(rng.root(0), images(5))


def test_images_outside_the_generators_range_are_refused():
    make(image_range=(0, 1)).check(images())
    with pytest.raises(ValueError, match=r"generator's range \[-1, 1\], got values from 0 to 255"):
        make(image_range=(-1, 1)).check(np.array([0, 255], np.uint8))
    with pytest.raises(ValueError, match="got values from nan to nan"):
        make().check(jnp.array([jnp.nan]))
    with pytest.raises(ValueError, match=r"image_range must be .* with low < high, got \(1, 0\)"):
        make(image_range=(1, 0))
