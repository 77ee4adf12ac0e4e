"""Data sets of tensorflow-datasets (TFDS).

They are prepared on first use and read without TensorFlow. Preparing a standard data set needs
TensorFlow and usually the network; reading one that is prepared in the array_record format needs
neither. Therefore this module opens only files on disk and asks no server. The builder that TFDS
has for a data set may import TensorFlow, so it is created in another process (`tfds_prepare`).
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

# Names have the form NAME[/CONFIG][:VERSION]. TFDS also knows namespaces, as in
# "huggingface:mnist", but needs the network for them.
_NAME = re.compile(r"[a-z]\w*(/[\w+.-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?")


def examples(
    name: str, split: str, data_dir: str | None, manual_dir: str | None = None
) -> Prepared:
    """Returns the examples of a split in stored order.

    A data set that is not prepared yet is prepared first, if TensorFlow is installed.

    Args:
      name: "NAME", "NAME/CONFIG", "NAME:VERSION" or "NAME/CONFIG:VERSION". The default config is
        that of the data set; the default version is the newest prepared one.
      split: a split of the data set, or any expression that TFDS understands, such as
        "train[:50%]" or "train+test".
      data_dir: the folder of TFDS; if None, the default of TFDS, which is $TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      manual_dir: a folder with original archives, named like the files at their addresses; these
        archives are not downloaded.

    Raises:
      ValueError: if the name or the split is unknown, if the split is empty, if the examples are
        not a uint8 image with an integer label or with factors, or if manual_dir is not a folder.
      DataError: if the data set is damaged or stored in another format than array_record, or if it
        is not prepared and cannot be, for lack of TensorFlow or a network (see `tfds_prepare`).
    """
    import tensorflow_datasets as tfds  # imported here, as it takes a third of a second

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
    factors = tfds_prepare.factors_in(builder.info.features)
    label = min(factors, key=lambda factor: factor[1])[0] if factors else "label"
    names = getattr(builder.info.features[label], "names", None) or ()
    return dataclasses.replace(found, depth=depth, classes=tuple(names), factors=factors)


def _open(tfds: Any, name: str, root: Path, manual_dir: str | None) -> Any:
    """Returns the TFDS builder of a data set in root.

    The builder knows features, splits and files. If the data set is not prepared yet, it is
    prepared first if possible.
    """
    prepare = (
        "prepare it where TensorFlow is installed "
        "(pip install tensorflow-cpu importlib_resources):\n"
        "  import tensorflow_datasets as tfds\n"
        f"  tfds.builder({name!r}, data_dir={str(root)!r})"
        '.download_and_prepare(file_format="array_record")'
    )
    dataset = tfds_prepare.without_config(name)
    # TFDS would ask a server for the list of community data sets.
    standard = tfds.list_builders(with_community_datasets=False)

    def find() -> Any:
        try:
            # tfds.builder would prefer the data set's code and the version that this code is for.
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=str(root))
        except tfds.core.DatasetNotFoundError:
            return None
        except ImportError:  # a package is missing; the data are not damaged
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
        # Search NAME/VERSION and NAME/CONFIG/VERSION, but no deeper: downloads may be in root, too.
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
    """Returns whether TFDS can prepare data sets in root.

    TensorFlow and the other packages that TFDS needs must be installed, and root must be a local
    folder.
    """
    modules = ("tensorflow", "importlib_resources")
    bucket = any(part.endswith(":") for part in root.parts[1:])  # gs://...
    return not bucket and None not in map(importlib.util.find_spec, modules)
