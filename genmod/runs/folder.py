"""Paths of the files in a run folder."""

import dataclasses
from pathlib import Path

from genmod._host import lock


@dataclasses.dataclass(frozen=True)
class Folder:
    """Run folder with the paths of its files."""

    path: Path

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))  # a script may pass a string

    @property
    def record(self) -> Path:
        """Path of record.json, which describes the run."""
        return self.path / "record.json"

    @property
    def experiment(self) -> Path:
        """Path of the copy of the experiment file."""
        return self.path / "experiment.py"

    @property
    def metrics(self) -> Path:
        """Path of the log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def unlogged(self) -> Path:
        """Path of a log point that a stopped run left unfinished."""
        return self.path / "unlogged.json"

    @property
    def evaluation(self) -> Path:
        """Path of the numbers taken at the end."""
        return self.path / "evaluation.json"

    @property
    def results(self) -> Path:
        """Path of the results of `genmod evaluate`."""
        return self.path / "results.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Folder of the checkpoint of the best log point."""
        return self.path / "best"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.path / "pictures"

    @property
    def replay(self) -> Path:
        """Folder of pictures of replayed steps."""
        return self.path / "replay"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    def refuse_foreign(self) -> None:
        """Refuses a folder that holds something other than a run.

        Raises:
          ValueError: if it exists and is neither a run nor empty.
        """
        if self.record.exists() or not self.path.exists():
            return
        # A record left half-written by a run that was killed at its start does not count.
        is_free = self.path.is_dir() and all(
            file.suffix == ".partial" or file.name in lock.FILES for file in self.path.iterdir()
        )
        if not is_free:
            raise ValueError(
                f"run_dir {str(self.path)!r} exists and is not a genmod run (it has no "
                "record.json); expected a new or empty folder"
            )
