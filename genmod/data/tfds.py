"""Data sets of tensorflow-datasets (TFDS), prepared on first use and read without TensorFlow.

Preparing a standard data set takes TensorFlow and usually the network; reading one that is prepared
in the array_record format takes neither. So only what is on disk is opened here: the builder that
TFDS has for a data set, which may import TensorFlow, is made in another process (`tfds_prepare`),
and no server is asked.
"""

import dataclasses
import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any

from genmod._host.examples import Prepared
from genmod.data import tfds_prepare
from genmod.data.cache import file_state
from genmod.errors import DataError, NoSuchSplit

# NAME[/CONFIG][:VERSION]. TFDS also knows namespaces, as in "huggingface:mnist", and asks the
# network for those.
_NAME = re.compile(r"[a-z]\w*(/[\w+.-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?")


def examples(
    name: str, split: str, data_dir: str | None, manual_dir: str | None = None
) -> Prepared:
    """The examples of a data set, in the order in which they are stored.

    One that is not prepared is prepared first, where TensorFlow is installed.

    Args:
      name: "NAME", "NAME/CONFIG", "NAME:VERSION" or "NAME/CONFIG:VERSION". Without a config it is
        the data set's default one, without a version the newest that is prepared.
      split: a split of the data set, or whatever TFDS understands: "train[:50%]", "train+test".
      data_dir: the folder of TFDS; None is its own default, the environment's TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      manual_dir: a folder with the original archives, under the file names of their addresses: what
        is there is not downloaded.

    Raises:
      ValueError: if the name or the split is unknown, the split is empty, or the examples are not
        a uint8 image with an integer label; or manual_dir is not a folder.
      DataError: if the data set is damaged, stored in another format than array_record, or not
        prepared and cannot be: without TensorFlow, or without a network (see `tfds_prepare`).
    """
    import tensorflow_datasets as tfds  # takes a third of a second: whoever needs it waits

    root = Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir)
    builder = _open(tfds, name, root.expanduser().absolute(), manual_dir)
    splits = builder.info.splits
    tfds_prepare.refuse_features(name, builder.info.features)
    try:
        num = splits[split].num_examples
    except (AttributeError, KeyError, ValueError) as error:
        there = ", ".join(f"{key!r} ({part.num_examples})" for key, part in splits.items())
        raise NoSuchSplit(
            f"unknown split {split!r} of data set {name!r}; there is: {there or 'none'}, and parts "
            "such as 'train[:50%]'"
        ) from error
    if num <= 0:
        raise ValueError(f"split {split!r} of data set {name!r} is empty; expected examples")

    folder = Path(builder.data_dir)
    files = [Path(part.filename) for part in splits[split].file_instructions]
    stats = [(file.name, file.stat()) for file in sorted(set(files)) if file.exists()]
    state = tuple((name, *file_state(stat)) for name, stat in stats)
    found = Prepared(str(folder), split, range(num), state, 0)
    depth = builder.info.features["image"].shape[-1] or found.read(0).image.shape[-1]
    names = getattr(builder.info.features["label"], "names", None) or ()
    return dataclasses.replace(found, depth=depth, classes=tuple(names))


def _open(tfds: Any, name: str, root: Path, manual_dir: str | None) -> Any:
    """The TFDS builder of what is prepared in root: it knows features, splits and files."""
    prepare = (
        "prepare it where TensorFlow is installed (pip install 'genmod[tfds]'):\n"
        "  import tensorflow_datasets as tfds\n"
        f"  tfds.builder({name!r}, data_dir={str(root)!r})"
        '.download_and_prepare(file_format="array_record")'
    )
    dataset = tfds_prepare.without_config(name)
    # Community data sets would be listed by a server.
    standard = tfds.list_builders(with_community_datasets=False)

    def find() -> Any:
        try:
            # Not tfds.builder, which prefers the data set's code and the version that code is for.
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=str(root))
        except tfds.core.DatasetNotFoundError:
            return None
        except ImportError:  # something is not installed: the data are not to blame
            raise
        except Exception as error:
            raise DataError(
                f"{root / dataset}: data set {name!r} is damaged ({error}); delete it and {prepare}"
            ) from error

    builder = find() if _NAME.fullmatch(name) else None
    if builder is None and _NAME.fullmatch(name) and dataset in standard and _can_prepare(root):
        if manual_dir is not None:
            manual_dir = str(Path(manual_dir).expanduser().absolute())
            if not Path(manual_dir).is_dir():
                raise ValueError(f"manual_dir {manual_dir!r} must be a folder with archives")
        with tfds_prepare.alone(root, dataset):
            builder = find()
            if builder is None:
                tfds_prepare.prepare(name, root, manual_dir)
                builder = find()

    if builder is None:
        # NAME/VERSION and NAME/CONFIG/VERSION; no deeper, as downloads may lie in the same folder.
        found = [
            path.parent.relative_to(root)
            for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
            for path in root.glob(pattern)
        ]
        known = {*standard, *(path.parts[0] for path in found)}
        if dataset not in known or not _NAME.fullmatch(name):
            near = difflib.get_close_matches(dataset.lower(), sorted(known), n=3)
            raise ValueError(
                f"unknown data set {name!r} of tensorflow-datasets; nearest: "
                f"{', '.join(near) or 'none'}; expected NAME[/CONFIG][:VERSION]"
            )
        there = ", ".join(sorted(str(path) for path in found if path.parts[0] == dataset))
        raise DataError(
            f"data set {name!r} is not prepared in {root / dataset} (found: {there or 'nothing'}); "
            f"{prepare}"
        )
    formats = {kind.value for kind in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise DataError(
            f"data set {name!r} in {builder.data_dir} is stored as {', '.join(sorted(formats))}, "
            f"expected array_record; delete that folder, or choose another data_dir, and {prepare}"
        )
    return builder


def _can_prepare(root: Path) -> bool:
    """Whether TensorFlow is installed, with what TFDS needs beside it, and root is a folder."""
    modules = ("tensorflow", "importlib_resources")
    bucket = any(part.endswith(":") for part in root.parts[1:])  # gs://...
    return not bucket and None not in map(importlib.util.find_spec, modules)
