"""A step taken apart, and a step of a run again: the very numbers, and who was the cause."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import SMALL, load_once, over_seeds_once, small_run
from PIL import Image

from genmod import data, experiment, gan, nets, rng, train, vae
from genmod.runs import catalogue, loading, logs, record, replay, several
from genmod.runs.folder import Folder


@pytest.fixture(autouse=True)
def built_once(monkeypatch):
    """An experiment that is opened again is not compiled again."""
    monkeypatch.setattr(catalogue, "load", load_once)
    monkeypatch.setattr(several, "over_seeds", over_seeds_once)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def leaves(*trees):
    return zip(*map(jax.tree.leaves, trees), strict=True)


# Learner.inspect.


def pictures(num=24):
    return jax.random.uniform(rng.stream(rng.root(3), "x"), (num, 4, 4, 1))


def autoencoder(**options):
    model = vae.make(nets.mlp((8,), 6, heads=2), nets.mlp((8,), (4, 4, 1)), latent_dim=3)
    return train.learner(model.init, vae.elbo(model), optax.sgd(0.5), **options)


def game(discriminator=None, **options):
    model = gan.make(nets.mlp((8,), 2), discriminator or nets.mlp((8,), 1), latent_dim=3)
    return train.adversarial(
        model, gan.nonsaturating, optax.sgd(0.1), penalty=0.3 * gan.r1, **options
    )


@pytest.mark.costly
@pytest.mark.parametrize("microbatches", [1, 3])
def test_the_terms_and_the_gradient_are_those_of_the_step(microbatches):
    learner, x = autoencoder(microbatches=microbatches), pictures()
    state = learner.init(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, x)
    seen = jax.jit(learner.inspect)(rng.root(1), state, x)
    assert seen.terms.keys() == metrics.keys() == {"loss", "reconstruction", "kl"}
    for name, values in seen.terms.items():
        assert values.shape == (24,)
        np.testing.assert_allclose(values.mean(), metrics[name], rtol=1e-6)
    for p, g, q in leaves(state.params, seen.gradients, after.params):
        np.testing.assert_allclose(p - 0.5 * g, q, rtol=1e-5, atol=1e-7)
    # In the order of the batch, however it is cut up.
    whole = autoencoder().inspect(rng.root(1), state, x)
    np.testing.assert_allclose(seen.terms["loss"], whole.terms["loss"], rtol=1e-5)


@pytest.mark.costly
def test_a_game_is_taken_apart_too():
    learner, x = game(), jax.random.normal(rng.stream(rng.root(3), "x"), (12, 2))
    state = learner.init(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, x)
    seen = jax.jit(learner.inspect)(rng.root(1), state, x)
    assert set(metrics) - set(seen.terms) == {"discriminator_gradient", "generator_gradient"}
    for name, values in seen.terms.items():
        assert values.shape == (12,)
        np.testing.assert_allclose(values.mean(), metrics[name], rtol=1e-5)
    assert seen.examples is None or not seen.examples  # all in the order of the batch
    for player in ("discriminator", "generator"):
        gradient = getattr(seen.gradients, player)
        np.testing.assert_allclose(norm(gradient), metrics[f"{player}_gradient"], rtol=1e-5)
        before, now = (getattr(each.params, player) for each in (state, after))
        for p, g, q in leaves(before, gradient, now):
            np.testing.assert_allclose(p - 0.1 * g, q, rtol=1e-5, atol=1e-7)


@pytest.mark.costly
def test_a_game_of_several_updates_gives_the_terms_of_every_one():
    learner = game(
        discriminator=gan.packed(nets.mlp((8,), 1), 2),
        discriminator_steps=3,
        generator_steps=2,
        microbatches=2,
    )
    x = jax.random.normal(rng.stream(rng.root(3), "x"), (24, 2))
    state = learner.init(rng.root(0), x)
    _, metrics = jax.jit(learner.step)(rng.root(1), state, x)
    seen = jax.jit(learner.inspect)(rng.root(1), state, x)
    for name, values in seen.terms.items():
        np.testing.assert_allclose(values.mean(), metrics[name], rtol=1e-5)
    assert {name: len(values) for name, values in seen.terms.items()} == {
        **dict.fromkeys(metrics.keys() & seen.terms.keys(), 24),
        "generator_loss": 16,
    }
    # Update i of the generator is shown the part i: the examples i, i + 3, ...
    places = seen.examples["generator_loss"]
    assert places.tolist() == [*range(0, 24, 3), *range(1, 24, 3)]
    for player, num in (("discriminator", 3), ("generator", 2)):
        gradients = getattr(seen.gradients, player)
        assert len(gradients) == num
        mean = np.mean([norm(one) for one in gradients])
        np.testing.assert_allclose(mean, metrics[f"{player}_gradient"], rtol=1e-5)


def test_the_terms_of_a_part_belong_to_its_examples():
    # An example that is NaN is found where it lies in the batch, whichever update saw it.
    learner = game(discriminator_steps=3, microbatches=2)
    x = jax.random.normal(rng.stream(rng.root(3), "x"), (24, 2))
    state = learner.init(rng.root(0), x)
    # The first part of the three: those after it have parameters that are ruined.
    seen = jax.jit(learner.inspect)(rng.root(1), state, x.at[15].set(jnp.nan))
    bad = ~np.isfinite(seen.terms["real_probability"])
    assert [place for place in range(0, 24, 3) if bad[place]] == [15]


def test_many_runs_are_taken_apart_together():
    many = train.over_seeds(autoencoder(), 2)
    x = jnp.stack([pictures(), pictures()[::-1]])
    keys = rng.of_seeds(rng.root(0), 2)
    state = jax.jit(many.init)(keys, x)
    _, metrics = jax.jit(many.step)(rng.of_seeds(rng.root(5), 2), state, x)
    seen = jax.jit(many.inspect)(rng.of_seeds(rng.root(5), 2), state, x)
    assert seen.terms["loss"].shape == (2, 24)
    np.testing.assert_allclose(seen.terms["loss"].mean(1), metrics["loss"], rtol=1e-5)
    plain = autoencoder()._replace(inspect=None)
    assert train.over_seeds(plain, 2).inspect is None


# A step of a run.


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A run of the small experiment that logs every step; not to be changed."""
    return small_run(tmp_path_factory.mktemp("healthy") / "run", log_every=1)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A run whose loss is NaN in step 10."""
    return small_run(tmp_path_factory.mktemp("diverged") / "run", nan_at_step=10)


@pytest.mark.parametrize("step", [1, 7, 12])
def test_a_healthy_step_gives_what_was_logged(healthy, step):
    again = replay.step(healthy.path, step)
    assert (again.step, again.origin, again.num_steps) == (step, 0, 12)
    row = next(row for row in logs.read_metrics(healthy) if row["step"] == step)
    for name, values in again.inspection.terms.items():
        assert again.metrics[name] == row[name], "in the bits of the run"
        np.testing.assert_allclose(np.mean(values), row[name], rtol=1e-6)
    found = replay.offenders(again, 3)
    losses = np.asarray(again.inspection.terms["loss"])
    assert (found.term, found.num) == ("loss", 16)
    assert found.places.tolist() == np.argsort(-losses)[:3].tolist()
    dataset = load_once(SMALL).build(load_once(SMALL).Config()).dataset
    np.testing.assert_array_equal(again.images, dataset.images[again.indices])
    np.testing.assert_allclose(again.images / np.float32(255), again.batch, rtol=1e-6)


@pytest.mark.costly
def test_the_step_that_is_not_finite_is_taken_apart(diverged):
    again = replay.step(diverged.path, 10)
    assert again.origin == 9
    assert np.isnan(again.metrics["loss"])
    terms = again.inspection.terms
    assert np.isnan(terms["loss"]).all()
    assert np.isfinite(terms["kl"]).all()
    found = replay.offenders(again, 5)
    assert (found.places.tolist(), found.term, found.num) == ([0, 1, 2, 3, 4], None, 16)
    assert all(g.num_bad for g in replay.gradients(again).values())
    before = replay.step(diverged.path, 9)
    assert before.origin == 0, "the checkpoint of step 9 is after it"
    assert all(g.num_bad == 0 for g in replay.gradients(before).values())


def test_a_damaged_checkpoint_is_passed_over(diverged, tmp_path):
    copy = Folder(Path(shutil.copytree(diverged.path, tmp_path / "copy")))
    (file,) = (copy.checkpoints / "000000009" / "state").glob("manifest.ocdbt")
    file.write_bytes(file.read_bytes()[:10])
    before = sorted(copy.path.rglob("*"))
    ours, theirs = replay.step(copy.path, 10), replay.step(diverged.path, 10)
    assert (ours.origin, theirs.origin) == (0, 9)
    for a, b in leaves((ours.state, ours.batch), (theirs.state, theirs.batch)):
        np.testing.assert_array_equal(a, b)
    assert sorted(copy.path.rglob("*")) == before


def planted(learner, images, **options):
    """An experiment on 64 float images in batches of 16 as they are."""
    labels = np.zeros(64, np.int32)
    return experiment.Experiment(
        learner=learner,
        batch_at=data.batches(images, batch_size=16, prepare=data.unchanged),
        dataset=data.Dataset(images, labels, data.fingerprint(images, labels)),
        batch_size=16,
        epochs=1,
        **options,
    )


def opened_as(monkeypatch, built):
    """Has every run folder be one of this experiment."""
    opened = loading.Rebuilt(
        {"data": built.dataset.fingerprint}, load_once(SMALL).Config(), built, built
    )
    monkeypatch.setattr(loading, "rebuild", lambda folder: opened)


def bad_step(built):
    with pytest.raises(train.NonFiniteError) as error:
        list(train.run(built.learner, rng.root(0), built.batch_at, num_steps=4))
    return error.value


@pytest.mark.costly
@pytest.mark.parametrize("player", ["autoencoder", "game"])
def test_a_bad_example_is_named_by_its_place_in_the_data(monkeypatch, tmp_path, player):
    images = np.full((64, 4, 4, 1), 0.5, np.float32)
    images[17] = np.inf
    if player == "game":
        model = gan.make(nets.mlp((8,), (4, 4, 1)), nets.mlp((8,), 1), latent_dim=3)
        learner = train.adversarial(model, gan.nonsaturating, optax.sgd(0.1))
        learner = learner._replace(check=None)
    else:
        learner = autoencoder()
    built = planted(learner, images)
    error = bad_step(built)
    opened_as(monkeypatch, built)
    again = replay.step(tmp_path, error.step)
    found = replay.offenders(again)
    if player == "autoencoder":
        assert again.indices[found.places].tolist() == [17]
        assert error.term == "kl", "a term comes before the loss that is made of it"
    else:
        terms = again.inspection.terms
        (place,) = np.flatnonzero(~np.isfinite(terms["discriminator_loss"]))
        assert again.indices[place] == 17
        assert error.term == "real_probability"
        # The update that followed ruined all that the generator was judged by.
        assert np.isnan(terms["generator_loss"]).all()


def test_a_learner_without_inspect_replays_with_less(monkeypatch, tmp_path):
    built = planted(autoencoder()._replace(inspect=None), np.full((64, 4, 4, 1), 0.5, np.float32))
    opened_as(monkeypatch, built)
    again = replay.step(tmp_path, 2)
    assert again.inspection is None
    assert again.metrics["loss"] > 0
    for look in (replay.offenders, replay.gradients, replay.by_example):
        with pytest.raises(ValueError, match="the learner has no inspect"):
            look(again)


def test_steps_and_folders_that_are_none_are_refused(healthy, diverged, tmp_path):
    for step in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"step must be a positive whole number, got {step}"):
            replay.step(healthy.path, step)
    with pytest.raises(ValueError, match="step must be one of the run's 12 steps, got 13"):
        replay.step(healthy.path, 13)
    with pytest.raises(ValueError, match="step must be at most 10, got 11: training became non-f"):
        replay.step(diverged.path, 11)
    with pytest.raises(ValueError, match="index must be one of the 1 runs, from 0, got 1"):
        replay.step(healthy.path, 1, index=1)
    with pytest.raises(ValueError, match="is not a run folder"):
        replay.step(tmp_path, 1)


def test_other_data_cannot_make_the_batches_again(diverged, tmp_path, monkeypatch):
    found = record.read(diverged)
    monkeypatch.setattr(record, "read", lambda folder: {**found, "data": "sha256:aa"})
    with pytest.raises(ValueError, match="was sha256:aa when the run began"):
        replay.step(diverged.path, 10)


@pytest.mark.end_to_end
def test_a_run_of_many_seeds_is_replayed_one_by_one(tmp_path):
    folder = small_run(tmp_path / "run", seeds=2, log_every=1, epochs=1)
    row = logs.read_metrics(folder)[2]
    for index in range(2):
        again = replay.step(folder.path, 3, index=index)
        np.testing.assert_allclose(
            np.mean(again.inspection.terms["loss"]), row["seeds"]["loss"][index], rtol=1e-5
        )
        assert float(again.metrics["loss"]) == row["seeds"]["loss"][index]


# What the loop says of what is not finite.


def test_a_gradient_that_is_not_finite_stops_at_its_step_though_the_loss_is_finite():
    def objective(keys, params, x):  # the root's slope at 0 is infinite, its value is not
        return jnp.sqrt(jnp.abs(params["w"])) * x[:, 0], {"w": x[:, 0] * params["w"]}

    learner = train.learner(lambda key, x: {"w": jnp.zeros(())}, objective, optax.sgd(0.1))
    with pytest.raises(
        train.NonFiniteError, match=r"finite, but its update ruined params\.w; "
    ) as e:
        list(train.run(learner, rng.root(0), lambda key, step: jnp.ones((4, 1)), num_steps=9))
    assert (e.value.step, e.value.term, e.value.runs) == (1, "params.w", ())


@pytest.mark.parametrize("ruined", ["metric", "state"])
def test_of_many_runs_those_that_are_not_finite_are_named(ruined):
    def step(key, state, batch):
        bad = jnp.where((state["step"] == 3) & (batch[0] > 0), jnp.nan, 0.0)
        weight = state["weight"] + (bad if ruined == "state" else 0.0)
        loss = bad if ruined == "metric" else jnp.zeros(())
        return {"step": state["step"] + 1, "weight": weight}, {"loss": loss}

    def init(key, batch):
        return {"step": jnp.zeros((), jnp.int32), "weight": jnp.zeros(2)}

    last = jax.random.key_data(rng.stream(rng.root(1), "data"))[0]

    def batch_at(key, step):
        return (jax.random.key_data(key)[:1] == last).astype(jnp.int32)

    many = train.over_seeds(train.Learner(init, step, lambda key, state, num: state), 3)
    with pytest.raises(train.NonFiniteError, match="in run 1; the state after step 3") as error:
        list(train.run(many, rng.root(0), batch_at, num_steps=9))
    assert error.value.runs == (1,)
    assert error.value.term == ("loss" if ruined == "metric" else "weight")


def test_a_picture_of_the_offenders_is_drawn_by_the_command(genmod, place, diverged):
    ended = genmod("replay", diverged.path, "--step", 10, "--top", 2)
    assert (ended.code, ended.err) == (0, "")
    assert "step 10 of 12, rebuilt from the checkpoint of step 9" in ended.first_line
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["loss", "nan", "nan", "nan", "16", "of", "16"] in lines
    assert "encoder.layer_0.kernel" in ended.out
    assert "examples that are not finite: 2 of 16" in ended.out
    with Image.open(diverged.replay / "step-10.png") as picture:
        assert picture.format == "PNG"
    for step in (0, 13):
        ended = genmod("replay", diverged.path, "--step", step)
        assert ended.code == 2
        assert f"got {step}" in ended.err
    assert genmod("replay", place, "--step", 1).code == 2
