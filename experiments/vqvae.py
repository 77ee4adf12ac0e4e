"""A VQ-VAE on MNIST (van den Oord et al. 2017, arXiv:1711.00937): an image is a grid of codes.

Pixels are binarised dynamically, anew at every draw. A residual convolutional encoder takes an
image to 7 x 7 vectors, each replaced by one of 64 entries of a codebook, which follows moving
averages of its vectors; dead entries begin anew. Adam on a cosine from 2e-3, batches of 100, 20
epochs.

    genmod train vqvae
    genmod train vqvae --codebook gradient --restart 0

A prior of the codes is learned beside it: a network that predicts them in a random order
(Hoogeboom et al. 2022, arXiv:2110.02037). The page shows `samples` of it beside
`samples_frequencies`, of codes that are independent of each other, and `samples_uniform`.

Twenty minutes of one core: test -ELBO 139.0 +- .4 nats, of which the image takes 21.8 and its 49
codes the rest; 178.8 nats with independent codes. All 64 entries are used (perplexity 43.7).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genmod import checks, data, evaluate, nets, report, rng, train, vae
from genmod.experiment import Experiment, Observation, Settings


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """Model, optimizer and length of training."""

    epochs: checks.Count = 20
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 100
    """Images in a batch."""
    num_codes: checks.Count = 64
    """Entries of the codebook."""
    code_dim: checks.Count = 8
    """Numbers in an entry."""
    codebook: Literal["average", "gradient"] = "average"
    """Whether the codebook follows moving averages or a gradient."""
    commitment: checks.Weight = 0.25
    """Weight of the commitment term, of each vector."""
    decay: checks.Weight = 0.99
    """Share that a moving average keeps in a step."""
    restart: checks.Weight = 0.02
    """Share of the mean count below which an entry begins anew; 0 for never."""
    width: checks.Count = 32
    """Channels of the convolutions; an even number."""
    prior_width: checks.Count = 64
    """Channels of the prior's convolutions; an even number."""
    prior_cells: checks.Count = 5
    """Residual cells of the prior."""
    learning_rate: checks.Positive = 2e-3
    """Adam's learning rate at the start of the cosine."""
    prior_learning_rate: checks.Positive = 1e-3
    """Adam's learning rate for the prior, which stays."""
    decay_epochs: checks.Count = 20
    """Epochs until the learning rate is zero, to restart at half."""


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    shape = images.images.shape[1:]

    def in_blocks(x):
        """Makes the channels of an image [H/2, W/2, 4C] of its blocks of 2 x 2 pixels."""
        size, height, width, channels = x.shape
        blocks = x.reshape(size, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
        return blocks.reshape(size, height // 2, width // 2, 4 * channels)

    model = vae.quantised(
        nets.wrapped(
            nets.residual_stage(config.width, cells=2, resize="half", out=config.code_dim),
            before=in_blocks,
        ),
        nets.residual_decoder(
            shape,
            widths=(config.width, config.width),
            output_bias=vae.mean_logits(data.mean_image(images.images) / 255),
        ),
        num_codes=config.num_codes,
        commitment=config.commitment,
        decay=config.decay,
        by_gradient=config.codebook == "gradient",
        restart=config.restart,
    )
    prior = vae.code_prior(
        nets.residual_stage(config.prior_width, cells=config.prior_cells, out=config.num_codes),
        grid=(shape[0] // 4, shape[1] // 4),
        num_codes=config.num_codes,
    )

    def init(key, x):
        params = model.init(key, x)
        codes = model.encode(params, x)
        return params._replace(prior=prior.init(rng.stream(key, "prior"), codes))

    def prior_loss(keys, params, x):
        return prior.objective(keys, params.prior, model.encode(params, x))

    def sample(keys, params):
        return decoded(params, prior.sample(keys, params.prior))

    def decoded(params, codes):
        return model.likelihood.mean(model.decode(params, codes))

    decay_steps = config.steps(config.decay_epochs, len(images.images))
    adam = optax.adam(train.cosine(config.learning_rate, steps=decay_steps))
    learner = train.game(
        init,
        {
            model.fields: train.Player(model.objective, adam),
            # Its rate stays: an entry that begins anew changes codes, which are to be learned anew.
            "prior": train.Player(prior_loss, optax.adam(config.prior_learning_rate)),
        },
        remember=model.remember,
        sample=sample,
        check=model.init.check,
    )

    def bound(keys, params, x):
        """Bounds -log p(x) by the learned prior, in nats, and by independent codes."""
        _, aux, _ = model.objective(keys, params, x)
        codes, _ = prior_loss(keys, params, x)
        independent = aux["reconstruction"] + aux["kl"]
        return aux["reconstruction"] + codes, {**aux, "negative_elbo_independent": independent}

    def look(key, state):
        shares = state.params.frequencies.reshape(-1, config.num_codes).mean(0)
        return Observation(
            numbers={
                "perplexity": vae.perplexity(state.params.frequencies),
                # Of as many vectors, a code that is not used has less than a tenth of its share.
                "codes_used": (shares > 0.1 / config.num_codes).sum(),
            },
            images={"samples": learner.sample(key, state, 64)},
        )

    def figures(key, state):
        shown = test.images[:50]
        uniform = jnp.ones_like(state.params.frequencies)
        drawn = {
            "samples": ("the learned prior", sample, state.params),
            "samples_frequencies": ("codes as frequent as in the data", model.sample, state.params),
            "samples_uniform": (
                "uniform codes",
                model.sample,
                state.params._replace(frequencies=uniform),
            ),
        }
        reconstruct = jax.jit(lambda params, x: decoded(params, model.encode(params, x)))
        reconstructed = reconstruct(state.params, jnp.asarray(shown, jnp.float32) / 255)
        return {
            "data": report.image_grid(images.images[:100], title="training data"),
            "reconstructions": report.comparison(
                shown, reconstructed, title="test images, each above its reconstruction"
            ),
            **{
                name: report.image_grid(
                    jax.jit(draw)(rng.per_example(rng.stream(key, name), 100), params),
                    title=f"decoded draws of {title}",
                )
                for name, (title, draw, params) in drawn.items()
            },
        }

    return Experiment(
        learner=learner,
        batch_at=data.batches(images.images, batch_size=config.batch_size, prepare=data.binarized),
        dataset=images,
        epochs=config.epochs,
        observe=look,
        evaluate=evaluate.on_test(bound, test.images, prepare=data.binarized, loss="negative_elbo"),
        figures=figures,
        test=test,
    )
