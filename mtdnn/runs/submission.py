"""Test predictions → the archives that the leaderboards of GLUE and SuperGLUE take, and a check of such archives.

Sources: Wang et al. 2019, arXiv 1804.07461, and the FAQ of gluebenchmark.com (one tab-separated file per task with the
header `index`, `prediction`); Wang et al. 2019, arXiv 1905.00537 (one JSONL file per task with `idx` and `label`).
"""

from __future__ import annotations

import json
import lzma
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdnn.config.json_source import json_value
from mtdnn.errors import DataError, Fault, MtdnnError, Place, fault, first_of, unknown
from mtdnn.files import whole_file
from mtdnn.metrics.base import Record

BINARY = ("0", "1")
TWO_WAY = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")
HEADER = "index\tprediction"
MAX_BYTES = 1 << 28
"""Of a file in an archive: twenty times the largest, GLUE's QQP."""
SHOWN = 5
"""Errors of one file that are listed."""
WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True)
class File:
    """A file of a submission.

    Attributes:
        name: in the archive.
        task: the task's name in `task_defs/`; others that read alike (`SST-2` and `sst2`) are found too.
        split: of the task.
        labels: the benchmark's words; empty for a number, or for a text.
        rows: of the official test split.
        words: our label → theirs, where they differ.
        others: tasks that answer it where a run does not have `task`.
    """

    name: str
    task: str
    rows: int
    labels: tuple[str, ...] = ()
    split: str = "test"
    words: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()

    def answer(self, prediction: Any) -> Any:
        """A prediction in the benchmark's words.

        Raises:
            ValueError: a label that the benchmark does not have.
        """
        word = dict(self.words).get(str(prediction), str(prediction))
        if word not in self.labels:
            raise ValueError(unknown("label", word, self.labels))
        return word


@dataclass(frozen=True)
class Number(File):
    """A file of numbers between two limits, three decimals each."""

    limits: tuple[float, float] = (0.0, 5.0)

    def answer(self, prediction: Any) -> str:
        low, high = self.limits
        return f"{min(max(float(prediction), low), high):.3f}"


@dataclass(frozen=True)
class Choice(File):
    """A file of the numbers of choices, from 0."""

    def answer(self, prediction: Any) -> int:
        return int(prediction)


@dataclass(frozen=True)
class Text(File):
    """A file of texts: the chosen entities."""

    def answer(self, prediction: Any) -> str:
        return str(prediction)


YES_NO = (("no", "false"), ("yes", "true"))
GLUE = (
    File("CoLA.tsv", "cola", 1_063, BINARY),
    File("SST-2.tsv", "sst2", 1_821, BINARY),
    File("MRPC.tsv", "mrpc", 1_725, BINARY),
    Number("STS-B.tsv", "stsb", 1_379),
    File("QQP.tsv", "qqp", 390_965, BINARY),
    File("MNLI-m.tsv", "mnli", 9_796, THREE_WAY, "test_matched"),
    File("MNLI-mm.tsv", "mnli", 9_847, THREE_WAY, "test_mismatched"),
    File("QNLI.tsv", "qnli", 5_463, TWO_WAY),
    File("RTE.tsv", "rte", 3_000, TWO_WAY),
    File("WNLI.tsv", "wnli", 146, BINARY, others=("wnli_pronoun",)),
    File("AX.tsv", "ax", 1_104, THREE_WAY),
)
SUPERGLUE = (
    File("BoolQ.jsonl", "boolq", 3_245, ("false", "true"), words=YES_NO),
    File("CB.jsonl", "cb", 250, THREE_WAY),
    Choice("COPA.jsonl", "copa", 500, BINARY),
    File("MultiRC.jsonl", "multirc", 9_693, BINARY, words=(("no", "0"), ("yes", "1"))),
    Text("ReCoRD.jsonl", "record", 10_000),
    File("RTE.jsonl", "superglue_rte", 3_000, TWO_WAY),
    File("WiC.jsonl", "wic", 1_400, ("false", "true"), words=YES_NO),
    File(
        "WSC.jsonl",
        "wsc",
        146,
        ("False", "True"),
        words=(("no", "False"), ("yes", "True")),
        others=("wsc_pronoun",),
    ),
    File("AX-b.jsonl", "axb", 1_104, TWO_WAY),
    File("AX-g.jsonl", "axg", 356, TWO_WAY),
)
BENCHMARKS: dict[str, tuple[File, ...]] = {"glue": GLUE, "superglue": SUPERGLUE}
NESTED = "MultiRC.jsonl"
"""Its lines are paragraphs, with questions, with answers."""


def files_of(benchmark: str) -> tuple[File, ...]:
    """The files of a benchmark.

    Raises:
        DataError: it is not known.
    """
    if benchmark not in BENCHMARKS:
        raise DataError(fault("", "benchmark", unknown("benchmark", benchmark, BENCHMARKS)))
    return BENCHMARKS[benchmark]


def content(file: File, records: Sequence[Record]) -> str:
    """A file's text: rows in the order of their numbers, which end their ids (`test-0`, `test-1`, …).

    Args:
        file: of a benchmark.
        records: predictions of the task's test split, in any order.
    Raises:
        DataError: an id without a number, a number twice, a label of another benchmark.
    """
    answers, faults = dict[tuple[int, ...], Any](), list[Fault]()
    for record in records:
        key = numbers_of(str(record["id"]))
        try:
            if file.name == NESTED and len(key) != 3:
                raise ValueError("no numbers of a paragraph, a question and an answer")
            if not key or key in answers:
                raise ValueError("no number of a row" if not key else "a second row of this number")
            answers[key] = file.answer(record["prediction"])
        except ValueError as error:
            faults.append(fault(file.name, f"row {record['id']}", str(error), "Convert the benchmark's own files."))
    if faults:
        raise DataError(first_of(faults, len(faults), file.name, SHOWN))
    ordered = dict(sorted(answers.items()))
    if file.name.endswith(".tsv"):
        return "\n".join([HEADER, *(f"{key[-1]}\t{answer}" for key, answer in ordered.items())]) + "\n"
    lines = _paragraphs(ordered) if file.name == NESTED else _flat(ordered)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def numbers_of(row_id: str) -> tuple[int, ...]:
    """The numbers at the end of an id: `test-3-10-41` → (3, 10, 41); empty without one."""
    found = re.search(r"(?:^|-)(\d+(?:-\d+)*)$", row_id)
    return tuple(map(int, found[1].split("-"))) if found else ()


def _flat(answers: Mapping[tuple[int, ...], Any]) -> Iterator[dict[str, Any]]:
    for key, answer in answers.items():
        yield {"idx": key[-1], "label": answer}


def _paragraphs(answers: Mapping[tuple[int, ...], Any]) -> Iterator[dict[str, Any]]:
    """`{"idx": …, "passage": {"questions": [{"idx": …, "answers": [{"idx": …, "label": …}]}]}}` for each paragraph."""
    paragraphs: dict[int, dict[int, list[dict[str, int]]]] = {}
    for (paragraph, question, answer), label in answers.items():
        of_question = paragraphs.setdefault(paragraph, {}).setdefault(question, [])
        of_question.append({"idx": answer, "label": int(label)})
    for paragraph, questions in paragraphs.items():
        listed = [{"idx": question, "answers": listed} for question, listed in questions.items()]
        yield {"idx": paragraph, "passage": {"questions": listed}}


def write_archive(path: Path, contents: Mapping[str, str], *, checked: bool = False) -> None:
    """Write a zip archive of the texts by name, the same bytes every time; whole or not at all.

    Args:
        path: of the archive.
        contents: file → its text.
        checked: write nothing in which `archive_faults` finds an error.
    Raises:
        DataError: everything that it finds.
    """
    with whole_file(path) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in contents.items():
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, text)
        if checked and (faults := archive_faults(partial, place=str(path))):
            raise DataError(faults)


DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What reading a damaged archive raises besides errors of the system and of Python."""


def archive_faults(path: Path, *, place: str | None = None) -> list[Fault]:
    """Everything in which an archive differs from what its benchmark's server takes; empty for a sound one.

    The benchmark follows from the files: GLUE's end in .tsv, SuperGLUE's in .jsonl.

    Args:
        path: of the archive.
        place: its name in messages; None: the path.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _faults_within(place or str(path), archive)
    except (OSError, EOFError, NotImplementedError, RuntimeError, ValueError, *DAMAGE) as error:
        return [fault(str(path), "", f"no readable zip archive ({error})", "Write it with `mtdnn submit`.")]


def _faults_within(place: str, archive: zipfile.ZipFile) -> list[Fault]:
    names = [entry.filename for entry in archive.infolist()]
    files = GLUE if any(name.endswith(".tsv") for name in names) else SUPERGLUE
    known = {file.name: file for file in files}
    missing = [name for name in known if name not in names]
    faults = [fault(place, name, "missing", "Predict this task too.") for name in missing]
    for entry in archive.infolist():
        if entry.filename not in known:
            fix = "Put the files at the top of the archive." if "/" in entry.filename else "Remove it."
            faults.append(fault(place, entry.filename, "not a file of this benchmark", fix))
        elif names.count(entry.filename) > 1:
            faults.append(fault(place, entry.filename, "in the archive twice", "Remove one."))
        elif entry.file_size > MAX_BYTES:
            faults.append(fault(place, entry.filename, f"{entry.file_size} bytes", f"Expected at most {MAX_BYTES}."))
        else:
            found = list(_file_faults(known[entry.filename], archive.read(entry)))
            faults += first_of(found, len(found), entry.filename, SHOWN)
    return faults


def _file_faults(file: File, data: bytes) -> Iterator[Fault]:
    """What is wrong in one file of an archive."""
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        yield fault(file.name, "", f"not UTF-8 ({error.reason} at byte {error.start})", "Write it as UTF-8.")
        return
    if lines[-1] == "":
        lines.pop()
    tabs = file.name.endswith(".tsv")
    if tabs and (not lines or lines[0].rstrip("\r") != HEADER):
        yield fault(file.name, "line 1", f"'{lines[0] if lines else ''}'", "Expected the header index⇥prediction.")
        return
    numbers, is_whole = [], True
    for line_number, line in enumerate(lines[tabs:], 1 + tabs):
        place = Place(file.name, line_number)
        try:
            numbers += _tab_line(file, line) if tabs else _json_line(file, line, place)
        except MtdnnError as error:
            yield from error.faults
            is_whole = False
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            yield fault(place, "", str(error), "See the benchmark's rules for this file.")
            is_whole = False
    yield from _count_faults(file, numbers, is_whole=is_whole)


def _tab_line(file: File, line: str) -> list[int]:
    """The row's number.

    Raises:
        ValueError: it is no line of this file.
    """
    cells = line.rstrip("\r").split("\t")
    if len(cells) != 2:
        raise ValueError(f"{len(cells)} columns; expected 2, index and prediction")
    if not WHOLE_NUMBER.fullmatch(cells[0]):
        raise ValueError(f"index '{cells[0]}' is no row's number")
    if isinstance(file, Number):
        _require_number(cells[1], file.limits)
    elif cells[1] not in file.labels:
        raise ValueError(f"prediction: {unknown('label', cells[1], file.labels)}")
    return [int(cells[0])]


def _require_number(text: str, limits: tuple[float, float]) -> None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not limits[0] <= value <= limits[1]:
        raise ValueError(f"prediction '{text}' is no number from {limits[0]:g} to {limits[1]:g}")


def _json_line(file: File, line: str, place: Place) -> list[int]:
    """The numbers of the rows in a line."""
    value = json_value(line, place)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    if file.name == NESTED:
        answers = [each for question in value["passage"]["questions"] for each in question["answers"]]
        return [_number(each, lambda label: type(label) is int and label in (0, 1)) for each in answers]
    kinds: dict[type, Callable[[Any], bool]] = {
        Choice: lambda label: type(label) is int and label in (0, 1),
        Text: lambda label: isinstance(label, str) and label != "",
    }
    return [_number(value, kinds.get(type(file), lambda label: label in file.labels))]


def _number(value: Mapping[str, Any], is_label: Callable[[Any], bool]) -> int:
    """The `idx` of an object whose `label` is one of the benchmark's.

    Raises:
        ValueError: one of the two is not.
    """
    number, label = value.get("idx"), value.get("label")
    if type(number) is not int or number < 0:
        raise ValueError(f"idx {number!r} is no row's number")
    if isinstance(label, (dict, list)) or not is_label(label):
        raise ValueError(f"label {label!r} is none of this file's")
    return number


def _count_faults(file: File, numbers: Sequence[int], *, is_whole: bool) -> Iterator[Fault]:
    """Rows that are missing, too many, or in another order. The numbers of ReCoRD's queries are its own.

    Args:
        file: the benchmark's.
        numbers: of the rows without an error.
        is_whole: whether these are all of its rows.
    """
    if len(numbers) != file.rows:
        found = f"{len(numbers)} rows" if is_whole else f"{len(numbers)} rows without an error"
        yield fault(file.name, "", found, f"Expected {file.rows}, the rows of the test split.")
    twice = next((number for number, count in Counter(numbers).items() if count > 1), None)
    if twice is not None:
        yield fault(file.name, "", f"row {twice} occurs twice", "Give each row once.")
    elif list(numbers) != sorted(numbers):
        yield fault(file.name, "", "rows in another order", "Sort them by their number.")
    elif numbers and not isinstance(file, Text) and len(numbers) == file.rows and numbers[-1] != file.rows - 1:
        absent = next(number for number in range(file.rows) if number != numbers[number])
        yield fault(file.name, "", f"row {absent} is missing", "Number the rows from 0.")
