"""The run folder: what it holds, whom it lets in, and a log that an interruption cannot spoil."""

import json
import math
import struct
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

import genmod
from genmod._host import disk, environment
from genmod.evaluate import judges
from genmod.runs import logs, record
from genmod.runs.folder import Folder

CONFIG = {"seed": 0, "epochs": 3, "learning_rate": 1e-3, "hidden": [200, 200], "dataset": "mnist"}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "an_experiment.py"
    path.write_text('"""An experiment."""\n')
    return path


@pytest.fixture
def opened(tmp_path, source):
    """Opens one run folder again and again, each time with something changed."""

    def open_folder(path="run", **changes):
        arguments = {
            "experiment": "an_experiment",
            "source": source,
            "config": CONFIG,
            "fingerprint": "sha256:aa",
            "command": "genmod train an_experiment",
            "protocol": {"splits": "own", "prepare": "binarized"},
        }
        return record.open_folder(tmp_path / path, **{**arguments, **changes})

    return open_folder


def test_a_new_run_folder_holds_what_is_needed_to_judge_and_repeat_the_run(opened, source):
    folder, remarks = opened("deep/in here/läuft")
    assert remarks == []
    assert {path.name for path in folder.path.iterdir()} == {"record.json", "experiment.py"}
    assert folder.experiment.read_bytes() == source.read_bytes()
    found = record.read(folder)
    assert found == json.loads(folder.record.read_text())
    assert found["experiment"] == "an_experiment"
    assert found["config"] == CONFIG
    assert found["data"] == "sha256:aa"
    assert found["protocol"] == {"splits": "own", "prepare": "binarized"}
    assert found["command"] == "genmod train an_experiment"
    assert found["versions"]["genmod"] == genmod.__version__
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["python"] == sys.version.split()[0]
    assert set(found["versions"]) >= {"jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    assert found["device"]["platform"] == jax.devices()[0].platform
    assert "count" not in found["device"]  # a CPU has as many as one asks for
    assert found["created"].endswith("+00:00")


def test_the_same_run_opens_its_folder_and_changes_nothing(opened):
    folder, _ = opened()
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    again, remarks = opened()
    assert again == folder
    assert remarks == []
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


def test_an_empty_folder_is_as_good_as_none(opened, tmp_path):
    (tmp_path / "run").mkdir()
    folder, _ = opened()
    assert folder.record.exists()


def test_another_length_is_accepted_and_recorded(opened):
    folder, _ = opened()
    began = record.read(folder)
    longer = {**CONFIG, "epochs": 5}
    _, remarks = opened(config=longer, command="genmod train an_experiment --epochs 5")
    assert remarks == []
    assert record.read(folder) == {
        **began,
        "config": longer,
        "command": "genmod train an_experiment --epochs 5",
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": {**CONFIG, "learning_rate": 0.01}}, ["learning_rate is 0.001 there and 0.01"]),
        ({"config": {**CONFIG, "hidden": [200]}}, [r"hidden is \[200, 200\] there and \[200\] h"]),
        (
            {"config": {**CONFIG, "seed": 1, "dataset": "tfds:x", "epochs": 9}},
            ["seed is 0 there and 1 here", "dataset is 'mnist' there and 'tfds:x' here"],
        ),
        ({"config": {**CONFIG, "beta": 2.0}}, ["beta is None there and 2.0 here"]),
        ({"config": {"seed": 0, "epochs": 3}}, ["hidden is .* there and None here", "dataset"]),
        ({"experiment": "other"}, ["experiment is 'an_experiment' there and 'other' here"]),
        ({"fingerprint": "sha256:bb"}, ["data is 'sha256:aa' there and 'sha256:bb' here"]),
        (
            {"protocol": {"splits": "vamp", "prepare": "thresholded"}},
            [
                "prepare is 'binarized' there and 'thresholded' here",
                "splits is 'own' there and 'vamp' here",
            ],
        ),
    ],
)
def test_another_run_is_refused_and_each_difference_named(opened, changes, named):
    folder, _ = opened()
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    for part in named:
        with pytest.raises(ValueError, match=f"run_dir .*run' holds another run: .*{part}"):
            opened(**changes)
    with pytest.raises(ValueError, match=r"^((?!epochs).)*; expected the same, or another") as e:
        opened(**changes)
    assert str(folder.path) in str(e.value)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_folder_of_something_else_is_refused_and_left_alone(opened, tmp_path):
    foreign = tmp_path / "run"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(
        ValueError,
        match=r"run_dir '.*run' exists and is not a genmod run .*expected a new or empty",
    ):
        opened()
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(opened, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(
        ValueError, match=r"run_dir '.*run' exists .*expected a new or empty folder"
    ):
        opened()
    assert (tmp_path / "run").read_text() == "a file"


def test_a_folder_that_cannot_be_made_is_named(opened, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises((OSError, ValueError)) as error:
        opened("file/run")
    assert str(tmp_path / "file") in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b'{"experiment": "an_exp', b"\xff\xfe\x00", b"[]", b"{}", b'{"config": 3}']
)
def test_a_damaged_record_is_refused_and_named(opened, content):
    folder, _ = opened()
    folder.record.write_bytes(content)
    for look in (lambda: record.read(folder), opened):
        with pytest.raises(ValueError, match=r"record\.json is damaged"):
            look()
    assert folder.record.read_bytes() == content


def test_a_folder_without_a_record_is_no_run(tmp_path):
    with pytest.raises(
        ValueError, match=r"'.*nowhere' is not a run folder: it has no record\.json"
    ):
        record.read(Folder(tmp_path / "nowhere"))


def test_a_record_is_never_seen_half_written(opened, monkeypatch):
    folder, _ = opened()
    before = folder.record.read_bytes()

    def power_cut(*_):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", power_cut)
        with pytest.raises(OSError, match="power cut"):
            opened(config={**CONFIG, "epochs": 7})
    assert folder.record.read_bytes() == before
    opened(config={**CONFIG, "epochs": 7})
    assert record.read(folder)["config"]["epochs"] == 7
    assert {path.name for path in folder.path.iterdir()} == {"record.json", "experiment.py"}


def test_another_version_or_device_is_remarked(opened):
    folder, _ = opened()
    changed = record.read(folder)
    changed["versions"]["jax"] = "0.1.2"
    changed["device"]["kind"] = "abacus"
    del changed["versions"]["optax"]  # as a record of before it was noted: nothing to compare
    disk.write_json(folder.record, changed)
    _, remarks = opened()
    now, kind = environment.versions(), environment.device()["kind"]
    assert remarks == [
        f"jax was 0.1.2 when the run began and is {now['jax']} now: bits may differ",
        f"kind was abacus when the run began and is {kind} now: bits may differ",
    ]
    assert record.read(folder) == changed, "what the run began with stays on record"


@pytest.mark.parametrize("starts", [[3], [{}], [{"step": "4"}], {}])
def test_starts_that_are_none_are_damage(opened, starts):
    folder, _ = opened()
    disk.write_json(folder.record, {**record.read(folder), "starts": starts})
    with pytest.raises(ValueError, match=r"record\.json is damaged"):
        record.read(folder)


def test_other_test_data_and_another_judge_are_remarked(opened):
    folder, _ = opened(test_fingerprint="sha256:bb")
    changed = record.read(folder)
    assert changed["test_data"] == "sha256:bb"
    assert opened(test_fingerprint="sha256:bb")[1] == []
    changed["code"]["judge"] = "sha256:cc"
    disk.write_json(folder.record, changed)
    assert opened(test_fingerprint="sha256:dd")[1] == [
        "the judge of digits was sha256:cc when the run began and is "
        f"{judges.fingerprint()} now: its scores differ",
        "the test data were sha256:bb when the run began and are sha256:dd now: numbers of the "
        "evaluation differ",
    ]


def test_a_changed_experiment_file_is_remarked(opened, source):
    folder, _ = opened()
    copy = folder.experiment.read_bytes()
    source.write_text('"""Another experiment."""\n')
    _, (remark,) = opened()
    assert remark == f"{source} has changed since the run began (its copy is {folder.experiment})"
    assert folder.experiment.read_bytes() == copy


def test_a_run_can_be_started_again_from_its_own_copy(opened):
    folder, _ = opened()
    assert opened(source=folder.experiment)[1] == []


def test_evaluation_is_empty_until_there_is_one(opened):
    folder, _ = opened()
    assert logs.read_evaluation(folder) == {}
    disk.write_json(folder.evaluation, {"test_negative_elbo": 95.5})
    assert logs.read_evaluation(folder) == {"test_negative_elbo": 95.5}


def row(step, **metrics):
    return {"step": step, "epoch": step / 8, "loss": 100 / step, "kl": 0.1 * step, **metrics}


def written(folder, rows, at=0):
    log = logs.Log(folder, at)
    try:
        for values in rows:
            log.write(values)
    finally:
        log.close()


def test_a_line_of_the_log_holds_exactly_what_was_logged(tmp_path):
    folder = Folder(tmp_path)
    rows = [row(4, examples_per_s=1234.5), row(8, examples_per_s=1e6), row(12, name_of_term=1e-30)]
    written(folder, rows)
    lines = folder.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert [list(json.loads(line)) for line in lines] == [list(values) for values in rows]
    assert logs.read_metrics(folder) == rows


def test_a_log_point_is_on_disk_as_soon_as_it_is_written(tmp_path):
    folder = Folder(tmp_path)
    log = logs.Log(folder, 0)
    try:
        log.write(row(4))
        assert logs.read_metrics(folder) == [row(4)]
    finally:
        log.close()


def test_a_run_without_a_log_has_no_log_points(tmp_path):
    assert logs.read_metrics(Folder(tmp_path)) == []


@pytest.mark.parametrize(
    ("step", "kept"), [(0, []), (3, []), (4, [4]), (9, [4, 8]), (12, [4, 8, 12]), (99, [4, 8, 12])]
)
def test_reopening_cuts_the_log_off_after_the_step(tmp_path, step, kept):
    folder = Folder(tmp_path)
    written(folder, [row(4), row(8), row(12)])
    written(folder, [row(step + 1)], at=step)
    assert logs.read_metrics(folder) == [*map(row, kept), row(step + 1)]


def test_a_half_written_last_line_is_dropped(tmp_path):
    folder = Folder(tmp_path)
    written(folder, [row(4), row(8)])
    # Whole but for its end of line: a number in it may have lost its last digits.
    for half in (b'{"step": 12, "epo', b'{"step": 12, "epoch": 1.5}'):
        with folder.metrics.open("ab") as file:
            file.write(half)
        assert logs.read_metrics(folder) == [row(4), row(8)]
        written(folder, [row(16)], at=12)
        assert logs.read_metrics(folder) == [row(4), row(8), row(16)]
        written(folder, [], at=8)


LOG = [row(step, examples_per_s=step * 1000.5) for step in (1, 2, 5, 8, 13, 21)]
LOG_BYTES = b"".join(json.dumps(values).encode() + b"\n" for values in LOG)


@example(cut=0, step=0)
@example(cut=len(LOG_BYTES) - 1, step=21)
@example(cut=len(LOG_BYTES), step=21)
@given(cut=st.integers(0, len(LOG_BYTES)), step=st.integers(0, 22))
def test_a_log_cut_anywhere_keeps_its_whole_rows_up_to_the_step(cut, step):
    whole = LOG_BYTES[:cut].count(b"\n")
    expected = [values for values in LOG[:whole] if values["step"] <= step]
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        folder.metrics.write_bytes(LOG_BYTES[:cut])
        assert logs.read_metrics(folder) == LOG[:whole]
        log = logs.Log(folder, step)
        try:
            assert logs.read_metrics(folder) == expected
            log.write(row(step + 1))
        finally:
            log.close()
        assert logs.read_metrics(folder) == [*expected, row(step + 1)]
        kept = b"".join(LOG_BYTES.splitlines(keepends=True)[: len(expected)])
        assert folder.metrics.read_bytes().startswith(kept)


@pytest.mark.parametrize(
    "damage",
    [b"\x00" * 20, b'{"step": 8', b"[8]", b'{"epoch": 1.0}', b"\xff", b'{"step": 1e400}'],
)
def test_a_damaged_line_inside_the_log_is_refused_and_named(tmp_path, damage):
    folder = Folder(tmp_path)
    lines = [json.dumps(row(4)).encode(), damage, json.dumps(row(12)).encode()]
    content = b"\n".join(lines) + b"\n"
    folder.metrics.write_bytes(content)
    for look in (lambda: logs.read_metrics(folder), lambda: logs.Log(folder, 12).close()):
        with pytest.raises(ValueError, match=r"metrics\.jsonl.*damaged"):
            look()
    assert folder.metrics.read_bytes() == content


def events(folder):
    """TensorBoard's view of a run: (step, name) -> value, what a restart purged left out."""
    seen = {}
    for path in sorted(folder.tensorboard.iterdir()):
        content = path.read_bytes()
        at = 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            header, body = content[at : at + 8], content[at + 12 : at + 12 + length]
            if len(content) < at + 16 + length:
                break  # a killed process leaves half an event; TensorBoard passes over it too
            sums = [struct.unpack_from("<I", content, at + place)[0] for place in (8, 12 + length)]
            assert sums == [masked_crc32c(header), masked_crc32c(body)]
            at += 16 + length
            event = event_pb2.Event.FromString(body)
            if event.session_log.status == event_pb2.SessionLog.START:
                seen = {key: value for key, value in seen.items() if key[0] < event.step}
            for value in event.summary.value:
                assert (event.step, value.tag) not in seen, "logged twice"
                seen[event.step, value.tag] = value.simple_value
    return seen


def same_as_the_log(folder):
    return {
        (values["step"], name): np.float32(value)
        for values in logs.read_metrics(folder)
        for name, value in values.items()
        if name != "step"
    }


def test_tensorboard_holds_the_log(tmp_path):
    folder = Folder(tmp_path)
    written(folder, [row(4, examples_per_s=1e6), row(8, examples_per_s=12.5)])
    assert events(folder) == same_as_the_log(folder)
    assert len(events(folder)) == 2 * 4


@pytest.mark.parametrize(
    ("at", "steps"), [(0, {1, 4}), (4, {4, 5, 8}), (6, {4, 7, 10}), (8, {4, 8, 9, 12})]
)
def test_tensorboard_holds_the_log_after_a_restart(tmp_path, at, steps):
    # At once, in the same second: the new events must not take the place of the old.
    folder = Folder(tmp_path)
    written(folder, [row(4), row(8)])
    written(folder, [row(at + 1, kl=0.0), row(at + 4)], at=at)
    assert events(folder) == same_as_the_log(folder)
    assert {step for step, _ in events(folder)} == steps


@pytest.mark.end_to_end
def test_tensorboard_holds_the_log_after_a_sudden_end(tmp_path):
    folder = Folder(tmp_path)
    script = f"""
        import os
        from pathlib import Path
        from genmod.runs import record
        from genmod._host import disk, environment
        from genmod.runs import logs
        from genmod.runs.folder import Folder
        log = logs.Log(Folder(Path({str(tmp_path)!r})), 0)
        for step in (4, 8, 12):
            log.write({{"step": step, "epoch": step / 8, "loss": 100 / step, "kl": 0.1 * step}})
        os._exit(9)  # as a power cut or SIGKILL would
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60)
    assert ended.returncode == 9
    assert logs.read_metrics(folder) == [row(4), row(8), row(12)]
    written(folder, [row(16)], at=12)
    assert events(folder) == same_as_the_log(folder)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 2**40))
def test_numbers_are_logged_in_full(value, step):
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        written(folder, [{"step": step, "loss": value}])
        (found,) = logs.read_metrics(folder)
        assert found == {"step": step, "loss": value}
        assert math.copysign(1, found["loss"]) == math.copysign(1, value)
        assert events(folder) == {(step, "loss"): value}


def test_null_in_a_log_is_not_a_number(tmp_path):
    folder = Folder(tmp_path)
    folder.metrics.write_text('{"step": 1, "loss": null, "seeds": {"loss": [null, 1.0]}}\n')
    (found,) = logs.read_metrics(folder)
    assert np.isnan([found["loss"], found["seeds"]["loss"][0]]).all()


def test_a_standard_error_that_is_not_a_number_is_shown():
    assert logs.readable({"loss": 2.0, "loss_se": np.nan}) == {"loss": "2.0000 +- nan"}
