"""What a run writes while it trains: `log.jsonl`, `timing.jsonl`, TensorBoard events and other trackers.

Nothing in `log.jsonl` depends on the clock: the log of a resumed run equals that of an unbroken one. Speed is in
`timing.jsonl`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from typing_extensions import TypedDict

from mtdnn.config.json_source import checked, json_value, raw_lines
from mtdnn.errors import NOWHERE, DataError
from mtdnn.files import write_text
from mtdnn.training.combination import Conflicts
from mtdnn.training.trackers import Trackers


class Recorder:
    """Appends to a run's log files; a resumed run first drops the lines after its checkpoint.

    Args:
        folder: of the run.
        step: where the run resumes; 0 for a new run.
        events: write TensorBoard events.
        trackers: get every value as well; None = none.
    """

    def __init__(self, folder: Path, *, step: int = 0, events: bool = True, trackers: Trackers | None = None) -> None:
        self.log, self.timing = folder / "log.jsonl", folder / "timing.jsonl"
        for path in (self.log, self.timing):
            drop_after(path, step)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) if events else None
        self._trackers = trackers
        self._since = (time.perf_counter(), step)
        self._hook = threading.excepthook
        threading.excepthook = self._on_thread_error  # last, as `close` of a whole recorder puts the other one back

    def train(self, step: int, tasks: Mapping[str, Mapping[str, float]], values: Mapping[str, float]) -> None:
        """One line of training: per task the means since the last line, and values of the run (lr, gradient norm).

        Args:
            step: optimizer steps so far.
            tasks: task → means since the last line.
            values: of the run: learning rate, gradient norm.
        """
        self._write(self.log, {"step": step, "train": tasks, **values})
        self._scalars({**_flat("train", tasks), **{f"run/{name}": value for name, value in values.items()}}, step)
        now, (then, before) = time.perf_counter(), self._since
        if step > before:
            self._write(self.timing, {"step": step, "seconds_per_step": (now - then) / (step - before)})
        self._since = (now, step)

    def evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Mapping[str, Any]]], score: float | None
    ) -> None:
        """One line of evaluation: task → split → metric → value, and the score that selects the best checkpoint.

        Args:
            step: optimizer steps so far.
            results: task → split → metric → value.
            score: what selects the best checkpoint.
        """
        self._write(self.log, {"step": step, "evaluation": results, "score": score})
        found = {key: value for task in results for key, value in _flat(f"evaluation/{task}", results[task]).items()}
        self._scalars(found if score is None else {**found, "run/score": score}, step)
        self._since = (time.perf_counter(), step)

    def conflicts(self, step: int, found: Conflicts) -> None:
        """One line of how the gradients of an update's tasks agree."""
        self._write(self.log, {"step": step, "conflicts": asdict(found)})

    def affinity(self, step: int, found: Mapping[str, Mapping[str, float]]) -> None:
        """One line of affinities: task → task → by what share a step on the first lowers the loss of the second."""
        self._write(self.log, {"step": step, "affinity": found})

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        """Give values to TensorBoard and the other trackers."""
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        if self._trackers is not None:
            self._trackers.log(values, step)

    def _write(self, path: Path, record: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """Print no traceback of TensorBoard's thread: it raises its error again where the next event is written."""
        if not type(args.thread).__module__.startswith("tensorboard"):
            self._hook(args)

    def close(self) -> None:
        """Flush and close the TensorBoard events and the trackers."""
        try:
            if self._events is not None:
                self._events.close()
            if self._trackers is not None:
                self._trackers.close()
        finally:
            threading.excepthook = self._hook


def _flat(prefix: str, groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`prefix/group/name` → value."""
    return {f"{prefix}/{group}/{name}": value for group, values in groups.items() for name, value in values.items()}


def drop_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and all lines from the first truncated or damaged one."""
    if not path.exists():
        return
    kept = []
    for _, line in raw_lines(path):
        record = _record(line)
        if record is None or record["step"] > step:
            break
        kept.append(line.decode("utf-8"))
    write_text(path, "".join(kept))


class LogLine(TypedDict):
    """The key that every log line has."""

    step: int


def _record(line: bytes) -> LogLine | None:
    """A log line; None for a truncated or damaged one, after which nothing can be trusted."""
    try:
        return checked(json_value(line, NOWHERE), LogLine, NOWHERE) if line.endswith(b"\n") else None
    except DataError:
        return None
