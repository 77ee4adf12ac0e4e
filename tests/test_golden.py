"""Losses as they were written down: a change of any number is a change that somebody must want.

Made anew by `python tests/test_golden.py`, on purpose only, and told in CHANGELOG.md.
"""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from genmod import data, gan, nets, rng, train, vae

GOLDEN = Path(__file__).parent / "kept" / "golden.json"


def images():
    return np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1)).astype(np.uint8)


def autoencoder():
    model = vae.make(nets.mlp((16,), 8, heads=2), nets.mlp((16,), (6, 6, 1)), latent_dim=4)
    batch_at = data.batches(images(), batch_size=12, prepare=data.binarized)
    return train.learner(model.init, vae.elbo(model), optax.adam(1e-3)), batch_at


def game():
    generator = nets.dcgan_generator((8, 8, 1), width=4, norm="batch", output=jax.nn.tanh)
    model = gan.make(generator, nets.dcgan_discriminator(width=4), latent_dim=3)
    pixels = np.pad(images(), ((0, 0), (1, 1), (1, 1), (0, 0)))
    batch_at = data.batches(pixels, batch_size=12, prepare=data.signed_unit_interval)
    penalty = 0.5 * gan.r1 + 0.5 * gan.gradient_penalty
    return train.adversarial(model, gan.relativistic, optax.sgd(1e-2), penalty=penalty), batch_at


LEARNERS = {"autoencoder": autoencoder, "game": game}


def losses(name):
    """Every metric at each tenth of 100 steps."""
    learner, batch_at = LEARNERS[name]()
    points = train.run(learner, rng.root(0), batch_at, num_steps=100, log_every=10)
    return [point.metrics for point in points]


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.reliability(29)
def test_the_losses_are_those_that_were_written_down(name):
    golden = json.loads(GOLDEN.read_text())[name]
    found = losses(name)
    assert len(found) == len(golden) == 10
    for now, then in zip(found, golden, strict=True):
        assert now.keys() == then.keys()
        for metric in then:
            # Not to the bit: another processor's vectors add up in another order.
            np.testing.assert_allclose(now[metric], then[metric], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    content = {name: losses(name) for name in LEARNERS}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
