"""Starting as people start: a plain shell, which has none of the tests' variables."""

import configparser
import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, Ended, refused, small_run
from tqdm import tqdm

from genmod import checks, rng
from genmod._host import disk, terminal
from genmod._host.stop import Phase, Stop, Stopped
from genmod.evaluate import judges
from genmod.report import canvas, page
from genmod.runs import catalogue

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "experiments"
EARLY = (
    "    def __post_init__(self):\n",
    "    def __post_init__(self):\n        rng.root(self.seed)\n",
)


@pytest.fixture
def plainly(shell, tmp_path):
    """Runs a line of bash in a plain shell, in a folder of its own; $GENMOD is the command."""

    def run(command, **variables):
        environment = {**shell, "GENMOD": f"{sys.executable} -m genmod", **variables}
        shell_command = ["bash", "-c", command]
        done = subprocess.run(shell_command, cwd=tmp_path, env=environment, capture_output=True)
        out, err = (said.decode(errors="replace") for said in (done.stdout, done.stderr))
        return Ended(done.returncode, out, err)

    return run


def recorded(folder):
    return json.loads((folder / "record.json").read_text())


# Case 2: what only parses starts nothing.

PARSING = """
import contextlib, io, sys
from pathlib import Path
from jax._src import xla_bridge
from genmod.cli import main as cli
from genmod.cli import training
from genmod.runs import catalogue

for path in map(Path, sys.argv[1:]):
    module = catalogue.load(path)
    assert not xla_bridge.backends_are_initialized(), f"{path} starts JAX when it is imported"
    config, options = training.parse(module, path.stem, ["--seed", "3"])
    assert config.seed == 3
    assert not xla_bridge.backends_are_initialized(), f"{path} starts JAX for its flags"
    for arguments in (["--help"], ["--seed", "-1"], ["--epochs", "0"]):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with contextlib.suppress(SystemExit, ValueError):
                training.parse(module, path.stem, arguments)
        assert not xla_bridge.backends_are_initialized(), f"{path} starts JAX for {arguments}"
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main(["completion", "bash"])
assert not xla_bridge.backends_are_initialized(), "completion starts JAX"
"""


def test_what_only_parses_never_starts_jax(shell, tmp_path):
    files = [str(path) for path in [*sorted(SHIPPED.glob("*.py")), SMALL]]
    command = [sys.executable, "-c", PARSING, *files]
    done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_seed_is_checked_without_a_key(seed):
    assert checks.seed("seed", seed) == seed


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "1", None])
def test_what_is_no_seed_is_refused(seed):
    for refuse in (lambda: checks.seed("seed", seed), lambda: rng.root(seed)):
        with pytest.raises(ValueError, match=r"seed must be a whole number in \[0, 2\*\*32\), got"):
            refuse()


TINY = "--epochs 1 --batch-size 2000 --hidden 8 --no-progress --run-dir run"


@pytest.mark.parametrize(
    "flags",
    [
        "--devices 2",
        pytest.param("--devices 2 --how pmap", marks=pytest.mark.slow),
        pytest.param("--seeds 2", marks=pytest.mark.slow),
    ],
)
def test_a_shipped_experiment_uses_the_devices_that_readme_promises(plainly, tmp_path, flags):
    if "seeds" in flags and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("seeds are spread over the cores, and here is one")
    ended = plainly(f"$GENMOD train {SHIPPED / 'mixtures.py'} {TINY} {flags}")
    assert (ended.code, ended.err) == (0, "")
    assert [start["devices"] for start in recorded(tmp_path / "run")["starts"]] == [2]


@pytest.mark.slow
def test_two_processes_of_a_shipped_experiment_are_one_run(plainly, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = f"$GENMOD train {SHIPPED / 'mnist_vae.py'} {TINY} --num-processes 2 "
    command += f"--coordinator localhost:{port} --process-id"
    ended = plainly(f"{command} 1 & {command} 0; code=$?; wait $! && exit $code")
    assert ended.code == 0, ended.err[-3000:]
    assert ended.out.count("a new run of") == 1
    assert [start["devices"] for start in recorded(tmp_path / "run")["starts"]] == [2]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--devices 2",
            "devices must be at most 1 here, got 2: early.py starts JAX while its flags",
        ),
        (
            "--coordinator localhost:1 --num-processes 2 --process-id 0",
            "early.py starts JAX while its flags are read",
        ),
    ],
)
def test_an_experiment_that_starts_jax_too_early_is_named(plainly, tmp_path, flags, said):
    early = SMALL.read_text().replace(*EARLY).replace("import checks", "import rng, checks")
    (tmp_path / "early.py").write_text(early)
    refused(plainly(f"$GENMOD train early.py --run-dir run {flags}"), 2, said, "checks.seed")
    assert not (tmp_path / "run").exists()


# Case 17: printing never stops a run.


class Refusing(io.StringIO):
    """A stream that takes no more after some text, as a pipe whose reader has gone."""

    def __init__(self, error, most=0):
        super().__init__()
        self.error, self.left = error, most

    def write(self, text):
        self.left -= len(text)
        if self.left < 0:
            raise self.error
        return super().write(text)


GONE = BrokenPipeError(errno.EPIPE, "Broken pipe")
FULL = OSError(errno.ENOSPC, "No space left on device")
HUNG_UP = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("error", [GONE, FULL, HUNG_UP])
@pytest.mark.reliability(35)
def test_what_cannot_be_printed_is_left_out_and_that_is_said_once(capsys, monkeypatch, error):
    out = Refusing(error, most=6)
    monkeypatch.setattr(sys, "stdout", out)
    with terminal.guarded():
        for text in ("first", "second", "third"):
            print(text, flush=True)
    assert sys.stdout is out
    assert out.getvalue() == "first\n"
    note = f"note: standard output takes no more ({error.strerror}): the run goes on without it\n"
    assert capsys.readouterr().err == note


@pytest.mark.reliability(35)
def test_a_command_whose_result_cannot_be_printed_ends(monkeypatch):
    for error, kind in ((GONE, SystemExit), (FULL, disk.DiskError)):
        monkeypatch.setattr(sys, "stdout", Refusing(error))
        with pytest.raises(kind) as ended, terminal.guarded(is_result=True):
            print("a result", flush=True)
        if kind is SystemExit:
            assert ended.value.code == 141
        else:
            assert "standard output cannot be written: No space left on device" in str(ended.value)


@pytest.mark.reliability(35)
def test_nothing_is_printed_on_a_standard_error_that_is_gone(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Refusing(HUNG_UP))
    monkeypatch.setattr(sys, "stdout", Refusing(GONE))
    with terminal.guarded():
        print("a line")
        print("a warning", file=sys.stderr, flush=True)
        bar = tqdm(total=2, file=sys.stderr)
        bar.update(2)
        bar.close()


@pytest.mark.reliability(35)
def test_a_run_goes_on_without_its_streams(genmod, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Refusing(GONE, most=20))
    monkeypatch.setattr(sys, "stderr", Refusing(FULL))
    assert genmod("train", "small", "--run-dir", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    "where",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", ">&- 2>&-")),
        *("2>&1 | head -n 1", "> /dev/full 2> /dev/full", "<&- >&- 2>&-"),
    ],
)
@pytest.mark.reliability(35)
def test_a_run_ends_well_whatever_its_streams_are(plainly, tmp_path, where):
    if "/dev/full" in where and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    ended = plainly(f"$GENMOD train {SMALL} --run-dir run {where}; exit ${{PIPESTATUS[0]}}")
    assert ended.code == 0, ended
    assert "Traceback" not in ended.err
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) >= 1
    # Nothing that was printed went into a file of the run.
    assert b"new run" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("command", "code"),
    [("--help > /dev/full", 1), ("runs >&-", 0), ("runs 2>&-", 0), ("--help | true", None)],
)
@pytest.mark.reliability(35)
def test_other_commands_end_without_a_traceback(plainly, command, code):
    ended = plainly(f"$GENMOD {command}; exit ${{PIPESTATUS[0]}}")
    assert ended.code in ({code} if code is not None else {0, 141}), ended
    assert "Traceback" not in ended.err
    assert "Exception ignored" not in ended.err


# Case 18: names that cannot be spelt.

NO_UNICODE = os.fsdecode(b"no-unicode-\xff")


def latin(monkeypatch):
    """Standard output as PYTHONIOENCODING=latin-1 has it."""
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


@pytest.mark.parametrize(("name", "printed"), [("走る", "\\u8d70\\u308b"), ("\udcff", "\\udcff")])
@pytest.mark.reliability(35)
def test_a_name_that_cannot_be_printed_is_escaped(monkeypatch, name, printed):
    stream = latin(monkeypatch)
    with terminal.guarded():
        print(f"näme {name}", flush=True)
    assert stream.buffer.getvalue().decode("latin-1") == f"näme {printed}\n"


@pytest.mark.reliability(35)
def test_a_run_in_a_folder_that_cannot_be_printed(genmod, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stream = latin(patched)
        assert genmod("train", "small", "--run-dir", tmp_path / "走る").code == 0
        assert genmod("runs", tmp_path).code == 0
        text = stream.buffer.getvalue().decode("latin-1")
    assert text.count("\\u8d70\\u308b") > 3
    assert (tmp_path / "走る" / "evaluation.json").is_file()


@pytest.fixture
def nameless(tmp_path):
    """A folder whose name is not Unicode."""
    folder = tmp_path / NO_UNICODE
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system knows Unicode alone")
    return folder


@pytest.mark.reliability(35)
def test_a_run_whose_folder_is_no_unicode_is_a_run(genmod, nameless, tmp_path):
    source = nameless / "small.py"
    source.write_bytes(SMALL.read_bytes())
    runs = [nameless / "a", nameless / "b"]
    for seed, run in enumerate(runs):
        small_run(run, seed=seed)
    longer = genmod("train", source, "--run-dir", runs[0], "--epochs", 4)
    assert longer.code == 0, longer
    assert "continuing at step 12" in longer.first_line
    for done in (
        genmod("report", *runs, "--out", tmp_path / "report.html"),
        genmod("sample", runs[0], "--out", nameless / "grid.png"),
        genmod("runs", nameless),
    ):
        assert done.code == 0, done
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "no-unicode-\\udcff" in page
    assert (nameless / "grid.png").is_file()


@pytest.mark.parametrize("name", ["\udcff", "走る", "a$b", "$a^^b$", "$x_1$", "a\tb"])
@pytest.mark.reliability(35)
def test_a_figure_can_hold_any_name(name):
    figure = canvas.figure(3, 2)
    axes = figure.subplots()
    axes.plot([1, 2], label=name)
    axes.set_title(name)
    axes.legend()
    for form in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=form)
    assert page.svg(figure).startswith("<svg")


# Case 20: a platform that is not there.


@pytest.mark.parametrize(
    ("platform", "command"),
    [
        ("tpu", f"train {SMALL} --run-dir run"),
        ("cuda", f"train {SMALL} --run-dir run --seeds 2"),
        ("nonsense", "data mnist"),
    ],
)
@pytest.mark.reliability(36)
def test_a_platform_that_is_not_there_is_refused(plainly, tmp_path, platform, command):
    if platform == "cuda" and shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU")
    ended = plainly(f"$GENMOD {command}", JAX_PLATFORMS=platform)
    said = f"JAX_PLATFORMS must name platforms of this machine (cpu), got '{platform}'"
    refused(ended, 2, said)
    assert len(ended.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# Case 26: signals other than Ctrl-C and SIGTERM.


@pytest.fixture
def hang_ups_are_heard():
    """SIGHUP is not ignored, as it is where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
@pytest.mark.reliability(34)
def test_a_signal_that_would_end_a_run_has_it_saved_first(hang_ups_are_heard, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Stop() as stop:
        stop.phase = Phase.STEPPING
        # A terminal that closes sends two, and the system may end what it has started.
        for one in (number, number, signal.SIGTERM):
            os.kill(os.getpid(), one)
        assert stop.signal == number
        with pytest.raises(Stopped) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.value.code == 143
    assert signal.getsignal(number) is before
    with Stop(), pytest.raises(Stopped) as ended:  # there is nothing to save
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number


@pytest.mark.reliability(34)
def test_a_signal_that_is_ignored_or_heard_already_stays_so():
    heard = []
    handlers = {signal.SIGHUP: signal.SIG_IGN, signal.SIGUSR1: lambda *_: heard.append(1)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with Stop() as stop:
            for number in handlers:
                os.kill(os.getpid(), number)
            assert stop.signal is None
        assert heard == [1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("ignored", "code"), [(False, 129), (True, 130)])
@pytest.mark.reliability(34)
def test_a_terminal_that_hangs_up_has_the_run_saved(
    hang_ups_are_heard, plainly, tmp_path, ignored, code
):
    options = "--run-dir run --epochs 1000000 --log-every 4000"
    send = "kill -HUP $!; kill -HUP $!" + "; sleep 1; kill -INT $!" * ignored
    command = f"$GENMOD train {SMALL} {options} > out 2> err"
    if ignored:
        command = f"(trap '' HUP; exec {command})"
    waits = "until grep -q 'step 4,000' out; do kill -0 $! || exit 1; sleep .1; done"
    ended = plainly(f"set -m; {command} & {waits}; {send}; wait $!")
    assert ended.code == code, (ended, (tmp_path / "err").read_text())
    assert re.search(r"saved at step [\d,]+; to continue: genmod", (tmp_path / "out").read_text())
    assert list((tmp_path / "run" / "checkpoints").glob("0*"))


# Installed from its wheel.


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel of this repository puts into site-packages."""
    folder = tmp_path_factory.mktemp("installed")
    build = ["import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib", str(folder)]
    done = subprocess.run([sys.executable, "-c", *build], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def modules(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


def test_a_wheel_holds_the_package_and_the_experiments(installed):
    shipped = {path.name for path in SHIPPED.glob("*.py")}
    shipped |= {f"tables/{path.name}" for path in (SHIPPED / "tables").glob("*.py")}
    built = modules(installed / "genmod")
    assert built == modules(ROOT / "genmod") | {f"shipped_experiments/{name}" for name in shipped}
    assert [path.name for path in installed.iterdir()] == ["genmod"]
    weights = [f"evaluate/weights/{name}.npz" for name in judges.names()]
    files = ["py.typed", "report/assets/page.html", *weights]
    for data in [*files, "data/mnist_archives/train-images-idx3-ubyte.gz"]:
        assert (installed / "genmod" / data).is_file()


def test_in_an_empty_folder_the_shipped_experiments_are_known(plainly, installed, tmp_path):
    ended = plainly("$GENMOD train --help", PYTHONPATH=str(installed))
    assert "article_vae, augmentation" in ended.out
    ended = plainly("$GENMOD train artcle_vae", PYTHONPATH=str(installed))
    refused(ended, 2, "did you mean 'article_vae'", "there is: article_gan, article_vae")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "article_vae.py").write_text('raise SystemExit("mine comes first")')
    (tmp_path / "experiments" / "own.py").write_bytes(SMALL.read_bytes())
    ended = plainly("$GENMOD train article_vae", PYTHONPATH=str(installed))
    assert "mine comes first" in ended.err
    ended = plainly("$GENMOD completion bash", PYTHONPATH=str(installed))
    assert ended.code == 0
    assert "own" in ended.out
    assert "stacked_mnist" in ended.out


def test_a_name_is_looked_for_here_and_then_in_genmod(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert catalogue.find("article_vae").samefile(SHIPPED / "article_vae.py")
    own = tmp_path / "experiments" / "article_vae.py"
    own.parent.mkdir()
    own.write_text("")
    assert catalogue.find("article_vae").samefile(own)
    assert set(catalogue.names()) == {path.stem for path in SHIPPED.glob("*.py")}


def test_a_page_and_an_export_need_no_extra():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    needed = settings["options"]["install_requires"]
    assert all(f"\n{name}>=" in needed for name in ("jinja2", "safetensors", "flatbuffers"))
    # Their names stay, so that whoever asks for them as before is not warned.
    assert not settings["options.extras_require"]["report"].strip()
    assert not settings["options.extras_require"]["export"].strip()


def test_in_an_empty_folder_a_shipped_experiment_is_trained(plainly, installed, tmp_path):
    here = {"PYTHONPATH": str(installed)}
    ended = plainly("$GENMOD train article_vae --epochs 1 --batch-size 2000 --no-progress", **here)
    assert ended.code == 0, ended
    (run,) = tmp_path.glob("runs/article_vae/*")
    for command in (f"report {run}", f"export {run}", f"verify {run}"):
        ended = plainly(f"$GENMOD {command}", **here)
        assert ended.code == 0, (command, ended)
    assert "shipped_experiments" in recorded(run)["code"]["source"]
