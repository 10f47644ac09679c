"""SuperGLUE as distributed → canonical rows: `python -m data_prep.superglue --input FOLDER --out data`.

FOLDER holds BoolQ, CB, COPA, MultiRC, ReCoRD, RTE, WiC and WSC (those that are there are read), each with train.jsonl,
val.jsonl and test.jsonl; val becomes dev. The rows are those of `task_defs/superglue.yml`:

- COPA: premise, "What was the cause?" or "What happened as a result?", two choices;
- MultiRC: a row for each answer, with the question before it in the second text; the id is paragraph-question-answer;
- ReCoRD: passage, query, and as choices the different entities of the passage; several can be right;
- WiC: "word: sentence", twice; WSC: the text with its pronoun between asterisks, and the phrase.

Source: Wang et al. 2019, arXiv 1905.00537.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.rows_out import UNLABELLED, Dropped, Report, Row, labelled_row, read_objects, run, write_rows
from mtdnn.errors import DataError

SPLITS = {"train": "train", "val": "dev", "test": "test"}
QUESTIONS = {"cause": "What was the cause?", "effect": "What happened as a result?"}

Rows = Iterator[Row | Dropped]
Fields = Mapping[str, Any]


def convert(source: Path, out: Path) -> list[Report]:
    """Convert every split of every task that is there.

    Raises:
        DataError: none is.
    """
    reports = []
    for folder, (task, rows_of) in TASKS.items():
        for theirs, ours in SPLITS.items():
            path = source / folder / f"{theirs}.jsonl"
            if path.is_file():
                reports.append(write_rows(out / task / f"{ours}.tsv", read(path, ours, rows_of)))
    if not reports:
        raise DataError(f"{source}: none of {', '.join(TASKS)} with train.jsonl, val.jsonl or test.jsonl is there.")
    return reports


def read(path: Path, split: str, rows_of: Callable[[str, Fields], Rows]) -> Rows:
    """The rows of each line of a file."""
    for number, fields in read_objects(path):
        id = f"{split}-{number - 1}"
        try:
            if fields is None:
                raise KeyError("no JSON object")
            yield from rows_of(id, fields)
        except (KeyError, TypeError, IndexError) as error:
            yield Dropped(f"another layout ({error})", id)


def yes_or_no(value: Any) -> str:
    """The label of a truth value, written as one or as 0 and 1; none where it is missing."""
    return UNLABELLED if value is None else "yes" if value in (True, 1, "true", "True", "1") else "no"


def pair(names: tuple[str, str], labels: tuple[str, ...], id: str, fields: Fields) -> Rows:
    """Two texts and a label by name."""
    label = str(fields.get("label") or UNLABELLED)
    texts = (str(fields[names[0]]), str(fields[names[1]]))
    yield labelled_row(id, label, texts, labels) if label else Row(id, UNLABELLED, texts)


def boolq(id: str, fields: Fields) -> Rows:
    yield Row(id, yes_or_no(fields.get("label")), (str(fields["passage"]), str(fields["question"])))


def copa(id: str, fields: Fields) -> Rows:
    label = UNLABELLED if fields.get("label") is None else str(fields["label"])
    texts = (fields["premise"], QUESTIONS[fields["question"]], fields["choice1"], fields["choice2"])
    yield Row(id, label, tuple(map(str, texts)))


def multirc(id: str, fields: Fields) -> Rows:
    for question in fields["passage"]["questions"]:
        for answer in question["answers"]:
            row_id = f"{id}-{question['idx']}-{answer['idx']}"
            texts = (str(fields["passage"]["text"]), f"{question['question']} {answer['text']}")
            yield Row(row_id, yes_or_no(answer.get("label")), texts)


def record(id: str, fields: Fields) -> Rows:
    """A row for each query; entities that read alike are one choice."""
    passage = str(fields["passage"]["text"])
    spans = [(int(each["start"]), int(each["end"]) + 1) for each in fields["passage"]["entities"]]
    entities = list(dict.fromkeys(passage[start:end].strip() for start, end in spans))
    for question in fields["qas"]:
        row_id = f"{id}-{question['idx']}"
        right = {str(answer["text"]).strip() for answer in question.get("answers", ())}
        places = [str(place) for place, entity in enumerate(entities) if entity in right]
        if right and not places:
            yield Dropped("the answer is none of the entities", row_id)
            continue
        text = passage.replace("@highlight", " ")
        yield Row(row_id, ",".join(places), (text, str(question["query"]), *entities))


def wic(id: str, fields: Fields) -> Rows:
    texts = tuple(f"{fields['word']}: {fields[name]}" for name in ("sentence1", "sentence2"))
    yield Row(id, yes_or_no(fields.get("label")), texts)


def wsc(id: str, fields: Fields) -> Rows:
    words, target = str(fields["text"]).split(" "), fields["target"]
    first = int(target["span2_index"])
    last = first + len(str(target["span2_text"]).split(" ")) - 1
    words[first] = f"*{words[first]}"
    words[last] = f"{words[last]}*"
    yield Row(id, yes_or_no(fields.get("label")), (" ".join(words), str(target["span1_text"])))


TASKS: dict[str, tuple[str, Callable[[str, Fields], Rows]]] = {
    "BoolQ": ("boolq", boolq),
    "CB": ("cb", partial(pair, ("premise", "hypothesis"), ("contradiction", "neutral", "entailment"))),
    "COPA": ("copa", copa),
    "MultiRC": ("multirc", multirc),
    "ReCoRD": ("record", record),
    "RTE": ("superglue_rte", partial(pair, ("premise", "hypothesis"), ("not_entailment", "entailment"))),
    "WiC": ("wic", wic),
    "WSC": ("wsc", wsc),
}


if __name__ == "__main__":
    run(convert, __doc__ or "")
