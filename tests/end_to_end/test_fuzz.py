"""Damaged and hostile input: every command, on every kind of file, ends with 0 or with 2 and one place and remedy.

A case is a function of its seed and number: one damaged file (or two), or odd words on the command line, in a copy of
a small world. One case again: `pytest tests/end_to_end/test_fuzz.py -k 'case[1-217]'`; 9,000 more of other seeds:
`pytest -m slow tests/end_to_end/test_fuzz.py`.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep import cs224n, glue, snli, squad, superglue
from data_prep.rows_out import run as run_converter
from mtdnn.cli.main import main
from mtdnn.errors import printable
from mtdnn.files import LEFTOVER, file_sha256
from mtdnn.study.run import run_study
from tests.reference.damage import TEXTS, damaged
from tests.reference.small_world import PREPRO, make_world, succeed

CASES = 300
PLACE = re.compile(r"\S+\.\w+(:\d+)?$|data_prep$|mtdnn|encoder$")
SECONDS = 60
CONVERTERS = {"snli": snli, "squad": squad, "superglue": superglue, "cs224n": cs224n, "glue": glue}

CHECK = "check tasks.yml --data data --encoder encoder --run run.yml"
TRAIN = "train run.yml --max_steps 1 --output new"
STUDY = "study study.yml --dry_run"
RESUME = "train run.yml --resume"
PREDICT = "predict run --task nli --input {} --output out.jsonl"

COMMANDS = {
    "tasks.yml": ["check tasks.yml", CHECK, PREPRO, STUDY, TRAIN],
    "run.yml": [CHECK, TRAIN],
    "study.yml": [STUDY],
    "data": ["check tasks.yml --data data", CHECK, PREPRO],
    "rows": [PREDICT, "embed run --task nli --input {} --output v.parquet", "subset {} --count 1 --out sub.tsv"],
    "prepared": [TRAIN, "evaluate run", "evaluate run --split train", PREPRO, STUDY],
    "run": [
        *(PREDICT.format("rows/nli.jsonl"), "evaluate run", "report run", RESUME, RESUME),
        *("export run --task nli --output exported", f"{TRAIN} --encoder.run run", "check run/tasks.yml"),
    ],
    "run/predictions": ["score {}", "report run", TRAIN + " --distill {{nli: {{from: [{}]}}}}"],
    "study": ["report study", STUDY],
    "encoder": [CHECK, PREPRO, TRAIN],
    "sources": ["data_prep"],
    "words": [
        *(CHECK, PREPRO, TRAIN, STUDY, PREDICT.format("rows/nli.csv"), "score run/predictions/nli.dev.jsonl"),
        *("evaluate run --split dev", "export run --task nli --output exported", "report run --worst 3"),
    ],
}
FILES_PER_TARGET = {"run": 1.5, "words": 1.5, "run/predictions": 1.5}


def sources() -> dict[str, str]:
    """Path below `sources` → content of a small file as distributed, for five converters."""
    pair = {"pairID": "1", "gold_label": "neutral", "sentence1": "A.", "sentence2": "B.", "annotator_labels": ["x"]}
    question = {"id": "q", "question": "Who?", "answers": [{"text": "goat", "answer_start": 2}], "is_impossible": False}
    article = {"title": "T", "paragraphs": [{"context": "A goat.", "qas": [question]}]}
    wsc = {"text": "Mark says he is.", "target": {"span1_text": "Mark", "span2_text": "he", "span2_index": 2}}
    record = {"passage": {"text": "A goat.", "entities": [{"start": 2, "end": 5}]}, "qas": [{"query": "?", "idx": 0}]}
    lines = {
        "snli/snli_1.0_dev.jsonl": [pair, pair],
        "superglue/WSC/val.jsonl": [{**wsc, "label": True}],
        "superglue/ReCoRD/val.jsonl": [record],
    }
    return {
        **{name: "".join(json.dumps(each) + "\n" for each in objects) for name, objects in lines.items()},
        "squad/train-v2.0.json": json.dumps({"version": "2", "data": [article]}),
        "cs224n/ids-sst-dev.csv": "\tid\tsentence\tsentiment\n0\tq\tA kite\t3\n",
        "glue/RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
        "glue/CoLA/dev.tsv": "gj04\t1\t\tA kite flies.\n",
    }


@pytest.fixture(scope="module")
def sound() -> Iterator[Path]:
    """Definitions, rows in four formats, an encoder, a store, a finished run and study, and sources of converters."""
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        world = make_world(Path(folder, "world"))
        rows = [{"id": "n1", "label": "yes_", "premise": "A kite", "hypothesis": "The boat"}] * 3
        for path, text in sources().items():
            (world / "sources" / path).parent.mkdir(parents=True, exist_ok=True)
            (world / "sources" / path).write_text(text)
        (world / "rows").mkdir()
        (world / "rows/nli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (world / "rows/nli.csv").write_text("id,label,premise,hypothesis\n" + 'n1,yes_,A kite,"The, boat"\n' * 3)
        (world / "rows/nli.tsv").write_text("n1\tyes_\tA kite\tThe boat\n" * 3)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), world / "rows/nli.parquet", row_group_size=2)
        with contextlib.chdir(world):
            succeed("train run.yml")
            run_study("study.yml", launcher="here", progress=False)
        gc.collect()
        gc.freeze()  # what this has loaded is left out of the collection at the end of `train`
        yield world


@dataclass(frozen=True)
class Case:
    """One command in a world where some files are damaged.

    Attributes:
        words: after `mtdnn`, or `data_prep NAME`.
        writes: path → content; None removes the file.
        resumes: whether the run ended at its last checkpoint but one, so that there is something to resume.
        summed: whether the checksums of checkpoints are those of the damaged files.
    """

    words: list[str]
    writes: dict[str, bytes | None]
    resumes: bool = False
    summed: bool = False


def case_of(seed: int, number: int, sound: Path) -> Case:
    """A case; the same for the same seed and number."""
    rng = random.Random(f"{seed}/{number}")
    target = rng.choices(list(COMMANDS), [FILES_PER_TARGET.get(name, 1.0) for name in COMMANDS])[0]
    command = rng.choice(COMMANDS[target])
    if target == "words":
        return Case(odd_words(rng, command.split()), {})
    place = sound / target
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    files = [path for path in files if path.suffix not in (".html", ".svg", ".md", ".ids", ".lock")]
    writes: dict[str, bytes | None] = {}
    for path in rng.sample(files, 2 if len(files) > 1 and rng.random() < 0.2 else 1):
        content = None if rng.random() < 0.08 else damaged(rng, path.read_bytes(), path.suffix)
        writes[str(path.relative_to(sound))] = content
    first = next(iter(writes))
    if target == "sources":
        return Case(["data_prep", first.split("/")[1]], writes)
    words = [word.format(first) for word in re.split(r" (?![^{]*})", command)]
    return Case(words, writes, resumes=command == RESUME, summed=rng.random() < 0.5)


def odd_words(rng: random.Random, words: list[str]) -> list[str]:
    """The words of a command, one or two of them replaced, removed or added."""
    choices = [
        *TEXTS,
        "x" * 300,
        "--",
        "--task",
        "--nothing",
        "run/best",
        "[a",
        "{a: {b: 1}}",
        "1e400",
        "\udcff",
        "data",
    ]
    for _ in range(rng.choice([1, 1, 2])):
        spot = rng.randrange(1, len(words) + 1)
        words[spot : spot + rng.randrange(2)] = [] if rng.random() < 0.1 else [rng.choice(choices).replace("\0", "")]
    return words


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, or a traceback; and what it wrote to stderr."""

    status: int | str
    errors: str


def outcome_of(words: list[str]) -> Outcome:
    """Run a command in this process, for at most `SECONDS`."""
    errors, output = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output), time_limit(SECONDS):
        try:
            status: int | str = converted(words[1]) if words[0] == "data_prep" else main(words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else f"exit {stop.code}"
        except BaseException:
            status = traceback.format_exc()
    return Outcome(status, errors.getvalue())


def converted(name: str) -> int:
    """The command line of a converter: 0, or it exits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, "--input", f"sources/{name}", "--out", "converted"])
        run_converter(CONVERTERS[name].convert, "")
    return 0


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"{seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def copied(case: Case, sound: Path, world: Path) -> None:
    """A copy of the sound world with the damage of a case."""
    shutil.copytree(sound, world)
    for name, content in case.writes.items():
        (world / name).unlink()
        if content is not None:
            (world / name).write_bytes(content)
    for sums in sorted((world / "run").rglob("checksums.json")) if case.summed else ():
        files = [path for path in sums.parent.rglob("*") if path.is_file() and path != sums]
        sums.write_text(json.dumps({str(path.relative_to(sums.parent)): file_sha256(path) for path in files}))
    if case.resumes:
        shutil.rmtree(world / "run/last", ignore_errors=True)
        (world / "run/results.json").unlink(missing_ok=True)


def problems(case: Case, found: Outcome, world: Path) -> list[str]:
    """What is wrong with the way a command ended; empty if nothing is."""
    lines = [line.split("/s]")[-1] for line in re.split(r"[\r\n]+", found.errors)]  # without progress bars
    lines = [line for line in lines if line.strip()]
    wrong = [] if found.status in (0, 2) else [f"status: {found.status}"]
    if found.status == 2 and not (lines and has_place(lines[-1], case.words)):
        wrong.append(f"a message without a place: {lines[-1:]}")
    if "Traceback" in found.errors:
        wrong.append("a traceback in what is printed")
    if found.status == 2:
        wrong += [
            f"{name} was left" for name in ("out.jsonl", "v.parquet", "sub.tsv", "exported") if (world / name).exists()
        ]
    wrong += [f"{path} was left" for path in world.rglob(".*") if LEFTOVER.fullmatch(path.name)]
    return wrong


def has_place(line: str, words: list[str]) -> bool:
    """Whether a message starts with a file, a folder, a flag or a command, and says something about it."""
    place, _, found = line.partition(": ")
    named = place.startswith("--") or "/" in place or PLACE.match(place) is not None
    return len(found) > 10 and (named or line.startswith(tuple(f"{printable(word) or '.'}: " for word in words)))


def check(seed: int, number: int, sound: Path, folder: Path) -> None:
    """Run a case, and fail with its damage if it ends as no command may."""
    case, world = case_of(seed, number, sound), folder / "w"
    copied(case, sound, world)
    with contextlib.chdir(world):
        found = outcome_of(case.words)
        wrong = problems(case, found, world)
    shutil.rmtree(world)
    shown = {name: content if content is None else content[:200] for name, content in case.writes.items()}
    assert not wrong, f"{wrong}\n{case.words}\n{shown}\n{found.errors[-2000:]}"


@pytest.mark.parametrize("case", [f"1-{number}" for number in range(CASES)])
def test_a_case(sound: Path, tmp_path: Path, case: str) -> None:
    seed, number = map(int, case.split("-"))
    check(seed, number, sound, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_more_cases(sound: Path, tmp_path: Path, seed: int) -> None:
    failed = []
    for number in range(3000):
        try:
            check(seed, number, sound, tmp_path)
        except AssertionError as error:
            failed.append(f"{seed}-{number}: {error}")
    assert not failed, "\n\n".join(failed)
