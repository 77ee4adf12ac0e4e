"""Sources that a run was started with.

The run folder keeps each source once, by its hash. `experiment.py` is the experiment file of the
first start. `sources/HASH/FILE.py` is the file of a start that had another one, or that imports
modules beside it; those modules are kept there, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genmod._host import source
from genmod._host.source import Code

FIRST = "experiment.py"
_FOLDER = "sources"


def place(folder: Path, code: Code) -> str:
    """Returns the path under which a run folder keeps a source.

    It is relative to the folder. The source may not be there yet.
    """
    first, file = folder / FIRST, code.path.name
    if len(code.files) == 1 and (not first.exists() or first.read_bytes() == code.files[file]):
        return FIRST
    return f"{_FOLDER}/{code.hash[:12]}/{file}"


def keep(folder: Path, code: Code) -> str:
    """Keeps a source in the run folder, if it is new.

    Returns:
      The path of the source, relative to the folder.

    Raises:
      OSError: if the source cannot be written.
    """
    where = place(folder, code)
    if not (folder / FIRST).exists():
        (folder / FIRST).write_bytes(code.files[code.path.name])
    if where != FIRST and not (folder / where).parent.is_dir():
        source.keep(code, (folder / where).parent)
    return where


def of_step(content: Mapping[str, Any], step: int | None = None) -> str:
    """Returns the path of the source that took a step.

    It is relative to the run folder.

    Args:
      content: the record of the run.
      step: the step, counted from 1; if None, the source of the last start is returned.
    """
    starts: Sequence[Mapping[str, Any]] = content.get("starts", [])
    # If a run went back, the later start took the steps that were repeated.
    took = [one for one in starts if step is None or one["step"] < step]
    return took[-1].get("source", FIRST) if took else _first(content)


def edited(content: Mapping[str, Any], folder: Path) -> list[str]:
    """Returns a remark if the experiment was edited.

    This is so if the source of the last start is not that of the first.
    """
    last, first = of_step(content), _first(content)
    if last == first:
        return []
    step = content["starts"][-1]["step"]
    return [
        f"{folder}: the experiment was edited after the run began: its source at the last start, "
        f"at step {step:,} ({folder / last}), is used, not that at the first ({folder / first})"
    ]


def changes(content: Mapping[str, Any], folder: Path, code: Code, called: str | Path) -> list[str]:
    """Returns remarks on changes of a source since the run began.

    Args:
      content: the record of the run.
      folder: the run folder.
      code: the source as it is now.
      called: name of its file in the remarks.
    """
    copy, kept = folder / FIRST, folder / _first(content)
    if not kept.exists():  # the run was killed before the source was kept
        kept = copy
    modules = {}
    if kept != copy:
        files = (file for file in sorted(kept.parent.rglob("*")) if file.is_file())
        modules = {file.relative_to(kept.parent).as_posix(): file for file in files if file != kept}
    said = []
    if kept.read_bytes() != code.files[code.path.name]:
        said.append(f"{called} has changed since the run began (its copy is {copy})")
    now = {name: text for name, text in code.files.items() if name != code.path.name}
    for name in sorted(now.keys() | modules.keys()):
        path = code.path.parent / name
        if name not in modules:
            said.append(f"{path} is imported, and there is no copy of when the run began")
        elif name not in now:
            said.append(f"{path} is imported no longer (its copy is {modules[name]})")
        elif now[name] != modules[name].read_bytes():
            said.append(f"{path} has changed since the run began (its copy is {modules[name]})")
    return said


def _first(content: Mapping[str, Any]) -> str:
    starts = content.get("starts", [])
    return (starts[0] if starts else content).get("source", FIRST)
