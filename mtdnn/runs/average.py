"""Weights of several runs → the folder of a run with their average.

Source: Wortsman et al. 2022, arXiv 2203.05482: uniform and greedy soups.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mtdnn.config.json_source import read_json
from mtdnn.config.tasks import TaskDef
from mtdnn.errors import ConfigError, DataError, Fault, fault
from mtdnn.files import sole_writer, write_text
from mtdnn.model import MultiTaskModel
from mtdnn.runs.encoders import read_parts
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.measure import DevStores, dev_results, dev_score
from mtdnn.runs.opened import Run, open_run
from mtdnn.runs.parts import measured_stores
from mtdnn.training.checkpoint import ENCODER, copy_weights, open_checkpoint, read_state, read_weights, save_checkpoint

logger = logging.getLogger(__name__)

OF_A_VERSION = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
"""Keys of an encoder's configuration that say how it was saved."""

Weights = dict[str, Tensor]

Method = Literal["uniform", "greedy"]


@dataclass(frozen=True)
class Ingredient:
    """A run whose weights may be in an average.

    Attributes:
        run, checkpoint, step: where the weights are from.
        score: on dev; None if no dev row has a label.
        used: whether they are in the average.
    """

    run: str
    checkpoint: str
    step: int
    score: float | None
    used: bool = True


@dataclass(frozen=True)
class Average:
    """An average that was written.

    Attributes:
        method: uniform or greedy.
        ingredients: the runs, for greedy in the order in which they were tried.
        score: of the average on dev.
    """

    method: str
    ingredients: tuple[Ingredient, ...]
    score: float | None


def average_runs(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    method: Method = "uniform",
    checkpoint: str = "best",
    data: str | Path | None = None,
) -> Average:
    """Write the average of the weights of several runs as the folder of a run, and measure it.

    Thresholds and temperatures that are tuned on dev are tuned again.

    Args:
        folders: two or more runs of the same tasks and the same kind of encoder.
        output: a new folder.
        method: uniform: the mean of all; greedy: of the best run and, from the next best on, those that do not lower
            the score on dev.
        checkpoint: best, last or step-N, of each.
        data: folder made by `mtdnn prepro`; None: that of the first run.
    Raises:
        ConfigError: fewer than two runs, an output that contains a run, or runs that differ in their tasks, heads,
            encoder or adapter.
        DataError: a checkpoint is missing or damaged, rows are not prepared, or greedy has no dev rows with labels.
    """
    if len({Path(each).resolve() for each in folders}) < 2:
        raise ConfigError(fault("", "runs", "an average is of two or more different runs", "Name several folders."))
    if RunFolder(output).config_file.exists():
        what, fix = "already contains a run, or the beginning of one", "Remove it, or name another --output."
        raise ConfigError(fault(str(output), "output", what, fix))
    first = open_run(folders[0], checkpoint=checkpoint)
    if data is not None:
        first.config = first.config.model_copy(update={"data": str(data)})
    paths = [open_checkpoint(RunFolder(each).checkpoint(checkpoint)) for each in folders]
    if faults := [each for path in paths[1:] for each in _differences(first, path, paths[0])]:
        raise ConfigError(faults)
    _warn_of_other_starts(first, folders)
    stores = measured_stores(first.config, first.tasks, first.tokenizer)
    found = [
        Ingredient(str(folder), checkpoint, read_state(path)["step"], _score(read_weights(path, ""), first, stores))
        for folder, path in zip(folders, paths, strict=True)
    ]
    weights, used, score = (_greedy if method == "greedy" else _uniform)(found, paths, first, stores)
    made = Average(method, used, score)
    _write(first, weights, paths[0], Path(output), made)
    return made


def _differences(first: Run, path: Path, first_path: Path) -> list[Fault]:
    """Why the weights of a checkpoint cannot be averaged with those of the first run."""
    run, fix = RunFolder(path.parent.parent if path.name.startswith("step-") else path.parent), "Average runs alike."
    theirs, place = run.read_tasks(), str(path)
    if theirs.keys() != first.tasks.keys():
        return [fault(place, "tasks", f"{', '.join(theirs)}, not {', '.join(first.tasks)}", fix)]
    faults = [
        fault(place, f"{name}.{key}", f"differs from that of {first.folder.path}", fix)
        for name, task in theirs.items()
        for key in ("task_type", "labels", "inputs", "head", "max_length")
        if _of(task, key) != _of(first.tasks[name], key)
    ]
    ours, parts = (read_parts(each) for each in (first_path, path))
    if (ours.adapter, ours.base and ours.base.sha256) != (parts.adapter, parts.base and parts.base.sha256):
        faults.append(fault(place, "adapter", f"another one, or over another encoder, than {first.folder.path}", fix))
    if not faults and _architecture(path) != _architecture(first_path):
        faults.append(fault(place, ENCODER, f"another encoder or tokenizer than in {first_path}", fix))
    shapes, known = ({name: each.shape for name, each in read_weights(at, "").items()} for at in (path, first_path))
    if not faults and shapes != known:
        name = next(iter({*shapes.items()} ^ {*known.items()}))[0]
        faults.append(fault(place, name, f"other weights than in {first.folder.path}", fix))
    return faults


def _architecture(checkpoint: Path) -> tuple[dict[str, Any], object]:
    """What the weights of an encoder are weights of: its configuration, and its tokenizer's vocabulary."""
    folder = checkpoint / ENCODER
    config = read_json(folder / "config.json", dict[str, Any], fix="Name another checkpoint.")
    tokenizer = folder / "tokenizer.json"
    vocabulary = read_json(tokenizer, dict[str, Any], fix="")["model"] if tokenizer.is_file() else None
    return {key: value for key, value in config.items() if key not in OF_A_VERSION}, vocabulary


def _of(task: TaskDef, key: str) -> object:
    return getattr(task, key)


def _warn_of_other_starts(first: Run, folders: Sequence[str | Path]) -> None:
    """Warn where encoders or new heads started from different weights: their average may be worse than each."""
    configs = [RunFolder(each).read_config() for each in folders]
    starts = [each.encoder if isinstance(each.encoder, str) else each.encoder.run for each in configs]
    encoders = list(dict.fromkeys(starts))
    if len(encoders) > 1:
        logger.warning("the runs started from different encoders (%s); give runs of one", ", ".join(encoders))
    seeds = sorted({each.seed for each in configs})
    kept = all(not isinstance(each.encoder, str) and each.encoder.heads == "keep" for each in configs)
    if len(seeds) > 1 and not kept:
        words = ", ".join(map(str, seeds))
        logger.warning("the runs' heads started from different weights (seeds %s); give runs of one seed", words)


def _mean(paths: Sequence[Path]) -> Weights:
    """The mean of the weights of some checkpoints, summed in float64; whole numbers are those of the first."""
    sums: Weights = {}
    for path in paths:
        for name, value in read_weights(path, "").items():
            number = value.double() if value.is_floating_point() else value
            if name not in sums:
                sums[name] = number
            elif value.is_floating_point():
                sums[name] = sums[name] + number
    dtypes = {name: value.dtype for name, value in read_weights(paths[0], "").items()}
    return {
        name: (total / len(paths)).to(dtypes[name]) if total.is_floating_point() else total
        for name, total in sums.items()
    }


def _load(weights: Weights, model: MultiTaskModel) -> None:
    """Load weights without those that the model shares or that stay as they are below an adapter."""
    model.load_state_dict(weights, strict=False)


def _score(weights: Weights, run: Run, stores: DevStores) -> float | None:
    """The score of weights on dev; the run's model keeps them, with what was tuned."""
    _load(weights, run.model)
    results = dev_results(run.model, stores, run.config, tokenizer=run.tokenizer, device=run.device)
    return dev_score(results, run.model, run.config, run.tasks)


Outcome = tuple[Weights, tuple[Ingredient, ...], float | None]


def _uniform(found: Sequence[Ingredient], paths: Sequence[Path], run: Run, stores: DevStores) -> Outcome:
    """The mean of all weights, the runs, and its score."""
    weights = _mean(paths)
    return weights, tuple(found), _score(weights, run, stores)


def _greedy(found: Sequence[Ingredient], paths: Sequence[Path], run: Run, stores: DevStores) -> Outcome:
    """The mean of the runs that do not lower its score, tried from the best on; all runs; and its score.

    Raises:
        DataError: no dev row has a label.
    """
    if any(each.score is None for each in found):
        fix = "Use uniform, or label rows of a dev split."
        raise DataError(fault(run.config.data, "", "no dev row has a label, by which greedy could choose", fix))
    order = sorted(range(len(found)), key=lambda place: (-(found[place].score or 0.0), place))
    chosen, best = [paths[order[0]]], found[order[0]].score or 0.0
    used = [found[order[0]]]
    for place in order[1:]:
        score = _score(_mean([*chosen, paths[place]]), run, stores)
        better = score is not None and score >= best
        if better:
            chosen, best = [*chosen, paths[place]], score or 0.0
        used.append(Ingredient(**{**asdict(found[place]), "used": better}))
    return _mean(chosen), tuple(used), best


def _write(run: Run, weights: Weights, like: Path, output: Path, made: Average) -> None:
    """Write the folder of a run with the weights and what they are the average of, and measure it.

    Args:
        run: the first run; its model is used to tune thresholds again.
        weights: the average.
        like: its checkpoint, from which configuration and tokenizer are taken.
        output: folder of the new run.
        made: how the average was made.
    """
    config = run.config.model_copy(update={"output": str(output)})
    folder = RunFolder(output)
    with sole_writer(output, command="mtdnn average"):
        folder.claim(config, run.tasks, resume=False)
        _score(weights, run, measured_stores(run.config, run.tasks, run.tokenizer))
        save_checkpoint(
            folder.checkpoint("best"),
            run.model,
            left_out=run.model.frozen_weights(),
            save_encoder=partial(shutil.copytree, like / ENCODER),
            state={"step": max(each.step for each in made.ingredients if each.used)},
            training=None,
        )
        copy_weights(folder.checkpoint("best"), folder.checkpoint("last"))
        write_text(output / "average.json", json.dumps(asdict(made), indent=1) + "\n")
        open_run(output).evaluate(split=None)
