"""How a file in CoNLL columns is laid out: by tabs or spaces, with row numbers or comments, where words and tags are.

Nothing is taken for granted: what does not fit the layout of the file's other lines is reported with its line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, pairwise
from pathlib import Path

from data_prep.rows_out import read_lines
from mtdnn.errors import DataError, Fault, Place, fault, first_of

ENTITY = re.compile(r"O|[BIESLU]-\S+")
NUMBER = re.compile(r"\d+([-.]\d+)?")  # 3; 3-4, one word written for several; 3.1, one that is not in the text
NO_TAGS = ("", "_", "-")
CONLL_U = 10  # columns; the fourth is the universal part of speech
UPOS = 3
WORD_NAMES = ("word", "words", "token", "tokens", "form", "text")
TAG_NAMES = (
    "tag", "tags", "label", "labels", "pos", "upos", "xpos", "pos_tag", "pos_tags", "ner", "ner_tag", "ner_tags",
    "entity", "bio", "chunk",
)  # fmt: skip
FAULTS_REPORTED = 20
OPTIONS = "Name them with --word_column and --tag_column, counted from 1."


@dataclass(frozen=True)
class Line:
    """A line that is not empty.

    Attributes:
        number: in the file, from 1.
        cells: its columns.
        sentence: number of its sentence; comments before it count as part of it.
    """

    number: int
    text: str
    cells: list[str]
    sentence: int


@dataclass(frozen=True)
class Layout:
    """Where words and tags are; columns are counted from 0.

    Attributes:
        width: columns of a line.
        tag: None: the file has no tags.
        numbered: whether the first column counts the words of a sentence.
        entities: whether the tags are those of entities (O, B-PER, …), not parts of speech.
        also_tags: other columns that hold tags of entities.
        comments: lines left out.
    """

    width: int
    word: int
    tag: int | None
    numbered: bool = False
    entities: bool = False
    also_tags: list[int] = field(default_factory=list)
    comments: int = 0

    def __str__(self) -> str:
        """`words from column 2, tags from column 3 of 4, 1 comment lines left out`."""
        tags = "no tags" if self.tag is None else f"tags from column {self.tag + 1}"
        more = " and ".join(str(column + 1) for column in self.also_tags)
        parts = [f"words from column {self.word + 1}, {tags} of {self.width}"]
        parts += [f"tags in column {more} too, which are left out"] if more else []
        parts += [f"{self.comments} comment lines left out"] if self.comments else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Table:
    """A file in columns, understood.

    Attributes:
        sentences: (word, tag) of each word; tags are empty where the layout has none.
    """

    layout: Layout
    sentences: list[list[tuple[str, str]]]


def read_table(path: Path, *, word_column: int | None = None, tag_column: int | None = None) -> Table:
    """The sentences of a file, and where they were found in it.

    Args:
        word_column, tag_column: counted from 1; None: found by what the columns hold.
    Raises:
        DataError: every line that does not fit the others, or the file, when it does not show where its tags are.
    """
    lines = _lines(path)
    words = [line for line in lines if not line.text.startswith("#")]
    if not words:
        raise DataError(fault(str(path), "", "no words", "Check that this is the file, or leave it out."))
    _refuse_header(path, words[0])
    width = max(Counter(len(line.cells) for line in words).items(), key=lambda item: (item[1], item[0]))[0]
    layout = _layout(path, [line for line in words if len(line.cells) == width], width, (word_column, tag_column))
    kept = _without_comments(lines, {_tag_cell(line, layout) for line in words}, layout)
    faults = [each for line in kept if (each := _line_fault(path, line, layout))]
    if faults:
        raise DataError(first_of(faults, len(faults), str(path), FAULTS_REPORTED))
    return Table(replace(layout, comments=len(lines) - len(kept)), list(_sentences(kept, layout)))


def _lines(path: Path) -> list[Line]:
    """Every line that is neither empty nor -DOCSTART-, split as most of them are: by tabs, or else by white space."""
    found: list[tuple[int, str, int]] = []
    sentence = 0
    for number, raw in read_lines(path):
        text = raw.strip(" ").rstrip("\t ")
        if text.startswith(("#begin document", "#end document")):
            message, fix = "CoNLL-2012's layout, whose entities are in brackets", "Convert it to a tag for each word."
            raise DataError(fault(Place(str(path), number), "", message, fix))
        if text.strip() and not text.startswith("-DOCSTART-"):
            found.append((number, text, sentence))
        else:
            sentence += 1
    texts = [text for _, text, _ in found]
    split = _splitter([text for text in texts if not text.startswith("#")] or texts)
    return [Line(number, text, split(text), sentence) for number, text, sentence in found]


def _refuse_header(path: Path, line: Line) -> None:
    """Raise DataError if a file's first line has the names of its columns."""
    cells = [cell.lower() for cell in line.cells]
    if any(cell in WORD_NAMES for cell in cells) and any(cell in TAG_NAMES for cell in cells):
        found = f"'{' '.join(line.cells)}' is a header, not a word with its tag"
        raise DataError(fault(Place(str(path), line.number), "", found, "Remove the line."))


def _splitter(texts: Sequence[str]) -> Callable[[str], list[str]]:
    """What splits a line: tabs where most lines have one; several in a row are one where that makes lines alike."""
    if 2 * sum("\t" in text for text in texts) <= len(texts):
        return lambda text: re.split(r"[ \t]+", text.strip(" \t"))
    alike = len({len(re.split(r"\t+", text)) for text in texts}) == 1
    tab = re.compile(r"\t+" if alike else r"\t")
    return lambda text: [cell.strip(" ") for cell in tab.split(text)]


def _layout(path: Path, lines: Sequence[Line], width: int, given: tuple[int | None, int | None]) -> Layout:
    """Where words and tags are, by what the columns hold; `given` ones, counted from 1, are taken as they are.

    Raises:
        DataError: that cannot be said for sure.
    """
    columns = [[line.cells[column] for line in lines] for column in range(width)]
    if outside := [column for column in given if column is not None and not 1 <= column <= width]:
        raise DataError(fault(str(path), "", f"no column {outside[0]}; the lines have {width}", "Count from 1."))
    numbered = width > 1 and _counts_words(lines)
    if given == (None, None) and not numbered and width > 2 and len(lines) > 1 and _are_numbers(columns[0]):
        raise DataError(fault(str(path), "", "the first column holds numbers that do not count words", OPTIONS))
    if given[0] is None and not numbered and width > 1 and (found := _not_words(lines)):
        raise DataError(fault(str(path), "", f"the first column {found}", OPTIONS))
    reversed_ = width == 2 and _has_begin(columns[0]) and _holds_entities(columns[0]) and not _has_begin(columns[1])
    word = given[0] - 1 if given[0] is not None else int(numbered or reversed_)
    if given[1] is not None:
        tag: int | None = given[1] - 1
    else:
        tag = 0 if reversed_ else _tag_column(path, columns, word, numbered)
    if given[1] is None and tag is not None and not reversed_ and _repeats(columns[word], columns[tag]):
        raise DataError(fault(str(path), "", f"column {tag + 1} repeats the words, as lemmas do", OPTIONS))
    if tag is None or all(cell in NO_TAGS for cell in columns[tag]):
        return Layout(width, word, None, numbered)
    entities = _has_begin(columns[tag]) or all(cell == "O" for cell in columns[tag])
    behind = range(tag + 1, width) if numbered else ()
    return Layout(width, word, tag, numbered, entities, [column for column in behind if _has_begin(columns[column])])


def _tag_column(path: Path, columns: Sequence[list[str]], word: int, numbered: bool) -> int | None:
    """The last column or, in a numbered file, the first that holds tags of entities; None: there are no tags."""
    tagged = [column for column in range(len(columns)) if column != word and _holds_entities(columns[column])]
    found = ""
    if numbered:
        tag = tagged[0] if tagged else UPOS if len(columns) == CONLL_U else None
        if tag is None and not all(cell in NO_TAGS for cell in chain.from_iterable(columns[word + 1 :])):
            found = f"none of its {len(columns)} columns holds tags of entities alone"
    else:
        tag = len(columns) - 1 if len(columns) > 1 else None
        elsewhere = [column for column in tagged if _has_begin(columns[column])]
        if elsewhere and tag is not None and not _has_begin(columns[tag]):
            found = f"tags of entities are in column {elsewhere[-1] + 1} of {len(columns)}, not in the last"
    if found:
        raise DataError(fault(str(path), "", found, OPTIONS))
    return tag


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(map(NUMBER.fullmatch, cells))


def _counts_words(lines: Sequence[Line]) -> bool:
    """Whether the first column of most sentences counts their words: 1, 2, 3, … or on from the sentence before."""
    counted: Counter[bool] = Counter()
    for _, sentence in groupby(lines, key=lambda line: line.sentence):
        first = [line.cells[0] for line in sentence]
        numbers = [int(cell) for cell in first if cell.isdecimal()]
        in_order = all(after == before + 1 for before, after in pairwise(numbers))
        shown = len(numbers) > 1 or numbers in ([0], [1])  # else 1999 alone would count the words of its sentence
        counted[shown and in_order and all(map(NUMBER.fullmatch, first))] += 1
    return counted[True] > counted[False]


def _not_words(lines: Sequence[Line]) -> str:
    """What shows that the first column has no words, but names of sentences or of words; empty if nothing does."""
    sentences = [[line.cells[0] for line in each] for _, each in groupby(lines, key=lambda line: line.sentence)]
    alike = Counter(len(set(cells)) == 1 for cells in sentences if len(cells) > 1)
    if len(lines[0].cells) > 2 and alike[True] > alike[False]:
        return "is the same for all words of a sentence"
    cells = [line.cells[0] for line in lines]
    shapes = {re.sub(r"\d+", "0", cell) for cell in cells}
    if len(cells) > 1 and len(shapes) == 1 and len(set(cells)) == len(cells) and re.search(r"\D0|0\D", shapes.pop()):
        return f"numbers the words ('{cells[0]}', '{cells[1]}', …)"
    return ""


def _repeats(words: Sequence[str], tags: Sequence[str]) -> bool:
    """Whether more than a third of the tags are their words; of punctuation they may be, as in Penn's tags."""
    same = sum(word.casefold() == tag.casefold() for word, tag in zip(words, tags, strict=True))
    return len(words) > 2 and 3 * same > len(words)


def _holds_entities(cells: Sequence[str]) -> bool:
    """Whether at least half of the cells are tags of entities."""
    return 2 * sum(ENTITY.fullmatch(cell) is not None for cell in cells) >= len(cells)


def _has_begin(cells: Sequence[str]) -> bool:
    return any(cell[:2] in ("B-", "I-") for cell in cells)


def _without_comments(lines: Sequence[Line], tags: set[str], layout: Layout) -> list[Line]:
    """The lines that are words.

    In a numbered file every line that begins with # is a comment. In others # may be a word, and a comment comes before
    the words of a sentence and has no tag in its last column.
    """

    def may_be_comment(line: Line) -> bool:
        fits, tag = len(line.cells) == layout.width, _tag_cell(line, layout)
        tagged = ENTITY.fullmatch(tag) is not None if layout.entities else tag in tags
        is_hashtag = fits and re.match(r"#+[^# ]", line.text) is not None
        return layout.numbered or not (tagged or is_hashtag)

    kept: list[Line] = []
    for line in lines:
        is_first = not kept or kept[-1].sentence != line.sentence
        if not (line.text.startswith("#") and (is_first or layout.numbered) and may_be_comment(line)):
            kept.append(line)
    return kept


def _tag_cell(line: Line, layout: Layout) -> str:
    """The cell in the column of tags; the last one where there is no such column."""
    return line.cells[-1 if layout.tag is None or len(line.cells) != layout.width else layout.tag]


def _line_fault(path: Path, line: Line, layout: Layout) -> Fault | None:
    """What keeps a line from being a word and its tag."""
    found, fix = "", "Correct the line, or remove it."
    if len(line.cells) == 1 < layout.width:
        found, fix = f"'{line.text}' has no tag", "A word and its columns are expected."
    elif len(line.cells) != layout.width:
        found = f"{len(line.cells)} columns; most lines have {layout.width}"
    elif not line.cells[layout.word]:
        found = "no word"
    elif layout.numbered and not NUMBER.fullmatch(line.cells[0]):
        found = f"'{line.cells[0]}' in place of the word's number"
    elif layout.tag is not None and not _is_left_out(line, layout):
        tag = line.cells[layout.tag]
        if tag == "_" or tag.split() != [tag] or (layout.entities and not ENTITY.fullmatch(tag)):
            found = f"'{tag}' is no tag{' such as O, B-PER or I-PER' if layout.entities else ''}"
    return fault(Place(str(path), line.number), "", found, fix) if found else None


def _is_left_out(line: Line, layout: Layout) -> bool:
    """Whether a line of CoNLL-U holds no word of its own: one written for several (1-2), or one left unsaid (1.1)."""
    return layout.numbered and not line.cells[0].isdecimal()


def _sentences(lines: Sequence[Line], layout: Layout) -> Iterator[list[tuple[str, str]]]:
    """(word, tag) of each word; the tag is empty where there is none."""
    for _, sentence in groupby(lines, key=lambda line: line.sentence):
        words = [line for line in sentence if not _is_left_out(line, layout)]
        if words:
            yield [(each.cells[layout.word], "" if layout.tag is None else each.cells[layout.tag]) for each in words]
