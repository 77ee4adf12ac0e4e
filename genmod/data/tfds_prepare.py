"""Preparation of data sets of tensorflow-datasets (TFDS).

It runs in its own process, the only one that imports TensorFlow. The data set is made in a folder
beside the prepared data sets and moved when it is complete. The leftovers of a killed process are
therefore never read, and the next attempt deletes them.
"""

import contextlib
import difflib
import json
import math
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
    """Holds a lock for preparing a data set.

    It waits for another process that prepares the data set in root, and makes later ones wait.
    """
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
    """Prepares a data set as array_record in root.

    The data set must not exist there yet, and the caller must hold `alone`. If it fails, no partial
    files are left.

    Args:
      name: "NAME[/CONFIG][:VERSION]" of a data set that TFDS itself has code for.
      root: the folder of TFDS. Downloaded archives stay in its folder "downloads".
      manual_dir: a folder with original archives, which are then not downloaded.

    Raises:
      ValueError: if the config or version is unknown, or the examples are not images with labels.
      DataError: if the data set cannot be prepared, if an archive in manual_dir is not the original
        one, or if a download receives no byte for $GENMOD_DOWNLOAD_DEADLINE seconds (30 by
        default).
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
                folder.rmdir()  # rmdir removes only an empty folder


def refuse_features(name: str, features: Any) -> None:
    """Refuses examples that are not images with labels.

    Each example must hold an image, uint8 [H, W, C], and a whole number as its label, or factors.

    Raises:
      ValueError: if they do not; the message names the data set's features.
    """
    import tensorflow_datasets as tfds

    if not isinstance(features, tfds.features.FeaturesDict) or not _image_and_label(features):
        raise ValueError(
            f"data set {name!r} has the features {' '.join(str(features).split())}; expected "
            "'image', uint8 [H, W, C], and 'label', one integer, or classes 'label_...' (factors)"
        )


def factors_in(features: Any) -> tuple[tuple[str, int], ...]:
    """Returns names and sizes of the factors of variation among features.

    They are the classes with names that begin with `label_`, as in dSprites, of examples without a
    label, in alphabetical order. A number of values that is not known is 0.
    """
    import tensorflow_datasets as tfds

    if "label" in features:
        return ()
    return tuple(
        (name, feature.num_classes or 0)
        for name, feature in sorted(features.items())
        if name.startswith("label_") and isinstance(feature, tfds.features.ClassLabel)
    )


def _image_and_label(features: Any) -> bool:
    """Returns whether examples hold an image, and a label or factors.

    The image must be bytes [H, W, C], the label a whole number. All combinations of factors must
    have an int32 as their number.
    """
    if "image" not in features:
        return False
    image = features["image"]
    if not isinstance(image.shape, tuple) or (len(image.shape), image.np_dtype) != (3, np.uint8):
        return False
    if "label" in features:
        label = features["label"]
        return label.shape == () and np.issubdtype(label.np_dtype, np.integer)
    sizes = [size for _, size in factors_in(features)]
    return bool(sizes) and 0 < math.prod(sizes) < 2**31


def without_config(name: str) -> str:
    """Returns NAME of NAME[/CONFIG][:VERSION]."""
    return re.split("[/:]", name)[0]


def _stage(root: Path, dataset: str) -> Path:
    """Returns the folder for unfinished data sets."""
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
    """Runs a command and returns its exit code.

    The result is None if a download made no progress and the command was therefore ended.
    """
    environ = dict(os.environ)
    packages = [str(Path(__file__).parents[2]), environ.get("PYTHONPATH")]
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, packages))
    environ["CUDA_VISIBLE_DEVICES"] = "-1"  # else TensorFlow reserves the memory of the GPU
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The command prints only progress, hence stderr. The pipe tells it when this process ends.
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
        # The whole process group ends, with all processes that the command has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _under_way(downloads: Path) -> set[Path]:
    """Returns the folders of files that TFDS is downloading."""
    return set(downloads.rglob("*.tmp.*"))


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # TFDS has just moved the file
            size += path.stat().st_size
    return size


def _move(made: Path, place: Path) -> None:
    """Moves each finished version to its final folder."""
    for info in sorted(made.rglob("dataset_info.json")):
        target = place / info.parent.relative_to(made)
        if target.exists():
            raise DataError(f"{target}: in the way of a data set, and not one; delete it")
        # The file .config names the default config.
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
    """Reads the report of the process (JSON lines)."""
    said = {}
    with contextlib.suppress(OSError, ValueError):
        for line in report.read_text().splitlines():
            said |= json.loads(line)
    return said


def _say(text: str) -> None:
    print(f"genmod: {text}", file=sys.stderr, flush=True)


# The functions from here on run in the process that prepares the data set.


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

    # TFDS would ask a server for the number of examples, and wait for it without a deadline.
    tfds.core.DatasetInfo.initialize_from_bucket = lambda self: None
    try:
        builder = tfds.builder(name, data_dir=str(stage))
    except (AssertionError, ValueError):  # AssertionError means an unknown version
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
            # TFDS names an unpacked file by the archive's file name alone, and reuses any file of
            # that name. The archives of MNIST and Fashion-MNIST have the same names, so each data
            # set gets its own folder.
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
    """Names the unknown config or version, if any.

    Returns:
      A message for an error; None if config and version are known.
    """
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
    """Returns the error for an archive that TFDS does not know."""
    found = tfds.core.download.checksums.compute_url_info(path)
    # Debian's Fashion-MNIST, for example, was compressed again without the file names inside.
    idx = f"; one that was only packed again can be read with idx:{path.parent}"
    return (
        f"{path}: not the archive of {url}: it has {int(found.size):,} bytes and the SHA-256 "
        f"{found.checksum}, expected {int(expected.size):,} bytes and {expected.checksum}"
        + idx
        * ("-idx" in path.name)
    )


def _end_with_parent() -> None:
    os.read(0, 1)  # waits for the end of the pipe; nothing is ever written to it
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2]), (sys.argv[3:] or [None])[0]))
