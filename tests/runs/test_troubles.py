"""Troubles that users had with run folders: each test is one that failed for them."""

import dataclasses
import datetime
import enum
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import refused

from genmod import data, evaluate, train
from genmod._host import environment, source
from genmod.cli import pictures
from genmod.experiment import Experiment, Observation
from genmod.runs import (
    catalogue,
    configs,
    kept_sources,
    loading,
    logs,
    naming,
    pages,
    record,
    replay,
    runner,
    several,
    verify,
)
from genmod.runs.folder import Folder

TINY = '''"""An experiment whose only number grows by FACTOR at each step."""
from dataclasses import dataclass
import jax
import jax.numpy as jnp
import numpy as np
from genmod import data, train
from genmod.experiment import Experiment

FACTOR = 2.0


@dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: int = 1


def build(config):
    def step(key, state, batch):
        return state + FACTOR, {"loss": state}

    def sample(key, state, num):
        return jnp.full((num, 2, 2, 1), state * FACTOR / 1000)

    pixels = np.zeros((40, 2, 2, 1), np.uint8)
    return Experiment(
        train.Learner(lambda key, batch: jnp.ones(()), step, sample),
        data.batches(pixels, batch_size=10),
        data.from_arrays(pixels),
        batch_size=10,
        epochs=config.epochs,
    )
'''


@pytest.fixture
def mine(tmp_path):
    """Writes the tiny experiment, with some of its text replaced, into a folder of its own."""

    def write(*replacements, name="mine"):
        text = TINY
        for old, new in replacements:
            assert text.count(old) == 1, f"{old!r} is not there once"
            text = text.replace(old, new)
        path = tmp_path / name / "mine.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def trained(genmod, file, folder, *flags):
    ended = genmod("train", file, "--run-dir", folder, "--no-progress", *flags)
    assert ended.code == 0, ended
    return ended


def drawn(folder):
    """The value of the pixels that a run's sampler draws."""
    built, state = loading.load_run(folder)
    return float(built.sample(jax.random.key(0), state, 1).ravel()[0])


# Case 5: an experiment that is edited between two starts.


@pytest.fixture
def edited(genmod, mine, tmp_path):
    """A run of two epochs, whose factor was 2 in the first and 3 in the second."""
    file, folder = mine(), tmp_path / "run"
    trained(genmod, file, folder, "--log-every", 2)
    mine(("FACTOR = 2.0", "FACTOR = 3.0"))
    ended = trained(genmod, file, folder, "--log-every", 2, "--epochs", 2)
    assert f"{file} has changed since the run began" in ended.err
    return Folder(folder)


@pytest.mark.reliability(37)
@pytest.mark.end_to_end
def test_what_opens_an_edited_run_uses_its_last_source_and_says_so(edited, genmod, capsys):
    """Case 5."""
    assert [row["loss"] for row in logs.read_metrics(edited)] == [2, 6, 10.5, 16.5]
    assert drawn(edited.path) == pytest.approx((1 + 4 * 2 + 4 * 3) * 3 / 1000)
    said = capsys.readouterr().err
    assert "the experiment was edited after the run began" in said
    assert "at step 4" in said
    for command in ("sample", "export", "report"):
        ended = genmod(command, edited.path)
        assert ended.code == 0, ended
        assert ended.err.count("the experiment was edited") == 1


@pytest.mark.reliability(37)
@pytest.mark.end_to_end
def test_each_step_of_an_edited_run_is_repeated_by_the_source_that_took_it(edited, genmod):
    """Case 5."""
    found = verify.run(edited.path, everything=True)
    assert (found.difference, found.log_points) == (None, [2, 4, 6, 8])
    assert any("the experiment was edited" in change for change in found.changes)
    shutil.rmtree(edited.checkpoints)
    assert [replay.step(edited.path, step).metrics["loss"] for step in (4, 5, 8)] == [7, 9, 18]


@pytest.mark.end_to_end
def test_a_source_is_kept_once_and_a_start_names_its_own(edited, genmod, mine):
    """Case 5: undone again, it is the first copy."""
    file = mine()
    for _ in range(2):
        trained(genmod, file, edited.path, "--epochs", 3)
    kept = [start["source"] for start in record.read(edited)["starts"]]
    assert kept[0] == kept[2] == "experiment.py"
    assert len(kept) == 3
    assert kept[1].startswith("sources/")
    assert len(list((edited.path / "sources").iterdir())) == 1
    assert drawn(edited.path) == pytest.approx((1 + 4 * 2 + 4 * 3 + 4 * 2) * 2 / 1000)


@pytest.mark.end_to_end
def test_a_finished_run_that_is_drawn_by_an_edited_source_keeps_that(edited, genmod, mine):
    """Case 5: a start that takes no step, but evaluates and draws."""
    trained(genmod, mine(("FACTOR = 2.0", "FACTOR = 5.0")), edited.path, "--epochs", 2)
    assert drawn(edited.path) == pytest.approx((1 + 4 * 2 + 4 * 3) * 5 / 1000)
    assert verify.run(edited.path, everything=True).difference is None


# Case 16: modules beside a user's file.


@pytest.mark.end_to_end
def test_a_module_beside_an_experiment_is_found_and_kept(genmod, mine, tmp_path):
    """Case 16: also one that is imported within a function, and a package."""
    file = mine(
        ("import jax\n", "import jax\nfrom my_package.numbers import FACTOR\n"),
        ("FACTOR = 2.0\n", ""),
        ("    def step(", "    import importlib\n    import late\n\n    def step("),
        ("state + FACTOR", "state + FACTOR * late.ONE * importlib.import_module('late').ONE"),
    )
    package = file.parent / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers.py").write_text("from .deeper import FACTOR\nfrom beside import NOTHING\n")
    (package / "deeper.py").write_text("FACTOR = 2.0\n")
    (file.parent / "beside.py").write_text("NOTHING = 0\n")
    (file.parent / "late.py").write_text("ONE = 1\n")
    (file.parent / "unused.py").write_text("raise AssertionError\n")
    folder = tmp_path / "run"
    trained(genmod, file, folder)
    kept = folder / record.read(Folder(folder))["starts"][0]["source"]
    names = {path.relative_to(kept.parent).as_posix() for path in kept.parent.rglob("*.py")}
    assert names == {
        *("mine.py", "late.py", "beside.py"),
        *(f"my_package/{name}.py" for name in ("__init__", "numbers", "deeper")),
    }
    assert not list(file.parent.rglob("__pycache__"))
    shutil.rmtree(file.parent)
    assert drawn(folder) == pytest.approx(9 * 2 / 1000)


@pytest.mark.end_to_end
def test_runs_whose_modules_have_one_name_are_not_confused(genmod, mine, tmp_path):
    """Case 16: two runs that one process opens, as a report of both does."""
    folders = []
    for number in (2, 3):
        file = mine(
            ("FACTOR = 2.0", "from networks import FACTOR, late\n"),
            ("state * FACTOR", "state * late()"),
            name=f"of-{number}",
        )
        text = f"FACTOR = {number}.0\n\n\ndef late():\n    import deep\n    return deep.FACTOR\n"
        (file.parent / "networks.py").write_text(text)
        (file.parent / "deep.py").write_text(f"FACTOR = {number}.0\n")
        folders.append(tmp_path / f"run-{number}")
        trained(genmod, file, folders[-1])
    opened = [loading.load_run(folder) for folder in folders]  # both, before either is used
    values = [float(b.sample(jax.random.key(0), state, 1).ravel()[0]) for b, state in opened]
    assert values == pytest.approx([9 * 2 / 1000, 13 * 3 / 1000])
    assert genmod("report", *folders).code == 0


@pytest.mark.reliability(37)
@pytest.mark.end_to_end
def test_a_module_that_was_edited_is_said(genmod, mine, tmp_path):
    """Cases 5 and 16."""
    file, folder = mine(("FACTOR = 2.0", "from networks import FACTOR\n")), tmp_path / "run"
    (file.parent / "networks.py").write_text("FACTOR = 2.0\n")
    trained(genmod, file, folder)
    (file.parent / "networks.py").write_text("FACTOR = 3.0\n")
    ended = trained(genmod, file, folder, "--epochs", 2)
    assert f"{file.parent / 'networks.py'} has changed since the run began" in ended.err
    assert f"{file} has changed" not in ended.err
    assert verify.run(folder, everything=True).difference is None


def test_a_file_beside_does_not_stand_for_the_standard_library_or_genmod(mine, tmp_path):
    """Case 16."""
    file = mine(("FACTOR = 2.0", "import random\nFACTOR = random.uniform(2, 2)"))
    for name in ("random", "genmod", "dataclasses"):
        (file.parent / f"{name}.py").write_text("raise AssertionError\n")
    (file.parent / "jax").mkdir()  # without an __init__.py: the installed one comes first
    assert catalogue.load(file).FACTOR == 2
    assert set(source.of(catalogue.load(file)).files) == {"mine.py"}


def test_what_ran_is_what_was_read(tmp_path):
    """Case 16: an edit during a run changes neither the copy nor a later import."""
    (tmp_path / "mine.py").write_text("def late():\n    import beside\n    return beside.NUMBER\n")
    (tmp_path / "beside.py").write_text("NUMBER = 1\n")
    module = source.load(tmp_path / "mine.py")
    (tmp_path / "beside.py").write_text("NUMBER = 2\n")
    assert module.late() == 1
    assert source.of(module).files["beside.py"] == b"NUMBER = 1\n"
    assert source.load(tmp_path / "mine.py").late() == 2


def test_a_data_set_of_a_function_imports_what_lies_beside_it(tmp_path, monkeypatch):
    """Cases 16 and 26: also from the home folder."""
    (tmp_path / "sets.py").write_text(
        "from genmod import data\nimport helper\n\n\n"
        "def pixels():\n    import later\n    return data.from_arrays(helper.make(later.NUM))\n"
    )
    (tmp_path / "helper.py").write_text(
        "import numpy as np\n\n\ndef make(num):\n    return np.zeros((num, 2, 2, 1), np.uint8)\n"
    )
    (tmp_path / "later.py").write_text("NUM = 7\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for where in (tmp_path / "sets.py", "~/sets.py"):
        assert data.load(f"call:{where}:pixels").images.shape == (7, 2, 2, 1)


# Case 12: names that the log itself uses.


@pytest.mark.parametrize("name", ["step", "epoch", "seeds", "examples_per_s", "loss_se", "kl_se"])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.end_to_end
def test_a_metric_with_a_name_of_the_log_is_refused_before_there_is_a_folder(
    genmod, mine, tmp_path, name, seeds
):
    """Case 12."""
    file = mine(('{"loss": state}', f'{{"loss": state, "{name}": state}}'))
    ended = genmod("train", file, "--run-dir", tmp_path / "run", "--seeds", seeds)
    refused(ended, 2, f"the metric '{name}' has a name that the log itself uses", "call it")
    assert not (tmp_path / "run").exists()


def tiny(epochs=1, **rest):
    pixels = np.zeros((40, 2, 2, 1), np.uint8)

    def step(key, state, batch):
        return state + 1, {"loss": state, "accuracy": state}

    return Experiment(
        train.Learner(lambda key, batch: jnp.ones(()), step, lambda *_: jnp.zeros((1, 2, 2, 1))),
        data.batches(pixels, batch_size=10),
        data.from_arrays(pixels),
        **{"batch_size": 10, "epochs": epochs, **rest},
    )


@pytest.mark.end_to_end
@pytest.mark.parametrize("seeds", [1, 2])
def test_numbers_of_looks_and_evaluations_are_neither_lost_nor_replace_others(
    tmp_path, capsys, seeds
):
    """Case 12."""
    folder = Folder(tmp_path)
    mine = {"step": 5.0, "loss": 6.0, "seen": 7.0, "seen_se": 8.0}
    built = tiny(
        observe=lambda key, state: Observation(mine),
        evaluate=lambda key, state: {"seeds": 5.0, "loss_se": 6.0, "loss": 7.0},
    )
    built = built if seeds == 1 else several.over_seeds(built, 0, seeds)
    runner.run(built, folder, seed=0, progress=False)
    (row,) = logs.read_metrics(folder)
    assert (row["step"], row["loss"]) == (4, 2.5)
    found = [row[n] for n in ("step_value", "loss_value", "seen", "seen_se_value")]
    assert found == [5, 6, 7, 8]
    ended = logs.read_evaluation(folder)
    assert [ended[name] for name in ("seeds_value", "loss_se_value", "loss")] == [5, 6, 7]
    said = capsys.readouterr().err
    for name in ("step", "loss", "seen_se", "seeds", "loss_se"):
        assert f"the name '{name}' is the log's own, or a metric's" in said


# Cases 13 and 14: what is no number.


def test_the_error_of_one_value_is_not_a_number_and_said_so(tmp_path, capsys):
    """Case 13."""
    mean, error = evaluate.estimate(np.array([3.0]))
    assert mean == 3
    assert np.isnan(error)
    with pytest.raises(ValueError, match=r"\[N\] with N >= 1, got \[0\]"):
        evaluate.estimate(np.zeros(0))
    built = tiny(evaluate=lambda key, state: {"mean": mean, "error": error})
    runner.run(built, Folder(tmp_path), seed=0, progress=False)
    assert "error: nan (not a number)" in capsys.readouterr().out


def strictly(text):
    """JSON as others read it."""

    def no_token(token):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=no_token)


@pytest.mark.reliability(39)
@pytest.mark.end_to_end
@pytest.mark.parametrize(("value", "seeds"), [(np.inf, 2), (-np.inf, 1), (np.nan, 1)])
def test_what_is_not_finite_is_printed_kept_and_drawn(genmod, tmp_path, capsys, value, seeds):
    """Case 14."""
    tree = tmp_path / "runs"
    folder, _ = record.open_folder(
        tree / "infinite",
        experiment="tiny",
        source=Path(__file__),
        config={"seed": 0, "epochs": 2},
        fingerprint=tiny().dataset.fingerprint,
        command="genmod train tiny",
        seeds=seeds,
    )
    built = tiny(
        2,
        observe=lambda key, state: Observation({"seen": value}),
        evaluate=lambda key, state: {"divergence": value, "good": 1.0},
    )
    built = built if seeds == 1 else several.over_seeds(built, 0, seeds)
    runner.run(built, folder, seed=0, progress=False)
    said = capsys.readouterr().out
    assert f"divergence: {value}" in said
    assert "good: 1.0000" in said
    for text in (*folder.metrics.read_text().splitlines(), folder.evaluation.read_text()):
        strictly(text)
    np.testing.assert_equal(logs.read_metrics(folder)[0]["seen"], value)
    np.testing.assert_equal(logs.read_evaluation(folder)["divergence"], value)
    assert (folder.pictures / "curves.png").exists()
    ended = genmod("runs", tree)
    assert (ended.code, ended.err) == (0, "")
    assert f"divergence {value}" in ended.out
    assert genmod("report", tree, "--out", tmp_path / "page.html").code == 0
    html = pages.build([folder.path, folder.path])
    assert str(value) in html


def test_a_log_of_an_earlier_version_with_tokens_is_read(tmp_path):
    """Case 14."""
    folder = Folder(tmp_path)
    folder.metrics.write_text('{"step": 1, "epoch": 1.0, "seen": NaN, "other": -Infinity}\n')
    folder.evaluation.write_text('{"divergence": Infinity}')
    (row,) = logs.read_metrics(folder)
    assert np.isnan(row["seen"])
    assert row["other"] == -np.inf
    assert logs.read_evaluation(folder) == {"divergence": np.inf}


@pytest.mark.reliability(38)
def test_one_run_that_cannot_be_read_hides_no_other(genmod, mine, tmp_path):
    """Case 14: of a tree, the others are listed and reported, and that one is named."""
    tree = tmp_path / "runs"
    trained(genmod, mine(), tree / "good")
    damages = {
        "record": ("record.json", "{"),
        "metrics": ("metrics.jsonl", '{"step": 4, "epoch": "x"}\n{}\n'),
        "evaluation": ("evaluation.json", "[3"),
        "odd": ("metrics.jsonl", '{"step": 4, "loss": "much"}\n'),
    }
    for name, (file, content) in damages.items():
        shutil.copytree(tree / "good", tree / name)
        (tree / name / file).write_text(content)
    ended = genmod("runs", tree)
    assert ended.code == 0
    assert str(tree / "good") in ended.out
    assert all(f"{tree / name}" in ended.err for name in damages)
    ended = genmod("report", tree, "--out", tmp_path / "page.html")
    assert ended.code == 0, ended
    assert "evaluation.json is damaged" in ended.err
    refused(genmod("report", tree / "evaluation"), 2, "evaluation.json is damaged")


# Case 15: what a Config holds.


class Kind(enum.Enum):
    small = 1
    large = "great"


class Pair(NamedTuple):
    place: Path
    kind: Kind


@dataclasses.dataclass(frozen=True)
class Adam:
    rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Sgd:
    rate: float = 1e-3
    momentum: float | None = None


@dataclasses.dataclass(frozen=True)
class Every:
    seed: int = 0
    epochs: int = 1
    where: Path = Path("a/b")
    maybe: Path | None = None
    text_or_path: str | Path = Path("c")
    kind: Kind = Kind.large
    kinds: tuple[Kind, ...] = (Kind.small, Kind.large)
    mixed: tuple[int, Path] = (1, Path("d"))
    optimizer: Adam | Sgd = dataclasses.field(default_factory=Sgd)
    layers: tuple[Adam, ...] = (Adam(), Adam(2.0))
    pair: Pair = dataclasses.field(default_factory=lambda: Pair(Path("e"), Kind.small))
    choice: Literal["auto", 3] = 3
    number: float | Literal["auto"] = "auto"
    clip: float = float("inf")
    many: frozenset[str] = frozenset({"x", "y"})
    by_name: dict[str, Path] = dataclasses.field(default_factory=lambda: {"f": Path("g")})
    by_kind: dict[Kind, int] = dataclasses.field(default_factory=lambda: {Kind.small: 3})
    by_number: dict[int, bool] = dataclasses.field(default_factory=lambda: {3: False})
    day: datetime.date = datetime.date(2020, 1, 2)
    share: Fraction = Fraction(1, 3)


def test_a_configuration_of_any_usual_type_comes_back_equal():
    """Case 15."""
    config = Every(maybe=Path("/h"), number=2.5)
    for one in (Every(), config):
        back = configs.from_json(Every, strictly(json.dumps(configs.as_json(one))))
        assert back == one
        for field in dataclasses.fields(Every):
            assert type(getattr(back, field.name)) is type(getattr(one, field.name)), field.name


@pytest.mark.reliability(39)
def test_what_is_not_a_number_comes_back_in_a_configuration():
    """Case 15."""
    kind = dataclasses.make_dataclass("Config", [("seed", int, 0), ("x", float, np.nan)])
    assert np.isnan(configs.from_json(kind, configs.as_json(kind())).x)


@pytest.mark.parametrize(
    ("annotation", "value", "named"),
    [
        (Any, Path("x"), "Config.x is PosixPath('x'), of type PosixPath"),
        (str, Kind.small, "of type Kind"),
        (object, print, "of type builtin_function_or_method"),
        (tuple[int, ...], (Path("x"),), "of type tuple"),
    ],
)
def test_what_would_not_come_back_is_refused_and_named(annotation, value, named):
    """Case 15."""
    kind = dataclasses.make_dataclass("Config", [("seed", int, 0), ("x", annotation, value)])
    with pytest.raises(ValueError, match="cannot be written down and read back") as error:
        configs.as_json(kind())
    assert named in str(error.value)


PATHS = (
    ("import jax\n", "import enum\nfrom pathlib import Path\nimport jax\n"),
    (
        "    epochs: int = 1\n",
        "    epochs: int = 1\n    where: Path = Path('.')\n    kind: Kind = Kind.small\n",
    ),
    ("@dataclass", 'Kind = enum.Enum("Kind", "small large")\n\n\n@dataclass'),
)


def test_a_run_whose_configuration_has_a_path_and_an_enum(genmod, mine, place):
    """Case 15: named by its text and its name, opened, and continued."""
    file = mine(*PATHS)
    flags = ("--kind", "large", "--where", "/tmp", "--no-progress")
    assert genmod("train", file, *flags).code == 0
    folder = place / "runs" / "mine" / "seed-0_where--tmp_kind-large"
    assert record.read(Folder(folder))["config"]["kind"] == "large"
    opened = loading.rebuild(Folder(folder))
    assert (opened.config.where, opened.config.kind.name) == (Path("/tmp"), "large")
    assert "already trained" in genmod("train", file, *flags).out


def test_a_configuration_that_cannot_be_kept_is_refused_before_any_work(genmod, mine, tmp_path):
    """Case 15."""
    file = mine(
        ("    epochs: int = 1\n", "    epochs: int = 1\n    act: object = jax.nn.relu\n"),
        ("def build(config):\n", "def build(config):\n    raise AssertionError\n"),
    )
    refused(genmod("train", file, "--run-dir", tmp_path / "run"), 2, "Config.act is ")
    assert not (tmp_path / "run").exists()


# Cases 26 and 27: where a run is opened, and what it is called.


@pytest.mark.reliability(42)
@pytest.mark.end_to_end
def test_settings_of_jax_that_change_bits_are_recorded_and_said(genmod, mine, tmp_path):
    """Case 26."""
    file, folder = mine(), tmp_path / "run"
    trained(genmod, file, folder)
    before = environment.settings()
    assert record.read(Folder(folder))["settings"] == before
    with jax.default_matmul_precision("highest"), jax.threefry_partitionable(False):
        ended = trained(genmod, file, folder)
        changes = verify.run(folder).changes
    for name in ("jax_default_matmul_precision", "jax_threefry_partitionable"):
        said = f"{name} was {before[name]} when the run began and is "
        assert said in ended.err
        assert any(said in change for change in changes)
    assert {"jax_enable_x64", "jax_default_prng_impl"} <= before.keys()


READS = (
    ("class Config:\n", "class Config(data.Source):\n"),
    (
        "    pixels = np.zeros((40, 2, 2, 1), np.uint8)\n",
        "    pixels = config.load().images\n    np.load('beside.npy')\n",
    ),
)


@pytest.fixture
def relative(genmod, mine, tmp_path, monkeypatch):
    """A run that was started on data given from the working directory."""
    work = tmp_path / "work"
    work.mkdir()
    np.savez(work / "set.npz", images=np.arange(160, dtype=np.uint8).reshape(40, 2, 2, 1))
    np.save(work / "beside.npy", np.zeros(3))
    monkeypatch.chdir(work)
    file = mine(*READS)
    trained(genmod, file, work / "run", "--dataset", "npz:set.npz")
    monkeypatch.chdir(tmp_path)
    return work, file


@pytest.mark.end_to_end
def test_a_run_on_relative_data_is_opened_from_elsewhere(relative, genmod, tmp_path):
    """Case 26."""
    work, _ = relative
    assert record.read(Folder(work / "run"))["directory"] == str(work)
    for command in ("sample", "export"):
        ended = genmod(command, "work/run")
        assert ended.code == 0, ended
    assert replay.step("work/run", 2).images is not None
    assert verify.run("work/run").difference is None


@pytest.mark.reliability(41)
def test_data_that_are_gone_are_named_with_where_they_were_sought(relative, genmod, tmp_path):
    """Case 26."""
    work, _ = relative
    shutil.move(work / "set.npz", work / "elsewhere.npz")
    ended = genmod("verify", "work/run")
    refused(ended, 3, f"{work / 'set.npz'}: missing", f"sought in {work} and in {tmp_path}")
    shutil.copytree(work, tmp_path / "moved")
    shutil.rmtree(work)
    ended = genmod("verify", "moved/run")
    refused(ended, 3, f"{work}, where the run was started, is gone")
    shutil.move("moved/elsewhere.npz", "set.npz")
    shutil.move("moved/beside.npy", "beside.npy")
    assert genmod("verify", "moved/run").code == 0


@pytest.mark.reliability(41)
@pytest.mark.end_to_end
def test_data_that_were_moved_are_those_of_the_run(relative, genmod, monkeypatch):
    """Case 27: their fingerprint is what a run is, not their place."""
    work, file = relative
    shutil.move(work / "set.npz", work / "moved.npz")
    monkeypatch.chdir(work)
    ended = trained(genmod, file, work / "run", "--dataset", "npz:moved.npz", "--epochs", 2)
    assert "dataset was 'npz:set.npz' when the run began and is 'npz:moved.npz' now" in ended.err
    monkeypatch.chdir(work.parent)
    assert verify.run(work / "run", everything=True).difference is None
    np.savez(work / "other.npz", images=np.ones((40, 2, 2, 1), np.uint8))
    monkeypatch.chdir(work)
    ended = genmod("train", file, "--run-dir", "run", "--dataset", "npz:other.npz")
    refused(ended, 2, "run_dir 'run' holds another run: data is ")


@dataclasses.dataclass(frozen=True)
class OfData(data.Source):
    seed: int = 0
    epochs: int = 1
    beta: float = 1.0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"dataset": "tfds:fashion_mnist", "data_dir": "/a/b", "manual_dir": "c"}, "tfds-fashion"),
        ({"dataset": "npz:/home/me/sets/ok.npz"}, "npz-ok.npz"),
        ({"dataset": "folder:~/pictures/birds/", "image_size": 8}, "folder-birds_image_size-8"),
        ({"dataset": "call:/home/me/sets.py:birds"}, "call-sets.py-birds"),
    ],
)
def test_where_data_lie_is_no_part_of_a_runs_name(changes, name):
    """Case 27."""
    found = naming.name(OfData(**changes))
    assert found.startswith(f"seed-0_dataset-{name}")
    assert len(found) < 50
    assert "dir" not in found


def test_the_folder_here_has_its_own_name(tmp_path, monkeypatch):
    """Cases 10 and 27."""
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    name = "seed-0_dataset-folder-birds"
    assert naming.name(OfData(dataset="folder:.")) == name


@pytest.mark.end_to_end
def test_other_data_of_one_name_get_a_folder_of_their_own(genmod, mine, tmp_path, monkeypatch):
    """Case 27: nothing is refused, and nothing overwritten."""
    file = mine(*READS)
    monkeypatch.chdir(tmp_path)
    np.save("beside.npy", np.zeros(3))
    for value in (100, 200):
        (tmp_path / str(value)).mkdir()
        images = np.full((40, 2, 2, 1), value, np.uint8)
        np.savez(tmp_path / str(value) / "set.npz", images=images)
    commands = [("train", file, "--dataset", f"npz:{value}/set.npz") for value in (100, 200)]
    first, other = (genmod(*command) for command in commands)
    assert (first.code, first.err) == (0, "")
    assert "is of other data: this run's folder is " in other.err
    assert len(list((tmp_path / "runs" / "mine").iterdir())) == 2
    assert all("already trained" in genmod(*command).out for command in commands)


@pytest.mark.end_to_end
def test_pictures_are_trained_on_once(genmod, mine, tmp_path, monkeypatch):
    """Case 10: the same command again finds its run."""
    np.savez(tmp_path / "set.npz", images=np.zeros((40, 2, 2, 1), np.uint8))
    monkeypatch.chdir(tmp_path)
    np.save("beside.npy", np.zeros(3))
    flags = {"dataset": f"npz:{tmp_path / 'set.npz'}", "epochs": "2"}
    choice = pictures.Choice(mine(*READS), flags, "40 pictures")
    monkeypatch.setattr(pictures, "choose", lambda folder: choice)
    assert ": a new run of 8 steps" in genmod("train", ".").out
    assert ": already trained, to step 8" in genmod("train", ".").out


def test_a_field_that_the_record_lacks_has_its_default(genmod, mine, tmp_path):
    """Case 27: an experiment that got one more field since."""
    file, folder = mine(), tmp_path / "run"
    trained(genmod, file, folder)
    mine(("    epochs: int = 1\n", "    epochs: int = 1\n    beta: float = 1.5\n"))
    ended = trained(genmod, file, folder, "--epochs", 2)
    assert "the record has no beta, which the experiment did not have then: it is 1.5" in ended.err
    ended = genmod("train", file, "--run-dir", folder, "--beta", 2)
    refused(ended, 2, "beta is 1.5 there and 2.0 here")
    values = {"seed": 3, "epochs": 2}
    assert configs.from_json(OfData, values) == OfData(seed=3, epochs=2)
    assert configs.defaults(OfData, values)["beta"] == 1.0
    with pytest.raises(ValueError, match="the experiment expects"):
        configs.from_json(OfData, {**values, "gamma": 1})


def test_an_opened_run_says_which_field_its_record_lacks(genmod, mine, tmp_path, capsys):
    """Case 27."""
    folder = tmp_path / "run"
    trained(genmod, mine(), folder)
    text = (folder / "experiment.py").read_text()
    new = text.replace("    epochs: int = 1\n", "    epochs: int = 1\n    beta: float = 1.5\n")
    (folder / "experiment.py").write_text(new)
    loading.load_run(folder)
    assert "the record has no beta" in capsys.readouterr().err


def test_names_of_classes_are_recorded(tmp_path):
    """Case 23: what the classes of a folder are called."""
    arguments = {
        "experiment": "tiny",
        "source": Path(__file__),
        "config": {"seed": 0, "epochs": 1},
        "fingerprint": "sha256:aa",
        "command": "genmod train tiny",
    }
    folder, _ = record.open_folder(tmp_path / "run", **arguments, classes=("cat", "dog"))
    assert record.read(folder)["classes"] == ["cat", "dog"]
    folder, _ = record.open_folder(tmp_path / "other", **arguments)
    assert "classes" not in record.read(folder)


# Of the review: rates, and the size of a batch.


def test_a_rate_that_would_be_that_of_compiling_is_left_out(tmp_path, capsys):
    """Number 15 of the review."""
    folder = Folder(tmp_path)
    runner.run(tiny(), folder, seed=0, log_every=1)
    rows = logs.read_metrics(folder)
    assert [("examples_per_s" in row) for row in rows] == [False, True, True, True]
    first, second = capsys.readouterr().out.splitlines()[2:4]
    assert first == "epoch 0.25  step 1  loss 1.0000"
    assert "examples/s" in second


@pytest.mark.parametrize("of", ["batches", "a function"])
def test_a_batch_size_that_is_not_that_of_the_batches_is_refused(of):
    """Number 18 of the review."""
    built = tiny()
    known = built.batch_at
    batch_at = known if of == "batches" else lambda key, step: known(key, step)
    with pytest.raises(ValueError, match="got 20 where the batches have 10 examples"):
        dataclasses.replace(built, batch_at=batch_at, batch_size=20)
    assert dataclasses.replace(built, batch_at=batch_at, batch_size=0).batch_size == 10


def test_a_batch_size_that_the_batches_do_not_say_must_be_given():
    with pytest.raises(ValueError, match="batch_size must be given, as batch_at does not say it"):
        dataclasses.replace(tiny(), batch_at=lambda *_: None, batch_size=0)


def test_a_step_belongs_to_the_last_start_that_took_it():
    """Case 5: a run that went back to an earlier checkpoint."""
    content = {"starts": [{"step": s, "source": str(i)} for i, s in enumerate((0, 8, 4, 12))]}
    assert [kept_sources.of_step(content, step) for step in (1, 4, 5, 9, 12, 13)] == list("002223")
    assert kept_sources.of_step(content) == "3"
    assert kept_sources.of_step({"starts": [{"step": 0}]}, 1) == "experiment.py"
    assert kept_sources.of_step({}) == "experiment.py"
