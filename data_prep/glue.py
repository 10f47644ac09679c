"""GLUE as distributed (gluebenchmark.com): the files of the nine tasks and the diagnostic set → canonical rows.

`python -m data_prep.glue --input glue_data --out data`. The files have no quoting: a quotation mark is a character like
any other. MRPC may also come as Microsoft's msr_paraphrase_*.txt with GLUE's list of dev ids. A row's id is its split
and its number in the file, from 0; for the test splits that is the `index` a submission needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.rows_out import (
    OTHER_COLUMNS,
    UNLABELLED,
    Dropped,
    Report,
    Row,
    find_input,
    labelled_row,
    read_columns,
    read_lines,
    run,
    write_rows,
)
from mtdnn.errors import DataError, Place, fault, shortened

BINARY = ("0", "1")
RTE_LABELS = ("entailment", "not_entailment")
NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Layout:
    """A task's folder and the columns of its files; no labels means that the label is a number."""

    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "dev", "test")


LAYOUTS = {
    "sst2": Layout("SST-2", ("sentence",), "label", BINARY),
    "stsb": Layout("STS-B", ("sentence1", "sentence2"), "score", ()),
    "qqp": Layout("QQP", ("question1", "question2"), "is_duplicate", BINARY),
    "mnli": Layout(
        "MNLI", ("sentence1", "sentence2"), "gold_label", NLI_LABELS,
        ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"),
    ),
    "qnli": Layout("QNLI", ("question", "sentence"), "label", RTE_LABELS),
    "rte": Layout("RTE", ("sentence1", "sentence2"), "label", RTE_LABELS),
    "wnli": Layout("WNLI", ("sentence1", "sentence2"), "label", BINARY),
}  # fmt: skip
MRPC = Layout("MRPC", ("#1 String", "#2 String"), "Quality", BINARY)
AX = Layout("diagnostic", ("Premise", "Hypothesis"), "Label", NLI_LABELS)
AX_UNLABELLED = Layout("diagnostic", ("sentence1", "sentence2"), "", NLI_LABELS)


def convert(source: Path, out: Path) -> list[Report]:
    """Convert every task whose folder is there.

    Raises:
        DataError: nothing of GLUE is there, or a file has another layout.
    """
    reports = []
    for task, layout in LAYOUTS.items():
        for split in layout.splits:
            if (path := source / layout.folder / f"{split}.tsv").is_file():
                reports.append(write_rows(out / task / f"{split}.tsv", table_rows(path, layout, split)))
    reports += convert_cola(source / "CoLA", out / "cola")
    reports += convert_mrpc(source / "MRPC", out / "mrpc")
    reports += convert_diagnostic(source, out / "ax")
    if not reports:
        known = ", ".join((*(layout.folder for layout in LAYOUTS.values()), "CoLA", "MRPC", "diagnostic"))
        raise DataError(f"{source}: no file of GLUE in any of {known}. Name the folder that holds these.")
    return reports


def table_rows(path: Path, layout: Layout, split: str, *, labelled: bool | None = None) -> Iterator[Row | Dropped]:
    """The rows of one file with a header; test splits have no label. Rows broken by a tab or line break are dropped."""
    labelled = not split.startswith("test") if labelled is None else labelled
    columns = [*layout.texts, *([layout.label] if labelled else [])]
    for number, values in read_columns(path, columns):
        id = f"{split}-{number - 2}"  # line 1 is the header
        if values is None:
            yield Dropped(OTHER_COLUMNS, id)
        elif labelled:
            yield labelled_row(id, values[-1], values[:-1], layout.labels)
        else:
            yield Row(id, UNLABELLED, tuple(values))


def convert_cola(folder: Path, out: Path) -> list[Report]:
    """CoLA: train and dev have no header (source, label, author's mark, sentence); test has one (index, sentence)."""
    reports = []
    for split in ("train", "dev"):
        if (path := folder / f"{split}.tsv").is_file():
            reports.append(write_rows(out / f"{split}.tsv", cola_rows(path, split)))
    if (path := folder / "test.tsv").is_file():
        layout = Layout("CoLA", ("sentence",), "", BINARY)
        reports.append(write_rows(out / "test.tsv", table_rows(path, layout, "test")))
    return reports


def cola_rows(path: Path, split: str) -> Iterator[Row | Dropped]:
    for number, line in read_lines(path):
        values = line.split("\t")
        id = f"{split}-{number - 1}-{values[0]}"  # with the source publication, by which CoLA tells its dev halves
        yield labelled_row(id, values[1], values[3:], BINARY) if len(values) == 4 else Dropped(OTHER_COLUMNS, id)


def convert_mrpc(folder: Path, out: Path) -> list[Report]:
    """MRPC from GLUE's tsv files where they are, else from Microsoft's two files, with GLUE's dev ids if there."""
    train = folder / "msr_paraphrase_train.txt"
    reports = []
    for split in ("train", "dev", "test"):
        if (path := folder / f"{split}.tsv").is_file():
            labelled = split != "test" or has_column(path, "Quality")
            reports.append(write_rows(out / f"{split}.tsv", table_rows(path, MRPC, split, labelled=labelled)))
    if not reports and train.is_file():
        dev_ids = read_dev_ids(folder)
        reports.append(write_rows(out / "train.tsv", mrpc_rows(train, "train", without=dev_ids)))
        if dev_ids:
            reports.append(write_rows(out / "dev.tsv", mrpc_rows(train, "dev", only=dev_ids)))
        if (test := folder / "msr_paraphrase_test.txt").is_file():
            reports.append(write_rows(out / "test.tsv", table_rows(test, MRPC, "test", labelled=True)))
    return reports


Pair = tuple[str, str]


def read_dev_ids(folder: Path) -> frozenset[Pair]:
    """The sentence ids of the pairs that GLUE moved from Microsoft's train file to dev; empty without the list.

    Raises:
        DataError: the list has no pair, or a line of it is something else; its dev rows would stay in train.
    """
    path = find_input(folder, ("mrpc_dev_ids.tsv", "dev_ids.tsv"))
    if path is None:
        return frozenset()
    pairs, fix = set[Pair](), "Give GLUE's list, two ids in a line, separated by a tab, or remove the file."
    for number, line in read_lines(path):
        if not line.strip():
            continue
        ids = [each.strip() for each in line.split("\t")]
        if len(ids) != 2 or not all(ids):
            raise DataError(fault(Place(str(path), number), "", f"'{shortened(line, 40)}' is no pair of ids", fix))
        pairs.add((ids[0], ids[1]))
    if not pairs:
        raise DataError(fault(str(path), "", "the file is empty", fix))
    return frozenset(pairs)


def mrpc_rows(
    path: Path, split: str, *, only: frozenset[Pair] = frozenset(), without: frozenset[Pair] = frozenset()
) -> Iterator[Row | Dropped]:
    """The rows of Microsoft's file whose pair of ids is in `only` (when given) and not in `without`."""
    for number, values in read_columns(path, ["#1 ID", "#2 ID", *MRPC.texts, MRPC.label]):
        id = f"{split}-{number - 2}"
        if values is None:
            yield Dropped(OTHER_COLUMNS, id)
        elif (pair := (values[0], values[1])) not in without and (not only or pair in only):
            yield labelled_row(id, values[4], values[2:4], MRPC.labels)


def convert_diagnostic(source: Path, out: Path) -> list[Report]:
    """AX: `diagnostic-full.tsv`, which has labels, or `diagnostic.tsv` alias `AX.tsv`, which has none."""
    for name, layout in (("diagnostic-full.tsv", AX), ("diagnostic.tsv", AX_UNLABELLED), ("AX.tsv", AX_UNLABELLED)):
        for folder in (source / "diagnostic", source / "AX", source):
            if (folder / name).is_file():
                rows = table_rows(folder / name, layout, "test", labelled=bool(layout.label))
                return [write_rows(out / "test.tsv", rows)]
    return []


def has_column(path: Path, column: str) -> bool:
    header: Sequence[str] = next(read_lines(path), (1, ""))[1].split("\t")
    return column in header


if __name__ == "__main__":
    run(convert, "GLUE as distributed → canonical rows")
