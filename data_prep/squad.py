"""SQuAD 1.1 and 2.0 as distributed → canonical rows: `python -m data_prep.squad --input FOLDER --out data`.

Reads train-v1.1.json and dev-v1.1.json into the task squad1, train-v2.0.json and dev-v2.0.json into squad2. A row is
id, JSON list of [first character, answer] (empty: the question has no answer), context, question.

Source: Rajpurkar et al. 2016, arXiv 1606.05250; Rajpurkar et al. 2018, arXiv 1806.03822.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.rows_out import BREAKS, LAYOUT_ERRORS, Dropped, Report, Row, run, text_of, write_rows
from mtdnn.config.json_source import read_json
from mtdnn.errors import DataError, fault

FILES = {
    ("squad1", "train"): "train-v1.1.json",
    ("squad1", "dev"): "dev-v1.1.json",
    ("squad2", "train"): "train-v2.0.json",
    ("squad2", "dev"): "dev-v2.0.json",
}

EXPECTED = "A file of data/paragraphs/qas is expected."


def convert(source: Path, out: Path) -> list[Report]:
    """Convert the files that are there.

    Raises:
        DataError: none is, or one has another layout.
    """
    found = {place: source / name for place, name in FILES.items() if (source / name).is_file()}
    if not found:
        raise DataError(
            fault(str(source), "", f"none of {', '.join(FILES.values())} is there", "Give the folder of these files.")
        )
    return [write_rows(out / task / f"{split}.tsv", read(path)) for (task, split), path in found.items()]


def read(path: Path) -> Iterator[Row | Dropped]:
    """A row for each question.

    Raises:
        DataError: the file has another layout; the message has the place of the first value that does not fit.
    """
    key = ""
    try:
        for number, article in enumerate(read_json(path, dict[str, Any], fix=EXPECTED)["data"]):
            key = f"data.{number}"
            for part, paragraph in enumerate(article["paragraphs"]):
                key = f"data.{number}.paragraphs.{part}"
                context = text_of(paragraph["context"])
                for place, question in enumerate(paragraph["qas"]):
                    key = f"data.{number}.paragraphs.{part}.qas.{place}"
                    yield row_of(context, question)
    except LAYOUT_ERRORS as error:
        what = f"no {error}" if isinstance(error, KeyError) else f"{type(error).__name__} {error}"
        raise DataError(fault(str(path), key, f"not in SQuAD's layout: {what}", EXPECTED)) from error


def row_of(context: str, question: Mapping[str, Any]) -> Row | Dropped:
    """One question; characters are counted in the context as it is written, without space at its ends."""
    id, shift = text_of(question["id"]), len(context) - len(context.lstrip())
    context = BREAKS.sub(" ", context.strip())
    impossible = question.get("is_impossible", False)
    if impossible not in (True, False):
        return Dropped(f"is_impossible is {impossible!r}, neither true nor false", id)
    given = [] if impossible else question["answers"]
    answers = [(int(each["answer_start"]) - shift, BREAKS.sub(" ", text_of(each["text"]))) for each in given]
    if any(start < 0 or not text.strip() or context[start : start + len(text)] != text for start, text in answers):
        return Dropped("an answer is not where it is said to stand", id)
    if not answers and not impossible:
        return Dropped("no answer, and not said to be impossible", id)
    return Row(
        id, json.dumps(list(dict.fromkeys(answers)), ensure_ascii=False), (context, text_of(question["question"]))
    )


if __name__ == "__main__":
    run(convert, __doc__ or "")
