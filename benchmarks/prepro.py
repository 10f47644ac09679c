"""Preparing generated pair rows, against the Rust tokenizer alone on the same rows and cores, in one run.

    python -m benchmarks.prepro [--rows 1000000] [--encoder FOLDER] [--repeats 3]
    python -m benchmarks.prepro --rows 1000000,10000000 --ways prepro --repeats 1
    python -m benchmarks.prepro --rows 200000 --ways map,one-process --workers 1
    python -m benchmarks.prepro --rows 1000000 --launcher ray --workers 2 --repeats 1

`tokenizers` is its own `encode_batch` on rows that already lie in memory, on all cores by its own threads, a thousand
at a time and thrown away; `tokenizers-fast` is `encode_batch_fast`, the same without offsets into the text. `prepro` is
`mtdnn prepro` with as many processes: it reads the file, checks every row, encodes, writes Arrow and the manifest.
`map` is `datasets.map(tokenizer, batched=True)` with as many processes, on a data set that is in memory.
`one-process` is prepro in one process; `ray` is `prepro --launcher ray` on a local Ray of as many CPUs as there are
workers, which is started before the clock, its workers after. `--launcher ray` measures these two unless --ways says
otherwise. Each round does all of them one after another. Resident memory is that of the whole process tree: pages that
processes share are counted once (PSS), and so are those of the mapped files; the driver is the process that calls
prepro, the workers are those that encode, and the rest is Ray's own. Several numbers of rows are measured one after
another; the last lines then tell how memory and speed change between them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import psutil

from benchmarks.rounds import interleaved, median_and_spread, ratios

ROWS_AT_ONCE = 1000
WAYS = ("tokenizers", "tokenizers-fast", "prepro")
WAYS_OF = {"local": WAYS, "ray": ("one-process", "ray")}
OF_MTDNN = ("prepro", "ray", "one-process")
LABELS = ("entailment", "neutral", "contradiction")


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000000", type=lambda words: [int(word) for word in words.split(",")])
    parser.add_argument("--launcher", choices=tuple(WAYS_OF), default="local")
    parser.add_argument("--ways", type=lambda words: words.split(","), help="Default: those of the launcher.")
    parser.add_argument("--encoder", type=Path, help="Folder with a fast tokenizer. Default: one made here.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    ways = given.ways or WAYS_OF[given.launcher]
    if unknown := [way for way in ways if way not in works()]:
        parser.error(f"--ways {', '.join(unknown)}: known are {', '.join(works())}")
    found = {}
    for rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="mtdnn-prepro-") as name:
            folder = Path(name)
            words = made_up_words(20_000)
            encoder = given.encoder or save_tokenizer(folder / "encoder", words)
            write_rows(folder / "pairs" / "train.tsv", rows, words)
            (folder / "tasks.yml").write_text(pair_task("pairs", "train"), encoding="utf-8")
            found[rows] = measure(folder, encoder, ways, repeats=given.repeats, workers=given.workers)
        print(f"{rows:,} pair rows, {given.workers} workers, {given.repeats} rounds; medians (spread)\n")
        print(report(found[rows], rows) + "\n", flush=True)
    if len(found) > 1:
        print(growth(found))


def pair_task(name: str, *splits: str) -> str:
    """The definition of a task whose rows are those of `write_rows`."""
    return f"""\
{name}:
  task_type: classification
  inputs: [premise, hypothesis]
  labels: [{", ".join(LABELS)}]
  max_length: 128
  splits: {{{", ".join(f"{split}: {split}" for split in splits)}}}
"""


def made_up_words(number: int) -> list[str]:
    """Words of three to twelve letters, frequent ones first."""
    generator = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    share = 1.0 / np.arange(1, 27)
    drawn = (
        "".join(generator.choice(letters, size, p=share / share.sum()))
        for size in generator.integers(3, 13, 3 * number)
    )
    return list(islice(dict.fromkeys(drawn), number))


def write_rows(path: Path, rows: int, words: list[str]) -> None:
    """Pairs of sentences: 6 to 30 words and 4 to 16, drawn with the frequencies of Zipf's law."""
    path.parent.mkdir(parents=True)
    generator = np.random.default_rng(1)
    share = 1.0 / np.arange(10, 10 + len(words))
    share /= share.sum()
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, rows, 10_000):
            size = min(10_000, rows - start)
            lengths = np.stack([generator.integers(6, 31, size), generator.integers(4, 17, size)], axis=1)
            drawn = iter(generator.choice(len(words), int(lengths.sum()), p=share).tolist())
            for number, (first, second) in enumerate(lengths.tolist(), start):
                texts = (" ".join(words[each] for each in islice(drawn, length)) for length in (first, second))
                premise, hypothesis = (f"{text.capitalize()}." for text in texts)
                file.write(f"{number}\t{LABELS[number % 3]}\t{premise}\t{hypothesis}\n")


def save_tokenizer(folder: Path, words: list[str]) -> Path:
    """A WordPiece tokenizer as BERT's: half of the words whole, the others in pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(set("".join(words)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *letters, *(f"##{each}" for each in letters)]
    tokens += [word for word in words[::2] if word not in tokens] + [f"##{word}" for word in words[1::20]]
    backend = Tokenizer(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **special).save_pretrained(folder)
    return folder


class Peak(NamedTuple):
    """Largest resident bytes: of all processes together, of the driver, of the workers together."""

    total: int
    driver: int = 0
    workers: int = 0


Found = dict[str, list[tuple[float, Peak]]]
"""Way → seconds and peak, one pair per round."""


def measure(folder: Path, encoder: Path, ways: Sequence[str], *, repeats: int, workers: int) -> Found:
    """Each way in turn, several rounds, each in a process of its own."""
    works = {way: partial(in_process, way, folder, encoder, workers) for way in ways}
    return interleaved(works, repeats, warm_up=False)


def report(found: Found, rows: int) -> str:
    """A line per way, and what each way of mtdnn is relative to the others."""
    lines = [f"{'':<18}{'rows/s':>32}{'peak memory':>16}{'driver':>16}{'workers':>16}"]
    speeds = {way: [rows / seconds for seconds, _ in rounds] for way, rounds in found.items()}
    for way, rounds in found.items():
        peaks = (max(each) / 2**20 for each in zip(*(peak for _, peak in rounds), strict=True))
        lines.append(
            f"{way:<18}{median_and_spread(speeds[way], 0):>32}" + "".join(f"{each:>12,.0f} MiB" for each in peaks)
        )
    ours = next((way for way in OF_MTDNN if way in found), None)
    for way in found:
        if ours is not None and way != ours:
            lines.append(f"{ours} / {way}: {median_and_spread(ratios(speeds[ours], speeds[way]))}")
    return "\n".join(lines)


def growth(found: Mapping[int, Found]) -> str:
    """How prepro's peak memory and time for a row at each number of rows compare to those at the first."""
    lines, first = [], None
    for rows, each in found.items():
        if "prepro" not in each:
            continue
        seconds = statistics.median(took for took, _ in each["prepro"]) / rows
        peak = max(peak.total for _, peak in each["prepro"])
        first = first or (seconds, peak)
        lines.append(
            f"{rows:,} rows: {peak / first[1]:.2f} times the memory, {seconds / first[0]:.2f} of the time a row"
        )
    return "\n".join(lines)


def in_process(way: str, folder: Path, encoder: Path, workers: int) -> tuple[float, Peak]:
    """(seconds of the work itself, peak resident bytes of the process and its children)."""
    words = [sys.executable, "-c", f"from benchmarks.prepro import work; work({way!r}, *__import__('sys').argv[1:])"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true"}
    command = [*words, str(folder), str(encoder), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak = [Peak(0)]
    watcher = threading.Thread(target=watch_memory, args=(process, peak))
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{way} failed with status {process.returncode}")
    return float(out.split()[-1]), peak[0]


def watch_memory(process: subprocess.Popen, peak: list[Peak]) -> None:
    """Note the largest sums of PSS over a process tree, five times a second, until it ends."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        driver, workers, others = 0, 0, 0
        for each in _tree(root):
            try:
                size, words = each.memory_full_info().pss, each.cmdline()
            except psutil.Error:
                continue  # it has just ended
            if each == root:
                driver = size
            elif words == root.cmdline() or (words and words[0].startswith("ray::")):  # forked, or renamed by Ray
                workers += size
            else:
                others += size
        now = Peak(driver + workers + others, driver, workers)
        peak[0] = Peak(*map(max, peak[0], now))
        time.sleep(0.2)


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def work(way: str, folder: str, encoder: str, workers: str) -> None:
    """One way, in this process; prints the seconds it took, without imports and loading the tokenizer."""
    print(works()[way](Path(folder), Path(encoder), int(workers)))


def works() -> dict[str, Callable[[Path, Path, int], float]]:
    """Way → what does it: (folder of the rows, that of the tokenizer, number of workers) → seconds."""
    return {
        "tokenizers": partial(tokenize, method="encode_batch"),
        "tokenizers-fast": partial(tokenize, method="encode_batch_fast"),
        "map": map_rows,
        "prepro": prepare_rows,
        "one-process": lambda folder, encoder, workers: prepare_rows(folder, encoder, 1),
        "ray": partial(prepare_rows, launcher="ray"),
    }


def tokenize(folder: Path, encoder: Path, workers: int, *, method: str) -> float:
    """Seconds in which the Rust tokenizer alone encodes rows that lie in memory."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    backend.no_padding()
    backend.enable_truncation(128)
    encode, total = getattr(backend, method), 0.0
    for pairs in _pairs(folder / "pairs" / "train.tsv"):
        started = time.perf_counter()
        encode(pairs)
        total += time.perf_counter() - started
    return total


def map_rows(folder: Path, encoder: Path, workers: int) -> float:
    """Seconds of `datasets.map` with the tokenizer of transformers; like prepro it writes an Arrow file."""
    import datasets

    from mtdnn.tokens.loading import load_tokenizer

    tokenizer = load_tokenizer(encoder).hf
    names = ("premise", "hypothesis")
    pairs = [pair for some in _pairs(folder / "pairs" / "train.tsv") for pair in some]
    rows = datasets.Dataset.from_dict(dict(zip(names, zip(*pairs, strict=True), strict=True)))
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = time.perf_counter()
        rows.map(
            lambda some: tokenizer(*map(some.__getitem__, names), truncation=True, max_length=128),
            batched=True,
            remove_columns=list(names),
            num_proc=workers if workers > 1 else None,
            cache_file_name=f"{out}/rows.arrow",
        )
        return time.perf_counter() - started


def _pairs(path: Path) -> Iterator[list[tuple[str, str]]]:
    with path.open(encoding="utf-8") as file:
        while lines := list(islice(file, ROWS_AT_ONCE)):
            cells = (line.rstrip("\n").split("\t") for line in lines)
            yield [(premise, hypothesis) for _, _, premise, hypothesis in cells]


def prepare_rows(folder: Path, encoder: Path, workers: int, *, launcher: Literal["local", "ray"] = "local") -> float:
    """Seconds of `prepare`, from the call to the last rename, but for loading the libraries and the tokenizer."""
    import datasets  # noqa: F401  loaded here, so that it does not count as work

    from mtdnn.config.tasks import load_task_defs
    from mtdnn.data import plan, prepro
    from mtdnn.tokens.loading import load_tokenizer

    tokenizer = load_tokenizer(encoder)
    plan.load_tokenizer = lambda encoder: tokenizer
    tasks = load_task_defs(folder / "tasks.yml")
    if launcher == "ray":
        import ray

        os.environ |= {"RAY_worker_niceness": "0"}  # as the processes of the other ways; 15 by default
        ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    processes = None if launcher == "ray" else workers  # Ray has its CPUs, and a task that waits for each
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = time.perf_counter()
        made = prepro.prepare(tasks, data=folder, encoder=encoder, out=out, num_workers=processes, launcher=launcher)
        seconds = time.perf_counter() - started
    print(f"{made['pairs']['train'].rows} rows", file=sys.stderr)
    return seconds


if __name__ == "__main__":
    main()
