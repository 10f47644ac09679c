"""Good settings for a run, searched by Optuna: a space of values → trials on the dev splits → a run's YAML.

The study is a file in the output folder that several processes append to; the same command continues it. A trial trains
and measures dev splits only: test splits are never read.
"""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdnn.config.run import RunConfig, run_config_from_yaml, run_source
from mtdnn.config.yaml_source import YamlSource, dump_yaml
from mtdnn.errors import ConfigError, DataError, fault, unknown
from mtdnn.files import exclusive, write_text
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.named import run_tasks
from mtdnn.runs.plug_ins import checked_run
from mtdnn.study.cells import remove_weights
from mtdnn.study.launchers import require_launchable
from mtdnn.study.searchers import work_in_processes, work_on_ray

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

STARTUP_TRIALS = 5
"""Trials that are not pruned, so that there is a median to compare with."""

LAUNCHERS = ("local", "ray")

JOURNAL, BEST = "study.log", "best.yml"
LOCK, BEGINNING = ".lock", ".beginning"
"""Lock files: of a trial, by the process that carries it out; of the search, while a trial begins."""


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


def tune(search: Search, *, jobs: int = 1, launcher: str = "local", gpus: float = 0.0) -> Found:
    """Carry out a search, or continue it; the best run is written to `best.yml` in its folder.

    Args:
        search: what is searched.
        jobs: processes, each with a trial at a time; more can be started by the same command elsewhere.
        launcher: local = processes of this machine; ray = tasks of a Ray cluster, which all have the folder.
        gpus: of each task of Ray.
    Raises:
        ConfigError: Optuna is missing; the folder has a search of another run or space; no task has a dev split.
        DataError: no trial finished; processes were killed, and the trials that were asked for are not complete.
    """
    require_optuna()
    _require_launchable(search, launcher, jobs=jobs, gpus=gpus)
    source = run_source(search.run)
    config = checked_run(source)
    _require_dev(config, source)
    search.folder.mkdir(parents=True, exist_ok=True)
    study = open_study(search)
    _require_same(study, search, config)
    _fail_lost_trials(study, search)
    if launcher == "ray":
        lost = work_on_ray(partial(work, search), jobs, gpus=gpus)
    elif jobs > 1:
        lost = work_in_processes(partial(work, search), jobs)
    else:
        work(search)
        lost = []
    if lost:
        _fail_lost_trials(study, search)
        _require_complete(search, lost, jobs)
    return _result(open_study(search), search)


def _require_launchable(search: Search, launcher: str, *, jobs: int, gpus: float) -> None:
    faults = []
    if search.trials < 1:
        faults.append(fault("", "trials", f"{search.trials}", "Give at least 1."))
    if launcher not in LAUNCHERS:
        faults.append(fault("", "launcher", unknown("launcher", launcher, LAUNCHERS)))
    else:
        try:
            require_launchable(launcher, jobs=jobs, gpus=gpus)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)


def _require_dev(config: RunConfig, source: YamlSource) -> None:
    """Raise ConfigError for a run that is never measured on a dev split."""
    if config.evaluate_every == "never":
        found = "never leaves nothing to compare trials by"
        place = source.where(("evaluate_every",))
        raise ConfigError(fault(place, "evaluate_every", found, "Give epoch, or a number of steps."))
    tasks, _ = run_tasks(config)
    if not any(task.splits.get("dev") for task in tasks.values()):
        raise ConfigError(
            fault(config.tasks, "", "no task has a dev split to tune on", "Add one to a task's `splits`.")
        )


def open_study(search: Search) -> Study:
    """Optuna's study in the folder of a search."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(search.folder / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS) if search.prune else optuna.pruners.NopPruner()
    )
    return optuna.create_study(
        study_name="mtdnn",
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=pruner,
        sampler=_sampler(search.seed),
    )


def _sampler(seed: int) -> BaseSampler:
    """TPE, with random numbers of its own for each trial.

    So neither the processes of a search, wherever they were started, nor its continuation draw the same values again.

    Args:
        seed: of the search.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import BaseSampler, TPESampler

    class OfTrials(BaseSampler):
        """A sampler for each trial, by its number."""

        def __init__(self) -> None:
            self.number, self.sampler = -1, TPESampler()

        def _of(self, trial: FrozenTrial) -> TPESampler:
            if self.number != trial.number:
                of_trial = (seed + 7919 * trial.number) % 2**32
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)  # two of its arguments
                    self.sampler = TPESampler(seed=of_trial, multivariate=True, constant_liar=True)
                self.number = trial.number
            return self.sampler

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Any:
            return self._of(trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> Any:
            return self._of(trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Study, trial: FrozenTrial, *param: Any) -> Any:
            return self._of(trial).sample_independent(study, trial, *param)

    return OfTrials()


def _require_same(study: Study, search: Search, config: RunConfig) -> None:
    """Record the run and the space in the study; ConfigError if it has others."""
    now = {"run": dump_yaml(config.model_dump(mode="json")), "space": dump_yaml(search.space)}
    stored = {**now, **study.user_attrs}
    same = {"run": _is_of(stored["run"], config), "space": stored["space"] == now["space"]}
    for key, text in now.items():
        if not same[key]:
            found = f"has a search of another {key}"
            raise ConfigError(fault(str(search.folder), "", found, "Undo the change, or give another --out."))
        study.set_user_attr(key, text)


def _is_of(text: str, config: RunConfig) -> bool:
    """Whether a stored run is this one; a version that stored it may have had fewer keys."""
    try:
        return run_config_from_yaml(text) == config
    except ConfigError:
        return False


def work(search: Search) -> None:
    """Carry out trials until the search has as many as it should; several processes may do so at once."""
    study = open_study(search)
    while _missing(study, search) > 0:
        _carry_out_trial(study, search)


def _carry_out_trial(study: Study, search: Search) -> None:
    """A trial, from its values to its score; recorded as failed where an error ends it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    with ExitStack() as locks:
        with exclusive(search.folder / BEGINNING, wait=True):  # a trial is never seen without the lock of its process
            trial = study.ask()
            folder = _folder_of(search, trial)
            shutil.rmtree(folder.path, ignore_errors=True)  # of an earlier search whose file was removed
            locks.enter_context(exclusive(folder.path / LOCK, wait=True))
        try:
            score = _score(search, trial)
        except TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            study.tell(trial, score)


def _missing(study: Study, search: Search) -> int:
    """How many trials are still to be carried out."""
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return search.trials - len(study.get_trials(deepcopy=False, states=ended))


def _require_complete(search: Search, lost: Sequence[str], jobs: int) -> None:
    """Report that processes were killed: DataError if trials are missing for it, otherwise a warning."""
    what = f"{len(lost)} of {jobs} processes ended: {lost[0]}"
    missing = _missing(open_study(search), search)
    if missing > 0:
        fix = "Run the same command to continue, with fewer --jobs if the memory was too small."
        done = f"trials: {search.trials - missing} of {search.trials}"
        raise DataError(fault(str(search.folder), "", f"{what}; {done}", fix))
    logger.warning("%s; the others carried out all trials", what)


def _fail_lost_trials(study: Study, search: Search) -> None:
    """Record trials whose process was killed as failed, and remove their weights.

    Optuna would take them for running trials, and avoid values like theirs.
    """
    from optuna.trial import TrialState

    with exclusive(search.folder / BEGINNING, wait=True):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            folder = _folder_of(search, trial)
            with exclusive(folder.path / LOCK, wait=False) as nobody_else:
                if nobody_else:
                    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                    remove_weights(folder.path)


def _folder_of(search: Search, trial: Trial | FrozenTrial) -> RunFolder:
    return RunFolder(search.folder / "trials" / str(trial.number))


def _score(search: Search, trial: Trial) -> float:
    """Train a run with the trial's values; its best dev score.

    Raises:
        TrialPruned: it is worse than the others, or its loss is not finite.
    """
    from optuna import TrialPruned

    from mtdnn.training.meter import NonFiniteLoss

    values = {key: _suggested(trial, key, given) for key, given in search.space.items()}
    folder = _folder_of(search, trial)
    own = {"output": str(folder.path), "checkpoint_every": "never"}
    config = checked_run(run_source(search.run, {**values, **own}))
    try:
        return _trained(config, folder, trial)
    except NonFiniteLoss as error:
        trial.set_user_attr("why", str(error))
        raise TrialPruned from error
    finally:
        remove_weights(folder.path)


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
