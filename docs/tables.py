"""Writes the tables of keys into the pages beside this file: `python docs/tables.py`, after a key was added or changed.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; a test fails while one of them is out of date.
"""

import re
from pathlib import Path

from mtdnn.balancing.base import BALANCERS
from mtdnn.cli.schema import key_table, options_by_name
from mtdnn.config.options import Named
from mtdnn.config.run import OptimizerConfig, RunConfig
from mtdnn.config.splits import CutFile
from mtdnn.config.tasks import TaskDef, task_def_from
from mtdnn.data.samplers import SAMPLERS
from mtdnn.networks.adapters import ADAPTERS
from mtdnn.networks.heads import HEADS
from mtdnn.networks.losses import LOSSES
from mtdnn.registry import Registry
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.optim import OPTIMIZERS, SCHEDULES

PAGES = sorted(Path(__file__).parent.glob("*.md"))
BLOCK = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def words_of_types() -> str:
    """Which metrics, losses and heads each task type takes; the defaults come first."""
    lines = ["| task_type | metrics by default | other metrics | loss | head |", "|---|---|---|---|---|"]
    for name in TASK_TYPES:
        kind = TASK_TYPES.get(name)
        others = [metric for metric in kind.metrics if metric not in kind.default_metrics]
        losses = dict.fromkeys((kind.default_loss, *kind.losses))
        cells = (
            ", ".join(f"`{word}`" for word in words) for words in (kind.default_metrics, others, losses, kind.heads)
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of_types() -> str:
    """What a row of each task type looks like: the columns of its sample task, and the first sample row."""
    lines = ["| task_type | columns of a .tsv | a row |", "|---|---|---|"]
    for name in TASK_TYPES:
        kind = TASK_TYPES.get(name)
        columns = kind(task_def_from(name, dict(kind.sample_block))).columns
        row = kind.sample_rows[0].replace("|", r"\|").replace("\t", "` ⇥ `")
        lines.append(f"| `{name}` | {', '.join(f'`{column}`' for column in columns)} | `{row}` |")
    return "\n".join(lines)


def options_of_types() -> str:
    """One table for each task type that has keys of its own."""
    tables = [
        f"`task_type: {name}`\n\n{key_table(TASK_TYPES.get(name).Options)}"
        for name in TASK_TYPES
        if TASK_TYPES.get(name).Options.model_fields
    ]
    return "\n\n".join(tables) or "None of the task types has any."


def described(registry: Registry, meaning: str) -> str:
    """The names in a registry and the first paragraph about each."""
    lines = [f"| {registry.kind} | {meaning} |", "|---|---|"]
    lines += [f"| `{name}` | {first_paragraph(registry.get(name).__doc__)} |" for name in registry]
    return "\n".join(lines)


def options(registry: Registry, kind: type[Named] = Named) -> str:
    """A table of options for each name in a registry that has any, one for all names with the same."""
    tables: dict[str, list[str]] = {}
    for name, model in options_by_name(registry, kind).items():
        if model.model_fields:
            tables.setdefault(key_table(model), []).append(f"`{name}`")
    return "\n\n".join(f"{', '.join(names)}\n\n{table}" for table, names in tables.items())


def first_paragraph(docstring: str | None) -> str:
    return " ".join((docstring or "").split("\n\n")[0].split()).replace("|", r"\|")


TABLES = {
    "task keys": lambda: key_table(TaskDef, without=("name", "options")),
    "task types": words_of_types,
    "rows": rows_of_types,
    "task type options": options_of_types,
    "heads": lambda: described(HEADS, "layer on top of the encoder"),
    "head options": lambda: options(HEADS),
    "losses": lambda: described(LOSSES, "what training minimizes"),
    "loss options": lambda: options(LOSSES),
    "cut keys": lambda: key_table(CutFile),
    "run keys": lambda: key_table(RunConfig),
    "mixing": lambda: described(SAMPLERS, "order of the batches"),
    "mixing options": lambda: options(SAMPLERS),
    "balance": lambda: described(BALANCERS, "how the tasks of a step are combined"),
    "balance options": lambda: options(BALANCERS),
    "optimizers": lambda: described(OPTIMIZERS, "update rule"),
    "optimizer options": lambda: options(OPTIMIZERS, OptimizerConfig),
    "schedules": lambda: described(SCHEDULES, "learning rate over the run"),
    "schedule options": lambda: options(SCHEDULES),
    "adapters": lambda: described(ADAPTERS, "what is trained"),
    "adapter options": lambda: options(ADAPTERS),
    "regularizers": lambda: described(REGULARIZERS, "what it adds to a task's loss"),
    "regularizer options": lambda: options(REGULARIZERS),
    "proximal terms": lambda: described(PROXIMAL, "what the model is compared with"),
    "proximal options": lambda: options(PROXIMAL),
}


def refreshed(text: str) -> str:
    """A page with its tables as they should be."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
