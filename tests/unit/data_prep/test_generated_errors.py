"""Wrong labels and small errors in texts: as many as asked for, the same with every call, and nothing else changed."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.label_noise import write_noisy
from data_prep.rows_out import Row, read_rows
from data_prep.tune_rows import write_parts
from data_prep.typos import KINDS, changed, mistyped, with_swapped_words, with_typos, write_changed
from mtdnn.errors import DataError
from mtdnn.rows.subset import write_subset
from tests.conftest import REPOSITORY

ROWS = 4000
SPREAD = 4 * (0.3 * 0.7 / ROWS) ** 0.5  # four standard deviations of the share of 4,000 draws of probability 0.3


@pytest.fixture
def source(tmp_path: Path) -> Path:
    labels, path = ("no", "yes", "perhaps"), tmp_path / "train.tsv"
    lines = [f"row-{n}\t{labels[n % 3]}\tthe quick brown fox number {n}\tjumps over lazy dogs\n" for n in range(ROWS)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_about_the_asked_share_of_labels_is_flipped_evenly_and_nothing_else(source: Path, tmp_path: Path) -> None:
    reports = write_noisy(source, tmp_path / "noisy.tsv", rate=0.3, seed=1)
    before, after = list(read_rows(source)), list(read_rows(tmp_path / "noisy.tsv"))
    flips = [(old, new) for old, new in zip(before, after, strict=True) if old.label != new.label]
    assert abs(len(flips) / ROWS - 0.3) < SPREAD
    assert [(row.id, row.texts) for row in after] == [(row.id, row.texts) for row in before]
    pairs = {(old.label, new.label) for old, new in flips}
    assert len(pairs) == 6  # each label becomes each of the two others, one sixth of the flips each
    counts = [sum((old.label, new.label) == pair for old, new in flips) for pair in pairs]
    assert max(counts) - min(counts) < 0.3 * len(flips) / 6  # 200 expected, standard deviation about 13
    listed = list(read_rows(tmp_path / "noisy.flipped.tsv"))
    assert listed == [Row(old.id, old.label, (new.label,)) for old, new in flips]
    assert f"{len(flips)} labels flipped" in str(reports[0])


def test_a_flip_depends_on_seed_and_id_alone_and_rates_are_nested(source: Path, tmp_path: Path) -> None:
    flipped = {}
    for name, rate, seed in (("a", 0.2, 1), ("b", 0.4, 1), ("c", 0.2, 2)):
        write_noisy(source, tmp_path / f"{name}.tsv", rate=rate, seed=seed)
        flipped[name] = {row.id for row in read_rows(tmp_path / f"{name}.flipped.tsv")}
    assert flipped["a"] < flipped["b"] and flipped["a"] != flipped["c"]
    part = tmp_path / "part.tsv"
    part.write_text("".join(source.read_text().splitlines(keepends=True)[5:50][::-1]))
    write_noisy(part, tmp_path / "part_noisy.tsv", rate=0.2, seed=1)
    ids = {row.id for row in read_rows(part)}
    assert {row.id for row in read_rows(tmp_path / "part_noisy.flipped.tsv")} == flipped["a"] & ids


def test_no_noise_leaves_the_file_as_it_is(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "same.tsv"
    write_noisy(source, out, rate=0.5, seed=1)
    write_noisy(source, out, rate=0.0, seed=1)
    assert out.read_bytes() == source.read_bytes()
    assert not (tmp_path / "same.flipped.tsv").exists()


def test_rates_and_files_that_cannot_be_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--rate: 30 is no share\. Give a number from 0 to 1"):
        write_noisy(source, tmp_path / "x.tsv", rate=30, seed=1)
    with pytest.raises(DataError, match="no such file"):
        write_noisy(tmp_path / "none.tsv", tmp_path / "x.tsv", rate=0.3, seed=1)
    (tmp_path / "one.tsv").write_text("1\tyes\ttext\n2\tyes\n")
    with pytest.raises(DataError, match=r"one\.tsv:2: 2 columns; expected id, label and texts"):
        write_noisy(tmp_path / "one.tsv", tmp_path / "x.tsv", rate=0.3, seed=1)
    (tmp_path / "one.tsv").write_text("1\tyes\ttext\n")
    with pytest.raises(DataError, match="1 label in 1 rows"):
        write_noisy(tmp_path / "one.tsv", tmp_path / "x.tsv", rate=0.3, seed=1)
    assert not (tmp_path / "x.tsv").exists()


@pytest.mark.parametrize(
    ("name", "flag", "write"),
    [
        ("train.tsv", "--out", lambda path: write_noisy(path, path, rate=0.5, seed=1)),
        ("a.flipped.tsv", "--out", lambda path: write_noisy(path, path.with_name("a.tsv"), rate=0.5, seed=1)),
        ("a.flipped.tsv", "--out", lambda path: write_noisy(path, path.with_name("a.tsv"), rate=0, seed=1)),
        ("train.tsv", "--out", lambda path: write_changed(path, path, kind="typos", rate=0.5, seed=1)),
        ("fit.tsv", "--input", lambda path: write_parts(path, rows=10, seed=1)),
    ],
)
def test_rows_are_not_written_over_those_they_are_made_from(
    source: Path, name: str, flag: str, write: Callable[[Path], object]
) -> None:
    """The list of flipped rows is written, and removed where there are none, as well."""
    before, source = source.read_bytes(), source.rename(source.with_name(name))
    with pytest.raises(DataError, match=rf"{flag}: '.*' would overwrite '.*'\. Name another file\."):
        write(source)
    (found,) = source.parent.glob("*.tsv")
    assert found.read_bytes() == before


def test_rows_are_written_to_what_a_link_names(source: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "real.tsv", tmp_path / "link.tsv"
    real.write_text("old\n")
    link.symlink_to(real)
    write_noisy(source, link, rate=0.0, seed=1)
    assert link.is_symlink() and real.read_bytes() == source.read_bytes()


def test_rows_without_a_label_stay_without_one(tmp_path: Path) -> None:
    """Empty and `-` both mean that there is none; neither is a label that another could become."""
    source = tmp_path / "train.tsv"
    source.write_text("".join(f"{n}\t{label}\ttext\n" for n, label in enumerate(("a", "b", "-", "", "a", "b"))))
    write_noisy(source, tmp_path / "noisy.tsv", rate=1.0, seed=1)
    assert [row.label for row in read_rows(tmp_path / "noisy.tsv")] == ["b", "a", "-", "", "b", "a"]


def test_marks_around_a_word_stay_and_do_not_protect_it() -> None:
    words = ["water,", "(protein)", "well-known", "it's", "...", "cells."]
    found = with_typos(words, 1.0, random.Random(0))
    assert [old == new for old, new in zip(words, found, strict=True)] == [False, False, True, True, True, False]
    assert found[0][-1] == "," and (found[1][0], found[1][-1]) == ("(", ")") and found[5][-1] == "."


@pytest.mark.parametrize("kind", KINDS)
def test_errors_in_texts_are_the_same_with_every_call_and_keep_ids_and_labels(kind: str, source: Path) -> None:
    out = source.with_name("changed.tsv")
    first = (write_changed(source, out, kind=kind, rate=0.3, seed=1), out.read_bytes())
    assert (write_changed(source, out, kind=kind, rate=0.3, seed=1), out.read_bytes()) == first
    write_changed(source, out, kind=kind, rate=0.3, seed=2)
    assert out.read_bytes() != first[1]
    before, after = list(read_rows(source)), list(read_rows(out))
    assert [(row.id, row.label) for row in after] == [(row.id, row.label) for row in before]
    write_changed(source, out, kind=kind, rate=0.0, seed=1)
    assert out.read_bytes() == source.read_bytes()


def test_typos_hit_about_the_asked_share_of_long_words_and_no_first_letter(source: Path) -> None:
    rows = list(read_rows(source))
    pairs = [
        (before, after)
        for row in rows
        for old, new in zip(row.texts, changed(row, "typos", rate=0.3, seed=1).texts, strict=True)
        for before, after in zip(old.split(), new.split(), strict=True)
    ]
    long = [(before, after) for before, after in pairs if len(before) > 3 and before.isalpha()]
    hit = [pair for pair in long if pair[0] != pair[1]]
    assert abs(len(hit) / len(long) - 0.3) < SPREAD  # more words than rows
    assert all(before[0] == after[0] and abs(len(before) - len(after)) <= 1 for before, after in hit)
    assert all(before == after for before, after in pairs if len(before) <= 3 or not before.isalpha())


def test_a_mistyped_word_is_never_the_word_itself() -> None:
    rng = random.Random(0)
    assert all(mistyped(word, rng) != word for word in ("aaaa", "book", "Elephant", "übung") for _ in range(200))
    assert {mistyped("word", random.Random(n)) for n in range(300)} >= {"wrod", "wrd", "woord", "wird", "wprd"}


def test_a_text_keeps_a_word_and_a_word_moves_by_one_place() -> None:
    row = Row("1", "yes", ("one two three", "four"))
    assert changed(row, "dropped", rate=1.0, seed=1).texts == ("one", "four")
    assert with_swapped_words(["a", "b", "c", "d", "e"], 1.0, random.Random(0)) == ["b", "a", "d", "c", "e"]
    assert changed(row, "swapped", rate=1.0, seed=1).texts == ("two one three", "four")


def test_the_command_lines_write_and_refuse(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "train.tsv"
    for module, more in (("label_noise", ["--rate", "0.3"]), ("typos", ["--kind", "dropped"])):
        command = [sys.executable, "-m", f"data_prep.{module}", "--input", source, "--out", out, *more]
        found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert f"{out}: {ROWS} rows written" in found.stdout
        refused = subprocess.run([*command, "--rate", "2"], cwd=REPOSITORY, capture_output=True, text=True)
        assert refused.returncode == 2 and refused.stderr == "--rate: 2.0 is no share. Give a number from 0 to 1.\n"


def test_rows_to_fit_and_to_tune_share_no_id_and_lose_no_row(source: Path, tmp_path: Path) -> None:
    with source.open("a") as file:
        file.write("row-7\tno\ta second row\tof an id\n")
    reports = write_parts(source, rows=500, seed=1000)
    fit, tune = ([row.id for row in read_rows(report.path)] for report in reports)
    assert len(set(tune)) == 500 and not set(fit) & set(tune) and len(fit) + len(tune) == ROWS + 1
    again = write_subset(source, tmp_path / "again.tsv", seed=1000, rows=500)
    assert len(set(tune) & set(again.ids.read_text().split())) >= 499  # the same draws, but for the repeated id
    with pytest.raises(DataError, match=rf"--rows: {ROWS} of {ROWS} ids"):
        write_parts(source, rows=ROWS, seed=1)
    command = [sys.executable, "-m", "data_prep.tune_rows", "--input", source, "--rows", "7"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"{source.parent}/tune.tsv: 7 rows written" in found.stdout
    refused = subprocess.run([*command, "--rows", "0"], cwd=REPOSITORY, capture_output=True, text=True)
    assert refused.returncode == 2 and "--rows: 0 of" in refused.stderr
