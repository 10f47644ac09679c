"""Subsets: their sizes, that they are nested, and that they depend on nothing but ids, size and seed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtdnn.cli.main import main
from mtdnn.errors import ConfigError, DataError
from mtdnn.rows.subset import chosen_rows, subset_size, write_subset

SCITAIL_ROWS = 23_596


@pytest.mark.parametrize(("fraction", "size"), [(0.001, 23), (0.01, 235), (0.1, 2_359), (1.0, 23_596)])
def test_sizes_of_scitail_are_those_of_the_paper(fraction: float, size: int) -> None:
    # Liu et al. 2019, table 5: 23, 235, 2.3k, 23.5k
    assert subset_size(SCITAIL_ROWS, fraction) == size


def test_a_fraction_counts_as_it_is_written() -> None:
    assert subset_size(100, 0.29) == 29  # 100 * 0.29 is 28.999999999999996 in binary floating point


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="is not in"):
        subset_size(100, fraction)


@given(st.lists(st.text(max_size=5), min_size=2, max_size=60), st.integers(0, 3), st.data())
def test_smaller_subsets_lie_in_larger_ones_even_with_twins(ids: list[str], seed: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(1, len(ids)))
    large = data.draw(st.integers(small, len(ids)))
    few, many = chosen_rows(ids, small, seed=seed), chosen_rows(ids, large, seed=seed)
    assert len(few) == small and len(many) == large
    assert set(few.tolist()) <= set(many.tolist())


def test_the_order_of_the_rows_does_not_matter() -> None:
    ids = [f"row-{number}" for number in range(500)]
    shuffled = [ids[place] for place in np.random.default_rng(0).permutation(500)]
    chosen = {ids[row] for row in chosen_rows(ids, 50, seed=1)}
    assert chosen == {shuffled[row] for row in chosen_rows(shuffled, 50, seed=1)}


def test_other_seeds_choose_other_rows_about_as_often_as_chance_would() -> None:
    ids = [f"row-{number}" for number in range(10_000)]
    first, second = (set(chosen_rows(ids, 1_000, seed=seed).tolist()) for seed in (1, 2))
    # Hypergeometric: mean 100, standard deviation 9; five of them
    assert 55 < len(first & second) < 145


def test_another_process_with_another_hash_seed_chooses_the_same_rows() -> None:
    chosen = "chosen_rows([f'r{n}' for n in range(99)], 7, seed=4).tolist()"
    code = f"from mtdnn.rows.subset import chosen_rows; print({chosen})"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(chosen_rows([f"r{number}" for number in range(99)], 7, seed=4).tolist())


def test_the_choice_never_changes_between_versions() -> None:
    # Written down when the function was made: a change would silently change every published subset.
    assert chosen_rows([f"r{number}" for number in range(20)], 5, seed=1).tolist() == [1, 3, 4, 15, 19]


def test_too_few_rows_are_reported_with_both_numbers() -> None:
    with pytest.raises(DataError, match="a subset of 3 rows was asked for, and there are 2"):
        chosen_rows(["a", "b"], 3, seed=1)
    with pytest.raises(DataError, match="a subset of 0 rows"):
        chosen_rows(["a", "b"], subset_size(2, 0.1), seed=1)


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_written_subset_holds_whole_unchanged_lines_and_their_ids(tmp_path: Path, suffix: str) -> None:
    rows = {
        ".tsv": [f"id{number}\tneutral\tein Satz, “{number}”\tzwei" for number in range(40)],
        ".jsonl": [f'{{"id": "id{number}", "text": "{number}"}}' for number in range(40)],
    }[suffix]
    source = tmp_path / f"train{suffix}"
    source.write_text("\n".join(rows), encoding="utf-8")
    written = write_subset(source, tmp_path / f"part{suffix}", seed=3, fraction=0.25)
    ids = written.ids.read_text(encoding="utf-8").split()
    assert (written.size, written.num_rows, len(ids)) == (10, 40, 10)
    expected = [rows[int(row_id.removeprefix("id"))] for row_id in ids]
    assert written.rows.read_text(encoding="utf-8").splitlines() == expected
    assert [int(row_id.removeprefix("id")) for row_id in ids] == chosen_rows(
        [f"id{number}" for number in range(40)], 10, seed=3
    ).tolist()


def test_a_carriage_return_within_a_text_does_not_end_its_row(tmp_path: Path) -> None:
    """Half of the text was lost, and the other half was a row's id; the lines are read as `check` reads them."""
    source = tmp_path / "train.tsv"
    source.write_bytes(b"1\ta\tfoo\rbar is here\r\n2\tb\tbaz\r\n")
    written = write_subset(source, tmp_path / "part.tsv", seed=1, fraction=1.0)
    assert (written.num_rows, written.rows.read_bytes()) == (2, b"1\ta\tfoo\rbar is here\n2\tb\tbaz\n")


def test_an_id_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    source.write_text('{"id": "a"}\n{"id": "b\\ud800"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"train.jsonl:2: an unpaired surrogate"):
        write_subset(source, tmp_path / "part.jsonl", seed=1, rows=1)
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_file_that_is_not_there_is_reported_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.tsv: cannot be read: No such file or directory\. Check the path\.$"):
        write_subset(tmp_path / "train.tsv", tmp_path / "part.tsv", seed=1, rows=1)


def test_rows_without_id_and_other_formats_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "train.tsv"
    source.write_text("a\tx\n\n\ty\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train.tsv:3: id: the row has no id"):
        write_subset(source, tmp_path / "part.tsv", seed=1, rows=1)
    with pytest.raises(ConfigError, match="either a fraction or a number of rows"):
        write_subset(source, tmp_path / "part.tsv", seed=1)
    with pytest.raises(ConfigError, match=r"not a .tsv or .jsonl file"):
        write_subset(tmp_path / "train.csv", tmp_path / "part.csv", seed=1, rows=1)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "s.tsv"
    path.write_text("".join(f"{number}\ttext\n" for number in range(20)))
    return path


@pytest.mark.parametrize(
    ("out", "reported"),
    [
        ("s.tsv", r"'.*s\.tsv' would overwrite '.*s\.tsv'\. Name another file\."),
        ("./other/../s.tsv", "would overwrite"),
        ("link.tsv", "would overwrite"),
        ("part.ids", r"is the name of the ids file\. Name it, for example, .*part\.tsv\."),
        ("other", "is a folder"),
        ("precious.tsv", r"'.*precious\.tsv' exists, and has no ids file, so it is not from an earlier subset\. Name"),
        ("taken.tsv", r"'.*taken\.ids', the ids file, exists and does not belong to a subset in"),
    ],
)
def test_a_subset_writes_over_nothing_but_an_earlier_one(tmp_path: Path, rows: Path, out: str, reported: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "link.tsv").symlink_to(rows)
    (tmp_path / "taken.ids").write_text("mine\n")
    (tmp_path / "precious.tsv").write_text("mine\n")
    before = {path: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=rf"--out: .*{reported}"):
        write_subset(rows, tmp_path / out, seed=0, fraction=0.1)
    assert {path: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_earlier_subset_is_replaced_with_its_ids(tmp_path: Path, rows: Path) -> None:
    out = tmp_path / "part.tsv"
    write_subset(rows, out, seed=0, fraction=0.1)
    assert write_subset(rows, out, seed=1, fraction=0.2).size == 4
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == (tmp_path / "part.ids").read_text().split()


def test_an_id_of_null_is_none(tmp_path: Path) -> None:
    source = tmp_path / "s.jsonl"
    source.write_text('{"id": null, "text": "a"}\n{"id": "2", "text": "b"}\n')
    with pytest.raises(DataError, match=r"s\.jsonl:1: id: the row has no id"):
        write_subset(source, tmp_path / "part.jsonl", seed=0, rows=1)


def test_a_subset_that_cannot_be_written_is_reported(rows: Path) -> None:
    with pytest.raises(
        DataError, match=r"^/proc/q\.ids: cannot be written: .*\. Free disk space, or choose another path\."
    ):
        write_subset(rows, Path("/proc/q.tsv"), seed=0, fraction=0.1)


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--count", "21"], "--count: 21 of 20 rows. Give 1 to 20."),
        (["--count", "0"], "--count: 0 of 20 rows. Give 1 to 20."),
        (["--fraction", "0.01"], "--fraction: 0.01 of 20 rows is less than one row. Give 0.05 to 1."),
    ],
)
def test_a_size_that_no_subset_has_is_refused_with_those_that_some_have(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str], words: list[str], reported: str
) -> None:
    assert main(["subset", str(rows), "--out", str(tmp_path / "part.tsv"), *words]) == 2
    assert capsys.readouterr().err.strip() == reported
    assert not (tmp_path / "part.tsv").exists()
