"""What an experiment file is, where it is found, and how its configuration is written down."""

import dataclasses
import inspect
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from genmod import checks, data, experiment, nets, rng, train, vae
from genmod.experiment import Experiment
from genmod.runs import catalogue, configs, naming, runner

SHIPPED = Path(__file__).parents[2] / "experiments"
SMALL = Path(__file__).parents[1] / "support" / "small_experiment.py"


@pytest.fixture
def folder(tmp_path):
    for name in ("article_vae", "mnist_vae", "mnist_gan", "BigGan", "_draft", "2d"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "inner.py").write_text("")
    return tmp_path


def test_names_are_the_python_files_that_begin_with_a_letter(folder):
    assert catalogue.names(folder) == ["BigGan", "article_vae", "mnist_gan", "mnist_vae"]
    assert catalogue.names(folder / "nowhere") == []


def test_an_experiment_is_found_by_its_name_or_by_its_file(folder, monkeypatch):
    expected = folder / "mnist_vae.py"
    assert catalogue.find("mnist_vae", folder) == expected
    assert catalogue.find(str(expected)) == expected
    (folder / "experiments").mkdir()
    (folder / "experiments" / "mine.py").write_text("")
    monkeypatch.chdir(folder)
    assert catalogue.find("mine") == Path("experiments/mine.py")
    assert catalogue.find("mnist_vae.py") == Path("mnist_vae.py")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist_vea", r"unknown experiment 'mnist_vea'; did you mean 'mnist_vae'"),
        ("articel", r"did you mean 'article_vae'\?"),
        ("zzz", r"unknown experiment 'zzz'; there is: .*article_vae, mnist_gan, mnist_vae"),
        ("", r"unknown experiment ''; there is: "),
        ("notes.txt", r"unknown experiment 'notes\.txt'"),
        ("../article_vae", r"unknown experiment '\.\./article_vae'"),
        ("nowhere.py", r"experiment 'nowhere\.py': there is no such file"),
    ],
)
def test_an_unknown_experiment_is_refused_with_the_nearest_names(folder, name, message):
    with pytest.raises(ValueError, match=message):
        catalogue.find(name, folder)


def test_where_there_are_no_experiments_that_is_said(tmp_path):
    with pytest.raises(ValueError, match="unknown experiment 'mnist_vae'; there is: none"):
        catalogue.find("mnist_vae", tmp_path / "nowhere")


CONFIG = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: int = 1
"""
BUILD = """
def build(config):
    return config
"""


def test_a_loaded_experiment_has_its_configuration_and_its_build(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('"""What it is."""\nfrom __future__ import annotations\n' + CONFIG + BUILD)
    module = catalogue.load(path)
    assert module.__doc__ == "What it is."
    config = module.Config(seed=3)
    assert module.build(config) is config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4


def test_experiments_of_one_name_do_not_mix(tmp_path):
    found = []
    for number in (1, 2):
        path = tmp_path / str(number) / "mine.py"
        path.parent.mkdir()
        path.write_text(CONFIG.replace("epochs: int = 1", f"epochs: int = {number}") + BUILD)
        found.append(catalogue.load(path))
    assert [module.Config().epochs for module in found] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"mine\.py: expected a frozen dataclass Config, got None"),
        (BUILD, r"mine\.py: expected a frozen dataclass Config, got None"),
        (BUILD + "Config = dict(seed=0)", r"expected a frozen dataclass Config, got \{'seed': 0\}"),
        (BUILD + "class Config:\n    seed = 0", r"expected a frozen dataclass Config, got <class"),
        (BUILD + CONFIG + "Config = Config()", r"a frozen dataclass Config, got Config\(seed=0"),
        (
            BUILD + CONFIG.replace("(frozen=True)", ""),
            r"mine\.py: expected a frozen dataclass Config, got <class",
        ),
        (CONFIG, r"mine\.py: expected a function build\(config\), found none"),
        (CONFIG + "build = 3", r"mine\.py: expected a function build\(config\)"),
        (
            CONFIG.replace("    seed: int = 0\n", "") + BUILD,
            r"mine\.py: expected Config to have .*seed",
        ),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        catalogue.load(path)


def test_a_file_that_is_not_python_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("thoughts")
    with pytest.raises(ValueError, match=r"experiment '.*notes\.txt': not a Python file"):
        catalogue.load(path)


def of_length(num, batch_size, epochs):
    images = np.zeros((num, 1, 1, 1), np.uint8)
    dataset = data.Dataset(images, np.zeros(num, np.int32), "sha256:0")
    learner = train.Learner(lambda *_: None, lambda *_: None, lambda *_: None)
    return Experiment(learner, lambda *_: None, dataset, batch_size, epochs)


@pytest.mark.parametrize(
    ("num", "batch_size", "epochs", "num_steps", "steps_per_epoch"),
    [
        (60_000, 100, 50, 30_000, 600),
        (60_000, 128, 1, 469, 469),
        (60_000, 128, 3, 1407, 469),  # 1406.25: three whole epochs, not three times 469 steps
        (10, 4, 2, 5, 3),
        (10, 10, 7, 7, 1),
        (10, 3, 1, 4, 4),
        (7, 5, 5, 7, 2),
        (1000, 100, 0.5, 5, 10),
        (1000, 100, 0.001, 1, 10),
        (100, 1, 0.07, 7, 100),  # 0.07 * 100 is 7.000000000000001
        (1000, 1, 0.001, 1, 1000),
    ],
)
def test_epochs_are_counted_in_examples(num, batch_size, epochs, num_steps, steps_per_epoch):
    run = of_length(num, batch_size, epochs)
    assert run.num_steps == num_steps
    assert run.steps_per_epoch == steps_per_epoch


@given(num=st.integers(1, 3000), share=st.floats(0, 1), epochs=st.integers(1, 1000))
def test_a_run_ends_with_the_first_step_that_completes_its_epochs(num, share, epochs):
    run = of_length(num, max(1, int(share * num)), epochs)
    assert run.num_steps * run.batch_size >= epochs * num
    assert (run.num_steps - 1) * run.batch_size < epochs * num
    assert run.epoch(0) == 0
    assert run.epoch(run.num_steps) >= epochs > run.epoch(run.num_steps - 1)
    assert (run.steps_per_epoch - 1) * run.batch_size < num <= run.steps_per_epoch * run.batch_size


@dataclasses.dataclass(frozen=True)
class Every:
    """A configuration with a field of every kind that JSON can hold."""

    seed: int = 0
    epochs: int = 10
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (200, 200)
    blocks: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    dataset: str = "mnist"
    warmup: float | None = None
    clip: bool = False
    order: Literal["shuffled", "stored"] = "shuffled"

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs must be positive, got {self.epochs}")


configurations = st.builds(
    Every,
    seed=st.integers(0, 2**32 - 1),
    epochs=st.integers(1, 10**6),
    learning_rate=st.floats(allow_nan=False, allow_infinity=False),
    hidden=st.lists(st.integers(1, 999), max_size=4).map(tuple),
    blocks=st.lists(st.tuples(st.integers(), st.integers()), max_size=2).map(tuple),
    dataset=st.text(max_size=10),
    warmup=st.none() | st.floats(0, 1),
    clip=st.booleans(),
    order=st.sampled_from(["shuffled", "stored"]),
)


@given(configurations)
def test_a_configuration_comes_back_from_json_as_it_was(config):
    values = configs.as_json(config)
    stored = json.loads(json.dumps(values))
    assert configs.from_json(Every, stored) == config
    assert stored == values, "a run's folder is compared with what JSON gave back"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("seed"), r"fields \['blocks', .*the experiment expects .*'seed'"),
        (lambda v: v.update(beta=1.0), r"configuration has the fields .*'beta'.* expects"),
        (lambda v: v.update(epochs=0), "epochs must be positive, got 0"),
    ],
)
def test_a_recorded_configuration_that_does_not_fit_is_refused(change, message):
    values = configs.as_json(Every())
    change(values)
    with pytest.raises(ValueError, match=message):
        configs.from_json(Every, values)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "seed-0"),
        ({"seed": 7}, "seed-7"),
        ({"epochs": 99}, "seed-0"),
        ({"learning_rate": 0.01, "seed": 1}, "seed-1_learning_rate-0.01"),
        ({"hidden": (50, 20)}, "seed-0_hidden-50-20"),
        ({"dataset": "tfds:fashion_mnist"}, "seed-0_dataset-tfds-fashion_mnist"),
        ({"clip": True, "warmup": 0.5}, "seed-0_warmup-0.5_clip-True"),
    ],
)
def test_the_default_name_says_what_is_changed(changes, name):
    assert re.sub("-+", "-", naming.name(Every(**changes))).rstrip("-") == name


@given(configurations)
def test_a_default_name_is_a_short_and_harmless_name_of_a_folder(config):
    name = naming.name(config)
    assert 0 < len(name) <= 100
    assert name.startswith(f"seed-{config.seed}")
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name == naming.name(dataclasses.replace(config, epochs=1))


def test_long_names_are_cut_and_still_differ():
    names = {
        naming.name(Every(hidden=(1,) * 100, dataset=f"{'x' * 200}{number}"))
        for number in range(20)
    }
    assert len(names) == 20
    assert max(map(len, names)) <= 100


def test_a_default_made_anew_is_no_change():
    @dataclasses.dataclass(frozen=True)
    class Config:
        seed: int = 0
        hidden: tuple[int, ...] = dataclasses.field(default_factory=lambda: (200, 200))

    assert naming.name(Config()) == "seed-0"
    assert naming.name(Config(hidden=(3,))) != "seed-0"


def shipped(name):
    return catalogue.load(SHIPPED / f"{name}.py")


# What each experiment's Config holds: numbers that count, and numbers that may be fractions.
COUNTS = {
    "article_gan": ["epochs", "batch_size", "latent_dim"],
    "article_vae": ["epochs", "batch_size", "latent_dim", "hidden"],
    "augmentation": [
        *("epochs", "batch_size", "images_per_class", "latent_dim", "synthetic"),
        *("classifier_steps", "classifier_width"),
    ],
    "autoencoder": ["epochs", "batch_size", "code_dim", "hidden"],
    "conditional_vae": ["epochs", "batch_size", "latent_dim", "decay_epochs"],
    "dcgan_mnist": ["epochs", "batch_size", "latent_dim", "width"],
    "disentanglement": ["epochs", "batch_size", "spacing", "pooling", "latent_dim", "decay_epochs"],
    "few_images": ["epochs", "batch_size", "images_per_class", "latent_dim", "width"],
    "gan_losses": [
        *("epochs", "batch_size", "latent_dim", "width", "hidden"),
        "discriminator_steps",
    ],
    "hierarchy": ["epochs", "batch_size", "decay_epochs"],
    "infogan": ["epochs", "batch_size", "noise_dim", "classes", "width", "features"],
    "iwae": ["epochs", "batch_size", "num_samples", "num_groups", "decay_epochs"],
    "mixtures": ["epochs", "batch_size", "packing", "discriminator_steps", "latent_dim"],
    "mnist_vae": ["epochs", "batch_size", "latent_dim", "decay_epochs"],
    "pacgan_mixtures": ["epochs", "batch_size", "packing"],
    "pictures": ["epochs", "batch_size", "latent_dim", "width", "decay_epochs"],
    "priors": ["epochs", "batch_size", "components", "layers", "latent_dim", "decay_epochs"],
    "r3gan": ["epochs", "batch_size", "latent_dim", "width", "cells", "decay_epochs"],
    "semi_supervised": ["epochs", "batch_size", "latent_dim", "decay_epochs"],
    "sngan": [
        *("epochs", "batch_size", "latent_dim", "width", "discriminator_width"),
        "discriminator_steps",
    ],
    "stacked_mnist": ["epochs", "batch_size", "packing", "latent_dim", "width"],
    "vqvae": ["epochs", "batch_size", "num_codes", "width", "prior_width", "decay_epochs"],
}
WEIGHTS = {
    "article_gan": ["b1"],
    "article_vae": ["kl_weight"],
    "augmentation": ["penalty"],
    "autoencoder": [],
    "conditional_vae": [],
    "dcgan_mnist": ["r1", "b1"],
    "disentanglement": [],  # the weight, which a plain VAE has not: test_disentanglement.py
    "few_images": ["r1", "b1"],
    "gan_losses": ["b1"],
    "hierarchy": ["free_nats"],
    "infogan": ["weight"],
    "iwae": [],  # beta is one, of ciwae alone
    "mixtures": ["r1", "r2", "sigma", "gradient_penalty", "dragan", "clip", "b1"],
    "mnist_vae": ["beta"],
    "pacgan_mixtures": ["b1"],
    "pictures": ["beta"],
    "priors": [],
    "r3gan": ["r1", "r2"],
    "semi_supervised": ["alpha"],
    "sngan": ["b1"],
    "stacked_mnist": ["r1", "r2", "b1"],
    "vqvae": ["commitment"],
}
# The shape of an example, the range of what the model sees, and the number of steps.
SHAPES = {
    "article_gan": ((28, 28, 1), (-1, 1), 12_000),
    "article_vae": ((28, 28, 1), (0, 1), 30_000),
    "augmentation": ((28, 28, 1), (0, 1), 1_000),
    "autoencoder": ((28, 28, 1), (0, 1), 12_000),
    "conditional_vae": ((28, 28, 1), (0, 1), 12_000),
    "dcgan_mnist": ((28, 28, 1), (-1, 1), 6_000),
    "disentanglement": ((32, 32, 1), (0, 1), 23_438),
    "few_images": ((28, 28, 1), (-1, 1), 20_000),
    "gan_losses": ((28, 28, 1), (0, 1), 18_750),
    "hierarchy": ((28, 28, 1), (0, 1), 30_000),
    "infogan": ((28, 28, 1), (-1, 1), 6_000),
    "iwae": ((28, 28, 1), (0, 1), 120_000),
    "mixtures": ((2,), (-2, 2), 12_110),
    "mnist_vae": ((28, 28, 1), (0, 1), 30_000),
    "pacgan_mixtures": ((2,), (-5, 5), 400_000),
    "pictures": ((28, 28, 1), (0, 1), 4_688),
    "priors": ((28, 28, 1), (0, 1), 30_000),
    "r3gan": ((28, 28, 1), (-1, 1), 9_375),
    "semi_supervised": ((28, 28, 1), (0, 1), 15_000),
    "sngan": ((28, 28, 1), (-1, 1), 9_375),
    "stacked_mnist": ((28, 28, 3), (-1, 1), 3_840),
    "vqvae": ((28, 28, 1), (0, 1), 12_000),
}
GAME = {"discriminator_loss", "generator_loss", "real_probability", "fake_probability"}
METRICS = {
    "infogan": {*GAME, "discriminator_information", "generator_information"},
    "autoencoder": {"loss"},
    "semi_supervised": {"loss", "classification", "entropy"},
    "vqvae": {"reconstruction", "kl", "distance"},
}
ONE_PLAYER = {"loss", "reconstruction", "kl"}
for one in ("article_vae", "augmentation", "conditional_vae", "disentanglement", "hierarchy"):
    METRICS[one] = ONE_PLAYER
for one in ("iwae", "mnist_vae", "pictures", "priors"):
    METRICS[one] = ONE_PLAYER


def test_every_shipped_experiment_is_tested_here():
    assert catalogue.names(SHIPPED) == sorted(COUNTS)


@pytest.mark.parametrize("path", [*sorted(SHIPPED.glob("[a-z]*.py")), SMALL], ids=lambda p: p.stem)
def test_an_experiment_opens_with_its_command(path):
    module = catalogue.load(path)
    command = path.relative_to(SHIPPED.parent) if path == SMALL else path.stem
    lines = [line.strip() for line in (module.__doc__ or "").splitlines()]
    assert f"genmod train {command}" in lines
    assert (module.__doc__ or "").splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_flag_has_a_default_and_a_description(name):
    module = shipped(name)
    fields = [field.name for field in dataclasses.fields(module.Config)]
    for kind in module.Config.__mro__[:-1]:
        assert kind in (module.Config, experiment.Settings, data.Source)
        for field in inspect.get_annotations(kind):
            assert field in fields
            _, after = Path(inspect.getfile(kind)).read_text().split(f"\n    {field}: ", 1)
            assert after.splitlines()[1].startswith('    """'), f"{field} has no description"
    assert (
        configs.from_json(module.Config, json.loads(json.dumps(configs.as_json(module.Config()))))
        == module.Config()
    )


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None])
def test_a_count_that_is_none_is_refused(name, value):
    for field in COUNTS[name]:
        with pytest.raises(
            ValueError, match=f"{field} must be a positive whole number, got {value!r}"
        ):
            shipped(name).Config(**{field: value})


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf, -math.inf])
def test_a_learning_rate_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"learning_rate must be a positive number, got {value}"):
        shipped(name).Config(learning_rate=value)


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf])
def test_a_weight_out_of_range_is_refused(name, value):
    for field in WEIGHTS[name]:
        with pytest.raises(ValueError, match=f"{field} must be a number of at least 0, got"):
            shipped(name).Config(**{field: value})
        assert getattr(shipped(name).Config(**{field: 0.0}), field) == 0.0


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"seed must be a whole number in .*, got {value}"):
        shipped(name).Config(seed=value)


@pytest.mark.parametrize("hidden", [(0,), (200, -1), (1.5,)])
def test_a_hidden_layer_without_units_is_refused(hidden):
    with pytest.raises(ValueError, match="hidden must be a positive whole number, got"):
        shipped("mnist_vae").Config(hidden=hidden)


# One experiment with a player and one with two; the others on one Python only.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("mnist_vae", "mixtures") else pytest.mark.end_to_end)
        for n in sorted(COUNTS)
    ],
)
def test_a_shipped_experiment_is_built_and_fits_together(name):
    shape, (low, high), num_steps = SHAPES[name]
    module = shipped(name)
    config = module.Config()
    built = module.build(config)
    assert isinstance(built, Experiment)
    assert built.num_steps == num_steps
    assert isinstance(built.batch_at, jax.tree_util.Partial), "the data are no constant"

    key = rng.root(0)
    carry = train.abstract_carry(built.learner, key, built.batch_at)
    batch = jax.jit(lambda at, key: at(key, 0))(built.batch_at, key)  # the data are an argument
    x = batch.get("image", batch.get("unlabelled")) if isinstance(batch, dict) else batch
    assert (x.shape, x.dtype) == ((config.batch_size, *shape), np.float32)
    assert low <= float(x.min()) < float(x.max()) <= high
    state, metrics = jax.eval_shape(built.learner.step, key, carry.state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), carry.state
    )
    assert METRICS.get(name, GAME) <= set(metrics)
    if name == "autoencoder":
        with pytest.raises(ValueError, match="cannot sample"):
            built.learner.sample(key, carry.state, 3)
    else:
        images = jax.eval_shape(lambda state: built.learner.sample(key, state, 3), carry.state)
        assert images.shape == (3, *shape)


def test_what_cannot_be_packed_is_refused():
    for name, size in {"mixtures": 256, "stacked_mnist": 100}.items():
        module = shipped(name)
        with pytest.raises(ValueError, match=f"a batch of {size} cannot be cut into packs of 3"):
            runner.check(module.build(module.Config(packing=3)), seed=0)


@pytest.mark.parametrize(
    "name",
    sorted(set(COUNTS) - {"disentanglement", "mixtures", "pacgan_mixtures", "stacked_mnist"}),
)
def test_an_unknown_data_set_is_refused_before_anything_is_built(name):
    module = shipped(name)
    with pytest.raises(ValueError, match="unknown data set 'mnits'; did you mean 'mnist'"):
        module.build(module.Config(dataset="mnits"))


@dataclasses.dataclass(frozen=True)
class Ranged(experiment.Settings):
    """A configuration with every range."""

    width: checks.Count = 3
    fold: checks.Index = 0
    rate: checks.Positive = 0.1
    weight: checks.Weight = 0.0
    hidden: tuple[checks.Count, ...] = (4, 4)
    name: str = "free"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, r"seed must be a whole number in \[0, 2\*\*32\), got -1"),
        ({"epochs": 0}, "epochs must be a positive whole number, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a positive whole number, got 1.5"),
        ({"width": True}, "width must be a positive whole number, got True"),
        ({"fold": -1}, "fold must be a whole number of at least 0, got -1"),
        ({"rate": 0.0}, "rate must be a positive number, got 0.0"),
        ({"weight": math.nan}, "weight must be a number of at least 0, got nan"),
        ({"hidden": 4}, "hidden must be a tuple, got 4"),
        ({"hidden": (4, 0)}, "hidden must be a positive whole number, got 0"),
    ],
)
def test_the_range_in_an_annotation_is_checked(changes, said):
    with pytest.raises(ValueError, match=said):
        Ranged(**changes)


def test_values_in_range_are_kept_and_written_down():
    config = Ranged(seed=3, epochs=7, fold=2, hidden=(), name="")
    values = json.loads(json.dumps(configs.as_json(config)))
    assert configs.from_json(Ranged, values) == config


def test_flags_show_types_and_not_ranges(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Ranged, args=["--help"])
    shown = capsys.readouterr().out
    assert "Rule(" not in shown
    assert "--rate FLOAT" in shown
    assert tyro.cli(Ranged, args=["--hidden", "5", "6"]).hidden == (5, 6)


def test_the_latents_of_a_vae_are_its_means():
    model = vae.make(nets.mlp((4,), 4, heads=2), nets.mlp((4,), (2, 2, 1)), latent_dim=2)
    x = jax.random.uniform(rng.root(1), (3, 2, 2, 1))
    state = SimpleNamespace(params=model.init(rng.root(0), x))
    latents = experiment.Latents.of(model)
    assert latents.dim == 2
    mean, _ = model.encode(state.params, x)
    np.testing.assert_array_equal(latents.encode(state, x), mean)
    decoded = latents.decoder(rng.root(2), state)(mean)
    np.testing.assert_array_equal(decoded, vae.decode_mean(model)(state.params, mean))


def conditional_vae(**options):
    encoder, decoder = nets.mlp((4,), 4), nets.mlp((4,), (2, 2, 1))
    return vae.make(
        nets.conditional(encoder, 3),
        nets.conditional(decoder, 3),
        latent_dim=2,
        condition=lambda batch: (batch["image"], batch["label"]),
        **options,
    )


def test_the_latents_of_a_conditional_vae_take_its_condition():
    model = conditional_vae()
    x, c = jax.random.uniform(rng.root(1), (3, 2, 2, 1)), jnp.array([2, 0, 1])
    state = SimpleNamespace(params=model.init(rng.root(0), {"image": x, "label": c}))
    latents = experiment.Latents.of(model)
    codes = latents.encode(state, x, c)
    np.testing.assert_array_equal(codes, model.encode(state.params, x, c)[0])
    wanted = vae.decode_mean(model)(state.params, codes, c)
    np.testing.assert_array_equal(latents.decoder(rng.root(2), state)(codes, c), wanted)
    with pytest.raises(ValueError, match="the encoder needs a condition, got None"):
        latents.encode(state, x)


def test_only_a_standard_normal_prior_is_one():
    def shifted(latent_dim):
        plain = vae.standard_normal(latent_dim)
        return vae.Prior(plain.init, lambda *given: 1 + plain.sample(*given), plain.log_prob)

    encoder, decoder = nets.mlp((4,), 4, heads=2), nets.mlp((4,), (2, 2, 1))
    for prior, is_plain in ((vae.standard_normal, True), (shifted, False)):
        model = vae.make(encoder, decoder, latent_dim=2, prior=prior)
        assert experiment.Latents.of(model).standard_normal_prior == is_plain


def test_latents_are_those_of_the_averaged_parameters():
    """As samples are."""
    model = vae.make(nets.mlp((4,), 4), nets.mlp((4,), (2, 2, 1)), latent_dim=2)
    x = jax.random.uniform(rng.root(1), (4, 2, 2, 1))
    draw = vae.generate(model)
    learner = train.learner(
        model.init, vae.elbo(model), optax.adam(0.1), sample=draw, ema_half_life=100.0
    )
    state = learner.init(rng.root(0), x)
    for step in range(2):
        state, _ = jax.jit(learner.step)(rng.at_step(rng.root(2), step), state, x)
    latents = experiment.Latents.of(model)
    np.testing.assert_array_equal(latents.encode(state, x), model.encode(state.ema, x)[0])
    assert not np.array_equal(latents.encode(state, x), model.encode(state.params, x)[0])


def of_classes(labels, conditions, **options):
    """An experiment with a conditional VAE whose images are drawn, but not trained."""
    model = conditional_vae()
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    dataset = data.from_arrays(images, labels)._replace(classes=("a", "b", "c"))
    examples = {"image": dataset.images, "label": dataset.labels}
    learner = train.learner(
        model.init,
        vae.elbo(model),
        optax.sgd(0.1),
        sample=vae.generate(model),
        conditions=conditions,
    )
    prepare = {"image": data.unit_interval}
    batch_at = data.batches(examples, batch_size=2, prepare=prepare)
    built = Experiment(learner, batch_at, dataset, latents=experiment.Latents.of(model), **options)
    return built, learner.init(rng.root(0), batch_at(rng.root(1), 0))


@pytest.mark.end_to_end
def test_a_grid_of_a_conditional_experiment_has_a_class_in_each_column():
    labels = np.array([0, 2, 1, 1, 0])
    built, state = of_classes(labels, labels)
    assert built.is_given_labels
    assert built.class_names(built.labels) == ["a", "b", "c"]
    found = built.grid(rng.root(3), state, 64)
    rows, columns = found.shape[:2]
    assert (rows, columns) == (7, 9)
    asked = np.resize(np.arange(3), rows * columns)
    wanted = built.learner.sample(rng.root(3), state, rows * columns, asked)
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
    np.testing.assert_array_equal(
        built.observation(rng.root(3), state).images["samples"], found, "with the same key"
    )
    title = built.final_figures(rng.root(3), state)["samples"].get_suptitle().replace("\n", " ")
    assert title == "generated, a class in each column, in turn: a, b, c"


def test_conditions_that_are_not_the_labels_have_numbers_for_names():
    labels = np.array([0, 2, 1, 1, 0])
    built, state = of_classes(labels, labels[::-1].copy())
    assert not built.is_given_labels
    assert built.class_names(built.labels) == ["0", "1", "2"]
    assert built.grid(rng.root(3), state, 9).shape[:2] == (3, 3)


@pytest.mark.parametrize("are_labels", [True, False])
@pytest.mark.end_to_end
def test_test_images_are_reconstructed_only_if_their_condition_is_known(are_labels):
    labels = np.array([0, 2, 1, 1, 0])
    test = data.from_arrays(np.full((4, 2, 2, 1), 99, np.uint8), [2, 1, 0, 0])
    built, state = of_classes(labels, labels if are_labels else labels[::-1].copy(), test=test)
    figures = built.final_figures(rng.root(3), state)
    known = {"reconstructions", "latents", "manifold", "interpolations"} if are_labels else set()
    assert set(figures) == {"data", "samples"} | known
    # Without an encoder, paths lead through the prior; other conditions than labels are not known.
    alone = built.latents._replace(encode=None)
    paths = {"interpolations", "truncation"} if are_labels else set()
    without = dataclasses.replace(built, latents=alone)
    assert set(without.final_figures(rng.root(3), state)) == {"data", "samples"} | paths


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("iwae", {"beta": 0.5}, "beta is not used by the objective iwae, got 0.5"),
        ("iwae", {"num_groups": 4}, "num_groups is not used by the objective iwae"),
        ("iwae", {"schedule": "burda", "decay_epochs": 5}, "decay_epochs is not used by the sched"),
        ("priors", {"components": 5}, "components is not used by the prior normal, got 5"),
        ("priors", {"prior": "mixture", "layers": 2}, "layers is not used by the prior mixture"),
        ("hierarchy", {"net": "two-layer", "free_nats": 1.0}, "free_nats is not used by the net"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(name, flags, message):
    file = catalogue.load(SHIPPED / f"{name}.py")
    with pytest.raises(ValueError, match=message):
        file.Config(**flags)
