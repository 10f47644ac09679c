"""SuperGLUE as distributed → canonical rows: `python -m data_prep.superglue --input FOLDER --out data`.

FOLDER holds BoolQ, CB, COPA, MultiRC, ReCoRD, RTE, WiC and WSC (those that are there are read), each with train.jsonl,
val.jsonl and test.jsonl; val becomes dev. AX-b and AX-g, the diagnostic sets, have one file of their name, which
becomes test. The rows are those of `task_defs/superglue.yml`:

- COPA: premise, "What was the cause?" or "What happened as a result?", two choices;
- MultiRC: a row for each answer, with the question before it in the second text; the id is paragraph-question-answer;
- ReCoRD: passage, query, and as choices the different entities of the passage; several can be right;
- WiC: "word: sentence", twice; WSC: the text with its pronoun between asterisks, and the phrase. The pronoun is looked
  for near the word that `span2_index` names, as the index of some rows names a neighbour.

Source: Wang et al. 2019, arXiv 1905.00537.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.rows_out import (
    LAYOUT_ERRORS,
    UNLABELLED,
    Dropped,
    Report,
    Row,
    labelled_row,
    read_objects,
    run,
    text_of,
    write_rows,
)
from mtdnn.errors import DataError

SPLITS = {"train": "train", "val": "dev", "test": "test"}
NEAR = 2  # words by which the index of a pronoun that comes several times may be off
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
    for folder, (task, rows_of) in DIAGNOSTICS.items():
        path = source / folder / f"{folder}.jsonl"
        if path.is_file():
            reports.append(write_rows(out / task / "test.tsv", read(path, "test", rows_of)))
    if not reports:
        files = "train.jsonl, val.jsonl or test.jsonl"
        raise DataError(f"{source}: none of {', '.join(TASKS)} with {files} is there. Name the folder of these.")
    return reports


def read(path: Path, split: str, rows_of: Callable[[str, Fields], Rows]) -> Rows:
    """The rows of each line of a file."""
    for number, fields in read_objects(path):
        id = f"{split}-{number - 1}"
        try:
            if fields is None:
                raise KeyError("no JSON object")
            yield from rows_of(id, fields)
        except LAYOUT_ERRORS as error:
            yield Dropped(f"another layout ({error})", id)


def is_unlabelled(value: Any) -> bool:
    """Whether a label says that there is none: missing, empty, or the hub's −1."""
    return value is None or str(value).strip() in ("", "-1")


def yes_or_no(value: Any) -> str:
    """The label of a truth value, written as one or as 0 and 1; none where it is missing.

    Raises:
        ValueError: it is no truth value.
    """
    if is_unlabelled(value):
        return UNLABELLED
    word = str(value).strip().lower()
    if word not in ("true", "1", "false", "0"):
        raise ValueError(f"label {value!r} is neither true nor false")
    return "yes" if word in ("true", "1") else "no"


def pair(names: tuple[str, str], labels: tuple[str, ...], id: str, fields: Fields) -> Rows:
    """Two texts and a label by name."""
    label = UNLABELLED if is_unlabelled(fields.get("label")) else str(fields["label"])
    texts = (text_of(fields[names[0]]), text_of(fields[names[1]]))
    yield labelled_row(id, label, texts, labels) if label else Row(id, UNLABELLED, texts)


def boolq(id: str, fields: Fields) -> Rows:
    yield Row(id, yes_or_no(fields.get("label")), (text_of(fields["passage"]), text_of(fields["question"])))


def copa(id: str, fields: Fields) -> Rows:
    label = UNLABELLED if is_unlabelled(fields.get("label")) else str(fields["label"])
    texts = (fields["premise"], QUESTIONS[fields["question"]], fields["choice1"], fields["choice2"])
    yield Row(id, label, tuple(map(text_of, texts)))


def multirc(id: str, fields: Fields) -> Rows:
    for question in fields["passage"]["questions"]:
        for answer in question["answers"]:
            row_id = f"{id}-{text_of(question['idx'])}-{text_of(answer['idx'])}"
            asked = f"{text_of(question['question'])} {text_of(answer['text'])}"
            texts = (text_of(fields["passage"]["text"]), asked)
            yield Row(row_id, yes_or_no(answer.get("label")), texts)


def record(id: str, fields: Fields) -> Rows:
    """A row for each query; entities that read alike are one choice."""
    passage = text_of(fields["passage"]["text"])
    spans = [(int(each["start"]), int(each["end"]) + 1) for each in fields["passage"]["entities"]]
    entities = list(dict.fromkeys(passage[start:end].strip() for start, end in spans))
    for question in fields["qas"]:
        row_id = f"{id}-{text_of(question['idx'])}"
        right = {text_of(answer["text"]).strip() for answer in question.get("answers", ())}
        places = [str(place) for place, entity in enumerate(entities) if entity in right]
        if right and not places:
            yield Dropped("the answer is none of the entities", row_id)
            continue
        text = passage.replace("@highlight", " ")
        yield Row(row_id, ",".join(places), (text, text_of(question["query"]), *entities))


def wic(id: str, fields: Fields) -> Rows:
    texts = tuple(f"{text_of(fields['word'])}: {text_of(fields[name])}" for name in ("sentence1", "sentence2"))
    yield Row(id, yes_or_no(fields.get("label")), texts)


def wsc(id: str, fields: Fields) -> Rows:
    text, target = text_of(fields["text"]), fields["target"]
    pronoun = text_of(target["span2_text"])
    found = place_of(pronoun, text, int(target["span2_index"]))
    if found is None:
        yield Dropped("the pronoun is not in the text, or in several places none of which is meant for sure", id)
        return
    start, end = found
    marked = f"{text[:start]}*{text[start:end]}*{text[end:]}"
    yield Row(id, yes_or_no(fields.get("label")), (marked, text_of(target["span1_text"])))


def place_of(phrase: str, text: str, number: int) -> tuple[int, int] | None:
    """First character of a phrase that is the text's word of this number, from 0, and the one behind its last.

    The phrase at the number is taken, where words are what stands between white space or, as in other rows, between
    single spaces. If it is not there, the only one in the text is, or the only nearest one, at most `NEAR` words away.
    None: there is none, or which one is meant is not sure, as where the one at the number differs in case.
    """
    alike = _places(phrase, text)
    exact = [(start, end) for start, end in alike if text[start:end].split() == phrase.split()]
    by_words = {place: abs(_words_before(text, place[0]) - number) for place in alike}
    by_spaces = {place: abs(text.count(" ", 0, place[0]) - number) for place in alike}
    for distances in (by_words, by_spaces):
        if here := [place for place, distance in distances.items() if distance == 0]:
            return here[0] if len(here) == 1 and (here[0] in exact or not exact) else None
    candidates = exact or alike
    if len(candidates) != 1:
        least = min((by_words[place] for place in candidates), default=0)
        candidates = [place for place in candidates if by_words[place] == least <= NEAR]
    return candidates[0] if len(candidates) == 1 else None


def _places(phrase: str, text: str) -> list[tuple[int, int]]:
    """Where a phrase stands in a text as whole words, in whatever case, without the marks around it."""
    words = r"\s+".join(map(re.escape, phrase.strip().strip(".,;:!?\"'").split()))
    found = re.finditer(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) if words else ()
    return [match.span() for match in found]


def _words_before(text: str, start: int) -> int:
    """Number, from 0, of the word between white space in which a character stands."""
    return len(re.findall(r"\S+", text[:start] + "x")) - 1


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

DIAGNOSTICS: dict[str, tuple[str, Callable[[str, Fields], Rows]]] = {
    "AX-b": ("axb", partial(pair, ("sentence1", "sentence2"), ("not_entailment", "entailment"))),
    "AX-g": ("axg", partial(pair, ("premise", "hypothesis"), ("not_entailment", "entailment"))),
}


if __name__ == "__main__":
    run(convert, __doc__ or "")
