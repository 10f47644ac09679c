"""The benchmarks of a GPU, one after another, as Markdown for `benchmarks/README.md`: what `make gpu` runs last.

    python -m benchmarks.on_gpu [--encoder FOLDER --data DIR] [--peak-tflops 989] [--only attention,memory]
    python -m benchmarks.on_gpu --device cpu --shape tiny --quick         the same commands as a check, in minutes

Without `--encoder` and `--data` the encoder has random weights, and the rows made-up words with about the lengths of
RTE and MRPC: speed does not depend on what they say. Each benchmark is a command of its own, which is printed above its
table; one that fails is reported, the others run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.glue_epoch import GLUE, drawn_lengths
from benchmarks.prepro import made_up_words
from benchmarks.small_encoder import SHAPES, save_encoder
from mtdnn.config.tasks import load_task_defs

TASKS = "task_defs/glue.yml"
NAMES = ("train_throughput", "glue_epoch", "attention", "smart_cost", "memory", "predict_throughput", "step_profile")
ROWS = {"train": 2_000, "dev": 500}
TOKENS_OF_A_WORD = 1.7
"""About, by the tokenizer of `small_encoder`."""


def some_names(words: str) -> list[str]:
    """The benchmarks of `--only`; an error of argparse for an unknown one."""
    found = words.split(",")
    if unknown := [word for word in found if word not in NAMES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(NAMES)}")
    return found


def write_glue_rows(folder: Path, tasks: Sequence[str], words: Sequence[str]) -> Path:
    """Rows of pair tasks with made-up words, about as long as the tasks' own."""
    definitions, generator = load_task_defs(TASKS), np.random.default_rng(0)
    for task in tasks:
        for split, number in ROWS.items():
            path = folder / task / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lengths = drawn_lengths(GLUE[task], number, generator)
            path.write_text("".join(_rows(lengths, definitions[task].labels, words, generator)), encoding="utf-8")
    return folder


def _rows(
    lengths: np.ndarray, labels: Sequence[str], words: Sequence[str], generator: np.random.Generator
) -> Iterator[str]:
    for number, length in enumerate(lengths.tolist()):
        count = max(2, round(length / TOKENS_OF_A_WORD))
        drawn = [words[each] for each in generator.integers(0, len(words), count)]
        half = (count + 1) // 2
        yield f"{number}\t{labels[number % len(labels)]}\t{' '.join(drawn[:half])}\t{' '.join(drawn[half:])}\n"


def commands(given: argparse.Namespace) -> dict[str, list[str]]:
    """Name → the words of each benchmark behind `python -m benchmarks.`."""
    model = ["--encoder", str(given.encoder), "--device", given.device]
    on_rows, quick = [*model, "--data", str(given.data)], given.quick
    peak = ["--peak-tflops", str(given.peak_tflops)] if given.peak_tflops else []
    epoch = ["--shape", given.shape, "--device", given.device, "--precision", "bf16", "--group-by-length", "50"]
    size = ["--share", "0.0005", "--steps", "2", "--repeats", "1", "--batch-size", "4"] if quick else []
    few = ["--steps", "2", "--repeats", "1"] if quick else ["--steps", "50", "--repeats", "5"]
    costs = ["--rows", "4", "--repeats", "1", "--no-memory"] if quick else ["--rows", "32", "--tokens", "128"]
    attention = ["--repeats", "1", "--batches", "1", "--rows", "4", "--tasks", "mrpc"] if quick else []
    found = {
        "train_throughput": [*on_rows, *few, *peak],
        "glue_epoch": [*epoch, *(size or ["--max-tokens", "16384"]), *peak],
        "glue_epoch with dropout": [*epoch, *(size or ["--max-tokens", "16384"]), *peak, "--attention-dropout", "0.1"],
        "attention": ["--device", given.device, *attention],
        "smart_cost": [*model, *costs],
        "smart_cost in bf16": [*model, *costs, "--bf16"],
        "memory": [*on_rows, *(["--steps", "2", "--repeats", "1"] if quick else ["--batch-size", "64"]), "--bf16"],
        "predict_throughput": [*on_rows, *(["--repeats", "1", "--max-rows", "20"] if quick else [])],
        "step_profile": [*on_rows, "--bf16", "--steps", "2" if quick else "20"],
    }
    return {name: [name.split()[0], *words] for name, words in found.items() if name.split()[0] in given.only}


def markdown(output: str) -> str:
    """What a benchmark printed, with its aligned columns as a Markdown table."""
    lines = output.strip().splitlines()
    found: list[str] = []
    if any(line.startswith("|") for line in lines):  # a table already, which needs an empty line before it
        return re.sub(r"(?m)^([^|\n].*)\n\|", r"\1\n\n|", output.strip())
    if not lines or "  " not in lines[0]:
        return output.strip()
    starts = [match.start() for match in re.finditer(r"(?<!\S)\S+(?: \S+)*", lines[0])]
    ends = [*starts[1:], None]
    for number, line in enumerate(lines):
        if not line.strip():
            return "\n".join([*found, "", *lines[number + 1 :]])
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        found.append(f"| {' | '.join(cells)} |")
        if number == 0:
            found.append("|---" * len(cells) + "|")
    return "\n".join(found)


def run(name: str, words: Sequence[str]) -> bool:
    """Print a benchmark's command and table; whether it ended well."""
    print(f"\n### {name}\n\n`python -m benchmarks.{' '.join(words)}`\n", flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:]], capture_output=True, text=True)
    if done.returncode:
        print(f"failed with status {done.returncode}:\n\n{done.stderr[-2000:]}", flush=True)
        return False
    print(markdown(done.stdout), flush=True)
    return True


def described(device: str) -> str:
    """The machine of the tables."""
    if device == "cpu":
        return f"CPU, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    found = torch.cuda.get_device_properties(0)
    memory = f"{found.total_memory / 2**30:.0f} GiB"
    return f"{found.name}, {memory}, compute capability {found.major}.{found.minor}, PyTorch {torch.__version__}"


def main() -> None:
    """Run and print; the status is 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--encoder", type=Path, help="hub name or folder; default: made here")
    parser.add_argument("--data", type=Path, help="folder of the rows of RTE and MRPC; default: made here")
    parser.add_argument("--shape", choices=list(SHAPES), default="base", help="of an encoder made here")
    parser.add_argument("--peak-tflops", type=float, help="bf16 products of the device, by its data sheet")
    parser.add_argument("--only", default=",".join(NAMES), type=some_names)
    parser.add_argument("--quick", action="store_true", help="a few steps, to check that all of it runs")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: torch.cuda.is_available() is false; nothing was measured")
        return
    with tempfile.TemporaryDirectory(prefix="mtdnn-gpu-") as name:
        words, folder = made_up_words(20_000), Path(name)
        given.encoder = given.encoder or save_encoder(folder / "encoder", given.shape, words)
        given.data = given.data or write_glue_rows(folder / "data", ["rte", "mrpc"], words)
        print(described(given.device))
        ended = [run(name, words) for name, words in commands(given).items()]
    sys.exit(0 if all(ended) else 1)


if __name__ == "__main__":
    main()
