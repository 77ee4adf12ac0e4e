"""The experiments with GANs of codes and of few images, on small images."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light import CLASSES, LABELS, rows_of_light

from genmod import rng, train
from genmod.runs import catalogue

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A file of 240 training and 40 test images."""
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    parts = {"train": LABELS, "test": LABELS[:40]}
    arrays = {f"x_{part}": rows_of_light(labels) for part, labels in parts.items()}
    np.savez(path, **arrays, **{f"y_{part}": labels for part, labels in parts.items()})
    return f"npz:{path}"


def trained(built, num_steps):
    fit = jax.jit(lambda key: train.fit(built.learner, key, built.batch_at, num_steps))
    return fit(rng.root(0))


def test_infogan_reads_codes_off_images(archive):
    file = catalogue.load(EXPERIMENTS / "infogan.py")
    config = file.Config(
        dataset=archive,
        batch_size=40,
        noise_dim=4,
        classes=CLASSES,
        continuous=1,
        width=4,
        features=16,
    )
    built = file.build(config)
    state = trained(built, 3)
    numbers = built.evaluate(rng.root(1), state)
    # The best match is better than chance for whatever codes.
    assert 0 <= numbers["code_error"] <= 1 - 1 / CLASSES
    assert numbers["code_error_standard_error"] > 0
    assert set(built.figures(rng.root(2), state)) == {"samples", "number_1"}


@pytest.mark.parametrize(
    "augment", [pytest.param("none", marks=pytest.mark.slow), "diffaugment", "adaptive"]
)
def test_few_images_are_augmented_as_asked(archive, augment):
    file = catalogue.load(EXPERIMENTS / "few_images.py")
    config = file.Config(
        dataset=archive, batch_size=10, images_per_class=5, latent_dim=2, width=2, augment=augment
    )
    built = file.build(config)
    assert len(built.dataset.images) == 5 * CLASSES
    state = trained(built, 2)
    seen = built.observe(rng.root(1), state)
    if augment != "adaptive":
        assert "probability" not in seen.numbers
        return
    assert seen.numbers["probability"] == pytest.approx(float(state.memory["probability"]))
    assert not any("above" in warning for warning in seen.warnings)
    high = state._replace(memory={"probability": jnp.float32(0.9)})
    (warning,) = [w for w in built.observe(rng.root(1), high).warnings if "above" in w]
    assert warning.startswith("the probability of augmentation is above 0.8")


@pytest.mark.parametrize("net", ["dcgan", "r3gan"])
def test_stacked_digits_have_networks_of_either_kind(net):
    file = catalogue.load(EXPERIMENTS / "stacked_mnist.py")
    generator, discriminator = file.networks(file.Config(net=net, width=16))
    z, x = jnp.zeros((2, 4)), jnp.zeros((2, 28, 28, 3))
    made = [
        jax.eval_shape(net.init, rng.root(0), of)
        for net, of in ((generator, z), (discriminator, x))
    ]
    assert jax.eval_shape(generator.apply, made[0], z).shape == x.shape
    assert jax.eval_shape(discriminator.apply, made[1], x).shape == (2,)
    assert ("stage_2_cell_0" in made[0]) == (net == "r3gan")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("sngan", {"width": 2, "discriminator_width": 2, "discriminator_steps": 2}),
        ("r3gan", {"width": 8, "r2": 0.0}),
    ],
)
def test_a_conditional_game_draws_the_class_that_is_asked_for(name, flags, archive):
    file = catalogue.load(EXPERIMENTS / f"{name}.py")
    built = file.build(file.Config(dataset=archive, batch_size=12, latent_dim=2, **flags))
    state = trained(built, 2)
    assert built.labels.tolist() == list(range(CLASSES))
    asked = jnp.repeat(jnp.arange(CLASSES), 2)
    assert built.sample(rng.root(1), state, len(asked), asked).shape == (2 * CLASSES, 8, 8, 1)
    plain = file.build(file.Config(dataset=archive, conditional=False, **flags))
    assert plain.learner.conditions is None
