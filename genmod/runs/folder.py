"""The places in a run folder."""

import dataclasses
from pathlib import Path

from genmod._host import lock


@dataclasses.dataclass(frozen=True)
class Folder:
    """The places in a run folder."""

    path: Path

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))  # a script may give its name

    @property
    def record(self) -> Path:
        """What the run is: record.json."""
        return self.path / "record.json"

    @property
    def experiment(self) -> Path:
        """The copy of the experiment file."""
        return self.path / "experiment.py"

    @property
    def metrics(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def unlogged(self) -> Path:
        """A log point that a stopped run had not finished."""
        return self.path / "unlogged.json"

    @property
    def evaluation(self) -> Path:
        """Numbers taken at the end."""
        return self.path / "evaluation.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """The folder of pictures."""
        return self.path / "pictures"

    @property
    def replay(self) -> Path:
        """The folder of pictures of replayed steps."""
        return self.path / "replay"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard events."""
        return self.path / "tensorboard"

    def refuse_foreign(self) -> None:
        """Refuses a folder that holds something else than a run.

        Raises:
          ValueError: if it is neither a run, nor empty, nor yet to be made.
        """
        if self.record.exists() or not self.path.exists():
            return
        # A record half-written by a run that was killed at its start is no obstacle.
        is_free = self.path.is_dir() and all(
            file.suffix == ".partial" or file.name in lock.FILES for file in self.path.iterdir()
        )
        if not is_free:
            raise ValueError(
                f"run_dir {str(self.path)!r} exists and is not a genmod run (it has no "
                "record.json); expected a new or empty folder"
            )
