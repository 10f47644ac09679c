"""What a run's configuration names: its tasks, the tasks it trains on, and their regularizers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.config.options import Named, named_faults
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef, load_task_defs, row_units
from mtdnn.errors import NOWHERE, ConfigError, Fault, Place, fault, unknown
from mtdnn.task_types.base import TASK_TYPES, TaskType

if TYPE_CHECKING:
    from mtdnn.regularizers.base import Regularizer


def run_tasks(
    config: RunConfig, definitions: Mapping[str, TaskDef] | None = None
) -> tuple[dict[str, TaskDef], list[str]]:
    """The tasks of a run, and the names of those it trains on; the others are only measured.

    Args:
        config: the run.
        definitions: the definitions it chooses from; None = those in its file.
    Raises:
        ConfigError: see `task_faults`.
    """
    known = load_task_defs(config.tasks) if definitions is None else definitions
    if faults := task_faults(config, known):
        raise ConfigError(faults)
    return with_teachers(measured_tasks(config, known), config), list(trained_tasks(config, known))


def trained_tasks(config: RunConfig, known: Mapping[str, TaskDef]) -> dict[str, TaskDef]:
    """The tasks that a run trains on, in its order: those it names, or all that have a train split and a head."""
    names = config.train or known
    return {name: known[name] for name in names if name in known and known[name].trainable}


def measured_tasks(config: RunConfig, known: Mapping[str, TaskDef]) -> dict[str, TaskDef]:
    """The tasks that a run has results for: those it trains on, those of `also_evaluate`, and those with their heads.

    Args:
        config: the run.
        known: the definitions it chooses from.
    """
    trained = trained_tasks(config, known)
    kept = {name: known[name] for name in config.also_evaluate if name in known}
    followers = {name: task for name, task in known.items() if task.head_of in (*trained, *kept)}
    return {**trained, **kept, **followers}


def selecting_tasks(config: RunConfig, tasks: Mapping[str, TaskDef]) -> dict[str, TaskDef]:
    """The measured tasks whose mean selects the best checkpoint: all but those of `also_evaluate`.

    Args:
        config: the run.
        tasks: those it measures.
    """
    kept = set(config.also_evaluate)
    return {name: task for name, task in tasks.items() if not {name, task.head_of} & kept}


def task_faults(config: RunConfig, known: Mapping[str, TaskDef], unread: Collection[str] = ()) -> list[Fault]:
    """Errors in the tasks that a run names: unknown names in `train`, `also_evaluate`, `select_by`, `subset` or
    `distill`, or no dev split for `select_by` or early stopping.

    Args:
        config: the run.
        known: the definitions it chooses from.
        unread: names of further definitions that could not be read.
    """
    trainable = [name for name, task in known.items() if task.trainable]
    names = list(dict.fromkeys(config.train or trainable))
    faults = [
        fault("", "train", unknown("task", name, trainable)) for name in names if name not in (*trainable, *unread)
    ]
    trained = [name for name in names if name in (*trainable, *unread)]
    if config.select_by not in ("mean", *names, *unread):
        faults.append(fault("", "select_by", unknown("task", config.select_by, ["mean", *trained])))
    measured = [name for name in names if name in unread or (name in known and known[name].splits.get("dev"))]
    if config.select_by in names and config.select_by not in measured:
        fix = f"Add one, or choose among: {', '.join(['mean', *measured])}."
        faults.append(fault("", "select_by", f"'{config.select_by}' has no dev split", fix))
    if config.early_stopping is not None and names and not measured:
        fix = "Add one to a task, or remove early_stopping."
        faults.append(fault("", "early_stopping", "no task has a dev split to measure", fix))
    chosen = [known[name] for name in names if name in known]
    faults += _unmeasured_faults(config, chosen) + _teacher_faults(config, chosen)
    for key, named in (("subset", config.subset), ("distill", config.distill)):
        unknown_names = [name for name in named if name not in (*names, *unread)]
        faults += [fault("", key, unknown("task", name, trained)) for name in unknown_names]
    if not names and not unread:
        file = next((task.definitions for task in known.values()), config.tasks)
        found, fix = "no task has a train split", "Add one to a task's `splits`."
        faults.append(fault("", "tasks", found, fix) if file is None else fault(file, "", found, fix))
    faults += also_evaluate_faults(config, known, trained=names, unread=unread)
    units = row_units({name: known[name] for name in names if name in known})
    alone = [name for name in (*names, *unread) if name not in known]
    faults += [each for own in units.values() for each in _subset_faults(config, own)]
    faults += sharding_faults(config) + scaling_faults(config)
    return faults + balance_faults(config, [*units.values(), *([name] for name in dict.fromkeys(alone))])


def _teacher_faults(config: RunConfig, tasks: Sequence[TaskDef]) -> list[Fault]:
    """Tasks with soft labels on rows that several tasks share, of which some may have no label of the task.

    Parts of a batch count by their labels, which such rows would have none of, and lose their soft ones.
    """
    fix = "Give the task a file of its own, or leave distill out."
    return [
        fault("", f"distill.{task.name}", "its rows are shared with other tasks, which is not supported", fix)
        for task in tasks
        if task.rows is not None and (task.name in config.distill or task.distill is not None)
    ]


def _unmeasured_faults(config: RunConfig, tasks: Sequence[TaskDef]) -> list[Fault]:
    """What needs measuring on dev in a run that does not measure until its end."""
    if config.evaluate_every != "never":
        return []
    needs = ["early_stopping"] if config.early_stopping is not None else []
    for task in tasks:
        kind = task.task_type
        keys = TASK_TYPES.get(kind).tuned_on_dev if kind in TASK_TYPES else ()  # an unknown one is reported elsewhere
        needs += [f"{task.name}.{key}" for key in keys if task.options.get(key)]
    fix = "Give evaluate_every: epoch, or leave it out."
    return [fault("", key, "nothing is measured on dev, as evaluate_every is never", fix) for key in needs]


def sharding_faults(config: RunConfig) -> list[Fault]:
    """What a run with `sharding: full` cannot do, with the reason."""
    if config.sharding == "none":
        return []
    found = {key: f"{needs}, and no process has all of it" for key, needs in _needs_of_gradients(config).items()}
    if config.adapter is not None:
        found["adapter"] = "freezes the weights that would be divided, which is not supported"
    if config.compile:
        found["compile"] = "compiles layers whose weights are gathered for each pass, which is not supported"
    return [
        fault("", key, f"{why}, as sharding is full", "Leave it out, or set sharding: none.")
        for key, why in found.items()
    ]


def scaling_faults(config: RunConfig) -> list[Fault]:
    """What a run with `precision: fp16` cannot do, with the reason."""
    if config.precision != "fp16":
        return []
    return [
        fault("", key, f"{needs}, which fp16 scales and may overflow", "Leave it out, or use bf16 or float32.")
        for key, needs in _needs_of_gradients(config).items()
    ]


def _needs_of_gradients(config: RunConfig) -> dict[str, str]:
    """Key → what it needs, for those that need the gradients of tasks or terms apart from each other."""
    kind = None if named_faults(BALANCERS, config.balance, "balance") else BALANCERS.get(config.balance.name)
    asked = {
        "balance": kind is not None and (kind.acts == "together" or kind.needs_norms),
        "log_conflicts": config.log_conflicts > 0,
        "log_affinity": config.log_affinity > 0,
        "log_gradients": config.log_gradients,
    }
    of = {key: "term" if key == "log_gradients" else "task" for key in asked}
    return {key: f"needs the gradient of each {of[key]}" for key, is_asked in asked.items() if is_asked}


def also_evaluate_faults(
    config: RunConfig, known: Mapping[str, TaskDef], *, trained: Collection[str], unread: Collection[str]
) -> list[Fault]:
    """What is wrong with `also_evaluate`, before the encoder's run is read.

    Args:
        config: the run.
        known: the definitions it chooses from.
        trained: names of the tasks it trains on.
        unread: names of further definitions that could not be read.
    """
    key, faults = "also_evaluate", []
    if config.also_evaluate and (isinstance(config.encoder, str) or config.encoder.heads != "keep"):
        fix = "Give encoder: {run: folder of the run that trained them, heads: keep}."
        faults.append(fault("", key, "tasks that this run does not train have no head to start from", fix))
    for name in (name for name in config.also_evaluate if name not in unread):
        if name not in known:
            faults.append(fault("", key, unknown("task", name, [each for each in known if each not in trained])))
        elif name in trained:
            faults.append(fault("", key, f"this run trains on '{name}'", "Remove it here, or leave it out of `train`."))
        elif known[name].head_of is not None:
            fix = f"Name {known[name].head_of}; {name} is then measured too."
            faults.append(fault("", key, f"'{name}' has no head of its own", fix))
        elif not known[name].splits.get("dev"):
            faults.append(fault("", key, f"'{name}' has no dev split to measure", "Add one to its `splits`."))
    return faults


def _subset_faults(config: RunConfig, tasks: Sequence[str]) -> list[Fault]:
    """Errors if a run trains tasks that share rows on different parts of them."""
    parts = [config.subset.get(name) for name in tasks]
    if all(part == parts[0] for part in parts):
        return []
    found = f"{', '.join(tasks)} share rows, but have different subsets of them"
    return [fault("", "subset", found, "Give each of these tasks the same.")]


def balance_faults(config: RunConfig, units: Sequence[Sequence[str]]) -> list[Fault]:
    """What is wrong with `balance`, `tasks_per_step`, `log_conflicts` and `log_affinity`.

    Args:
        config: the run.
        units: names of the tasks trained on, those that share rows together.
    """
    if faults := named_faults(BALANCERS, config.balance, "balance"):
        return faults
    kind, several = BALANCERS.get(config.balance.name), config.tasks_per_step != 1 or any(len(u) > 1 for u in units)
    faults = kind.faults(config.balance.options, [name for unit in units for name in unit])
    if isinstance(config.tasks_per_step, int) and config.tasks_per_step > len(units) > 0:
        found = f"{config.tasks_per_step} tasks, but the run has {len(units)}"
        if any(len(unit) > 1 for unit in units):
            found = f"{found}, counting tasks that share rows as one"
        faults.append(fault("", "tasks_per_step", found, f"Give 1 to {len(units)}, or all."))
    fix = "Set tasks_per_step to 2 or more, or to all."
    if kind.needs_several and not several:
        found = f"{kind.name} compares the tasks of a step, but tasks_per_step is 1"
        faults.append(fault("", "balance", found, fix))
    for key in ("log_conflicts", "log_affinity"):
        if getattr(config, key) and not several:
            faults.append(fault("", key, "compares the tasks of a step, but tasks_per_step is 1", fix))
    return faults + _unshared_faults(config, kind)


def _unshared_faults(config: RunConfig, kind: type[Balancer]) -> list[Fault]:
    """Gradients of shared weights that are to be compared, where the run trains no weight that its tasks share."""
    if config.freeze_encoder:
        reason, remedy = "freeze_encoder leaves none to train", "set freeze_encoder: false"
    elif config.adapter is not None and config.adapter.options.get("scope") == "task":
        reason, remedy = "each task trains an adapter of its own", "give all tasks one, adapter: {scope: shared}"
    else:
        return []
    found = f"compares gradients of shared weights, but {reason}"
    keys = [key for key in ("log_conflicts", "log_affinity") if getattr(config, key)]
    faults = [fault("", key, found, f"Leave it out, or {remedy}.") for key in keys]
    if kind.acts == "together" or kind.needs_norms:
        faults.append(fault("", "balance", f"{kind.name} {found}", f"Use fixed, or {remedy}."))
    return faults


def with_teachers(tasks: Mapping[str, TaskDef], config: RunConfig) -> dict[str, TaskDef]:
    """The tasks, with the soft labels that the run names instead of their own."""
    soft = {name: {"distill": each} for name, each in config.distill.items()}
    return {name: task.model_copy(update=soft.get(name)) for name, task in tasks.items()}


def regularizers_of(config: RunConfig, tasks: Mapping[str, TaskDef]) -> dict[str, Regularizer | None]:
    """Each task's regularizer: its own, or the run's, or none. Loads PyTorch.

    Raises:
        ConfigError: every unknown name and bad option, with its place.
    """
    from mtdnn.regularizers.base import REGULARIZERS

    faults: list[Fault] = []
    chosen: dict[str, Regularizer | None] = {}
    for name, task in tasks.items():
        named, where, key = named_regularizer(config, task)
        if named is None:
            chosen[name] = None
            continue
        try:
            kind = REGULARIZERS.get(named.name, where=where, key=key)
        except ConfigError as error:
            faults += error.faults
            continue
        found = named_faults(REGULARIZERS, named, key, where=where)
        task_type = _type_of(task)
        found += [] if task_type is None else kind.type_faults(task_type, where, key)
        if kind.moves_within_step and config.accumulate > 1:
            wrong = f"{kind.name} updates the weights within a step, but accumulate is {config.accumulate}"
            found.append(fault(where, key, wrong, "Use accumulate: 1, or another regularizer."))
        faults += found
        chosen[name] = None if found else kind(**named.options)
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return chosen


def _type_of(task: TaskDef) -> type[TaskType] | None:
    """The type of a task; None if its type is unknown, which is reported elsewhere."""
    try:
        return TASK_TYPES.get(task.task_type)
    except ConfigError:
        return None


def named_regularizer(config: RunConfig, task: TaskDef) -> tuple[Named | None, Place, str]:
    """The block that names a task's regularizer, and its place and key for messages."""
    if task.regularizer is not None or task.regularizer_off:
        named = None if task.regularizer_off else task.regularizer
        return named, task.where("regularizer"), f"{task.name}.regularizer"
    return config.regularizer, NOWHERE, "regularizer"
