"""Winograd schemas as distributed → rows of `task_type: coreference`: WNLI, SuperGLUE's WSC, WSC273, PDP and DPR.

`python -m data_prep.pronouns --input FOLDER --out data`. Those of these are read that FOLDER holds:

- WNLI/{train,dev,test}.tsv, or the canonical rows wnli/{train,dev,test}.tsv → `wnli_pronoun`;
- WSC/{train,val,test}.jsonl of SuperGLUE → `wsc_pronoun`; val becomes dev;
- WSCollection.xml and PDPChallenge2016.xml (Levesque et al. 2012; Morgenstern et al. 2016) → `wsc273/test`, `pdp/test`;
- train.c.txt and test.c.txt of the definite pronoun resolution set (Rahman & Ng 2012) → `dpr/train` and `dpr/dev`.

A row is `id, label, text, candidate, …`, the pronoun between asterisks. For WNLI and WSC the label says whether the
first candidate is the antecedent; further candidates are those that other rows, of any split, have for this pronoun;
their labels are not used. WNLI's pronoun and candidate are found by aligning the hypothesis with the words around each
pronoun of the premise. A row for which that fails is dropped from train and dev; in a split without labels it is kept,
with the best alignment there is, since a submission needs every row.

Source: He et al. 2019, arXiv 1907.11983, section 4.1, whose authors annotated these places by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from data_prep.glue import BINARY
from data_prep.rows_out import (
    LAYOUT_ERRORS,
    OTHER_COLUMNS,
    UNLABELLED,
    Dropped,
    Report,
    Row,
    find_input,
    read_columns,
    read_lines,
    read_objects,
    read_rows,
    run,
    text_of,
    write_rows,
)
from data_prep.superglue import SPLITS, is_unlabelled, place_of, yes_or_no
from mtdnn.errors import DataError

MARK = "*"
PRONOUNS = frozenset(
    (
        "he", "him", "his", "she", "her", "hers", "it", "its", "they", "them", "their", "theirs", "himself", "herself",
        "itself", "themselves", "that", "this", "who",
    )
)  # fmt: skip
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
MOST_WORDS = 12  # of a candidate
POSSESSIVE = ("'s", "’s", "s'", "s’")


@dataclass(frozen=True)
class Schema:
    """A text with the place of a pronoun, one candidate, and whether it is the antecedent (empty: unknown)."""

    id: str
    label: str
    text: str
    start: int
    end: int
    candidate: str

    @property
    def marked(self) -> str:
        """The text with the pronoun between asterisks; other asterisks are left out."""
        parts = (self.text[: self.start], self.text[self.start : self.end], self.text[self.end :])
        return MARK.join(part.replace(MARK, " ") for part in parts)


def convert(source: Path, out: Path) -> list[Report]:
    """Convert everything that is there.

    Raises:
        DataError: nothing is, or a file has another layout.
    """
    reports, of_wnli, of_wsc = [], dict[str, list[Schema | Dropped]](), dict[str, list[Schema | Dropped]]()
    for split in ("train", "dev", "test"):
        if path := find_input(source, (f"WNLI/{split}.tsv", f"wnli/{split}.tsv")):
            of_wnli[split] = list(wnli(path, split))
    for theirs, ours in SPLITS.items():
        if (path := source / "WSC" / f"{theirs}.jsonl").is_file():
            of_wsc[ours] = list(wsc(path, ours))
    for task, found in (("wnli_pronoun", of_wnli), ("wsc_pronoun", of_wsc)):
        candidates = candidates_of(each for schemas in found.values() for each in schemas)
        for split, schemas in found.items():
            reports.append(write_rows(out / task / f"{split}.tsv", with_rivals(schemas, candidates)))
    for name, task in (("WSCollection.xml", "wsc273"), ("PDPChallenge2016.xml", "pdp")):
        if (path := source / name).is_file():
            reports.append(write_rows(out / task / "test.tsv", collection(path)))
    for name, split in (("train.c.txt", "train"), ("test.c.txt", "dev")):
        if (path := source / name).is_file():
            reports.append(write_rows(out / "dpr" / f"{split}.tsv", definite_pronouns(path, split)))
    if not reports:
        known = "WNLI, WSC, WSCollection.xml, PDPChallenge2016.xml, train.c.txt"
        raise DataError(f"{source}: none of {known} is there. Name the folder that holds them.")
    return reports


Candidates = Mapping[tuple[str, int], Mapping[str, str]]
"""Text and first character of a pronoun → its candidates, by how they are compared."""


def candidates_of(schemas: Iterable[Schema | Dropped]) -> Candidates:
    """The candidates that any of the schemas has for each pronoun."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for each in schemas:
        if isinstance(each, Schema):
            found.setdefault((each.text, each.start), {}).setdefault(_plain(each.candidate), each.candidate)
    return found


def with_rivals(schemas: Iterable[Schema | Dropped], candidates: Candidates) -> Iterator[Row | Dropped]:
    """A row for each schema, with all other candidates of the same text and pronoun as its rivals."""
    for each in schemas:
        if isinstance(each, Dropped):
            yield each
            continue
        others = candidates[each.text, each.start]
        rivals = [text for name, text in others.items() if name != _plain(each.candidate)]
        yield Row(each.id, each.label, (each.marked, each.candidate, *rivals))


def _plain(candidate: str) -> str:
    """A candidate as it is compared with others: without case and article."""
    return re.sub(r"^(the|a|an) ", "", candidate.lower())


def wnli(path: Path, split: str) -> Iterator[Schema | Dropped]:
    """The schemas in a file of WNLI, as distributed (with a header) or as canonical rows."""
    for found_row in _wnli_rows(path, split):
        if isinstance(found_row, Dropped):
            yield found_row
            continue
        id, label, premise, hypothesis = found_row
        if not WORD.search(premise):
            yield Dropped("the premise has no word", id)
            continue
        if label not in (*BINARY, UNLABELLED):
            yield Dropped(f"label is none of {', '.join(BINARY)}", id)
            continue
        found = align(premise, hypothesis) or (guess(premise, hypothesis) if label == UNLABELLED else None)
        if found is None:
            yield Dropped("the hypothesis is not the premise with a candidate in a pronoun's place", id)
            continue
        start, end, candidate = found
        yield Schema(id, label, premise, start, end, candidate)


def _wnli_rows(path: Path, split: str) -> Iterator[tuple[str, str, str, str] | Dropped]:
    """id, label, premise and hypothesis of each row; in place of a short one, that it is dropped."""
    header = next(read_lines(path), (1, ""))[1].split("\t")
    if header[0] != "index":
        for row in read_rows(path):
            label = UNLABELLED if is_unlabelled(row.label) or row.label == "-" else row.label
            yield row.id, label, row.texts[0], row.texts[-1]
        return
    columns = ["sentence1", "sentence2", *(["label"] if "label" in header else [])]
    for number, values in read_columns(path, columns):
        if values is None:
            yield Dropped(OTHER_COLUMNS, f"{split}-{number - 2}")
            continue
        label = values[2] if len(values) > 2 else UNLABELLED
        yield f"{split}-{number - 2}", label, values[0], values[1]


@dataclass(frozen=True)
class Alignment:
    """A pronoun of a text, and the words of a hypothesis in its place.

    Attributes:
        matched: words of the hypothesis that are around the pronoun in the text.
        known: the candidate's words are in the text.
    """

    matched: int
    known: bool
    start: int
    end: int
    candidate: str


def align(premise: str, hypothesis: str) -> tuple[int, int, str] | None:
    """First character of the pronoun, the one after its last, and the candidate; None if they are not sure.

    The candidate is what is left of the hypothesis without the longest parts of its start and end that are next to the
    pronoun in the premise. Its words must be in the premise, and no other pronoun may match as many words.
    """
    found = [each for each in alignments(premise, hypothesis) if each.known and each.matched > 0]
    most = max((each.matched for each in found), default=0)
    best = [each for each in found if each.matched == most]
    return (best[0].start, best[0].end, best[0].candidate) if len(best) == 1 else None


def guess(premise: str, hypothesis: str) -> tuple[int, int, str]:
    """As `align`, the best there is: of the last of equally good pronouns or, without one, the premise's last word."""
    found = sorted(alignments(premise, hypothesis), key=lambda each: (each.known, each.matched, each.start))
    if found:
        return found[-1].start, found[-1].end, found[-1].candidate
    words = list(WORD.finditer(premise))
    return words[-1].start(), words[-1].end(), hypothesis


def alignments(premise: str, hypothesis: str) -> Iterator[Alignment]:
    """An alignment for each pronoun of the premise whose place a part of the hypothesis can take."""
    words, parts = list(WORD.finditer(premise)), list(WORD.finditer(hypothesis.rstrip(" .!?")))
    lower, ours = [_letters(each[0]) for each in words], [_letters(each[0]) for each in parts]
    for place, word in enumerate(words):
        head, mark, rest = word[0].partition("'") if "'" in word[0] else word[0].partition("’")
        if head.lower() not in PRONOUNS:
            continue
        before = _common(lower[:place][::-1], ours)
        after = _common_end(lower[place + 1 :], ours)
        for left, right in _cuts(before, after, len(ours)):
            candidate = hypothesis[parts[left].start() : parts[right - 1].end()]
            candidate = _without_ending(candidate, mark + rest)
            known = _is_within(candidate, premise)
            matched = left + len(ours) - right
            yield Alignment(matched, known, word.start(), word.start() + len(head), candidate)


def _letters(word: str) -> str:
    return word.lower().replace("’", "'")


def _common(backwards: Sequence[str], ours: Sequence[str]) -> int:
    """The largest n such that the first n words of the hypothesis are the n words before the pronoun."""
    fits = [n for n in range(min(len(ours), len(backwards)) + 1) if list(backwards[:n])[::-1] == list(ours[:n])]
    return max(fits)


def _common_end(following: Sequence[str], ours: Sequence[str]) -> int:
    """The largest n such that the last n words of the hypothesis are the n words after the pronoun."""
    fits = [n for n in range(min(len(ours), len(following)) + 1) if list(following[:n]) == list(ours[len(ours) - n :])]
    return max(fits)


def _cuts(before: int, after: int, length: int) -> Iterator[tuple[int, int]]:
    """Where the candidate can begin and end, the longest match only."""
    if before + after < length and length - before - after <= MOST_WORDS:
        yield before, length - after
    elif after < length <= after + MOST_WORDS:
        yield 0, length - after


def _without_ending(candidate: str, ending: str) -> str:
    """The candidate without what the pronoun has as well, such as the 's of it's; possessives lose theirs."""
    endings = (ending, *POSSESSIVE) if ending else POSSESSIVE
    for each in endings:
        if candidate.endswith(each) and len(candidate) > len(each):
            return candidate[: -len(each)] + ("s" if each in ("s'", "s’") else "")
    return candidate


def _is_within(candidate: str, premise: str) -> bool:
    """Whether every word of a candidate, but articles and possessives, is in the premise."""
    have = {part for word in WORD.findall(premise.lower()) for part in (word, word.split("'")[0], word.split("’")[0])}
    words = [word.split("'")[0].split("’")[0] for word in WORD.findall(candidate.lower())]
    meant = [word for word in words if word not in ("the", "a", "an", "of")]
    return bool(meant) and all(word in have for word in meant) and not {*meant} <= PRONOUNS


def wsc(path: Path, split: str) -> Iterator[Schema | Dropped]:
    """The schemas in a file of SuperGLUE's WSC; the pronoun is looked for near the word that its index names."""
    for number, fields in read_objects(path):
        id = f"{split}-{number - 1}"
        try:
            if fields is None:
                raise KeyError("no JSON object")
            text, target = text_of(fields["text"]), fields["target"]
            found = place_of(text_of(target["span2_text"]), text, int(target["span2_index"]))
            if found is None:
                yield Dropped(
                    "the pronoun is not in the text, or in several places none of which is meant for sure", id
                )
                continue
            yield Schema(id, yes_or_no(fields.get("label")), text, *found, text_of(target["span1_text"]))
        except LAYOUT_ERRORS as error:
            yield Dropped(f"another layout ({error})", id)


def collection(path: Path) -> Iterator[Row | Dropped]:
    """The rows of an XML collection of schemas; the label is the number of the right answer.

    Raises:
        DataError: it is not XML.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also of an unknown encoding
        raise DataError(f"{path}: no XML ({error}). Check that this is the file as distributed.") from error
    for number, schema in enumerate(root.iter("schema")):
        id = f"test-{number}"
        try:
            before, pronoun, after = (_text_of(schema, f"text/{name}") for name in ("txt1", "pron", "txt2"))
            answers = [" ".join((each.text or "").split()) for each in schema.iter("answer")]
            letter = _text_of(schema, "correctAnswer").strip(" .").upper()
            place = ord(letter) - ord("A")
            if not 0 <= place < len(answers) or len(letter) != 1:
                raise ValueError(f"correctAnswer {letter!r}")
        except LAYOUT_ERRORS as error:
            yield Dropped(f"another layout ({error})", id)
            continue
        text = f"{before} {MARK}{pronoun}{MARK} {after}".strip()
        yield Row(id, str(place), (re.sub(r"\s+([,.;:!?'’])", r"\1", text), *answers))


def _text_of(schema: ElementTree.Element, name: str) -> str:
    """The text of an element, white space as single spaces, without asterisks.

    Raises:
        KeyError: there is none.
    """
    found = schema.findtext(name)
    if found is None:
        raise KeyError(name)
    return " ".join(found.replace(MARK, " ").split())


def definite_pronouns(path: Path, split: str) -> Iterator[Row | Dropped]:
    """The rows of the definite pronoun resolution set: sentence, pronoun, candidates, antecedent, an empty line."""
    lines = [line.strip() for _, line in read_lines(path)]
    groups = [group.split("\n") for group in re.split(r"\n{2,}", "\n".join(lines).strip("\n"))]
    for number, group in enumerate(groups):
        id = f"{split}-{number}"
        if len(group) != 4:
            yield Dropped(f"{len(group)} lines; expected sentence, pronoun, candidates and antecedent", id)
            continue
        text, pronoun, listed, right = group
        candidates = [each.strip() for each in listed.split(",")]
        places = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(pronoun)}(?!\w)", text)]
        lower = [each.lower() for each in candidates]
        if not places or right.lower() not in lower:
            yield Dropped("the pronoun is not in the sentence, or the antecedent not among the candidates", id)
            continue
        found = Schema(id, str(lower.index(right.lower())), text, *places[-1], right)
        yield Row(id, found.label, (found.marked, *candidates))


if __name__ == "__main__":
    run(convert, __doc__ or "")
