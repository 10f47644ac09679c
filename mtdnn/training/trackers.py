"""Experiment trackers (W&B, MLflow, trackio, Aim) that get what a run logs, by accelerate's tracker classes.

TensorBoard events are written by the recorder itself, which can drop the steps after a checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtdnn.config.json_source import read_json
from mtdnn.config.run import TrackerConfig
from mtdnn.errors import ConfigError, Fault, fault
from mtdnn.files import write_text

TENSORBOARD = "tensorboard"
IDS = "trackers.json"
"""File in a run's folder: tracker → id of the run there, with which a resumed run continues it."""


def tracker_faults(trackers: Sequence[TrackerConfig]) -> list[Fault]:
    """Errors for trackers whose package is not installed, or that are named twice."""
    names = [each.name for each in trackers]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults = [fault("", "trackers", f"'{name}' is named twice", "Name it once.") for name in twice]
    missing = [name for name in dict.fromkeys(names) if find_spec(name) is None]
    return faults + [
        fault("", "trackers", f"needs the package {name}", f"Install it: pip install {name}.") for name in missing
    ]


class Trackers:
    """The trackers of a run except TensorBoard; each gets every value that is logged.

    Args:
        trackers: which, with their options.
        folder: of the run; ids of the runs in the trackers are kept there.
        settings: of the run, shown by the trackers.
        group: what the runs of a study have in common; None for a run of its own.
        resumed: continue the runs that the ids name.
    Raises:
        ConfigError: a tracker cannot be started.
    """

    def __init__(
        self,
        trackers: Sequence[TrackerConfig],
        folder: Path,
        *,
        settings: Mapping[str, Any],
        group: str | None = None,
        resumed: bool = False,
    ) -> None:
        known = _read_ids(folder / IDS) if resumed else {}
        self._open: dict[str, Any] = {}
        ids: dict[str, str] = {}
        for each in trackers:
            if each.name == TENSORBOARD:
                continue
            try:
                tracker = START[each.name](each, folder, each.group or group, known.get(each.name))
                with _messages_on_stderr():
                    tracker.start()
                    tracker.store_init_configuration(_flat(settings))
            except Exception as error:  # each library raises errors of its own: no login, no network, no folder
                self.close()
                found = f"{each.name} cannot be started: {' '.join(str(error).split())[:300]}"
                fix = "Log in, use its offline mode, or leave it out."
                raise ConfigError(fault("", "trackers", found, fix)) from error
            self._open[each.name], ids[each.name] = tracker, _ID[each.name](tracker)
        if ids:
            write_text(folder / IDS, json.dumps(ids, indent=1) + "\n")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Give values to every tracker.

        Args:
            values: name → number.
            step: of the run.
        """
        for tracker in self._open.values():
            tracker.log(dict(values), step=step)

    def close(self) -> None:
        """End the runs in the trackers; they are sent as far as they are not yet."""
        with _messages_on_stderr():
            while self._open:
                self._open.popitem()[1].finish()


def _messages_on_stderr() -> AbstractContextManager[object]:
    """A context in which what a library prints is kept out of a command's own output."""
    return redirect_stdout(sys.stderr)


def _read_ids(path: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = read_json(path, dict[str, str], fix="Remove it; new runs are then begun.")
    except FileNotFoundError:
        return {}
    return found


def _run_name(folder: Path) -> str:
    """The folder's name; of a cell of a study, that of the cell."""
    study = _study_folder(folder)
    if study is None:
        return folder.absolute().name
    return "-".join(folder.absolute().parent.relative_to(study).parts[1:])  # study/cells/STAGE/VALUES/run


def study_of(folder: Path) -> str | None:
    """The name of the study whose cell a run is; None for a run of its own."""
    study = _study_folder(folder)
    return None if study is None else study.name


def _study_folder(folder: Path) -> Path | None:
    return next((parent for parent in folder.absolute().parents if (parent / "study.json").is_file()), None)


def _wandb(given: TrackerConfig, folder: Path, group: str | None, known: str | None) -> Any:
    from accelerate.tracking import WandBTracker

    own = {"dir": str(folder), "name": _run_name(folder), "group": group, "id": known, "resume": "allow"}
    return WandBTracker(given.project, **{**own, **given.options})


def _mlflow(given: TrackerConfig, folder: Path, group: str | None, known: str | None) -> Any:
    from accelerate.tracking import MLflowTracker

    tags = {} if group is None else {"study": group}
    return MLflowTracker(given.project, run_id=known, run_name=_run_name(folder), **{"tags": tags, **given.options})


def _trackio(given: TrackerConfig, folder: Path, group: str | None, known: str | None) -> Any:
    from accelerate.tracking import TrackioTracker

    name = known or "-".join(filter(None, (group, _run_name(folder))))
    return TrackioTracker(given.project, **{"name": name, "resume": "allow", **given.options})


def _aim(given: TrackerConfig, folder: Path, group: str | None, known: str | None) -> Any:
    from accelerate.tracking import AimTracker

    own = {"experiment": group or given.project, "run_hash": known}
    return AimTracker(_run_name(folder), **{"logging_dir": str(folder), **own, **given.options})


START = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio, "aim": _aim}

_ID = {
    "wandb": lambda tracker: str(tracker.run.id),
    "mlflow": lambda tracker: str(tracker.active_run.info.run_id),
    "trackio": lambda tracker: str(tracker.run.name),
    "aim": lambda tracker: str(tracker.writer.hash),
}
"""Tracker → the id of its run."""


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values under dotted keys; lists as text, which trackers take."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found
