"""Data that are too many for the device: the same batches, read some steps ahead."""

import functools
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genmod import data, nets, rng, train, vae
from genmod._host import decoding
from genmod.data import notes, streams
from genmod.data.stores import MappedStore, StreamedImages
from genmod.types import Stream

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (60, 6, 5, 3), np.uint8)
LABELS = (np.arange(60) % 3).astype(np.int32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GENMOD_WORKERS", "2")


@pytest.fixture
def no_room(monkeypatch):
    """A device that takes 100 bytes of data."""
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-7")


@pytest.fixture
def short_parts(monkeypatch):
    """Parts of two steps of 20 images."""
    monkeypatch.setattr(streams, "_PART_BYTES", 2 * 20 * IMAGES[0].size)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same 60 images, as files of every kind."""
    root = tmp_path_factory.mktemp("sources")
    for i, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        for part in ("all", "parts/train" if i < 45 else "parts/test"):
            folder = root / part / f"{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:02d}.png")
    np.save(root / "images.npy", IMAGES)
    np.savez(root / "images.npz", images=IMAGES, labels=LABELS)
    (root / "mine.py").write_text(
        textwrap.dedent(f"""
        import numpy as np
        from genmod import data

        def load():
            found = np.load({str(root / "images.npz")!r})
            return data.from_arrays(found["images"], found["labels"])
        """)
    )
    return {
        "folder": f"folder:{root}/all",
        "parts": f"folder:{root}/parts",
        "npy": f"npy:{root}/images.npy",
        "npz": f"npz:{root}/images.npz",
        "call": f"call:{root}/mine.py:load",
    }


def batches_of(dataset, **options):
    examples = {"image": dataset.images, "label": dataset.labels}

    def prepare(keys, some):
        return {"image": data.binarized(keys, some["image"]), "label": some["label"]}

    return data.batches(examples, batch_size=20, prepare=prepare, **options)


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


# The same batches.


@pytest.mark.parametrize("name", ["folder", "parts", "npy", "npz", "call"])
@pytest.mark.parametrize("split", ["train", "train[10%:80%]", "train[:20]+train[40:]"])
@pytest.mark.end_to_end
def test_every_source_gives_the_same_batches_streamed(sources, name, split, no_room, monkeypatch):
    streamed = data.load(sources[name], split)
    with monkeypatch.context() as patch:
        patch.delenv("GENMOD_DATA_GB")
        patch.setenv("GENMOD_CACHE_DIR", f"{sources['npy']}-elsewhere".removeprefix("npy:"))
        whole = data.load(sources[name], split)
        on_device = batches_of(whole)
    assert isinstance(whole.images, np.ndarray)
    assert isinstance(streamed.images, StreamedImages) == (name in ("folder", "parts", "npy"))
    assert streamed.fingerprint == whole.fingerprint == data.fingerprint(whole.images, whole.labels)
    np.testing.assert_array_equal(streamed.labels, whole.labels)
    np.testing.assert_array_equal(streamed.images, whole.images)
    stream = batches_of(streamed)
    assert isinstance(stream, Stream)
    assert not isinstance(on_device, Stream)
    for step in (0, 1, 2, 77):
        ours, theirs = (as_numpy(b(rng.root(3), step)) for b in (stream, on_device))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    again = data.load(sources[name], split)  # from what is remembered
    assert again.fingerprint == streamed.fingerprint
    np.testing.assert_array_equal(again.images[[5, 3]], whole.images[[5, 3]])


@pytest.mark.end_to_end
@settings(max_examples=3)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 500), st.integers(1, 9), st.booleans()
)
def test_parts_hold_the_steps_that_were_asked_for(num, batch_size, first, steps, many):
    batch_size, runs = min(num, batch_size), 1 + 2 * many
    examples = np.arange(num, dtype=np.int32)
    options = {"batch_size": batch_size, "prepare": data.unchanged}
    stream = data.batches(examples, stream=True, **options)
    on_device = data.batches(examples, stream=False, **options)
    keys = rng.of_seeds(rng.root(5), runs)
    step = first
    for part, lasts in stream.parts(keys, first, steps):
        assert jax.tree.structure(part) == jax.tree.structure(stream.shapes(keys))
        for _ in range(lasts):
            ours = jax.vmap(part, (0, None))(keys, step)
            np.testing.assert_array_equal(ours, jax.vmap(on_device, (0, None))(keys, step))
            step += 1
    assert step == first + steps


def test_where_they_are_is_chosen_by_their_size_and_said(monkeypatch):
    monkeypatch.setenv("GENMOD_DATA_GB", str(IMAGES.nbytes / 1e9))
    assert data.placement(batches_of(data.Dataset(IMAGES, LABELS, ""), stream=None)).startswith(
        "60 examples, 0.0 MB, streamed (on the device at most 0.0 MB: GENMOD_DATA_GB)"
    )
    on_device = data.batches(IMAGES, batch_size=20)
    assert data.placement(on_device) == "60 examples, 0.0 MB, on the device"
    assert data.placement(lambda key, step: step) == ""
    for text in ("much", "-1", "nan", "0"):
        monkeypatch.setenv("GENMOD_DATA_GB", text)
        with pytest.raises(ValueError, match="GENMOD_DATA_GB must be a positive number"):
            data.batches(IMAGES, batch_size=20)
    monkeypatch.delenv("GENMOD_DATA_GB")
    assert not isinstance(data.batches(IMAGES, batch_size=20), Stream)


def test_a_stream_refuses_what_batches_on_the_device_refuse():
    for stream in (True, False):
        with pytest.raises(ValueError, match="at most the number of examples 60, got 61"):
            data.batches(IMAGES, batch_size=61, stream=stream)
        with pytest.raises(ValueError, match="images must be uint8"):
            data.batches(LABELS, batch_size=6, stream=stream)


def test_a_compiled_program_is_told_that_it_cannot_read():
    stream, _ = both()
    with pytest.raises(ValueError, match="streamed cannot be made inside of a compiled program"):
        jax.jit(stream)(rng.root(0), 0)


# StreamedImages images are indexed like an array.


def test_streamed_images_are_indexed_like_an_array(sources, no_room):
    images = data.load(sources["npy"]).images
    assert isinstance(images.store, MappedStore)
    assert (images.shape, images.nbytes, len(images)) == (IMAGES.shape, IMAGES.nbytes, 60)
    for index in (
        3,
        -1,
        np.int32(7),
        slice(5),
        slice(-3, None, 2),
        [4, 4, 0],
        np.array([[1, 2], [3, 59]]),
        np.arange(60) % 7 == 0,
        jnp.array([2, 1]),
        [],
    ):
        plain = np.asarray(index) if isinstance(index, jax.Array) else index
        plain = np.array(plain, int) if isinstance(plain, list) else plain
        np.testing.assert_array_equal(images[index], IMAGES[plain])
    for index in (60, -61, [0, 60]):
        with pytest.raises(IndexError):
            images[index]
    np.testing.assert_array_equal(np.asarray(images, np.float32), IMAGES.astype(np.float32))
    np.testing.assert_array_equal(images.view(slice(10, 20))[1:3], IMAGES[11:13])
    np.testing.assert_allclose(data.mean_image(images), IMAGES.mean(0), rtol=1e-14)
    found = data.summary(data.load(sources["npy"]))
    assert (found.num, found.shape, found.num_bytes) == (60, (6, 5, 3), IMAGES.nbytes)


@pytest.mark.reliability(33)
def test_what_changes_while_it_is_streamed_is_named(sources, no_room, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(IMAGES[i]).save(folder / f"{i}.png")
    np.save(tmp_path / "images.npy", IMAGES)
    images = data.load(f"folder:{folder}").images
    Image.fromarray(IMAGES[0, :3]).save(folder / "3.png")
    with pytest.raises(data.DataError, match=r"3\.png is an image \[3, 5, 3\] now; expected"):
        images[:]
    (folder / "3.png").unlink()
    with pytest.raises(data.DataError, match=r"3\.png: cannot be read"):
        images[3]
    mapped = data.load(f"npy:{tmp_path}/images.npy").images
    (tmp_path / "images.npy").write_bytes((tmp_path / "images.npy").read_bytes()[:-1])
    with pytest.raises(data.DataError, match=r"images\.npy: cannot be read any more"):
        mapped[59]


def test_corrupt_pictures_are_left_out_and_counted_at_every_start(tmp_path, no_room, capsys):
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(IMAGES[i]).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"nothing")
    with pytest.raises(data.DataError, match=r"2\.png: cannot be read"):
        data.load(f"folder:{folder}")
    expected = np.delete(IMAGES[:8], 2, axis=0)
    for _ in range(2):
        notes.say.cache_clear()  # as at another start
        found = data.load(f"folder:{folder}", skip_corrupt=True)
        said = capsys.readouterr().err
        assert re.search(r"1 of 8 pictures cannot be read .* first: .*2\.png", said)
        assert isinstance(found.images, StreamedImages)
        np.testing.assert_array_equal(found.images, expected)
        assert found.fingerprint == data.fingerprint(expected, found.labels)


def test_once_there_is_room_images_are_kept(sources, monkeypatch):
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-7")
    streamed = data.load(sources["folder"])
    monkeypatch.delenv("GENMOD_DATA_GB")
    kept = data.load(sources["folder"])
    assert isinstance(kept.images, np.memmap)
    assert kept.fingerprint == streamed.fingerprint
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-7")  # now out of what was kept
    again = data.load(sources["folder"])
    assert isinstance(again.images.store, MappedStore)
    np.testing.assert_array_equal(again.images, kept.images)


# Training.


@functools.cache
def small_learner():
    model = vae.make(nets.mlp((8,), 4, heads=2), nets.mlp((8,), (6, 5, 3)), latent_dim=2)
    return train.learner(model.init, vae.elbo(model), optax.adam(1e-2), sample=vae.generate(model))


def ends(learner, batch_at, steps=11, key=None, **options):
    """Every log point's metrics, and the last state."""
    key = rng.root(0) if key is None else key
    points = list(train.run(learner, key, batch_at, num_steps=steps, log_every=4, **options))
    return [as_numpy(p.metrics) for p in points], as_numpy(points[-1].state)


def both(**options):
    """A stream, and the same on the device."""
    options = {"batch_size": 20, **options}
    return [data.batches(IMAGES, stream=stream, **options) for stream in (True, False)]


def assert_same(ours, theirs, **tolerance):
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    jax.tree.map(lambda a, b: compare(a, b, **tolerance), ours, theirs)


@pytest.mark.end_to_end
@pytest.mark.parametrize("prepare", [data.unit_interval, data.binarized])
def test_training_on_a_stream_ends_in_the_same_bits(short_parts, prepare):
    learner = small_learner()
    stream, on_device = both(prepare=prepare)
    assert stream.steps(1) == 2
    assert_same(ends(learner, stream), ends(learner, on_device))
    shapes = train.abstract_carry(learner, rng.root(0), stream)
    assert shapes == train.abstract_carry(learner, rng.root(0), on_device)


@pytest.mark.costly
def test_a_run_goes_on_from_any_step_of_a_stream(short_parts):
    learner = small_learner()
    stream, on_device = both()
    expected = ends(learner, on_device)[1]
    for at in (1, 5):
        *_, point = train.run(learner, rng.root(0), stream, num_steps=at)
        assert_same(ends(learner, stream, carry=point.carry)[1], expected)
    carry = train.start(learner, rng.root(0), stream)
    carry = train.advance(learner, rng.root(0), stream, carry, 7)
    ours, theirs = (train.next_step(learner, rng.root(0), b, carry) for b in (stream, on_device))
    assert_same((ours.batch, ours.metrics), (theirs.batch, theirs.metrics))


@pytest.mark.fused
@pytest.mark.end_to_end
@pytest.mark.parametrize("sequential", [True, False])
def test_seeds_have_each_their_own_order_of_a_stream(short_parts, sequential):
    many = train.over_seeds(small_learner(), 3, sequential=sequential)
    stream, on_device = both()
    assert_same(ends(many, stream), ends(many, on_device))


@pytest.mark.end_to_end
@pytest.mark.parametrize("how", ["sharded", "pmap"])
def test_devices_hold_their_share_of_a_stream(short_parts, how):
    learner = train.over_devices(small_learner(), how, jax.devices()[:4])
    stream, on_device = both()
    assert_same(ends(learner, stream), ends(learner, on_device))
    ((part, _),) = stream.parts(
        rng.root(0)[None],
        0,
        1,
        jax.NamedSharding(learner.mesh, jax.P(None, None, *learner.mesh.axis_names)),
    )
    images = part.args[0]
    assert {s.data.shape for s in images.addressable_shards} == {(1, 2, 5, 6, 5, 3)}


@pytest.mark.fused
@pytest.mark.end_to_end
def test_seeds_are_spread_over_devices_with_a_stream(short_parts):
    many = train.over_devices(train.over_seeds(small_learner(), 4), devices=jax.devices()[:2])
    stream, on_device = both()
    assert_same(ends(many, stream), ends(many, on_device))


def test_the_step_that_is_not_finite_is_found_in_a_stream(short_parts):
    def objective(keys, params, x):
        loss = params["w"] * x.reshape(len(x), -1).mean(1)
        return jnp.where(jnp.abs(params["w"]) > 3.5, jnp.nan, loss), {}

    learner = train.learner(
        lambda key, x: {"w": jnp.ones(())}, objective, optax.sgd(1.0), sample=None
    )
    errors = []
    for batch_at in both():
        with pytest.raises(train.NonFiniteError) as error:
            ends(learner, batch_at, steps=40)
        errors.append(error.value)
    assert errors[0].step == errors[1].step > 4
    assert_same(errors[0].carry, errors[1].carry)


def test_no_more_is_read_than_is_used(short_parts, monkeypatch):
    asked = []

    class Counted(MappedStore):
        def read(self, wanted, *, here=False):
            for places in wanted:
                asked.extend(places.tolist())
                yield IMAGES[places]

    images = StreamedImages(Counted(None, 0, 60, (6, 5, 3)), np.arange(60))
    batch_at = data.batches(images, batch_size=20, stream=True)
    ends(small_learner(), batch_at, steps=5)
    assert len(asked) == (1 + 5) * 20  # the first step's once more, for the beginning
    # Two epochs less one step: every example once or twice.
    assert np.bincount(asked[20:], minlength=60).min() == 1


def test_an_error_of_the_stream_ends_the_run(short_parts):
    class Broken(MappedStore):
        def read(self, wanted, *, here=False):
            for number, places in enumerate(wanted):
                if number == 3:
                    raise data.DataError("the disk is gone")
                yield IMAGES[places]

    images = StreamedImages(Broken(None, 0, 60, (6, 5, 3)), np.arange(60))
    batch_at = data.batches(images, batch_size=20, stream=True)
    points = train.run(small_learner(), rng.root(0), batch_at, num_steps=20, log_every=2)
    assert [next(points).step for _ in range(3)] == [2, 4, 6]
    with pytest.raises(data.DataError, match="the disk is gone"):
        next(points)


SHARES = """
    import json, sys
    import jax, numpy as np
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
    from genmod import data, rng
    from genmod.data.stores import MappedStore, StreamedImages

    asked = []

    class Noted(MappedStore):
        def read(self, wanted, *, here=False):
            for places in wanted:
                asked.append(places.tolist())
                yield np.ones((len(places), 2, 2, 1), np.uint8) * places[:, None, None, None]

    images = StreamedImages(Noted(None, 0, 60, (2, 2, 1)), np.arange(60))
    stream = data.batches(images, batch_size=8, prepare=data.unchanged, stream=True)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P(None, None, "d"))
    ((part, steps),) = stream.parts(rng.root(0)[None], 5, 3, sharding)
    whole = jax.jit(lambda a: a, out_shardings=jax.NamedSharding(mesh, jax.P()))(part.args[0])
    print(json.dumps([asked, np.asarray(whole)[0, :3, :, 0, 0, 0].tolist()]))
    jax.distributed.shutdown()
"""


@pytest.mark.end_to_end
def test_two_processes_read_disjoint_shares_that_add_up_to_the_batch():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", textwrap.dedent(SHARES), f"localhost:{port}"]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen([*command, str(k)], stdout=pipe, stderr=pipe, text=True) for k in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    (first, whole), (second, same) = (json.loads(out.splitlines()[-1]) for out, _ in said)
    assert whole == same
    order = [data.indices_at(rng.root(0), step, 60, batch_size=8).tolist() for step in (5, 6, 7)]
    assert whole == order
    for step, expected in enumerate(order):
        shares = [ours[0][4 * step : 4 * step + 4] for ours in (first, second)]
        assert shares == [expected[:4], expected[4:]]


# The processes that decode.


def test_more_examples_than_memory_for_them_are_decoded_in_order(sources, no_room, monkeypatch):
    monkeypatch.setattr(decoding, "_PIECE_ROWS", 3)
    images = data.load(sources["folder"]).images
    wanted = [RANDOM.integers(0, 60, n) for n in (1, 50, 7, 64)]
    order = np.argsort(LABELS, kind="stable")
    for places, found in zip(wanted, images.read(iter(wanted)), strict=True):
        np.testing.assert_array_equal(found, IMAGES[order][places])
    for _ in images.read(iter(wanted)):
        break  # whoever stops leaves nothing behind that could be written to


@pytest.mark.reliability(33)
def test_processes_that_are_killed_are_replaced(sources, no_room, monkeypatch):
    monkeypatch.setattr(decoding, "_PIECE_ROWS", 2)
    images = data.load(sources["folder"]).images
    order = np.argsort(LABELS, kind="stable")
    answers = images.read(np.arange(60) for _ in range(3))
    np.testing.assert_array_equal(next(answers), IMAGES[order])
    for process in list(decoding._pool(2)._processes.values()):
        process.kill()
    for found in answers:
        np.testing.assert_array_equal(found, IMAGES[order])


@pytest.mark.end_to_end
def test_a_script_needs_no_guard_and_leaves_no_process(sources, tmp_path):
    """Without `if __name__ == "__main__"`; and killed, it takes those that decode with it."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal
        from genmod import data
        from genmod._host import decoding
        print("begun", flush=True)
        images = data.load({sources["folder"]!r}).images
        next(images.read(iter([20 * list(range(60))])))
        print(*decoding._pool(2)._processes, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GENMOD_DATA_GB": "1e-7"},
    )
    begun, pids = done.stdout.splitlines()
    assert begun == "begun", "once"
    assert len(pids.split()) == 2
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/task").exists() for pid in pids.split()):
        assert time.monotonic() < end, "they are still there"
        time.sleep(0.1)


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("GENMOD_WORKERS", "two")
    with pytest.raises(ValueError, match=r"GENMOD_WORKERS must be a whole number .* got 'two'"):
        decoding.processes()


@pytest.mark.end_to_end
def test_none_but_this_process_may_decode(sources, no_room, monkeypatch):
    monkeypatch.setenv("GENMOD_WORKERS", "0")
    monkeypatch.setattr(decoding, "_pool", None)
    order = np.argsort(LABELS, kind="stable")
    images = data.load(sources["folder"]).images
    (found,) = images.read([np.arange(60)])
    np.testing.assert_array_equal(found, IMAGES[order])
