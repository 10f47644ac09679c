"""Good settings for a run, searched by Optuna: a space of values → trials on the dev splits → a run's YAML.

The study is a file in the output folder that several processes append to; the same command continues it. A trial trains
and measures dev splits only: test splits are never read.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from mtdnn.config.run import RunConfig, run_source
from mtdnn.config.yaml_source import dump_yaml, read_yaml
from mtdnn.errors import ConfigError, DataError, Fault, fault, unknown
from mtdnn.files import write_text
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.named import run_tasks
from mtdnn.runs.plug_ins import checked_run

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Space = Mapping[str, Any]
RANGE_KEYS = ("low", "high", "log", "step")
STARTUP_TRIALS = 5
"""Trials that are not pruned, so that there is a median to compare with."""

WEIGHTS = ("best", "last", "checkpoints")
JOURNAL, BEST = "study.log", "best.yml"


@dataclass(frozen=True)
class Search:
    """What is searched, by every process of it.

    Attributes:
        run: the run's YAML, whose other values stay.
        space: dotted key → range or list of values.
        folder: of the study, the trials and the result.
        trials: finished trials, pruned ones included, after which the search ends.
        seed: of the draws.
        prune: stop trials whose dev score is below the median of the others at the same evaluation.
    """

    run: str
    space: dict[str, Any]
    folder: Path
    trials: int
    seed: int = 1
    prune: bool = True


@dataclass(frozen=True)
class Found:
    """The outcome of a search: the best values, their score, and how many trials ended how."""

    values: dict[str, Any]
    score: float
    trial: int
    finished: int
    pruned: int


def require_optuna() -> None:
    """ConfigError if Optuna is not installed."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        fix = "Install it: pip install 'mtdnn[tune]'."
        raise ConfigError(fault("", "mtdnn tune", "needs the package optuna", fix))


def read_space(path: str | Path, run: str) -> dict[str, Any]:
    """The space in a YAML file: dotted keys of a run, each with a list of values or `{low, high, log, step}`.

    Args:
        path: the file.
        run: the run's YAML; both ends of every range, and every value of a list, must be valid in it.
    Raises:
        ConfigError: every error of the run and of the space, with its line.
    """
    of_run = _run_faults(run)
    sound = partial(_run_faults, run) if not of_run else partial(_rest_faults, _without(run, of_run))
    try:
        source = read_yaml(path)
    except ConfigError as error:
        raise ConfigError([*of_run, *error.faults]) from error
    faults: list[Fault] = []
    if not source.value:
        faults.append(fault("", "", "no key to search", "Name one, such as optimizer.lr: {low: 1e-5, high: 1e-4}."))
    for key, given in source.value.items():
        found = _space_faults(key, given) or _value_faults(sound, key, _ends(given))
        faults += [each.at(source.where((str(key),))) for each in found]
    if of_run or faults:
        raise ConfigError([*of_run, *faults])
    return dict(source.value)


def _run_faults(run: str | None, overrides: Mapping[str, Any] | None = None) -> list[Fault]:
    """Errors of a run's YAML, or of none, with values of some keys replaced."""
    try:
        checked_run(run_source(run, overrides))
    except ConfigError as error:
        return list(error.faults)
    return []


def _without(run: str, faults: Sequence[Fault]) -> dict[str, Any]:
    """The keys of a run's YAML that have no error, and made-up values of those that a run must have."""
    wrong = {each.key.split(".")[0] for each in faults}
    try:
        given = run_source(run).value
    except ConfigError:
        given = {}
    needed = dict.fromkeys(("tasks", "data", "output", "encoder"), "unknown")
    return {**needed, **{key: value for key, value in given.items() if str(key) == key and key not in wrong}}


def _rest_faults(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[Fault]:
    """Errors that values of some keys make in a run that has none without them."""
    return _run_faults(None, {**deepcopy(dict(options)), **overrides})  # a dotted key is set within its mapping


def _space_faults(key: object, given: object) -> list[Fault]:
    if not isinstance(key, str):
        return [fault("", str(key), "is not a text", "Name a key of the run, such as optimizer.lr.")]
    if key.split(".")[0] in ("output", "tasks", "data"):
        return [fault("", key, "is a path and not a setting", "Leave it out.")]
    if isinstance(given, list):
        plain = all(each is None or isinstance(each, (str, int, float, bool)) for each in given)
        return [] if given and plain else [fault("", key, f"{given!r}", "Give a list of numbers or words.")]
    if not isinstance(given, dict):
        return [fault("", key, f"{given!r}", "Give a list of values, or {low: …, high: …}.")]
    return _range_faults(key, given)


def _range_faults(key: str, given: Mapping[Any, Any]) -> list[Fault]:
    """Errors of a range, which Optuna would report during the search, without the key."""
    faults = [fault("", key, unknown("key", str(each), RANGE_KEYS)) for each in given if each not in RANGE_KEYS]
    low, high, log, step = (given.get(word) for word in RANGE_KEYS)
    if not _is_number(low) or not _is_number(high) or not low < high:
        faults.append(fault("", key, f"low {low!r}, high {high!r}", "Give two numbers, the lower one first."))
    elif log and low <= 0:
        faults.append(fault("", key, f"low {low!r} with log", "Give a number above 0."))
    if log not in (None, True, False):
        faults.append(fault("", key, f"log {log!r}", "Give true or false."))
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and not (_is_number(step) and step > 0 and (isinstance(step, int) or not whole)):
        fix = "Give a whole number above 0, as low and high are." if whole else "Give a number above 0."
        faults.append(fault("", key, f"step {step!r}", fix))
    elif step is not None and log is True:
        faults.append(fault("", key, f"step {step!r} with log", "Leave out one of them."))
    return faults


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _ends(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given["low"], given["high"]]


def _value_faults(
    faults_with: Callable[[Mapping[str, Any]], list[Fault]], key: str, values: Sequence[Any]
) -> list[Fault]:
    """Errors of a run with each of some values of a key; an unknown key is reported once.

    Args:
        faults_with: the errors that values of dotted keys make.
        key: dotted key.
        values: its values, one at a time.
    """
    found = dict[Fault, Fault]()
    for value in values:
        for each in faults_with({key: value}):
            found.setdefault(each, fault("", key, f"{value!r}: {each}"))
    return list(found.values())


def tune(search: Search, *, jobs: int = 1) -> Found:
    """Carry out a search, or continue it; the best run is written to `best.yml` in its folder.

    Args:
        search: what is searched.
        jobs: processes, each with a trial at a time; more can be started by the same command elsewhere.
    Raises:
        ConfigError: Optuna is missing; the folder has a search of another run or space; no task has a dev split.
        DataError: no trial finished.
    """
    require_optuna()
    if jobs < 1 or search.trials < 1:
        key, value = ("jobs", jobs) if jobs < 1 else ("trials", search.trials)
        raise ConfigError(fault("", key, f"{value}", "Give at least 1."))
    config = checked_run(run_source(search.run))
    _require_dev(config)
    search.folder.mkdir(parents=True, exist_ok=True)
    study = open_study(search)
    _require_same(study, search, config)
    if jobs == 1:
        work(search)
    else:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            for each in [pool.submit(work, search, worker) for worker in range(jobs)]:
                each.result()
    return _result(open_study(search), search)


def _require_dev(config: RunConfig) -> None:
    tasks, _ = run_tasks(config)
    if not any(task.splits.get("dev") for task in tasks.values()):
        raise ConfigError(
            fault(config.tasks, "", "no task has a dev split to tune on", "Add one to a task's `splits`.")
        )


def open_study(search: Search, *, worker: int = 0) -> Study:
    """Optuna's study in the folder of a search, with a sampler of its own for each process.

    Args:
        search: what is searched.
        worker: number of the process.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(search.folder / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS) if search.prune else optuna.pruners.NopPruner()
    )
    study = optuna.create_study(
        study_name="mtdnn", storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    # A continued search must not draw the values of its beginning again, nor two processes the same.
    seed = search.seed + 7919 * len(study.trials) + 104729 * worker
    study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=True, constant_liar=True)
    return study


def _require_same(study: Study, search: Search, config: RunConfig) -> None:
    """Record the run and the space in the study; ConfigError if it has others."""
    now = {"run": dump_yaml(config.model_dump(mode="json")), "space": dump_yaml(search.space)}
    for key, text in now.items():
        if study.user_attrs.get(key, text) != text:
            found = f"has a search of another {key}"
            raise ConfigError(fault(str(search.folder), "", found, "Undo the change, or give another --out."))
        study.set_user_attr(key, text)


def work(search: Search, worker: int = 0) -> None:
    """Carry out trials until the search has as many as it should; several processes may do so at once.

    Args:
        search: what is searched.
        worker: number of the process.
    """
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState

    study = open_study(search, worker=worker)
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    if len(study.get_trials(deepcopy=False, states=ended)) < search.trials:
        until = MaxTrialsCallback(search.trials, states=ended)
        study.optimize(partial(_score, search), callbacks=[until])


def _score(search: Search, trial: Trial) -> float:
    """Train a run with the trial's values; its best dev score.

    Raises:
        TrialPruned: it is worse than the others, or its loss is not finite.
    """
    from optuna import TrialPruned

    from mtdnn.training.meter import NonFiniteLoss

    values = {key: _suggested(trial, key, given) for key, given in search.space.items()}
    folder = RunFolder(search.folder / "trials" / str(trial.number))
    shutil.rmtree(folder.path, ignore_errors=True)  # of an earlier search whose file was removed
    own = {"output": str(folder.path), "checkpoint_every": "never"}
    config = checked_run(run_source(search.run, {**values, **own}))
    try:
        return _trained(config, folder, trial)
    except NonFiniteLoss as error:
        trial.set_user_attr("why", str(error))
        raise TrialPruned from error
    finally:
        for name in WEIGHTS:
            shutil.rmtree(folder.path / name, ignore_errors=True)


def _suggested(trial: Trial, key: str, given: Any) -> Any:
    if isinstance(given, list):
        return trial.suggest_categorical(key, given)
    low, high, log, step = given["low"], given["high"], bool(given.get("log")), given.get("step")
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log, step=step or 1)
    return trial.suggest_float(key, low, high, log=log, step=step)


def _trained(config: RunConfig, folder: RunFolder, trial: Trial) -> float:
    """Train without measuring anything but dev splits, reporting each evaluation; the best score."""
    from optuna import TrialPruned

    from mtdnn.runs.setup import Setup
    from mtdnn.training.recorder import Recorder

    class Reporter(Recorder):
        """A recorder that reports each dev score, and stops a trial that is worse than the others."""

        def evaluation(self, step: int, results: Mapping[str, Any], score: float | None) -> None:
            super().evaluation(step, results, score)
            if score is None:
                return
            trial.report(score, self.evaluations)
            self.evaluations += 1
            if trial.should_prune():
                raise TrialPruned

        evaluations = 0

    setup = Setup.of(config)
    folder.claim(config, setup.tasks, resume=False)
    recorder = Reporter(folder.path)
    try:
        progress = setup.trainer(folder, recorder).train()
    finally:
        recorder.close()
    if not math.isfinite(progress.best_score):
        raise DataError(fault(str(folder.path), "", "no dev split has labels to tune on", "Prepare labelled rows."))
    return progress.best_score


def _result(study: Study, search: Search) -> Found:
    from optuna.trial import TrialState

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    if not finished:
        why = next((each.user_attrs["why"] for each in pruned if "why" in each.user_attrs), "all were pruned")
        raise DataError(fault(str(search.folder), "", f"no trial finished: {why}", "Search smaller values."))
    best = study.best_trial
    found = Found(dict(best.params), float(best.value or 0.0), best.number, len(finished), len(pruned))
    write_text(search.folder / BEST, _best_yaml(search, found))
    write_text(search.folder / "trials.csv", _table(study.get_trials(deepcopy=False), list(search.space)))
    return found


def _best_yaml(search: Search, found: Found) -> str:
    """The run with the best values, ready for `mtdnn train`."""
    config = checked_run(run_source(search.run, {**found.values, "output": str(search.folder / "best")}))
    trials = found.finished + found.pruned
    head = f"# Trial {found.trial} of {trials}: {found.score:.4f} on the dev splits it was chosen by"
    return f"{head}.\n# Tuned on dev: only other rows show how good it is.\n{config.to_yaml()}"


def _table(trials: Sequence[FrozenTrial], keys: Sequence[str]) -> str:
    """Every trial as a line of CSV: number, state, score, its values."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "score", *keys])
    for each in trials:
        score = "" if each.value is None else f"{each.value:.6f}"
        writer.writerow([each.number, each.state.name.lower(), score, *(each.params.get(key, "") for key in keys)])
    return text.getvalue()
