"""Prepares a data set of tensorflow-datasets (TFDS), in a process of its own.

That takes TensorFlow, which is imported there alone. All is made in a folder beside the prepared
data sets and moved when it is whole: what a killed process leaves is never read, and goes at the
next attempt.
"""

import contextlib
import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from genmod import checks
from genmod.errors import DataError

_POLL = 0.25  # seconds


@contextlib.contextmanager
def alone(root: Path, dataset: str) -> Iterator[None]:
    """Waits until no other process prepares the data set in root, and keeps others waiting."""
    root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(root / f".preparing-{dataset}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _say(f"waiting for another process, which prepares data set {dataset!r} in {root}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def prepare(name: str, root: Path, manual_dir: str | None) -> None:
    """Prepares a data set as array_record in root, where it is not yet; the caller is `alone`.

    Args:
      name: "NAME[/CONFIG][:VERSION]", one that TFDS itself has code for.
      root: the folder of TFDS. Archives that are downloaded stay in its folder "downloads".
      manual_dir: a folder with original archives, which are not downloaded then.

    Raises:
      ValueError: if its config or version is unknown, or its examples are not images with labels.
      DataError: if it cannot be prepared, an archive in manual_dir is not the original one, or no
        byte of a download comes for $GENMOD_DOWNLOAD_DEADLINE seconds, 30 unless it is set. Nothing
        begun is left.
    """
    deadline = _deadline()
    dataset = without_config(name)
    stage, downloads = _stage(root, dataset), root / "downloads" / dataset
    before = _under_way(downloads)
    source = "" if manual_dir is None else f", from the archives in {manual_dir}"
    _say(f"preparing data set {name!r} in {root}{source}")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir()
        report = stage / "report"
        code = _run(_command(name, root, manual_dir), downloads, before, deadline)
        said = _read(report)
        if "refused" in said:
            raise ValueError(said["refused"])
        if code != 0:
            what = f"data set {name!r} cannot be prepared in {root}"
            if code is None:
                what += f": no network within {deadline:g} s (GENMOD_DOWNLOAD_DEADLINE)"
            else:
                what += f": {said.get('error') or f'its process ended with exit code {code}'}"
            if _under_way(downloads) - before:
                what += _without_network(said.get("files", {}), root / dataset, manual_dir)
            raise DataError(what)
        _move(stage / dataset, root / dataset)
    finally:
        for folder in _under_way(downloads) - before:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(stage, ignore_errors=True)
        for folder in (downloads, downloads.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if nothing is in it


def refuse_features(name: str, features: Any) -> None:
    """Refuses a data set whose examples are not an image, uint8 [H, W, C], and a whole number.

    Raises:
      ValueError: with the features that it has.
    """
    import tensorflow_datasets as tfds

    if not isinstance(features, tfds.features.FeaturesDict) or not _image_and_label(features):
        raise ValueError(
            f"data set {name!r} has the features {' '.join(str(features).split())}; expected "
            "'image', uint8 [H, W, C], and 'label', one integer"
        )


def _image_and_label(features: Any) -> bool:
    """Whether every example holds an image [H, W, C] of bytes and a whole number as its label."""
    if not {"image", "label"} <= set(features):
        return False
    image, label = features["image"], features["label"]
    return (
        isinstance(image.shape, tuple)
        and (len(image.shape), image.np_dtype) == (3, np.uint8)
        and label.shape == ()
        and np.issubdtype(label.np_dtype, np.integer)
    )


def without_config(name: str) -> str:
    """The data set's own name, of NAME[/CONFIG][:VERSION]."""
    return re.split("[/:]", name)[0]


def _stage(root: Path, dataset: str) -> Path:
    """Where a data set is made."""
    return root / f".preparing-{dataset}"


def _deadline() -> float:
    text = os.environ.get("GENMOD_DOWNLOAD_DEADLINE") or "30"
    try:
        deadline = float(text)
    except ValueError:
        raise ValueError(
            f"GENMOD_DOWNLOAD_DEADLINE must be a number of seconds, got {text!r}"
        ) from None
    checks.positive("GENMOD_DOWNLOAD_DEADLINE", deadline)
    return deadline


def _command(name: str, root: Path, manual_dir: str | None) -> list[str]:
    arguments = [name, str(root), *([] if manual_dir is None else [manual_dir])]
    return [sys.executable, "-m", "genmod.data.tfds_prepare", *arguments]


def _run(command: list[str], downloads: Path, before: set[Path], deadline: float) -> int | None:
    """The exit code of a command; None where a download stood still, and it was ended."""
    environ = dict(os.environ)
    packages = [str(Path(__file__).parents[2]), environ.get("PYTHONPATH")]
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, packages))
    environ["CUDA_VISIBLE_DEVICES"] = "-1"  # else TensorFlow takes the memory of the GPU
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # What it prints belongs to its progress. The pipe tells it when this process is no more.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=sys.__stderr__,
        stderr=sys.__stderr__,
        env=environ,
        start_new_session=True,
    )
    try:
        seen, since = None, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL)
            now = {folder: _size(folder) for folder in _under_way(downloads) - before}
            if not now or now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > deadline:
                return None
    finally:
        # Its group ends with it, whatever it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _under_way(downloads: Path) -> set[Path]:
    """The folders in which TFDS keeps the files that it is downloading."""
    return set(downloads.rglob("*.tmp.*"))


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it has just been moved to its place
            size += path.stat().st_size
    return size


def _move(made: Path, place: Path) -> None:
    """Moves each config and version that was made to its place."""
    for info in sorted(made.rglob("dataset_info.json")):
        target = place / info.parent.relative_to(made)
        if target.exists():
            raise DataError(f"{target}: in the way of a data set, and not one; delete it")
        # Which config is the default one.
        for default in made.glob(".config"):
            shutil.copytree(default, place / ".config", dirs_exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        info.parent.rename(target)


def _without_network(files: dict[str, str], place: Path, manual_dir: str | None) -> str:
    missing = [
        f"  {file}  ({url})"
        for file, url in sorted(files.items())
        if manual_dir is None or not (Path(manual_dir) / file).exists()
    ]
    other = f"prepare it where there is a network and copy {place}"
    if not missing:
        return f"; {other}"
    where = "in a folder of your own" if manual_dir is None else f"in {manual_dir}"
    lines = missing[:8] + [f"  and {len(missing) - 8} more"] * (len(missing) > 8)
    return "\n".join(
        [f"; put these files {where} and give it as manual_dir:", *lines, f"or {other}"]
    )


def _read(report: Path) -> dict[str, Any]:
    """What the process has said, one JSON object a line."""
    said = {}
    with contextlib.suppress(OSError, ValueError):
        for line in report.read_text().splitlines():
            said |= json.loads(line)
    return said


def _say(text: str) -> None:
    print(f"genmod: {text}", file=sys.stderr, flush=True)


# From here on: in the process of its own.


def _main(name: str, root: Path, manual_dir: str | None) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    stage = _stage(root, without_config(name))
    with (stage / "report").open("w") as report:

        def say(**said: Any) -> None:
            print(json.dumps(said), file=report, flush=True)

        try:
            _prepare(name, root, stage, manual_dir, say)
        except DataError as error:
            say(error=str(error))
            return 1
        except BaseException as error:
            say(error=f"{type(error).__name__}: {error}")
            raise
    return 0


def _prepare(name: str, root: Path, stage: Path, manual_dir: str | None, say: Any) -> None:
    import tensorflow_datasets as tfds

    # It would ask a server how many examples there are, and wait for it without a deadline.
    tfds.core.DatasetInfo.initialize_from_bucket = lambda self: None
    try:
        builder = tfds.builder(name, data_dir=str(stage))
    except (AssertionError, ValueError):  # the first is for versions
        unknown = _unknown(tfds, name, stage)
        if unknown is None:
            raise
        say(refused=unknown)
        sys.exit(1)
    try:
        refuse_features(name, builder.info.features)
    except ValueError as error:
        say(refused=str(error))
        sys.exit(1)
    archives = (builder.url_infos or {}).items()
    say(files={info.filename: url for url, info in archives if info.filename})
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_dir=str(root / "downloads"),
            # TFDS names what it unpacks by the archive's file name alone, takes what has that name
            # for it, and MNIST's and Fashion-MNIST's archives share theirs: so a folder for each.
            download_config=tfds.download.DownloadConfig(
                extract_dir=str(stage / "extracted"), manual_dir=manual_dir, try_download_gcs=False
            ),
        )
    except tfds.core.download.download_manager.NonMatchingChecksumError as error:
        for url, info in archives:
            if manual_dir is not None and info.filename and url in str(error):
                path = Path(manual_dir, info.filename)
                if str(path) in str(error):  # else it was downloaded
                    raise DataError(_another(tfds, path, url, info)) from error
        raise


def _unknown(tfds: Any, name: str, stage: Path) -> str | None:
    """What TFDS does not know in the name of a data set that it has: a config, or a version."""
    dataset = without_config(name)
    named, _, version = name.partition(":")
    config = named.removeprefix(dataset).removeprefix("/")
    configs = sorted({known.name for known in tfds.builder_cls(dataset).BUILDER_CONFIGS})
    if config and config not in configs:
        near = difflib.get_close_matches(config, configs, n=3)
        some = ", ".join(configs[:20]) + f" and {len(configs) - 20} more" * (len(configs) > 20)
        return (
            f"unknown config {config!r} of data set {dataset!r}; nearest: "
            f"{', '.join(near) or 'none'}; there is: {some or 'none'}"
        )
    versions = tfds.builder(named, data_dir=str(stage)).versions
    if version and not any(known.match(version) for known in versions):
        there = ", ".join(map(str, versions))
        return f"unknown version {version!r} of data set {named!r}; there is: {there}"
    return None


def _another(tfds: Any, path: Path, url: str, expected: Any) -> str:
    """Says that an archive is not the one that TFDS knows."""
    found = tfds.core.download.checksums.compute_url_info(path)
    # Debian's Fashion-MNIST, for one, was packed again without the names in it.
    idx = f"; one that was only packed again can be read with idx:{path.parent}"
    return (
        f"{path}: not the archive of {url}: it has {int(found.size):,} bytes and the SHA-256 "
        f"{found.checksum}, expected {int(expected.size):,} bytes and {expected.checksum}"
        + idx
        * ("-idx" in path.name)
    )


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written: it waits for the end of the pipe
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2]), (sys.argv[3:] or [None])[0]))
