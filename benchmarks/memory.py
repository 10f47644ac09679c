"""Peak memory of training steps beside a plain transformers loop on the same batches, each way in a fresh process.

    python -m benchmarks.memory --encoder FOLDER --data DIR [--task rte] [--steps 8] [--device cuda]

Plain pads each batch to its longest row; mtdnn computes real tokens only; both also with gradient checkpointing. All
ways see the same rows in the same random batches, in the same order. Before, each makes one step on its shortest row,
so that the state of AdamW and the libraries' buffers lie there: "before" is what lies in memory then, "peak" the most
that does during the steps, "step" their difference. On a CPU that is resident memory of the process, on a GPU what
PyTorch's allocator handed out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.processes import forget_peak, in_fresh_process, peak_resident, resident
from benchmarks.rounds import interleaved, ratios
from mtdnn.columns import table

TASKS = "task_defs/glue.yml"
Step = Callable[[np.ndarray], None]
"""Trains on the rows with these numbers."""


def random_batches(num_rows: int, batch_size: int, steps: int) -> list[np.ndarray]:
    """Row numbers of some full batches in random order; the same for every way."""
    order = np.random.default_rng(0).permutation(num_rows)
    return [order[start : start + batch_size] for start in range(0, num_rows - batch_size + 1, batch_size)][:steps]


def peak_of_plain(given: dict[str, Any], folder: str, checkpointing: bool) -> dict[str, int]:
    """Bytes of the plain loop; to be called in a fresh process."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    from benchmarks.plain_loop import autocast, decayed_and_not, encode, is_regression, read_rows

    torch.set_num_threads(given["threads"])
    tokenizer = AutoTokenizer.from_pretrained(given["encoder"])
    rows = read_rows(Path(given["data"]) / given["task"] / "train.tsv")
    labels = None if is_regression(rows) else sorted({row.label for row in rows})
    encoded, collate = encode(rows, tokenizer, labels, 256), DataCollatorWithPadding(tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(
        given["encoder"], num_labels=len(labels or [""]), dtype=torch.float32
    )
    model = model.to(given["device"]).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(decayed_and_not(model, 0.01), lr=5e-5, fused=True)

    def step(numbers: np.ndarray) -> None:
        batch = collate([encoded[number] for number in numbers]).to(model.device)
        with autocast(model.device, given["bf16"]):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return _peak(step, [len(row["input_ids"]) for row in encoded], given)


def peak_of_ours(given: dict[str, Any], folder: str, checkpointing: bool) -> dict[str, int]:
    """Bytes of this project; to be called in a fresh process."""
    from mtdnn.config.run import load_run_config
    from mtdnn.data.collate import collate
    from mtdnn.execution.memory import freed_memory_kept
    from mtdnn.runs.folder import RunFolder
    from mtdnn.runs.setup import Setup

    torch.set_num_threads(given["threads"])
    words = {"tasks": TASKS, "data": folder, "encoder": given["encoder"], "output": "unused", "train": [given["task"]]}
    words |= {"precision": "bf16" if given["bf16"] else "float32", "gradient_checkpointing": checkpointing}
    setup = Setup.of(load_run_config(None, words))
    trainer = setup.trainer(RunFolder("unused"))
    trainer.model.to(given["device"]).train()
    store, task_type = setup.loader.stores[given["task"]], trainer.model.task_types[given["task"]]
    pad = setup.tokenizer.pad_token_id

    def step(numbers: np.ndarray) -> None:
        trainer.train_step((collate(store.take(numbers), task_type, pad_token_id=pad),))

    with freed_memory_kept():
        return _peak(step, store.lengths, given)


def _peak(step: Step, lengths: Sequence[int] | np.ndarray, given: Mapping[str, Any]) -> dict[str, int]:
    """Peak and what lay there before, around the steps."""
    step(np.array([np.argmin(lengths)]))
    on_gpu = given["device"] == "cuda"
    forget_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else resident()
    for numbers in random_batches(len(lengths), given["batch_size"], given["steps"]):
        step(numbers)
    return {"before": before, "peak": torch.cuda.max_memory_allocated() if on_gpu else peak_resident()}


def report(rounds: Mapping[str, Sequence[Mapping[str, int]]]) -> str:
    """A line per way, ratios to the first."""
    first = next(iter(rounds))
    steps = {name: [each["peak"] - each["before"] for each in found] for name, found in rounds.items()}
    peaks = {name: [each["peak"] for each in found] for name, found in rounds.items()}
    lines = [["way", "before, MiB", "peak, MiB", f"to {first}", "step, MiB", f"to {first}"]]
    for name, found in rounds.items():
        before = statistics.median(each["before"] for each in found) / 2**20
        cells = [f"{before:,.0f}"]
        for values in (peaks, steps):
            cells.append(f"{statistics.median(values[name]) / 2**20:,.0f}")
            cells.append(f"{statistics.median(ratios(values[name], values[first])):.2f}")
        lines.append([name, *cells])
    return table(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--data", required=True, help="folder of the rows")
    parser.add_argument("--task", default="rte")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of fresh processes")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    from mtdnn.config.tasks import load_task_defs
    from mtdnn.data.prepro import prepare

    with tempfile.TemporaryDirectory(prefix="mtdnn-memory-") as folder:
        chosen = {given.task: load_task_defs(TASKS)[given.task]}
        prepare(chosen, data=given.data, encoder=given.encoder, out=folder)
        seen = {} if given.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        ways = {
            f"{name}{', gradient checkpointing' if checkpointing else ''}": partial(
                in_fresh_process, "memory", function, vars(given), folder, checkpointing, environment=seen
            )
            for checkpointing in (False, True)
            for name, function in (("plain", "peak_of_plain"), ("mtdnn", "peak_of_ours"))
        }
        rounds = interleaved(ways, given.repeats, warm_up=False)
    print(report(rounds))
    precision = "bf16" if given.bf16 else "float32"
    print(f"\n{given.task}, {given.steps} batches of {given.batch_size}, {precision}; {given.repeats} rounds")


if __name__ == "__main__":
    main()
