"""Metrics of trained runs: what is computed, kept, shown and compared."""

import dataclasses
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import CONDITIONAL, refused

from genmod import data, evaluate, rng, train
from genmod.evaluate import features, judges
from genmod.experiment import Experiment
from genmod.runs import evaluation, gathered, loading, pages, redrawn, results
from genmod.runs.folder import Folder

FEW = evaluation.Options(num=40, num_draws=7)


def by_name(entries):
    """The newest entry of each metric."""
    return {entry.name: entry for entry in entries}


@pytest.fixture(scope="module")
def evaluated(trained):
    notes = evaluation.evaluate_run(trained(), FEW, progress=False)
    return trained(), notes, results.read(Folder(trained()))


@pytest.mark.costly
def test_every_group_that_applies_is_computed_with_its_protocol(evaluated):
    _, notes, entries = evaluated
    assert "classes is left out: the classifiers of genmod judge images [28, 28, 1]" in notes[0]
    assert len(notes) == 1, notes
    by_group = {
        "likelihood": ["elbo", "log_likelihood", "effective_samples"],
        "posterior": [
            *("active_units", "kl", "mutual_information"),
            *("total_correlation", "dimension_wise_kl"),
        ],
        "distances": [
            *("frechet_distance", "kernel_distance", "sliced_distance"),
            *("precision", "recall", "density", "coverage"),
        ],
        "class_distances": [
            *(f"frechet_distance of {name}" for name in ("north", "east", "south", "west")),
            "intra_frechet_distance",
        ],
        "memorisation": ["authenticity", "nearer_to_training", "c_t"],
    }
    assert [name for name in evaluation.GROUPS if name != "classes"] == list(by_group)
    assert [entry.name for entry in entries] == [n for names in by_group.values() for n in names]
    for entry in entries:
        protocol = entry.protocol
        assert protocol["metric"] == entry.name
        of_class = " of " in entry.name
        assert (protocol["split"], protocol["seed"]) == ("test", 0)
        assert protocol["num_real"] == (16 if of_class else 64)
        assert protocol["data"].startswith("sha256:")
        assert protocol["matmul_precision"] == "highest"
        compared = protocol.get("features") == "pixels"
        groups = ("distances", "class_distances", "memorisation")
        assert compared == any(entry.name in by_group[group] for group in groups)
        assert not compared or of_class or protocol["num_fake"] == 40
        assert compared == math.isfinite(entry.runs[0].floor)


def test_likelihoods_are_those_of_the_function(evaluated):
    path, _, entries = evaluated
    built, state = loading.load_run(path)
    own = evaluation.Subject(built, state, FEW)
    found = evaluate.importance(
        own.key("likelihood"),
        train.drawn_from(state),
        built.likelihood.examples,
        built.likelihood.log_weight,
        num_samples=7,
        prepare=built.likelihood.prepare,
    )
    newest = by_name(entries)
    result = newest["log_likelihood"].mean
    np.testing.assert_allclose(result[:2], found.average[:2], rtol=1e-5)
    assert newest["elbo"].mean.value < result.value
    assert 1 < newest["effective_samples"].mean.value < 7


def test_the_parts_of_the_divergence_add_up(evaluated):
    found = {entry.name: entry.mean.value for entry in evaluated[2]}
    parts = ("mutual_information", "total_correlation", "dimension_wise_kl")
    assert sum(found[name] for name in parts) == pytest.approx(found["kl"], abs=1e-9)
    assert found["active_units"] in (0, 1, 2)


def test_distances_are_those_of_samples_and_their_floor_that_of_training_images(evaluated):
    path, _, entries = evaluated
    built, state = loading.load_run(path)
    own = evaluation.Subject(built, state, FEW)
    real = np.asarray(built.test.images, np.float32).reshape(64, -1) / 255
    fake = own.generated.reshape(40, -1).astype(np.float32) / 255
    result = by_name(entries)["frechet_distance"].mean
    assert result.value == pytest.approx(evaluate.frechet_distance(real, fake), rel=1e-6)
    # The test data of this experiment are its training data.
    assert 0 <= result.floor < 0.2 * result.value


@pytest.mark.costly
def test_another_protocol_is_kept_beside_and_the_same_is_replaced(trained):
    folder = Folder(trained("none"))
    for num in (40, 40, 50):
        options = evaluation.Options(num=num, num_draws=3)
        evaluation.evaluate_run(folder.path, options, ["distances"], progress=False)
    entries = results.read(folder)
    assert [e.protocol["num_fake"] for e in entries if e.name == "recall"] == [40, 50]
    assert by_name(entries)["recall"].protocol["num_fake"] == 50


@pytest.mark.end_to_end
def test_samples_of_a_mixture_of_codes_are_kept_beside_those_of_the_prior(trained):
    path = trained("none")
    options = evaluation.Options(num=40, ex_post=4)
    evaluation.evaluate_run(path, evaluation.Options(num=40), ["distances"], progress=False)
    evaluation.evaluate_run(path, options, progress=False)
    entries = results.read(Folder(path))
    said = {
        entry.protocol.get("latents"): entry.mean
        for entry in entries
        if (entry.name, entry.protocol.get("num_fake")) == ("frechet_distance", 40)
    }
    assert list(said) == [None, "a mixture of 4 Gaussians fitted to the codes"]
    prior, mixture = said.values()
    assert prior.floor == mixture.floor
    built, state = loading.load_run(path)
    subject = evaluation.Subject(redrawn.ex_post(built, state, 4), state, options)
    real, fake = subject.test_features, subject.generated_features
    assert mixture.value == pytest.approx(evaluate.frechet_distance(real, fake), rel=1e-6)
    with pytest.raises(ValueError, match="unknown metrics with ex_post 'likelihood'"):
        evaluation.evaluate_run(path, options, ["likelihood"], progress=False)


@pytest.mark.end_to_end
def test_what_does_not_apply_is_left_out_with_its_reason(trained):
    path = trained("attributes")
    notes = evaluation.evaluate_run(path, FEW, progress=False)
    assert [note.split(": ")[1] for note in notes] == [
        "posterior is left out",
        "classes is left out",
        "class_distances is left out",
    ]
    assert "the condition of this run is not the label" in notes[0]
    with pytest.raises(ValueError, match="posterior does not apply: the condition of this run"):
        evaluation.evaluate_run(path, FEW, ["posterior"], progress=False)
    with pytest.raises(ValueError, match="unknown metrics 'distance'; did you mean 'distances'"):
        evaluation.evaluate_run(path, FEW, ["distance"], progress=False)


@pytest.mark.costly
def test_a_group_that_fails_leaves_the_others_their_results(trained, monkeypatch):
    path = trained()

    def fail(subject):
        raise ValueError("it broke")

    monkeypatch.setitem(evaluation.GROUPS, "memorisation", fail)
    options = evaluation.Options(num=12, num_draws=2)
    notes = evaluation.evaluate_run(path, options, progress=False)
    assert f"{path}: memorisation is left out, as it fails: it broke" in notes
    other = evaluation.Options(num=13)
    with pytest.raises(ValueError, match="memorisation fails: it broke"):
        evaluation.evaluate_run(path, other, ["memorisation", "distances"], progress=False)
    for num in (12, 13):
        kept = [e.name for e in results.read(Folder(path)) if e.protocol.get("num_fake") == num]
        assert "recall" in kept


@pytest.mark.parametrize(
    "change", [{"num": 3}, {"num": 0}, {"num_draws": 1.5}, {"seed": -1}, {"ex_post": 0}]
)
def test_options_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        evaluation.Options(**change)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"results": [{}]}',
        '{"results": [{"name": 1, "step": 1, "protocol": {}, "runs": []}]}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json is damaged"):
        results.read(Folder(tmp_path))


def test_results_come_back_from_their_file(evaluated, tmp_path):
    results.write(Folder(tmp_path), evaluated[2])
    again = results.read(Folder(tmp_path))
    np.testing.assert_equal(again, evaluated[2])
    json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)


def test_the_page_shows_metrics_with_floor_and_protocol(evaluated):
    html = pages.build([evaluated[0]])
    assert "<h3>Metrics</h3>" in html
    assert "frechet_distance" in html
    assert "num_fake 40" in html


@pytest.mark.end_to_end
def test_seeds_have_a_mean_with_its_error_and_differences_are_paired(genmod, tmp_path, trained):
    runs = [tmp_path / name for name in ("first", "second")]
    for run, size in zip(runs, (2, 3), strict=True):
        options = ["--run-dir", run, "--seeds", 2, "--latent-dim", size]
        assert genmod("train", CONDITIONAL, *options).code == 0
    groups = ["--metrics", "likelihood,distances"]
    ended = genmod("evaluate", *runs, *groups, "--num", 30, "--num-draws", 2)
    assert ended.code == 0, ended
    assert "latent_dim 3 less latent_dim 2" in ended.out
    assert ended.out.count("results.json") == 2
    (entry,) = [e for e in results.read(Folder(runs[0])) if e.name == "elbo"]
    mean = entry.mean
    assert mean[:2] == evaluate.estimate(np.array([one.value for one in entry.runs]))
    assert f"{mean.value:.1f}"[:3] in ended.out
    one = genmod("evaluate", runs[0], "--metrics", "likelihood", "--num-draws", 3)
    assert (one.code, "log_likelihood" in one.out) == (0, True)
    # The other run has no result under this protocol.
    mixed = gathered.gather(runs[0]), gathered.gather(runs[1])
    columns, rows, refused_ones = evaluation_table(mixed)
    assert any("num_draws is 3 and 2" in note for note in refused_ones)
    assert "log_likelihood" not in [row[0] for row in rows]
    assert "elbo" in [row[0] for row in rows]
    assert len(columns) == 4


def evaluation_table(runs):
    from genmod.runs import comparison

    return comparison.metrics_of(runs)


def test_the_command_refuses_before_any_work(genmod, trained):
    refused(genmod("evaluate", trained(), "--num", 0), 2, "num must be a positive whole number")
    refused(genmod("evaluate"), 2, "at least one run folder, got none")
    refused(genmod("evaluate", "nowhere"), 2, "'nowhere' is not a run folder")
    refused(genmod("evaluate", trained(), "--features", "pixel"), 2, "did you mean 'pixels'")
    wrong = genmod("evaluate", trained(), "--metrics", "posterior,distance")
    refused(wrong, 2, "unknown metrics 'distance'; did you mean 'distances'")


def test_samples_are_the_same_for_a_seed(trained):
    built, state = loading.load_run(trained())
    one, two = (evaluation.Subject(built, state, FEW).generated for _ in range(2))
    np.testing.assert_array_equal(one, two)
    other = evaluation.Subject(built, state, evaluation.Options(num=40, seed=1)).generated
    assert not np.array_equal(one, other)


@pytest.mark.costly
def test_a_posterior_that_has_collapsed_is_told_in_training(trained):
    for condition in ("label", "none"):
        built, state = loading.load_run(trained(condition))
        warned = built.observation(rng.root(0), state).warnings
        units = evaluate.active_units(means(built, state, condition))
        assert bool(warned) == (units.num_active == 0)
        flat = jax.tree.map(jnp.zeros_like, state.params.encoder)
        state = state._replace(params=state.params._replace(encoder=flat))
        (warning,) = built.observation(rng.root(0), state).warnings
        assert "posterior collapse: none of 2 latent units is active" in warning


def means(built, state, condition):
    c = (built.test.labels,) if condition == "label" else ()
    return built.latents.posterior(state, built.test.images / np.float32(255), *c)[0]


def test_a_generator_whose_samples_are_all_the_same_has_the_numbers_that_exist(trained):
    built, state = loading.load_run(trained("none"))
    flat = jax.tree.map(jnp.zeros_like, state.params.decoder)
    state = state._replace(params=state.params._replace(decoder=flat))
    own = evaluation.Subject(built, state, FEW, progress=False)
    found = evaluation.distances(own)
    assert found["frechet_distance"].value > 0
    assert math.isnan(found["recall"].value)
    (remark,) = own.remarks
    assert "not a number: precision, recall, density, coverage: fake must" in remark


@pytest.fixture(scope="module")
def mnist_test():
    whole = data.load("mnist", "test")
    return data.Dataset(whole.images[:1200], whole.labels[:1200], "some")


class State(NamedTuple):
    params: Any


def one_of(keys, num):
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, num))(keys)


def subject(sample, dataset, test, labels=None, num=500):
    """Subject whose model returns what `sample` returns."""
    learner = train.learner(
        lambda key, batch: jnp.zeros(()),
        lambda key, params, batch: (jnp.zeros(len(batch)), {}),
        optax.sgd(0.1),
        sample=sample,
        conditions=labels,
    )
    built = Experiment(learner, lambda key, step: dataset.images[:10], dataset, 10, test=test)
    return evaluation.Subject(
        built, State(jnp.zeros(())), evaluation.Options(num=num), progress=False
    )


@pytest.mark.costly
def test_perfect_samples_score_as_their_floor_by_the_classifier(mnist_test):
    half = 600
    first = data.Dataset(mnist_test.images[:half], mnist_test.labels[:half], "first")
    second = data.Dataset(mnist_test.images[half:], mnist_test.labels[half:], "second")
    of_class = [np.flatnonzero(first.labels == digit) for digit in range(10)]
    images = jnp.asarray(np.stack([first.images[own[:30]] for own in of_class])) / 255.0

    def sample(keys, params, labels):
        return images[labels, one_of(keys, 30)]

    found = evaluation.classes(subject(sample, first, second, first.labels))
    asked, score = found["class_as_asked"], found["classifier_score"]
    assert asked.protocol["classifier_fingerprint"] == judges.fingerprint("mnist")
    assert abs(asked.value - asked.floor) < 4 * max(asked.error, 0.005)
    assert abs(score.value - score.floor) < 4 * score.error + 0.2
    assert 9 < score.value < 10
    divergence = found["reverse_kl_of_classes"]
    assert 0 < divergence.value < 4 * divergence.floor


@pytest.mark.costly
def test_a_class_that_is_drawn_wrong_is_found_by_its_distance(mnist_test):
    first, second = (
        data.Dataset(mnist_test.images[some], mnist_test.labels[some], "part")
        for some in (slice(600), slice(600, 1200))
    )
    images = jnp.asarray(
        np.stack([first.images[first.labels == digit][:40] for digit in range(10)]) / 255.0
    )
    asked_for_three = lambda labels: jnp.where(labels == 3, 8, labels)  # noqa: E731

    def sample(keys, params, labels):
        return images[asked_for_three(labels), one_of(keys, 40)]

    own = subject(sample, first, second, first.labels, num=300)
    found = evaluation.class_distances(own)
    names = [f"frechet_distance of {digit}" for digit in range(10)]
    assert list(found) == [*names, "intra_frechet_distance"]
    worst = max(names, key=lambda name: found[name].value)
    assert worst == "frechet_distance of 3"
    others = [found[name] for name in names if name != worst]
    assert found[worst].value > 3 * max(other.value for other in others)
    for other in others:
        assert abs(other.value - other.floor) < 0.5 * other.floor + 4 * other.error
    mean = found["intra_frechet_distance"]
    assert mean.value == pytest.approx(np.mean([found[name].value for name in names]))
    assert mean.floor == pytest.approx(np.mean([found[name].floor for name in names]))
    sizes = [found[name].protocol["num_fake"] for name in names]
    assert sum(sizes) == mean.protocol["num_fake"] == 300
    num_real = [found[name].protocol["num_real"] for name in names]
    assert num_real == np.bincount(second.labels, minlength=10).tolist()


@pytest.mark.costly
def test_classes_of_too_few_training_images_have_no_floor(mnist_test):
    test = data.Dataset(mnist_test.images[:600], mnist_test.labels[:600], "test")
    few = data.Dataset(mnist_test.images[:100], mnist_test.labels[:100], "few")
    images = jnp.asarray(few.images[:100]) / 255.0

    def sample(keys, params, labels):
        return images[one_of(keys, 100)]

    own = subject(sample, few, test, few.labels, num=300)
    found = evaluation.class_distances(own)
    assert all(math.isnan(result.floor) for result in found.values())
    assert math.isfinite(found["intra_frechet_distance"].value)
    floors = dataclasses.replace(own.built, reference=test)
    found = evaluation.distances(evaluation.Subject(floors, own.state, own.options, False))
    assert math.isfinite(found["frechet_distance"].floor)
    # A class that no test image shows has no distance, and neither have all of them together.
    rest = test.labels != 3
    lacking = data.Dataset(test.images[rest], test.labels[rest], "lacking")
    own = subject(sample, few, lacking, few.labels, num=300)
    found = evaluation.class_distances(own)
    assert math.isnan(found["intra_frechet_distance"].value)
    assert own.remarks[-1] == (
        "not a number: intra_frechet_distance: frechet_distance of 3 is none"
    )


@pytest.mark.costly
def test_samples_that_ignore_their_label_are_found(mnist_test):
    ones = jnp.asarray(mnist_test.images[mnist_test.labels == 1][:50]) / 255.0

    def sample(keys, params, labels):
        return ones[one_of(keys, 50)]

    own = subject(lambda *args: 2 * sample(*args), mnist_test, mnist_test, mnist_test.labels)
    found = evaluation.classes(own)
    (remark,) = own.remarks
    assert "outside [0, 1] and are clipped" in remark
    share = np.mean(mnist_test.labels == 1)
    assert found["class_as_asked"].value == pytest.approx(share, abs=0.05)
    assert found["classifier_score"].value < 1.2
    assert found["reverse_kl_of_classes"].value == pytest.approx(np.log(10), abs=0.1)


@pytest.mark.costly
def test_modes_of_stacked_digits_are_those_of_their_channels(mnist_test):
    digits, num = jnp.asarray(mnist_test.images) / 255.0, len(mnist_test.labels)
    stacks = data.stacked_dataset(mnist_test, data.triples(rng.root(0), 1000, num))
    one = int(np.flatnonzero(mnist_test.labels == 1)[0])

    def perfect(keys, params):
        three = jax.vmap(lambda key: jax.random.randint(key, (3,), 0, num))(keys)
        return jnp.moveaxis(digits[three][..., 0], 1, -1)

    def one_in_red(keys, params):
        return perfect(keys, params).at[..., 0].set(digits[one, ..., 0])

    good, bad = (
        evaluation.classes(subject(sample, stacks, stacks)) for sample in (perfect, one_in_red)
    )
    assert good["modes"].protocol["num_modes"] == 1000
    # 500 draws reach 390 modes, with a standard deviation of 10.
    assert abs(good["modes"].value - good["modes"].floor) < 40
    divergence = good["reverse_kl_of_modes"]
    assert 0 < divergence.error < 0.05
    assert abs(divergence.value - divergence.floor) < 4 * divergence.error
    assert bad["modes"].value <= 100
    # A colour that is always the same costs ln 10; 500 draws are uneven over 100 modes too.
    assert bad["reverse_kl_of_modes"].value == pytest.approx(np.log(10), abs=0.4)
    assert bad["reverse_kl_of_modes"].floor == divergence.floor


def test_points_are_their_own_features():
    mixture = data.MIXTURES["ring"]
    points, test = (data.mixture_dataset(rng.stream(rng.root(0), n), mixture, 800) for n in "ab")

    def sample(keys, params):
        return jnp.asarray(points.images)[one_of(keys, 800)]

    own = subject(sample, points, test)
    distance = evaluation.distances(own)["frechet_distance"]
    assert distance.protocol["features"] == "points"
    assert distance.value < 0.02
    assert math.isfinite(distance.floor)
    assert evaluation.memorisation(own)["nearer_to_training"].value == 1
    with pytest.raises(evaluation.NotApplicable, match=r"judge images \[28, 28, 1\]"):
        evaluation.classes(own)
    with pytest.raises(ValueError, match="must not be given for points, got 'pixels'"):
        features.named("pixels", points)
