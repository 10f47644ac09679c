"""The folder of a run: its paths, who may write it, and its provenance."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

from pydantic import AfterValidator

from mtdnn.config.earlier import with_execution, with_loss_options, without_unused
from mtdnn.config.json_source import read_json
from mtdnn.config.run import RunConfig, run_config_of
from mtdnn.config.tasks import TaskDef, task_defs_in
from mtdnn.config.yaml_source import dump_yaml, read_yaml
from mtdnn.errors import ConfigError, DataError, fault, unknown
from mtdnn.files import exclusive, remove_leftovers, write_text
from mtdnn.metrics.base import SCALES, Scale
from mtdnn.runs.plug_ins import resolved

PACKAGES = ("mtdnn", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy")

WRITTEN = ("results.json", "log.jsonl", "timing.jsonl", "checkpoints", "best", "last", "predictions", "subset")
"""What a run writes to its folder after its run.yml."""

FREE_TO_CHANGE = frozenset(
    {"output", "threads", "log_every", "eval_batch_size", "keep_checkpoints", "checkpoint_every", "compile"}
    | {"log_gradients", "trackers", "sharding"}
)
"""Fields that may change when a run is resumed: they decide where and how fast it runs, not what is computed."""


def _of_tasks(results: dict[str, Any]) -> dict[str, Any]:
    """Results of tasks: task → split → metric → number; names that begin with `_` are for other data."""
    for task, splits in results.items():
        for split, values in splits.items() if not task.startswith("_") else ():
            if not isinstance(values, dict) or not all(isinstance(each, (int, float)) for each in values.values()):
                raise ValueError(f"'{task}.{split}' has no metrics")
            if strange := next((name for name, each in values.items() if not abs(each) <= sys.float_info.max), None):
                raise ValueError(f"'{task}.{split}.{strange}' is not a finite number")
    if not all(isinstance(value, (str, int, float, NoneType)) for value in results.get("_run", {}).values()):
        raise ValueError("'_run' has a value that is neither a text nor a number")
    return results


ResultsFile = Annotated[dict[str, dict[str, Any]], AfterValidator(_of_tasks)]
"""The shape of a results.json."""


class RunFolder:
    """Paths in the folder of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "run.yml"
        self.tasks_file = self.path / "tasks.yml"
        self.results_file = self.path / "results.json"
        self.checkpoints = self.path / "checkpoints"
        self.predictions = self.path / "predictions"
        self.prepared = self.path / "prepared"

    def checkpoint(self, name: str) -> Path:
        """Folder of a checkpoint: `best` and `last` are in the run's folder, `step-N` in `checkpoints`.

        Raises:
            ConfigError: another name.
        """
        if not re.fullmatch(r"best|last|step-\d+", name):
            raise ConfigError(fault("", "checkpoint", unknown("checkpoint", name, ("best", "last", "step-N"))))
        return self.checkpoints / name if name.startswith("step-") else self.path / name

    def subset_file(self, task: str) -> Path:
        """File of the ids of the rows that `subset` chose for a task, one per line."""
        return self.path / "subset" / f"{task}.ids"

    def write_subset_ids(self, task: str, ids: Sequence[str]) -> None:
        """Write the ids of the rows that `subset` chose for a task."""
        path = self.subset_file(task)
        path.parent.mkdir(exist_ok=True)
        write_text(path, "".join(f"{row_id}\n" for row_id in ids))

    def prediction_file(self, task: str, split: str) -> Path:
        """File of the predictions of a split."""
        return self.predictions / f"{task}.{split}.jsonl"

    def claim(self, config: RunConfig, tasks: Mapping[str, TaskDef], *, resume: bool) -> None:
        """Make the folder the folder of this run.

        Args:
            config: the run.
            tasks: name → definition.
            resume: continue from the newest whole checkpoint.
        Raises:
            ConfigError: it already contains a run, or other files that would be overwritten, or, with `resume`, a run
                with another configuration or other tasks.
            DataError: it cannot be written.
        """
        self.require_no_other_run(resume=resume)
        if self.config_file.exists():
            self._require_same_settings(config, tasks)
            return
        definitions = tasks_to_yaml(tasks)
        self._require_no_foreign_files(definitions)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.tasks_file, definitions)
            header = "".join(f"# {name}: {value}\n" for name, value in provenance().items())
            write_text(self.config_file, header + resolved(config, ("optimizer", "schedule")).to_yaml())
        except OSError as error:
            found = f"cannot be written: {error.strerror or error}"
            raise DataError(
                fault(str(self.path), "output", found, "Free disk space, or give another --output.")
            ) from error

    def remove_leftovers(self) -> None:
        """Remove the partial files of killed commands in the folders of this run."""
        for folder in (self.path, self.predictions, self.checkpoints, self.path / "subset"):
            remove_leftovers(folder)

    def _require_no_foreign_files(self, definitions: str) -> None:
        """ConfigError if there is no run.yml, but another file that this run would overwrite.

        A run killed before its run.yml was written leaves only these definitions.
        """
        found = [name for name in WRITTEN if (self.path / name).exists()]
        if self.tasks_file.exists() and self.tasks_file.read_bytes() != definitions.encode():
            found.insert(0, self.tasks_file.name)
        if found:
            what = f"has no run.yml, but {', '.join(found)}, which training would overwrite"
            raise ConfigError(fault(str(self.path), "output", what, "Give another --output."))

    def _require_same_settings(self, config: RunConfig, tasks: Mapping[str, TaskDef]) -> None:
        before, now = resolved(self.read_config()).model_dump(), resolved(config).model_dump()
        fixed = [key for key in now if key not in FREE_TO_CHANGE]
        faults = [
            fault(str(self.config_file), place, f"the run started with {first!r}, now it is {second!r}")
            for key in fixed
            for place, first, second in differences(key, before[key], now[key])
        ]
        known = self.read_tasks()
        faults += [
            fault(str(self.tasks_file), name, "the run started with another definition of this task")
            for name, task in tasks.items()
            if name not in known or known[name].model_dump() != task.model_dump()
        ]
        if faults:
            found, fix = "a resumed run must continue as it began", "Undo the changes, or give another --output."
            raise ConfigError([*faults, fault(str(self.path), "output", found, fix)])

    def require_no_other_run(self, *, resume: bool) -> None:
        """ConfigError when the folder contains a run and `resume` is false."""
        if self.config_file.exists() and not resume:
            fix = "Give --resume to continue it, or another --output."
            raise ConfigError(fault(str(self.path), "output", "already contains a run", fix))

    def read_config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            ConfigError: this is not the folder of a run.
        """
        if not self.config_file.is_file():
            fix = "Give the `output` folder of `mtdnn train`."
            raise ConfigError(fault(str(self.path), "", "contains no run (there is no run.yml)", fix))
        source = read_yaml(self.config_file)
        return run_config_of(replace(source, value=without_unused(with_execution(source.value))))

    def read_tasks(self) -> dict[str, TaskDef]:
        """The task definitions the run was made with.

        Raises:
            ConfigError: every error in the file.
        """
        source = read_yaml(self.tasks_file)
        blocks = task_defs_in(replace(source, value=with_loss_options(source.value)))
        if blocks.faults:
            raise ConfigError(blocks.faults)
        return blocks.tasks

    def read_results(self) -> dict[str, Any]:
        """task → split → metric → value, with provenance in `_run` and `_made_by`; empty before the first evaluation.

        Raises:
            DataError: the file is damaged.
        """
        try:
            fix = f"Remove it and run: mtdnn evaluate {shlex.quote(str(self.path))}"
            return read_json(self.results_file, ResultsFile, fix=fix)
        except FileNotFoundError:
            return {}

    def write_results(
        self,
        results: Mapping[str, Any],
        *,
        scales: Mapping[str, Scale],
        seed: int,
        step: int,
        checkpoint: str,
    ) -> dict[str, Any]:
        """Add results to `results.json`, with the checkpoint and code they come from.

        `_run` is about the latest evaluation, `_made_by` about each split's numbers, which may be of earlier ones;
        `_metrics` has the scale of each metric.

        Args:
            results: task → split → metric → value.
            scales: metric → its scale.
            seed, step, checkpoint: of the weights.
        """
        run = {"seed": seed, "step": step, "checkpoint": checkpoint, **provenance()}
        with exclusive(self.path / ".results.lock", wait=True):  # of two evaluations at once, neither loses its numbers
            merged = self._merged(results, run, {name: scale.as_json() for name, scale in scales.items()})
            write_text(self.results_file, json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
        return merged

    def _merged(self, results: Mapping[str, Any], run: dict[str, Any], scales: dict[str, Any]) -> dict[str, Any]:
        """What results.json holds with these results added, its keys in the same order every time."""
        merged = self.read_results()
        makers, known = merged.pop("_made_by", {}), merged.pop(SCALES, {})
        merged.pop("_run", None)
        for task, splits in results.items():
            merged[task] = {**merged.get(task, {}), **splits}
            maker = {key: run[key] for key in ("checkpoint", "step", "commit")}
            makers[task] = {**makers.get(task, {}), **dict.fromkeys(splits, maker)}
        return {**merged, "_run": run, "_made_by": makers, SCALES: {**known, **scales}}


def tasks_to_yaml(tasks: Mapping[str, TaskDef]) -> str:
    """YAML text of the native schema that loads to equal definitions."""
    blocks = {}
    for name, task in tasks.items():
        block = task.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"name", "options"})
        blocks[name] = {**block, **task.options}
    return dump_yaml(blocks)


def provenance() -> dict[str, str]:
    """The commit of the source checkout, if any, and the versions of the packages that decide results."""
    made_by = {"commit": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            made_by[package] = version(package)
        except PackageNotFoundError:
            made_by[package] = "not installed"
    return made_by


def commit() -> str:
    """The commit of the checkout of this code, `+changes` when it has uncommitted ones, or `unknown`."""
    where = Path(__file__).resolve().parent
    try:
        _git(where, "ls-files", "--error-unmatch", Path(__file__).name)  # an environment may be within another checkout
        head = _git(where, "rev-parse", "--short=12", "HEAD")
        return f"{head}+changes" if _git(where, "status", "--porcelain", "--", ".") else head
    except (FileNotFoundError, PermissionError, subprocess.CalledProcessError):  # no git, or no checkout
        return "unknown"


def _git(where: Path, *words: str) -> str:
    command = ["git", "-C", str(where), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def differences(place: str, before: Any, now: Any, *, added: bool = True) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value before, value now) of each difference, down to where one side is no mapping.

    Args:
        place: key of the two values.
        before, now: the values.
        added: whether keys that only `now` has count; a later version may have added them.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *(now if added else ()))):
            yield from differences(f"{place}.{key}", before.get(key), now.get(key), added=added)
    elif before != now:
        yield place, before, now
