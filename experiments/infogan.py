"""InfoGAN on MNIST: codes of the latents that can be read off an image (Chen et al. 2016).

The latents are 62 numbers of noise, a code of ten classes and two numbers in [-1, 1). The
discriminator's features also tell the codes of a generated image, and the generator is rewarded
for codes that can be told. Without any label the ten classes become digits: the error is that of
the best one-to-one match of codes and digits on 10,000 training images, on all test images.

    genmod train infogan

Nets of DCGAN at 28 x 28, 10 epochs.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genmod import checks, data, evaluate, gan, nets, report, rng, train
from genmod.experiment import Experiment, Latents, Settings
from genmod.runs import observe

MATCHED = 10_000
"""Number of training images by which codes are matched to digits."""


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """Model, game and length of training."""

    epochs: checks.Count = 10
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 100
    """Real images in a batch."""
    noise_dim: checks.Count = 62
    """Latent dimensions that no output reads."""
    classes: checks.Count = 10
    """Classes of the categorical code."""
    continuous: checks.Index = 2
    """Number of continuous codes."""
    width: checks.Count = 32
    """Channels at 14 x 14; twice as many at 7 x 7."""
    features: checks.Count = 256
    """Features of the discriminator."""
    weight: checks.Weight = 1.0
    """Weight of the information between codes and images."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate of the discriminator."""
    generator_learning_rate: checks.Positive = 1e-3
    """Adam's learning rate of the generator."""
    ema_half_life: checks.Positive = 20_000.0
    """Half-life of the generator's EMA, in generated images."""


def leaky_relu(x):
    return jax.nn.leaky_relu(x, 0.2)


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    shape = images.images.shape[1:]
    codes = gan.Codes(categorical=(config.classes,), continuous=config.continuous)
    features = nets.dcgan_discriminator(width=config.width, norm="batch", out=config.features)
    judge = nets.heads(
        nets.wrapped(features, after=leaky_relu),
        codes=nets.mlp((128,), codes.num_outputs, activation=leaky_relu, norm="batch"),
    )
    model = gan.make(
        nets.dcgan_generator(shape, width=config.width, norm="batch", output=jnp.tanh),
        judge,
        latent_dim=config.noise_dim + codes.size,
        latent=codes.latent,
        image_range=(-1, 1),
    )
    rates = config.generator_learning_rate, config.learning_rate
    learner = train.adversarial(
        model,
        gan.nonsaturating,
        train.Optimizers(*(optax.adam(rate, b1=0.5) for rate in rates)),
        terms={"information": gan.information(codes, weight=config.weight)},
        ema_half_life=config.ema_half_life,
    )

    @jax.jit
    def categories(params, x):
        """Returns the class that the discriminator reads off each of the images [B, H, W, C]."""
        keys = rng.per_example(rng.root(0), len(x))  # nothing is drawn from them
        outputs = model.outputs(params, data.signed_unit_interval(keys, x))
        return codes.read(outputs["codes"]).categorical[:, 0]

    def read(name, state, of, num):
        """Returns codes and labels of images of a data set, in random order.

        They are read in batches, as in training: batch normalisation compares an image with others.
        """
        order = jax.random.permutation(rng.stream(rng.root(0), name), len(of.images))
        places = np.asarray(order[:num])
        parts = np.split(places, range(500, len(places), 500))
        found = [categories(state.params, jnp.asarray(of.images[part])) for part in parts]
        return np.concatenate(found), of.labels[places]

    scores = observe.scores(learner, images)

    def evaluation(key, state):
        numbers = scores(key, state)
        if len(np.unique(images.labels)) == 1:  # as of data without labels
            return numbers
        seen = read("matched", state, images, MATCHED)
        matched = evaluate.matched_classes(*seen, num=config.classes)
        found = evaluate.clustering_accuracy(
            *read("tested", state, test, len(test.images)), classes=matched
        )
        return {**numbers, "code_error": 1 - found.value, "code_error_standard_error": found.error}

    def figures(key, state):
        """Draws a class in each column, then each number from -1 to 1 along the columns."""
        decode = learner.decoder(key, state)
        side, num = config.classes, 10
        noise = model.latent(rng.per_example(rng.stream(key, "figures"), num))
        columns = np.tile(np.arange(side), num)[:, None]
        of_classes = codes.replaced(jnp.repeat(noise, side, axis=0), categorical=columns)
        drawn = {
            "samples": (decode(of_classes), side, "the categorical code in each column"),
        }
        rows = np.repeat(np.arange(side), num)[:, None]
        steps = np.tile(np.linspace(-1, 1, num), side)
        for place in range(config.continuous):
            numbers = np.zeros((len(steps), config.continuous), np.float32)
            numbers[:, place] = steps
            z = codes.replaced(
                jnp.repeat(noise[:1], len(steps), axis=0), categorical=rows, continuous=numbers
            )
            title = f"number {place + 1} from -1 to 1, a category in each row"
            drawn[f"number_{place + 1}"] = (decode(z), num, title)
        return {
            name: report.image_grid(made, columns=width, title=title)
            for name, (made, width, title) in drawn.items()
        }

    return Experiment(
        learner=learner,
        batch_at=data.batches(
            images.images, batch_size=config.batch_size, prepare=data.signed_unit_interval
        ),
        dataset=images,
        epochs=config.epochs,
        evaluate=evaluation,
        observe=observe.samples(learner, images),
        latents=Latents(
            config.noise_dim + codes.size, learner.decoder, standard_normal_prior=False
        ),
        figures=figures,
        test=test,
    )
