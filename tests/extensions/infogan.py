"""InfoGAN (Chen et al. 2016, arXiv:1606.03657): a code that the image must tell."""

import jax
import jax.numpy as jnp
from shared import CLASSES, SHAPE, Config, L, experiment, leaky, slow

from genmod import gan, nets, rng, train

__all__ = ["Config", "build"]

model = gan.make(
    nets.conditional(nets.mlp((8,), SHAPE, output=jax.nn.sigmoid), CLASSES),
    nets.mlp((8,), 1, activation=leaky),
    latent_dim=L,
    condition=lambda x: (x, jnp.zeros(len(x), jnp.int32)),
)
reader, loss = nets.mlp((8,), CLASSES, activation=leaky), gan.nonsaturating


def played(keys, p, x):
    code = jax.vmap(lambda key: jax.random.randint(key, (), 0, CLASSES))(rng.stream(keys, "code"))
    params = gan.GanParams(p["generator"], p["discriminator"])
    fake = model.generate(params, model.latent(rng.stream(keys, "latent")), code)
    return [model.discriminate(params, image) for image in (x, fake)], fake, code


def generator_loss(keys, p, x):
    logits, fake, code = played(keys, p, x)
    told = jax.nn.log_softmax(reader(p["reader"], fake))[jnp.arange(len(code)), code]
    return loss.generator(*logits) - told, {"information": told}


def build(config: Config):
    def init(key, x):
        return {
            **model.init(key, x)._asdict(),
            "reader": reader.initial(rng.stream(key, "reader"), x),
        }

    def discriminator_loss(keys, p, x):
        return loss.discriminator(*played(keys, p, x)[0]), {}

    players = {
        "discriminator": train.Player(discriminator_loss, slow),
        ("generator", "reader"): train.Player(generator_loss, slow),
    }

    def draw(keys, p, code):
        return model.generate(gan.GanParams(p["generator"], None), model.latent(keys), code)

    codes = jnp.arange(CLASSES)
    return experiment(config, train.game(init, players, sample=draw, conditions=codes))
