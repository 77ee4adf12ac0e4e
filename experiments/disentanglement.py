"""Disentanglement of known factors: a VAE and four objectives that are to do better.

The images are made by formulas from their factors: sprites (shape, scale, orientation, x and y), or
XYSquares, three squares in places of a grid. They have 32 x 32 pixels, means of four each; with
`--pooling 1` they have 64 x 64, and a run takes three times as long. Training draws from all of
them. The scores compare the means of q(z|x) with the factors of 10,000 images: the mutual
information gap (MIG) and the FactorVAE score, and with `--more-scores` DCI and SAP of 3,000 images,
which need scikit-learn. The total correlation is that of 2,000 images. Nothing is held out.

    genmod train disentanglement
    genmod train disentanglement --model beta --weight 8 --seeds 10
    genmod train disentanglement --dataset xy_squares --spacing 2

A run of sprites takes 95 s of one core. Over ten seeds MIG is .058 +- .006 for the plain VAE, .33
+- .05 and .549 +- .016 for beta with the weights 4 and 8, and .45 +- .07 and .53 +- .06 for tc with
8 and 16; with `--batch-size 512 --epochs 600 --decay-epochs 600` and the weight 16 .409 +- .006 for
beta and .578 +- .040 for tc. On xy_squares a VAE has .015 +- .005 at a spacing of 8 and .071 +-
.008 at 2 (60 epochs, three seeds, two minutes of a core each).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
import optax

from genmod import checks, data, evaluate, nets, rng, train, vae
from genmod.experiment import Experiment, Latents, Settings


@dataclass(frozen=True)
class Config(Settings):
    """Images, objective, model and length of training."""

    epochs: checks.Count = 150
    """Length of training; an epoch is 10,000 images."""
    batch_size: checks.Count = 64
    """Images in a batch."""
    dataset: Literal["sprites", "xy_squares"] = "sprites"
    """Images to train on: 46,080 of one shape, or 262,144 of three squares."""
    spacing: checks.Count = 8
    """Distance of neighbouring places of xy_squares in pixels, at most 8.
    Squares of 8 x 8 pixels overlap if it is smaller."""
    pooling: checks.Count = 2
    """Side of the squares of pixels whose mean becomes one pixel, a divisor of 64."""
    model: Literal["vae", "beta", "tc", "factor", "dip"] = "vae"
    """Objective: plain VAE, beta-VAE, beta-TCVAE, FactorVAE or DIP-VAE-II."""
    weight: checks.Weight = 1.0
    """Weight of what the objective adds to a plain VAE, of which it must be 1.
    The KL term's of beta, the total correlation's of tc and factor, the covariance's of dip."""
    more_scores: bool = False
    """Compute DCI and SAP too, which takes half a minute a run."""
    latent_dim: checks.Count = 10
    """Latent dimensions."""
    hidden: tuple[checks.Count, ...] = (256, 256)
    """Units of the encoder's hidden layers; the decoder mirrors them, a critic has as many."""
    learning_rate: checks.Positive = 1e-3
    """Adam's learning rate at the start of the cosine."""
    decay_epochs: checks.Count = 150
    """Epochs until the learning rate is zero, to restart at half."""

    def __post_init__(self):
        super().__post_init__()
        if self.spacing > 8 or (self.dataset == "sprites" and self.spacing != 8):
            raise ValueError(
                f"spacing must be at most 8, and is of xy_squares alone, got {self.spacing} with "
                f"{self.dataset}"
            )
        if 64 % self.pooling or self.pooling == 64:
            raise ValueError(f"pooling must be a divisor of 64 below it, got {self.pooling}")
        if self.model == "vae" and self.weight != 1:
            raise ValueError(f"weight must be 1 of a plain VAE, got {self.weight}")
        if self.model in ("beta", "tc") and self.weight == 1:
            raise ValueError(f"weight must not be 1 of {self.model}, which would be a plain VAE")


def build(config: Config) -> Experiment:
    spaces = {
        "sprites": data.sprites(),
        "xy_squares": data.xy_squares(spacing=config.spacing, grid_size=8),
    }
    checks.known("dataset", config.dataset, spaces)
    space, weight = data.pooled(spaces[config.dataset], config.pooling), config.weight
    states = np.indices(space.sizes, np.int32).reshape(len(space.sizes), -1).T
    shown, _ = data.factor_dataset(rng.stream(rng.root(0), "shown"), space, 10_000)
    held, _ = data.factor_dataset(rng.stream(rng.root(0), "held"), space, 1_000)

    def images_of(keys, factors):
        return data.unit_interval(keys, space.image_of(factors))

    model = vae.make(
        nets.mlp(config.hidden, 2 * config.latent_dim, heads=2),
        nets.mlp(
            config.hidden[::-1],
            shown.images.shape[1:],
            output_bias=vae.mean_logits(data.mean_image(shown.images) / 255),
        ),
        latent_dim=config.latent_dim,
    )
    decay_steps = config.steps(config.decay_epochs, len(shown.images))
    rate = train.cosine(config.learning_rate, steps=decay_steps)
    objectives = {
        "vae": lambda: vae.elbo(model),
        "beta": lambda: vae.elbo(model, beta=weight),
        "tc": lambda: vae.beta_tc(model, beta=weight, num_examples=len(states)),
        "dip": lambda: vae.dip(model, off_diagonal=weight, diagonal=weight, kind="II"),
    }
    checks.known("model", config.model, (*objectives, "factor"))
    if config.model == "factor":
        made = vae.factor(model, nets.mlp(config.hidden, 1), gamma=weight)
        adams = {"vae": optax.adam(rate), "critic": optax.adam(rate, b1=0.5)}
        learner = train.game(
            made.init,
            {name: train.Player(made.objectives[name], adam) for name, adam in adams.items()},
            sample=made.sample,
        )
    else:
        loss = objectives[config.model]()
        learner = train.learner(model.init, loss, optax.adam(rate), sample=vae.generate(model))

    def of_model(function):
        """Returns a function of the VAE's parameters as one of all players'."""
        if config.model != "factor":
            return function
        return lambda params, *inputs: function(params["vae"], *inputs)

    trained = model._replace(encode=of_model(model.encode), decode=of_model(model.decode))

    @jax.jit
    def posterior(params, factors):
        return trained.encode(params, images_of(None, factors))

    def scores(key, state):
        factors = data.sample_factors(rng.stream(key, "factors"), space, 10_000)
        parts = [posterior(state.params, part) for part in np.split(np.asarray(factors), 10)]
        mean, logvar = (np.concatenate(part) for part in zip(*parts, strict=True))
        few = mean[:2000], logvar[:2000]  # the time grows with their square
        z = model.sample(rng.per_example(rng.stream(key, "codes"), 2000), *few)
        return {
            "mig": evaluate.mig(mean, factors),
            "factor_vae_score": evaluate.factor_vae_score(mean, factors),
            "active_units": evaluate.active_units(mean).num_active,
            "total_correlation": evaluate.aggregate_posterior(*few, z).total_correlation.mean,
            **(_more_scores(mean, np.asarray(factors)) if config.more_scores else {}),
        }

    return Experiment(
        learner=learner,
        batch_at=data.batches(states, batch_size=config.batch_size, prepare=images_of),
        dataset=shown,
        epochs=config.epochs,
        evaluate=scores,
        latents=Latents.of(trained),
        test=held,
    )


def _more_scores(codes, factors):
    seen, test = ((codes[part], factors[part]) for part in (slice(2000), slice(2000, 3000)))
    dci = evaluate.dci(*seen, test=test)
    return {
        "dci_disentanglement": dci.disentanglement,
        "dci_completeness": dci.completeness,
        "dci_informativeness": dci.informativeness,
        "sap": evaluate.sap(*seen, test=test),
    }
