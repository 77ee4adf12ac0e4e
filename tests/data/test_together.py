"""Parts side by side: each has the batches that it has alone, streamed or not."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from genmod import data, rng, train
from genmod.data import streams
from genmod.data.stores import MappedStore, StreamedImages
from genmod.data.together import parts_of
from genmod.experiment import Experiment
from genmod.types import Parts, Stream

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 3, 1), np.uint8)
LABELLED = {"image": IMAGES[:12], "label": np.arange(12, dtype=np.int32)}


def numbers(num, batch_size, first=0, **options):
    """Batches of whole numbers, as they are."""
    examples = np.arange(first, first + num, dtype=np.int32)
    return data.batches(examples, batch_size=batch_size, prepare=data.unchanged, **options)


@functools.cache
def two(labelled=False, unlabelled=False):
    """Labelled and unlabelled examples, each streamed or not."""
    return data.together(
        labelled=data.batches(
            LABELLED, batch_size=4, prepare={"image": data.binarized}, stream=labelled
        ),
        unlabelled=data.batches(IMAGES, batch_size=20, prepare=data.dequantized, stream=unlabelled),
    )


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture
def short_parts(monkeypatch):
    """Parts of 3 steps of the labelled examples, and of 2 of the unlabelled."""
    monkeypatch.setattr(streams, "_PART_BYTES", 2 * 20 * IMAGES[0].size)
    monkeypatch.setattr(streams, "_MOST_STEPS", 3)


# What a batch holds.


def test_a_batch_holds_one_of_each_part_under_a_key_of_its_own():
    alone = numbers(7, 3), numbers(60, 20)
    batch_at = data.together(a=alone[0], b=alone[1])
    for step in (0, 1, 5):
        batch = batch_at(rng.root(3), step)
        assert type(batch) is Parts
        assert_same(
            dict(batch),
            {n: at(rng.stream(rng.root(3), n), step) for n, at in zip("ab", alone, strict=True)},
        )
        assert_same(jax.jit(batch_at)(rng.root(3), jnp.int32(step)), batch)


def test_every_part_runs_through_epochs_of_its_own():
    batch_at = data.together(few=numbers(7, 3), many=numbers(20, 5, first=100))
    batches = jax.jit(jax.vmap(batch_at, (None, 0)))(rng.root(0), jnp.arange(28))
    few, many = np.ravel(batches["few"]).reshape(12, 7), np.ravel(batches["many"]).reshape(7, 20)
    assert_same(np.sort(few), np.tile(np.arange(7), (12, 1)))
    assert_same(np.sort(many), np.tile(np.arange(100, 120), (7, 1)))
    for epochs in (few, many):
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)


def test_another_part_changes_none():
    two_of_them = two()
    with_a_third = data.together(**parts_of(two_of_them), aside=numbers(5, 2))
    for step in (0, 7):
        batch = dict(with_a_third(rng.root(1), step))
        assert batch.pop("aside").shape == (2,)
        assert_same(batch, dict(two_of_them(rng.root(1), step)))


def test_parts_of_the_same_examples_have_orders_and_noise_of_their_own():
    same = data.batches(IMAGES, batch_size=60, prepare=data.binarized)
    batch_at = data.together(a=same, b=same)
    key = rng.root(0)
    orders = data.indices_of(batch_at, key, 0)
    assert orders["a"].tolist() != orders["b"].tolist()
    batch = batch_at(key, 0)
    a, b = (np.asarray(batch[name])[np.argsort(orders[name])] for name in "ab")
    assert (a != b).any()


def test_the_data_are_arguments_of_a_compiled_program():
    batch_at = two()
    assert sorted(leaf.shape for leaf in jax.tree.leaves(batch_at)) == [
        (12,),
        (12, 4, 3, 1),
        (60, 4, 3, 1),
    ]
    text = jax.jit(lambda at, key: at(key, 0)).lower(batch_at, rng.root(0)).as_text()
    assert "tensor<60x4x3x1xui8>" in text.split("@main", 1)[1].split("\n", 1)[0]


def test_a_function_of_ones_own_is_a_part():
    def noise(key, step):
        return jax.random.normal(rng.at_step(key, step), (5, 2))

    for stream in (False, True):
        batch_at = data.together(own=noise, numbers=numbers(6, 2, stream=stream))
        batch = batch_at(rng.root(0), 4)
        assert_same(batch["own"], jax.jit(noise)(rng.stream(rng.root(0), "own"), 4))


# Streamed or not.


@pytest.mark.parametrize("streamed", list(itertools.product([False, True], repeat=2)))
@pytest.mark.end_to_end
def test_parts_have_the_same_bits_streamed_or_not(streamed, short_parts):
    on_device, batch_at = two(), two(*streamed)
    assert isinstance(batch_at, Stream) == any(streamed)
    key = rng.root(3)
    for step in (0, 1, 40):
        assert_same(batch_at(key, step), on_device(key, step))
    if any(streamed):
        assert_serves(batch_at, on_device, key[None], first=5, num=8)


def assert_serves(stream, on_device, keys, first, num):
    """A stream's parts are those of the batches on the device, and one program's arguments."""
    step, treedef, programs = first, jax.tree.structure(stream.shapes(keys)), set()
    lengths = []
    for part, lasts in stream.parts(keys, first, num):
        assert jax.tree.structure(part) == treedef
        for _ in range(lasts):
            ours, theirs = (of_all_runs(at, keys, np.int32(step)) for at in (part, on_device))
            assert_same(ours, theirs)
            step += 1
            programs.add(of_all_runs._cache_size())
        lengths.append(lasts)
    assert step == first + num
    assert len(programs) == 1  # all parts of the stream are arguments of one
    return lengths


@jax.jit
def of_all_runs(batch_at, keys, step):
    return jax.vmap(batch_at, (0, None))(keys, step)


@pytest.mark.costly
def test_a_part_lasts_until_one_of_the_streams_is_read_on(short_parts):
    keys = rng.root(0)[None]
    assert assert_serves(two(True, True), two(), keys, 0, 10) == [2, 1, 1, 2, 2, 1, 1]
    assert assert_serves(two(True, False), two(), keys, 1, 7) == [3, 3, 1]


@pytest.mark.end_to_end
def test_two_runs_have_the_batches_of_each_alone(short_parts):
    keys = rng.of_seeds(rng.root(4), 2)
    on_device = two()
    for streamed in ((True, True), (False, True)):
        assert_serves(two(*streamed), on_device, keys, 3, 5)
    ((part, _),) = two(True, True).parts(keys, 6, 1)
    for run in range(2):
        assert_same(part(keys[run], 6), on_device(rng.root(4 + run), 6))


@pytest.mark.end_to_end
@settings(max_examples=4)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 30), st.booleans()), min_size=1, max_size=3
    ),
    st.integers(0, 500),
    st.integers(1, 9),
)
@example([(7, 3, True), (30, 30, True)], 0, 9)
@pytest.mark.slow
def test_any_sizes_are_served(sizes, first, steps):
    def part(size, stream):
        return numbers(max(size[:2]), min(size[:2]), stream=stream)

    names = [f"part_{index}" for index in range(len(sizes))]
    batch_at, on_device = (
        data.together(
            **{n: part(size, size[2] and maybe) for n, size in zip(names, sizes, strict=True)}
        )
        for maybe in (True, False)
    )
    indices = data.indices_of(on_device, rng.root(5), first)
    assert_same(indices, dict(on_device(rng.root(5), first)))
    if isinstance(batch_at, Stream):
        assert_serves(batch_at, on_device, rng.root(5)[None], first, steps)


def test_no_more_is_read_than_is_used_and_an_end_closes_all(short_parts):
    asked, closed = {"a": [], "b": []}, []

    class Counted(MappedStore):
        def read(self, wanted, *, here=False):
            try:
                for places in wanted:
                    asked[self.path].extend(places.tolist())
                    yield IMAGES[places]
            finally:
                closed.append(self.path)

    def part(name, batch_size):
        images = StreamedImages(Counted(name, 0, 60, (4, 3, 1)), np.arange(60))
        return data.batches(images, batch_size=batch_size, stream=True)

    parts = data.together(a=part("a", 20), b=part("b", 4)).parts(rng.root(0)[None], 0, 100)
    assert [next(parts)[1] for _ in range(3)] == [2, 1, 1]
    assert {name: len(rows) for name, rows in asked.items()} == {"a": 4 * 20, "b": 6 * 4}
    assert closed == []
    parts.close()
    assert sorted(closed) == ["a", "b"]


@pytest.mark.costly
def test_devices_hold_their_share_of_every_part(short_parts):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P(None, None, "d"))
    keys, on_device = rng.root(0)[None], two()
    split = jax.jit(lambda at, key, step: at(key, step))
    for streamed in ((True, True), (True, False)):
        (part, lasts), *_ = two(*streamed).parts(keys, 0, 4, sharding)
        labelled, unlabelled = (part.args[0][name].args[0] for name in ("labelled", "unlabelled"))
        assert {s.data.shape for s in labelled["label"].addressable_shards} == {(1, 3, 1)}
        shares = {s.data.shape for s in unlabelled.addressable_shards}
        assert shares == {(1, 2, 5, 4, 3, 1) if streamed[1] else (60, 4, 3, 1)}
        assert unlabelled.sharding.device_set == set(mesh.devices.flat)
        for step in range(lasts):
            assert_same(split(part, keys[0], step), on_device(keys[0], step))


def sums():
    """A learner that adds up the numbers it sees, a sum for each part."""

    def added(state, batch):
        return {name: state[name] + jnp.sum(part) for name, part in batch.items()}

    def init(key, batch):
        return dict.fromkeys(batch, jnp.zeros((), jnp.int32))

    def step(key, state, batch):
        seen = {name: jnp.mean(part) for name, part in batch.items()}
        return added(state, batch), seen

    return train.Learner(init, step, lambda key, state, num: jnp.zeros((num, 1, 1, 1)))


@pytest.mark.end_to_end
def test_runs_see_the_same_numbers_streamed_or_not(short_parts):
    ends = []
    for streamed in ((False, False), (False, True)):
        batch_at = data.together(
            few=numbers(7, 3, stream=streamed[0]), many=numbers(60, 20, stream=streamed[1])
        )
        alone = list(train.run(sums(), rng.root(0), batch_at, num_steps=21, log_every=8))
        seeds = train.over_seeds(sums(), 2)
        (together,) = train.run(seeds, rng.root(0), batch_at, num_steps=21)
        assert_same(jax.tree.map(lambda leaf: leaf[0], together.state), alone[-1].state)
        ends.append(([point.metrics for point in alone], together.state))
    assert_same(*ends)
    # After 7 epochs of one part and 9 of the other every number was seen so often.
    assert alone[-1].state == {"few": 9 * 21, "many": 7 * 60 * 59 // 2}


@pytest.mark.end_to_end
def test_pictures_of_two_folders_are_decoded_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GENMOD_WORKERS", "2")
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-7")
    for name, images in (("a", IMAGES[:30]), ("b", IMAGES[30:])):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image[..., 0]).save(tmp_path / name / f"{index:02d}.png")
    folders = {name: data.load(f"folder:{tmp_path / name}").images for name in "ab"}
    monkeypatch.setattr(streams, "_MOST_STEPS", 2)

    def side_by_side(folders, **options):
        return data.together(
            a=data.batches(folders["a"], batch_size=10, **options),
            b=data.batches(folders["b"], batch_size=3, **options),
        )

    on_device = side_by_side({"a": IMAGES[:30], "b": IMAGES[30:]}, stream=False)
    assert_serves(side_by_side(folders), on_device, rng.root(0)[None], 0, 5)


# What is said of them.


@pytest.mark.parametrize("streamed", [(False, False), (True, False)])
def test_parts_are_described_one_by_one(streamed, monkeypatch):
    monkeypatch.setenv("GENMOD_DATA_GB", "0.001")
    batch_at = two(*streamed)
    described = data.describe(batch_at)
    assert described == {
        "parts": {
            "labelled": {
                "examples": 12,
                "batch_size": 4,
                "order": "shuffled epochs",
                "prepare": {"image": "binarized"},
            },
            "unlabelled": {
                "examples": 60,
                "batch_size": 20,
                "order": "shuffled epochs",
                "prepare": "dequantized",
            },
        }
    }
    assert json.loads(json.dumps(described)) == described
    where = "streamed (on the device at most 1.0 MB: GENMOD_DATA_GB)"
    assert data.placement(batch_at).splitlines() == [
        f"labelled: 12 examples, 0.0 MB, {where if streamed[0] else 'on the device'}",
        "unlabelled: 60 examples, 0.0 MB, on the device",
    ]
    for step in (0, 9):
        found = data.indices_of(batch_at, rng.root(2), step)
        batch = batch_at(rng.root(2), step)
        assert_same(batch["labelled"]["label"], found["labelled"])
        unlabelled = np.floor(256 * np.asarray(batch["unlabelled"]))
        assert_same(unlabelled, IMAGES[found["unlabelled"]].astype(np.float64))


def test_a_part_of_ones_own_is_not_described():
    batch_at = data.together(own=lambda key, step: jnp.zeros(3), numbers=numbers(6, 2))
    assert data.describe(batch_at)["parts"]["own"] == {}
    assert data.placement(batch_at) == "numbers: 6 examples, 0.0 MB, on the device"
    assert data.indices_of(batch_at, rng.root(0), 0)["own"] is None


@pytest.mark.end_to_end
def test_their_speed_is_measured():
    for streamed in (False, True):
        assert data.batches_per_second(two(streamed, streamed), seconds=0.01) > 0


# What is refused.


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (dict, "together must get at least one part, name=batch_at, got none"),
        (lambda: {"a b": numbers(3, 1)}, "the name of a part must be an identifier, got 'a b'"),
        (lambda: {"": numbers(3, 1)}, "the name of a part must be an identifier, got ''"),
        (
            lambda: {"a": IMAGES},
            r"part 'a' must be a function .* got an array uint8 \[60, 4, 3, 1\]",
        ),
        (lambda: {"a": numbers(3, 1), "b": None}, "part 'b' must be a function .* got None"),
        (
            lambda: {"a": lambda key, step: (jnp.zeros(3), jnp.zeros(4))},
            r"the batch of part 'a' must hold arrays with one common leading axis, got \[\(3,\)",
        ),
        (
            lambda: {"a": lambda key, step: jnp.zeros(())},
            "the batch of part 'a' must hold arrays with one",
        ),
        (lambda: {"a": lambda key, step: {}}, "the batch of part 'a' must hold arrays with one"),
        (lambda: {"a": two()}, "part 'a' must not have parts itself, got 'labelled', 'unlabelled'"),
        (
            lambda: {"a": two(True)},
            "part 'a' must not have parts itself, got 'labelled', 'unlabelled'",
        ),
    ],
)
def test_what_is_no_part_is_refused(parts, said):
    with pytest.raises(ValueError, match=said):
        data.together(**parts())


@settings(max_examples=30)
@given(st.text(max_size=4))
def test_any_name_that_is_no_identifier_is_refused(name):
    own = {name: lambda key, step: jnp.zeros(2)}
    if name.isidentifier():
        assert list(data.together(**own)(rng.root(0), 0)) == [name]
    else:
        with pytest.raises(ValueError, match="the name of a part must be an identifier"):
            data.together(**own)


def test_a_compiled_program_is_told_that_it_cannot_read():
    with pytest.raises(ValueError, match="streamed cannot be made inside of a compiled program"):
        jax.jit(two(True))(rng.root(0), 0)


# Epochs of an experiment.


def experiment(batch_at, num, **options):
    return Experiment(sums(), batch_at, data.Dataset(IMAGES[:num], None, ""), **options)


@pytest.mark.parametrize("streamed", [False, True])
def test_epochs_are_those_of_the_part_with_the_examples_of_the_data_set(streamed):
    batch_at = two(streamed, streamed)
    assert experiment(batch_at, 60, epochs=2).num_steps == 6
    assert experiment(batch_at, 12, epochs=2).num_steps == 6
    assert experiment(batch_at, 12, batch_size=4).steps_per_epoch == 3
    with pytest.raises(ValueError, match=r"batch_size must be that of batch_at, got 20 where .* 4"):
        experiment(batch_at, 12, batch_size=20)
    with pytest.raises(
        ValueError,
        match=r"batch_size must be given: .* the 50 examples of dataset, got labelled has 12 in "
        "batches of 4, unlabelled has 60 in batches of 20",
    ):
        experiment(batch_at, 50)
    assert experiment(batch_at, 50, batch_size=25).steps_per_epoch == 2


def test_parts_of_one_number_of_examples_need_a_batch_size():
    ours = data.together(a=numbers(60, 20), b=numbers(60, 30), own=lambda key, step: jnp.zeros(3))
    with pytest.raises(ValueError, match="b has 60 in batches of 30, own does not say"):
        experiment(ours, 60)
    assert experiment(ours, 60, batch_size=30).steps_per_epoch == 2
    assert experiment(data.together(a=numbers(60, 20), b=numbers(60, 20)), 60).batch_size == 20
