"""What is written is whole and clean, and what is not written is counted."""

import json
import sys

import pytest

from data_prep import anli, cs224n, glue, pronouns, scitail, snli, squad, superglue
from data_prep.rows_out import (
    Dropped,
    Row,
    labelled_row,
    read_columns,
    read_lines,
    read_objects,
    read_rows,
    run,
    write_rows,
)
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


def test_what_is_said_of_dropped_rows_stays_short_whatever_the_source_holds(tmp_path):
    """Reasons and ids quote the source: a file of a million different labels made a line of a million reasons."""
    dropped = [Dropped(f"label {number} is neither true nor false{' ' * 9999}", "i" * 9999) for number in range(5000)]
    report = write_rows(tmp_path / "dev.tsv", [Row("1", "a", ("x",)), *dropped])
    assert report.dropped.total() == 5000 and report.dropped["other reasons"] == 4990
    assert len(str(report)) < 4000 and "4990 dropped, other reasons (first: iii" in str(report)


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


def test_a_row_with_more_cells_than_the_header_is_no_row(tmp_path):
    """A tab in a text moves what comes after it: the first sentence was cut and its rest became the second."""
    lines = ("sentence1\tsentence2\tlabel", "a\tb\tentailment\t", "a\tof a\tentailment\tneutral")
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    rows = list(read_columns(tmp_path / "a.tsv", ["sentence1", "sentence2", "label"]))
    assert rows == [(2, ["a", "b", "entailment"]), (3, None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id\tlabel\ttext\n1\ta\tx\n",
            r"rows\.tsv:1: the first line is a header \(id, label, text\), .* have\. Remove it\.$",
        ),
        ("1\ta\tx\r2\tb\ty\r", r"rows\.tsv: one line, as its lines end with a carriage return and no line feed\. Save"),
        ("1\ta\tx\n".encode("utf-16"), r"rows\.tsv:1: not UTF-8 but UTF-16"),
        ("", r"rows\.tsv: the file is empty"),
        ("\ufeff1\ta\tx\r\n2\tb\n", r"rows\.tsv:2: 2 columns; expected id, label and texts"),
    ],
)
def test_canonical_rows_are_read_as_the_commands_read_them(tmp_path, content, message):
    """A header was a row with a label of its own, `label`, which label noise then gave to other rows."""
    (tmp_path / "rows.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / "rows.tsv"))


def test_lines_that_hold_no_object_are_reported(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n[1]\n{"a"\n')
    assert list(read_objects(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (3, None), (4, None)]


def test_what_a_row_cannot_hold_is_dropped(tmp_path):
    rows = [Row("1", "a", ("\ud800",)), Row("2\t3", "a", ("x",)), Row("4", "a\nb", ("x",)), Row("5", "a", ("x",))]
    report = write_rows(tmp_path / "dev.tsv", rows)
    assert (tmp_path / "dev.tsv").read_bytes() == b"5\ta\tx\n"
    assert {reason.split(",")[0]: count for reason, count in report.dropped.items()} == {
        "an unpaired surrogate": 1,
        "a tab or line break in the id or the label": 2,
    }


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 10_000, '{"a":' * 1000 + "1" + "}" * 1000, "NaN", '"x"', "{"])
def test_a_line_that_is_no_object_does_not_end_the_file(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{line}\n{{"id": 1}}\n')
    assert list(read_objects(tmp_path / "a.jsonl")) == [(1, None), (2, {"id": 1})]


ARTICLE = {"title": "T", "paragraphs": [{"context": "A goat.", "qas": []}]}
HOSTILE = [
    (
        squad,
        "train-v1.1.json",
        "[" * 100_000,
        "train-v1.1.json: more than 64 nested lists or mappings. A file of data/",
    ),
    (squad, "train-v1.1.json", '{"data": 1e999}', "train-v1.1.json: not in SQuAD's layout: TypeError"),
    (squad, "train-v1.1.json", json.dumps({"data": [ARTICLE | {"paragraphs": ["x"]}]}), "not in SQuAD's layout"),
    (
        squad,
        "train-v1.1.json",
        '{"data": [{"paragraphs": [{"context": "c", "qas": [3]}]}]}',
        "train-v1.1.json: data.0.paragraphs.0.qas.0: not in SQuAD's layout: TypeError",
    ),
    (
        squad,
        "train-v1.1.json",
        json.dumps({"data": [ARTICLE, {"paragraphs": [{"context": "A goat.", "qas": [{"id": "1"}]}]}]}),
        "train-v1.1.json: data.1.paragraphs.0.qas.0: not in SQuAD's layout: no 'answers'. A file of data/",
    ),
    (
        squad,
        "train-v1.1.json",
        json.dumps({"data": [{"paragraphs": [{"context": None, "qas": []}]}]}),
        "train-v1.1.json: data.0.paragraphs.0: not in SQuAD's layout: TypeError null in place of a text",
    ),
    (
        snli,
        "snli_1.0_dev.jsonl",
        '{"pairID": "1", "gold_label": "-", "sentence1": "", "annotator_labels": 7}',
        "0 rows",
    ),
    (
        superglue,
        "WSC/val.jsonl",
        '{"text": "x", "target": {"span2_text": "x", "span2_index": 1e999}}',
        "0 rows written",
    ),
    (superglue, "MultiRC/val.jsonl", '{"passage": {"questions": [{"idx": 1, "answers": ["x"]}]}}', "0 rows written"),
    (pronouns, "WSC/val.jsonl", '{"text": "x", "target": {"span2_text": "x", "span2_index": 1e999}}', "0 rows written"),
    (pronouns, "WSCollection.xml", "<" * 1000, "WSCollection.xml: no XML"),
    (pronouns, "WNLI/dev.tsv", "index\tsentence1\n", "dev.tsv:1: no column 'sentence2'"),
    (pronouns, "wnli/dev.tsv", "1\t0\n", "dev.tsv:1: 2 columns; expected id, label and texts"),
    (anli, "R1/dev.jsonl", '{"uid": "\\ud800", "context": "c", "hypothesis": "h", "label": "n"}', "0 rows written"),
    (cs224n, "ids-sst-dev.csv", b"\tid\tsentence\tsentiment\n0\t1\tcaf\xe9\t0\n", "ids-sst-dev.csv:2: not UTF-8"),
    (cs224n, "ids-sst-dev.csv", b"\tid\n", "ids-sst-dev.csv:1: no column 'sentence'; the columns are , id. Check that"),
    (cs224n, "ids-sst-dev.csv", b"\tid\tsentence\tsentiment\n0\t1\ta\rb\t0\n", "ids-sst-dev.csv:2: not CSV"),
    (
        cs224n,
        "ids-sst-dev.csv",
        '\tid\tsentence\tsentiment\n0\t1\ta\t0\n1\t2\t"Dull .\t0\n2\t3\t"Fine .\t4\n',
        "ids-sst-dev.csv:3: not CSV: '\\t' expected after '\"'. Close the quotes",
    ),
    (
        cs224n,
        "ids-sst-dev.csv",
        '\tid\tsentence\tsentiment\n0\t1\t"Dull .\t0\n2\t3\tFine .\t4\n',
        "ids-sst-dev.csv:2: not CSV: unexpected end of data. Close the quotes",
    ),
    (cs224n, "ids-sst-dev.csv", "id\tid\tsentence\tsentiment\n", ":1: 2 columns are named 'id'. Rename all but one."),
    (
        glue,
        "SST-2/dev.tsv",
        "sentence\tlabel\tlabel\na\t0\t1\n",
        ":1: 2 columns are named 'label'. Rename all but one.",
    ),
    (glue, "CoLA/dev.tsv", "ab01\t1\t\tThe hens\tsleep.\n", "0 rows written; 1 dropped, too few or too many columns"),
]


NO_TEXTS = [
    (snli, "snli_1.0_dev.jsonl", {"pairID": "1", "gold_label": "neutral", "sentence1": "a", "sentence2": "b"}),
    (scitail, "scitail_1.0_dev.jsonl", {"gold_label": "neutral", "sentence1": "a", "sentence2": "b"}),
    (anli, "R1/dev.jsonl", {"uid": "1", "label": "n", "context": "a", "hypothesis": "b"}),
    (superglue, "BoolQ/val.jsonl", {"passage": "a", "question": "b", "label": True}),
    (superglue, "CB/val.jsonl", {"premise": "a", "hypothesis": "b", "label": "neutral"}),
    (superglue, "COPA/val.jsonl", {"premise": "a", "question": "cause", "choice1": "b", "choice2": "c", "label": 0}),
    (superglue, "WiC/val.jsonl", {"word": "a", "sentence1": "b", "sentence2": "c", "label": True}),
    (superglue, "WSC/val.jsonl", {"text": "it", "target": {"span1_text": "a", "span2_text": "it", "span2_index": 0}}),
    (pronouns, "WSC/val.jsonl", {"text": "it", "target": {"span1_text": "a", "span2_text": "it", "span2_index": 0}}),
]
LABELS = ("label", "gold_label", "question", "span2_index", "target")


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, True])
@pytest.mark.parametrize(("module", "name", "fields"), NO_TEXTS)
def test_what_is_no_text_is_not_taken_for_one(tmp_path, module, name, fields, value):
    """`None` and `['a']` were words of a premise, and an id."""
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    for key in fields.keys() - {*LABELS}:
        path.write_text("".join(json.dumps(row) + "\n" for row in (fields, fields | {key: value})))
        (report,) = module.convert(tmp_path / "in", tmp_path / "out")
        assert (report.written, report.dropped.total()) == (1, 1), (key, str(report))


def test_numbers_are_texts_and_labels_of_annotators_are_a_list(tmp_path):
    row = {"pairID": 7, "gold_label": "neutral", "sentence1": 3.5, "sentence2": "b"}
    lines = [row | {"annotator_labels": ["neutral", "entailment"]}, row | {"annotator_labels": "neutral"}]
    (tmp_path / "snli_1.0_dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, annotators = snli.convert(tmp_path, tmp_path / "out")
    assert rows.path.read_text() == "7\tneutral\t3.5\tb\n" and rows.dropped.total() == 1
    assert annotators.path.read_text() == "7\tneutral,entailment\n"


def status_and_message(module, source, out, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--input", str(source), "--out", str(out)])
    with pytest.raises(SystemExit) as stopped:
        run(module.convert, "")
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("module", "name", "content", "message"), HOSTILE)
def test_a_source_of_another_layout_is_refused(tmp_path, monkeypatch, capsys, module, name, content, message):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, printed = status_and_message(module, tmp_path / "in", tmp_path / "out", monkeypatch, capsys)
    assert (status, message in printed, printed.count("\n")) == (2, True, 1), printed
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_cell_of_any_length_is_read(tmp_path):
    sentence = "a" * 200_000  # Python's own limit is 131,072
    (tmp_path / "ids-sst-dev.csv").write_text(f"\tid\tsentence\tsentiment\n0\t1\t{sentence}\t0\n")
    assert [report.written for report in cs224n.convert(tmp_path, tmp_path / "out")] == [1]


@pytest.mark.parametrize("place", ["missing", "file.txt", "x" * 300, "\udcff"])
def test_an_input_that_is_no_folder_is_refused(tmp_path, monkeypatch, capsys, place):
    (tmp_path / "file.txt").write_text("x")
    status, printed = status_and_message(snli, tmp_path / place, tmp_path / "out", monkeypatch, capsys)
    assert status == 2
    assert printed.startswith(str(tmp_path)) and printed.rstrip().endswith(".") and printed.count("\n") == 1


def test_an_output_that_is_a_file_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "snli_1.0_dev.jsonl").write_text(
        '{"pairID": "1", "gold_label": "neutral", "sentence1": "a", "sentence2": "b"}\n'
    )
    (tmp_path / "out").write_text("x")
    status, printed = status_and_message(snli, tmp_path, tmp_path / "out", monkeypatch, capsys)
    assert (status, (tmp_path / "out").read_text()) == (2, "x")
    assert "cannot be read or written" in printed
