"""What is written is whole and clean, and what is not written is counted."""

import pytest

from data_prep.rows_out import Dropped, Row, labelled_row, read_columns, read_lines, read_objects, write_rows
from mtdnn.errors import DataError


def test_tabs_and_line_breaks_in_a_text_become_spaces_and_are_counted(tmp_path):
    rows = [Row("1", "a", ("one\ttwo", "three\r\nfour")), Row("2", "b", ("five", "six"))]
    report = write_rows(tmp_path / "t/train.tsv", rows)
    assert (tmp_path / "t/train.tsv").read_bytes() == b"1\ta\tone two\tthree  four\n2\tb\tfive\tsix\n"
    assert (report.written, report.replaced) == (2, 2)


def test_dropped_rows_are_counted_by_reason_with_the_first_three_ids(tmp_path):
    dropped = [Dropped("too odd", str(number)) for number in range(5)]
    report = write_rows(tmp_path / "dev.tsv", [Row("1", "a", ("x",)), *dropped, Row("2", "a", (" ",))])
    assert str(report) == (
        f"{tmp_path / 'dev.tsv'}: 1 rows written; 1 dropped, empty text (first: 2); 5 dropped, too odd (first: 0, 1, 2)"
    )


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_rows(tmp_path / "dev.tsv", [Row("1", "a", ("old",))])

    def rows():
        yield Row("1", "a", ("new",))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "dev.tsv", rows())
    assert [path.name for path in tmp_path.iterdir()] == ["dev.tsv"]
    assert (tmp_path / "dev.tsv").read_text() == "1\ta\told\n"


def test_a_split_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="0 rows written; 1 dropped, too odd"):
        write_rows(tmp_path / "dev.tsv", [Dropped("too odd", "1")])
    assert list(tmp_path.iterdir()) == []


def test_labels_are_checked_by_name_or_as_numbers():
    assert labelled_row("1", "a", ("x",), ("a", "b")) == Row("1", "a", ("x",))
    assert labelled_row("1", "-", ("x",), ("a", "b")) == Dropped("no gold label (-)", "1")
    assert labelled_row("1", "c", ("x",), ("a", "b")) == Dropped("label is none of a, b", "1")
    assert labelled_row("1", "2.5", ("x",), ()) == Row("1", "2.5", ("x",))
    assert labelled_row("1", "inf", ("x",), ()) == Dropped("label is no number", "1")


def test_only_a_line_feed_ends_a_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\u2028still one\r\ntwo\x0bstill two".encode())
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one\u2028still one"), (2, "two\x0bstill two")]


def test_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_lines(tmp_path / "a.txt"))


def test_columns_are_found_by_name_and_optional_ones_may_be_missing(tmp_path):
    (tmp_path / "a.tsv").write_text("x\ty\tz\n1\t2\t3\n4\t5\n6\n")
    assert list(read_columns(tmp_path / "a.tsv", ["y", "x"], optional=["z", "w"])) == [
        (2, ["2", "1", "3"]),
        (3, ["5", "4", ""]),
        (4, None),
    ]


def test_lines_that_hold_no_object_are_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n[1]\n{"a"\n')
    assert list(read_objects(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (3, None), (4, None)]
