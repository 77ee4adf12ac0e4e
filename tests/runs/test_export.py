"""A sampler that was exported makes the run's own images, without genmod."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import SMALL, refused

from genmod import data, gan, nets, rng, train
from genmod.experiment import Experiment
from genmod.runs import export, loading

pytestmark = pytest.mark.end_to_end

CONDITIONAL = SMALL.with_name("conditional_experiment.py")
WITHOUT = """
import sys, jax, jax.export, numpy, safetensors.numpy
folder, out = sys.argv[1:]
sampler = jax.export.deserialize(bytearray(open(f"{folder}/sampler.stablehlo", "rb").read()))
parameters = safetensors.numpy.load_file(f"{folder}/parameters.safetensors")
images = jax.jit(sampler.call)(parameters, jax.random.key_data(jax.random.key(3)))
numpy.save(out, images)
assert "genmod" not in sys.modules
"""


@pytest.fixture
def exported(genmod, tmp_path):
    """A run, its export, and how the command ended."""
    assert genmod("train", SMALL, "--run-dir", tmp_path / "run", "--epochs", 1).code == 0
    ended = genmod("export", tmp_path / "run", "--num", 7)
    return tmp_path / "run", tmp_path / "run" / "export", ended


def test_loaded_again_every_bit_agrees(exported):
    run, folder, ended = exported
    assert ended.code == 0, ended
    assert "loaded again: every bit agrees" in ended.out
    assert "images float32 [7, 6, 6, 1], on cpu, cuda, tpu" in ended.out
    built, state = loading.load_run(run)
    own = jax.jit(built.learner.sample, static_argnums=2)
    loaded = export.load(folder)
    for seed in range(3):
        there, here = loaded.sample(rng.root(seed)), own(rng.root(seed), state, 7)
        assert np.asarray(there).tobytes() == np.asarray(here).tobytes()
    decoder = {
        "params.decoder." + jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params.decoder)
    }
    assert loaded.parameters.keys() == decoder.keys(), "the encoder draws nothing"
    for name, value in decoder.items():
        assert loaded.parameters[name].tobytes() == np.asarray(value).tobytes(), name


def test_a_process_without_genmod_makes_the_same_images(exported, tmp_path):
    run, folder, _ = exported
    out = tmp_path / "images.npy"
    subprocess.run([sys.executable, "-c", WITHOUT, folder, out], check=True, cwd="/")
    built, state = loading.load_run(run)
    own = jax.jit(built.learner.sample, static_argnums=2)(rng.root(3), state, 7)
    assert np.load(out).shape == (7, 6, 6, 1)
    np.testing.assert_allclose(np.load(out), own, atol=1e-6)  # it compiles as users have it


def test_a_file_that_was_damaged_is_named(exported):
    _, folder, _ = exported
    weights = folder / "parameters.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"parameters\.safetensors is damaged: SHA-256"):
        export.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="is not an exported sampler"):
        export.load(folder)


def test_a_gan_with_batch_norm_is_exported_with_its_average(tmp_path):
    """Its images depend on the average, and on statistics that the key draws."""
    pixels = np.zeros((16, 8, 8, 1), np.uint8)
    generator = nets.dcgan_generator((8, 8, 1), width=2, norm="batch")
    model = gan.make(generator, nets.dcgan_discriminator(width=2), latent_dim=3)
    learner = train.adversarial(
        model, gan.hinge, optax.adam(1e-2), ema_half_life=10.0, as_images=lambda x: (x + 1) / 2
    )
    batch_at = data.batches(pixels, batch_size=8)
    built = Experiment(learner, batch_at, data.from_arrays(pixels), 8, 1)
    (point,) = train.run(learner, rng.root(0), batch_at, num_steps=2, log_every=2)
    export.write(built, point.state, tmp_path / "gan", num=4, about={})
    loaded = export.load(tmp_path / "gan")
    assert all(name.startswith("ema.") for name in loaded.parameters)
    own = jax.jit(learner.sample, static_argnums=2)(rng.root(1), point.state, 4)
    assert np.asarray(loaded.sample(rng.root(1))).tobytes() == np.asarray(own).tobytes()
    images = jax.jit(learner.decoder(rng.root(1), point.state))(
        model.latent(rng.per_example(rng.stream(rng.root(1), "latent"), 4))
    )
    np.testing.assert_allclose(images, own, atol=1e-6)


def test_the_sampler_of_a_conditional_run_takes_its_condition(genmod, tmp_path):
    run = tmp_path / "run"
    assert genmod("train", CONDITIONAL, "--run-dir", run, "--epochs", 1).code == 0
    ended = genmod("export", run, "--num", 6)
    assert ended.code == 0, ended
    assert "condition int32 [6]" in ended.out
    assert "loaded again: every bit agrees" in ended.out
    built, state = loading.load_run(run)
    loaded = export.load(run / "export")
    assert loaded.about["condition"] == {"": {"shape": [6], "dtype": "int32"}}
    assert loaded.about["classes"] == {"0": "north", "1": "east", "2": "south", "3": "west"}
    for labels in ([0, 0, 1, 2, 3, 3], np.full(6, 2)):  # of any type of whole numbers
        there = np.asarray(loaded.sample(rng.root(1), np.asarray(labels)))
        own = built.sample(rng.root(1), state, 6, np.asarray(labels, np.int32))
        assert there.tobytes() == np.asarray(own).tobytes()
    for wrong, said in (
        (None, r"condition must be whole numbers \[6\], one entry for each image, got None"),
        (np.zeros(5, int), r"got whole numbers \[5\]"),
        (np.zeros(6), r"got numbers \[6\]"),
        ({"a": np.zeros(6, int)}, r"got \{'a': 'whole numbers \[6\]'\}"),
    ):
        with pytest.raises(ValueError, match=said):
            loaded.sample(rng.root(1), wrong)


def test_a_condition_of_several_arrays_is_a_dict_of_them(genmod, tmp_path):
    run, condition = tmp_path / "run", ["--condition", "attributes"]
    assert genmod("train", CONDITIONAL, "--run-dir", run, "--epochs", 1, *condition).code == 0
    ended = genmod("export", run, "--num", 2)
    assert "condition.bright float32 [2]; condition.low bool [2]" in ended.out
    built, state = loading.load_run(run)
    loaded = export.load(run / "export")
    assert "classes" not in loaded.about
    asked = {"bright": np.array([0.1, 0.9], np.float32), "low": np.array([True, False])}
    own = np.asarray(built.sample(rng.root(1), state, 2, asked))
    assert np.asarray(loaded.sample(rng.root(1), asked)).tobytes() == own.tobytes()


def test_a_sampler_without_condition_takes_none(exported):
    with pytest.raises(ValueError, match="condition must be None, as this sampler takes none"):
        export.load(exported[1]).sample(rng.root(0), np.zeros(7, int))


def test_one_of_several_seeds(genmod, tmp_path):
    run = tmp_path / "run"
    assert genmod("train", SMALL, "--run-dir", run, "--epochs", 1, "--seeds", 2).code == 0
    assert genmod("export", run, "--index", 1, "--num", 2, "--out", tmp_path / "one").code == 0
    built, state = loading.load_run(run, 1)
    own = jax.jit(built.learner.sample, static_argnums=2)(rng.root(0), state, 2)
    there = export.load(tmp_path / "one").sample(rng.root(0))
    assert np.asarray(there).tobytes() == np.asarray(own).tobytes()
    assert json.loads((tmp_path / "one" / "export.json").read_text())["seed"] == 1
    refused(genmod("export", run, "--index", 2), 2, "one of the 2 runs, from 0")


def test_what_cannot_be_exported_is_refused(genmod, tmp_path):
    refused(genmod("export", tmp_path), 2, "is not a run folder")
    refused(genmod("export", tmp_path, "--num", 0), 2, "num must be a positive whole number")


def test_a_learner_that_knows_no_decoder_says_so():
    learner = train.learner(lambda key, x: jnp.zeros(()), lambda k, p, x: (x, {}), optax.sgd(1.0))
    with pytest.raises(ValueError, match="this learner has no decoder"):
        learner.decoder(rng.root(0), None)
