"""A decoder followed by JavaScript makes the pixels that JAX makes."""

import functools
import itertools
import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import INTERPRETER, followed, kinds, node
from flax import linen

from genmod import nets, rng, vae
from genmod.report import operations, programs


def decoder_of(net, dim, scale=1.0):
    """A decoder with weights that were drawn, larger than at their beginning."""
    params = jax.jit(net.init)(rng.root(0), jnp.zeros((2, dim)))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(rng.root(1), len(leaves))
    moved = [
        scale * leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    params = jax.tree.unflatten(structure, moved)
    if net.standing is not None:
        params = jax.jit(net.standing)(params, jax.random.normal(rng.root(2), (2, 8, dim)))
    return jax.jit(lambda z: net.apply(params, z))


class Unusual(linen.Module):
    """Operations that no net of genmod uses."""

    @linen.compact
    def __call__(self, z):
        x = linen.Dense(48)(z).reshape(-1, 4, 4, 3)
        x = jnp.concatenate([x, jnp.flip(x, 1)], axis=-1)
        x = linen.Conv(8, (3, 3), strides=(1, 2), padding="SAME")(
            jnp.pad(x, [(0, 0), (1, 0), (0, 2), (0, 0)])
        )
        x = linen.silu(x) - x.max(axis=(1, 2), keepdims=True) + jnp.where(x > 0, x, -2 * x)
        x = linen.ConvTranspose(2, (3, 3), strides=(2, 2))(x)[:, ::2, 1:, :]
        x = linen.softplus(jnp.transpose(x, (0, 2, 1, 3))) / jnp.clip(x.sum(), 1.0, 9.0)
        return jax.nn.sigmoid(x.mean(-1, keepdims=True) ** 3 + jnp.floor(z[:, :1, None, None]))


NETS = {
    "relu": nets.mlp((16, 24), (6, 5, 1), output=jax.nn.sigmoid),
    "gelu": nets.mlp((16,), (6, 5, 3), activation=jax.nn.gelu, output=jax.nn.sigmoid),
    "exact gelu": nets.mlp((16,), (6, 5, 1), activation=lambda x: jax.nn.gelu(x, False)),
    "maxout": nets.mlp((16,), (6, 5, 1), activation=nets.maxout(3), output=jnp.tanh),
    "elu": nets.mlp((16,), (6, 5, 1), activation=jax.nn.elu, output=jnp.sin),
    "batch norm": nets.mlp((16, 16), (6, 5, 1), norm="batch", output=jnp.tanh),
    "group norm": nets.mlp((16, 16), (6, 5, 1), norm="group", groups=4, output=jnp.tanh),
    "dcgan": nets.dcgan_generator((8, 12, 1), width=6),
    "dcgan, batch norm": nets.dcgan_generator((8, 12, 3), width=8, norm="batch"),
    "dcgan, group norm": nets.dcgan_generator((8, 12, 3), width=16, norm="group"),
    "unusual": nets.from_linen(Unusual()),
}


@pytest.mark.costly
@pytest.mark.parametrize("name", NETS)
def test_the_browser_makes_the_pixels_of_any_decoder(name):
    decode = decoder_of(NETS[name], 5)
    draws = np.asarray(jax.random.normal(rng.root(3), (6, 5)))
    # One by one: a sum over z must not be one over the batch.
    wanted = np.concatenate([np.asarray(decode(z[None])).reshape(1, -1) for z in draws])
    assert wanted.std() > 1e-2, "a constant picture would prove nothing"
    program = programs.program(decode, 5)
    np.testing.assert_allclose(followed(program, draws), wanted, atol=5e-4)


def test_a_vae_decodes_to_the_mean_of_its_likelihood():
    model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (4, 4, 1)), latent_dim=2)
    params = model.init(rng.root(0), jnp.zeros((2, 4, 4, 1)))
    program = programs.program(functools.partial(vae.decode_mean(model), params), 2)
    pixels = followed(program, [[0.5, -1.0]])
    wanted = jax.nn.sigmoid(model.decode(params, jnp.array([[0.5, -1.0]])))
    np.testing.assert_allclose(pixels[0], wanted.ravel(), atol=1e-5)


def test_weights_have_16_bits_unless_that_can_be_seen():
    weights = jax.random.normal(rng.root(0), (4, 100))
    gentle = programs.program(lambda z: jax.nn.sigmoid(z @ weights).reshape(-1, 10, 10, 1), 4)
    assert "i16" in kinds(gentle)
    steep = lambda z: jax.nn.sigmoid(1e3 * (z @ weights)).reshape(-1, 10, 10, 1)  # noqa: E731
    exact = programs.program(steep, 4)
    assert kinds(exact) == {"f32"}
    z = np.asarray(jax.random.normal(rng.root(1), (3, 4)))
    np.testing.assert_allclose(followed(exact, z), steep(z).reshape(3, -1), atol=1e-3)


def test_what_does_not_depend_on_the_latents_is_no_work_for_the_browser():
    table = jnp.sort(jax.random.normal(rng.root(0), (12,)))  # which it could not sort
    program = programs.program(lambda z: (z.sum() + jnp.sort(table)).reshape(1, 3, 4, 1), 2)
    assert [step["f"] for step in program["steps"]] == ["sum", "add"]


def embedded(net, classes, width):
    """A network that looks up a vector for its class, which no browser needs to do."""

    def init(key, z, c):
        table = jax.random.normal(rng.stream(key, "table"), (classes, width))
        both = jnp.concatenate([z, table[c]], axis=1)
        return {"table": table, "net": net.init(rng.stream(key, "net"), both)}

    def apply(params, z, c):
        return net.apply(params["net"], jnp.concatenate([z, params["table"][c]], axis=1))

    return nets.Net(init, apply)


CONDITIONAL = {
    "one-hot": nets.conditional(nets.mlp((16,), (6, 5, 1), output=jax.nn.sigmoid), 4),
    "looked up": embedded(nets.mlp((16,), (6, 5, 1), output=jnp.tanh), 4, 3),
    "convolutions": nets.conditional(nets.dcgan_generator((8, 12, 1), width=6), 4),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_conditional_decoder_is_one_program_with_a_choice(name):
    net, z = CONDITIONAL[name], jax.random.normal(rng.root(3), (3, 5))
    params = jax.jit(net.init)(rng.root(0), z, jnp.array([0, 1, 2]))
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    decode = lambda z, c: net.apply(params, z, c)  # noqa: E731
    labels = (0, 2, 3)
    program = programs.program(decode, 5, conditions=[np.array([label]) for label in labels])
    alone = programs.program(lambda z: decode(z, jnp.zeros(len(z), int)), 5)
    own = [sum(len(str(constant)) for constant in one.values()) for one in program["choices"]]
    assert max(own) < 0.05 * len(str(alone["constants"])), "the weights are shared"
    seen = []
    for choice, label in enumerate(labels):
        wanted = jax.jit(decode)(z, jnp.full(3, label)).reshape(3, -1)
        seen.append(followed(program, z, choice))
        np.testing.assert_allclose(seen[-1], wanted, atol=5e-4)
    assert min(np.abs(a - b).max() for a, b in itertools.pairwise(seen)) > 1e-2


def test_weights_have_16_bits_only_if_that_is_seen_in_no_class():
    weights = jax.random.normal(rng.root(0), (4, 100))

    def decode(z, c):  # steep for the second class alone
        return jax.nn.sigmoid((1 + 1e3 * c[:, None]) * (z @ weights)).reshape(-1, 10, 10, 1)

    gentle = [np.zeros(1, np.float32)]
    assert "i16" in kinds(programs.program(decode, 4, conditions=gentle))
    both = [*gentle, np.ones(1, np.float32)]
    assert kinds(programs.program(decode, 4, conditions=both)) == {"f32"}


def test_a_class_with_other_operations_is_refused():
    def decode(z, c):
        return (z * z if c[0] else z + z).reshape(1, 2, 2, 1)

    with pytest.raises(programs.UnsupportedError, match="other operations for another class"):
        programs.program(decode, 4, conditions=[np.array([0]), np.array([1])])


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        (lambda z: jnp.sort(z, 1).reshape(1, 2, 2, 1), "the operation 'sort' is not known"),
        (lambda z: jnp.einsum("bi,bi->b", z, z).reshape(1, 1, 1, 1), "batches of matrices"),
        (lambda z: z.astype(jnp.int32).reshape(1, 2, 2, 1), "conversion of z to whole numbers"),
    ],
)
def test_what_the_browser_does_not_know_is_named(decode, said):
    with pytest.raises(programs.UnsupportedError, match=said):
        programs.program(decode, 4)


def test_what_makes_no_images_is_refused():
    with pytest.raises(ValueError, match=r"must return images \[B, H, W, C\], got the shapes"):
        programs.program(lambda z: z, 4)
    with pytest.raises(ValueError, match="latent_dim must be a positive whole number, got 0"):
        programs.program(lambda z: z, 0)


def test_the_interpreter_knows_every_operation_that_is_written():
    done = subprocess.run(
        [node(), "-p", "JSON.stringify(require(process.argv[1]).operations)", INTERPRETER],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)) >= operations.OPERATIONS
