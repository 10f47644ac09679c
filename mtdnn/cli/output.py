"""What commands print."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from mtdnn.columns import table

EXIT_PIPE_CLOSED = 141
EXIT_ERROR = 2


def as_json(values: object) -> str:
    """Plain values as indented JSON, for scripts."""
    import json

    return json.dumps(values, ensure_ascii=False, indent=1)


def results_table(results: Mapping[str, Any]) -> str:
    """One line per task and split of `{task: {split: {metric: value}}}`; keys that begin with `_` are left out.

    Without splits it is a sentence: no task had one to measure. Splits without labels are named below the table.
    """
    splits = [
        (task, split, values)
        for task, inner in results.items()
        if not task.startswith("_")
        for split, values in inner.items()
    ]
    if not splits:
        return "nothing was measured: no task has a dev split"
    metrics = list(dict.fromkeys(("rows", *(metric for _, _, values in splits for metric in values))))
    lines = [["task", "split", *metrics]]
    lines += [
        [task, split, *(number(values[metric]) if metric in values else "" for metric in metrics)]
        for task, split, values in splits
    ]
    unlabelled = ", ".join(f"{task} {split}" for task, split, values in splits if values.get("rows") == 0)
    note = f"\n\nno row has a label, so that nothing was measured: {unlabelled}" if unlabelled else ""
    return f"{table(lines)}{note}"


def number(value: Any) -> str:
    """A count unchanged, a metric with four decimals."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def print_text(text: str) -> None:
    """Print a text; exit like other tools if the reader has closed the pipe, as after `| head -1`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for text that is still buffered
        raise SystemExit(EXIT_PIPE_CLOSED) from None
