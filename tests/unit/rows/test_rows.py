"""Rows of every format, and what is said of bad ones."""

import csv
import errno
import json
import pickle
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtdnn.errors import DataError, Place
from mtdnn.rows.data_sets import HubRows
from mtdnn.rows.memory import table_rows
from mtdnn.rows.places import find_split, read_rows, rows_of
from mtdnn.rows.source import PART_BYTES, ROWS_PER_PART, Part, Row, RowColumns

PAIR = RowColumns(("id", "label", "premise", "hypothesis"))
TEXT = RowColumns(("id", "label", "text"))


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(path, columns):
    return [tuple(row.values.values()) if isinstance(row, Row) else str(row) for row in read_rows(path, columns)]


def test_a_tsv_row_has_its_values_and_its_place(tmp_path):
    path = written(tmp_path / "train.tsv", "1\tyes\tA b.\tC d.\n2\tno\tE f.\tG h.\n")
    rows = list(read_rows(path, PAIR))
    assert rows[1].values == {"id": "2", "label": "no", "premise": "E f.", "hypothesis": "G h."}
    assert rows[1].where == Place(str(path), 2)


@pytest.mark.parametrize("content", ["1\tyes\tA\n2\tno\tB", "1\tyes\tA\r\n2\tno\tB\r\n", "\ufeff1\tyes\tA\n2\tno\tB\n"])
def test_byte_order_mark_carriage_return_and_missing_last_line_feed_are_accepted(tmp_path, content):
    path = written(tmp_path / "train.tsv", content)
    assert values(path, TEXT) == [("1", "yes", "A"), ("2", "no", "B")]


def test_only_a_line_feed_ends_a_row(tmp_path):
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
    path = written(tmp_path / "train.tsv", f"1\tyes\t{text}\n2\tno\tB\n")
    assert values(path, TEXT)[0] == ("1", "yes", text)


def test_quotes_mean_nothing_in_tsv(tmp_path):
    path = written(tmp_path / "train.tsv", '1\tyes\t"open\n2\tno\tB\n')
    assert values(path, TEXT) == [("1", "yes", '"open'), ("2", "no", "B")]


def test_a_wrong_number_of_columns_is_reported_with_its_line(tmp_path):
    path = written(tmp_path / "train.tsv", "1\tyes\tA\n2\tno\n\n4\tno\tB\tC\n")
    assert values(path, TEXT)[1:] == [
        f"{path}:2: 2 columns; 3 expected: id, label, text. Columns are separated by one tab; a text has none. "
        "A row without a label has an empty column; the file has no header.",
        f"{path}:3: an empty line. Remove it.",
        f"{path}:4: 4 columns; 3 expected: id, label, text. Columns are separated by one tab; a text has none.",
    ]


def test_a_repeated_last_column_is_a_list(tmp_path):
    path = written(tmp_path / "train.tsv", "1\tyes\tA\n2\tno\tB\tC\n3\tno\n")
    rows = values(path, RowColumns(TEXT.names, repeats_last=True))
    assert rows[:2] == [("1", "yes", ["A"]), ("2", "no", ["B", "C"])]
    assert rows[2].startswith(f"{path}:3: 2 columns; 3 or more expected")


def test_another_encoding_is_refused_with_line_and_byte(tmp_path):
    path = written(tmp_path / "train.tsv", "1\tyes\tA\n2\tno\tcaf\xe9\n3\tno\tB\n".encode("latin-1"))
    assert values(path, TEXT) == [
        ("1", "yes", "A"),
        f"{path}:2: not UTF-8: byte 0xe9 at position 9 of the line. Save the file as UTF-8.",
        ("3", "no", "B"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "train.tsv: the file is empty. Add rows, or remove the split."),
        (b"\xef\xbb\xbf", "train.tsv: the file is empty. Add rows, or remove the split."),
        (
            "1\tyes\tA\n".encode("utf-16"),
            "train.tsv:1: not UTF-8 but UTF-16 (byte order mark). Save the file as UTF-8.",
        ),
        (
            "1\tyes\tA\n".encode("utf-16-le"),
            "train.tsv:1: not UTF-8 but UTF-16 or UTF-32 (a byte is zero). Save the file as UTF-8.",
        ),
        (
            b"1\tyes\tA\r2\tno\tB\r",
            "train.tsv: one line, as its lines end with a carriage return and no line feed. "
            "Save the file with line feeds at the ends of lines.",
        ),
    ],
)
def test_a_file_that_is_unusable_as_a_whole_is_refused(tmp_path, content, message):
    path = written(tmp_path / "train.tsv", content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, TEXT))
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_jsonl_takes_named_values_and_numbers(tmp_path):
    lines = [{"label": 1, "text": "A", "more": 2}, {"id": 7, "label": None, "text": "B\nC"}]
    path = written(tmp_path / "train.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert values(path, TEXT) == [("1", "1", "A"), ("7", "", "B\nC")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "label": "a"}', "no column 'text'; present: id, label"),
        ('{"id": 1', "not JSON"),
        ('{"id": 1, "text": ' + "[" * 100_000, "more than 64 nested lists or mappings. One object per line"),
        ('{"id": 1, "text": ' + "9" * 10_000 + "}", "not JSON: Exceeds the limit"),
        ("[1, 2]", "list, not a JSON object"),
        ('{"id": 1, "text": "\\ud83d"}', "an unpaired surrogate"),
    ],
)
def test_a_bad_jsonl_line_is_reported_with_its_place(tmp_path, line, message):
    path = written(tmp_path / "train.jsonl", '{"id": 0, "text": "A"}\n' + line + "\n")
    reported = values(path, TEXT)[1]
    assert reported.startswith(f"{path}:2: {message}")


def test_csv_texts_may_hold_commas_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "train.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "id"])
        writer.writerows([["a, b", "yes", "1"], ['say "x"\nand go', "no", "2"], ["NA", "null", "3"]])
    rows = list(read_rows(path, TEXT))
    assert [tuple(row.values.values()) for row in rows] == [
        ("1", "yes", "a, b"),
        ("2", "no", 'say "x"\nand go'),
        ("3", "null", "NA"),
    ]
    assert [row.where.line for row in rows] == [2, 3, 5]


@pytest.mark.parametrize(
    ("separator", "word"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs")]
)  # what spreadsheets write; a comma in a text is then no separator
def test_a_csv_has_the_separator_of_its_header(tmp_path, separator, word):
    lines = ["id", "label", "text"], ["1", "gut", f'"Gruß{separator}\nzwei, Zeilen"']
    broken = ["2", "gut", "zu", "viel"]
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(separator.join, [*lines, broken])).encode())
    row, found = read_rows(path, TEXT)
    assert row.values == {"id": "1", "label": "gut", "text": f"Gruß{separator}\nzwei, Zeilen"}
    assert f"{path}:4: 4 columns; the header has 3: id, label, text. Put texts with {word} in quotes." == str(found)


def test_a_header_of_one_column_or_of_two_kinds_of_separators_has_commas(tmp_path):
    (tmp_path / "one.csv").write_text("text\na;b\n")
    (tmp_path / "two.csv").write_text('text,"a;b"\nx,y\n')
    assert [row.values["text"] for row in read_rows(tmp_path / "one.csv", RowColumns(("text",)))] == ["a;b"]
    assert [row.values["text"] for row in read_rows(tmp_path / "two.csv", RowColumns(("text",)))] == ["x"]


NESTED = RowColumns(("id", "label", "text"), renamed={"text": "data.text", "label": "marks.0.names.1"})


def test_a_path_names_what_is_nested_in_a_record(tmp_path):
    record = {"id": 3, "data": {"text": "Ein Satz"}, "marks": [{"names": ["a", "b"]}]}
    records = [record, record | {"marks": []}, record | {"marks": None}, record | {"marks": [{"names": ["a"]}]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    in_memory = table_rows(records, place="rows")
    for rows in (
        list(read_rows(path, NESTED)),
        [row for part in in_memory.parts() for row in in_memory.read(part, NESTED)],
    ):
        assert [row.values["label"] for row in rows] == ["b", "", "", ""]
        assert {row.values["text"] for row in rows} == {"Ein Satz"}


def test_a_path_that_leads_nowhere_is_reported_with_those_there_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"data": {"txt": "Ein Satz"}, "marks": [{"names": ["a", "b"]}]}) + "\n")
    (found,) = read_rows(path, NESTED)
    assert f"{path}:1: no column 'data.text'; present: data.txt, marks.0.names" in str(found)


def test_a_repeated_column_of_a_csv_is_a_list_in_json(tmp_path):
    path = tmp_path / "train.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "label", "text"], ["1", "0", '["a, b", "c"]'], ["2", "0", "[sic] d"]])
    rows = values(path, RowColumns(TEXT.names, repeats_last=True))
    assert rows == [("1", "0", ["a, b", "c"]), ("2", "0", ["[sic] d"])]


def test_blank_lines_of_named_columns_are_no_rows_and_count_as_lines(tmp_path):
    path = written(tmp_path / "train.csv", '\n \nid,label,text\n\n1,yes,"a\n\nb"\r\n\r\n\n2,no,c,d\n  \n3,no,e\n\n')
    assert values(path, TEXT) == [
        ("1", "yes", "a\n\nb"),
        f"{path}:10: 4 columns; the header has 3: id, label, text. Put texts with commas in quotes.",
        ("3", "no", "e"),
    ]
    assert [str(row.where) for row in read_rows(path, TEXT) if isinstance(row, Row)] == [f"{path}:5", f"{path}:12"]
    path = written(tmp_path / "train.jsonl", '\n{"text": "a"}\r\n\r\n {"tex": "b"}\n  \n{"text": "c"}\n\n')
    assert values(path, TEXT) == [
        ("2", "", "a"),
        f"{path}:4: no column 'text'; present: tex. Rename the column, or name it in the task's `columns`.",
        ("6", "", "c"),
    ]


def test_a_single_column_may_hold_an_empty_text(tmp_path):
    path = written(tmp_path / "train.csv", 'text\n""\n\na\n')
    assert values(path, TEXT) == [("2", "", ""), ("4", "", "a")]


def test_csv_faults_name_the_line(tmp_path):
    path = written(tmp_path / "train.csv", 'id,label,text\n1,yes,a,b\n2,no,"open\n')
    reported = values(path, TEXT)
    assert reported[0].startswith(f"{path}:2: 4 columns; the header has 3: id, label, text")
    assert reported[1].startswith(f"{path}:3: not CSV: unexpected end of data")
    old = written(tmp_path / "old.csv", "id,label,text\n1,yes,a\n2,no,b\rc\n3,no,d\n")
    assert next(row for row in values(old, TEXT) if isinstance(row, str)).startswith(f"{old}:3: not CSV: new-line")


def test_a_cell_of_a_csv_may_be_long(tmp_path):
    text = "long " * 40_000
    assert values(written(tmp_path / "train.csv", f"id,label,text\n1,yes,{text}\n"), TEXT) == [("1", "yes", text)]


def test_a_missing_column_is_reported_once_with_those_present(tmp_path):
    path = written(tmp_path / "train.csv", "id,label,sentence\n1,yes,a\n2,no,b\n")
    with pytest.raises(DataError, match=r"train.csv:1: no column 'text'; present: id, label, sentence"):
        list(read_rows(path, TEXT))


def test_parquet_rows_are_read_by_name(tmp_path):
    path = tmp_path / "train.parquet"
    Dataset.from_dict({"text": ["A", "B"], "label": [0.5, None]}).to_parquet(path)
    assert values(path, TEXT) == [("1", "0.5", "A"), ("2", "", "B")]
    with pytest.raises(DataError, match="no column 'premise'; present: text, label"):
        list(read_rows(path, PAIR))
    written(path, b"no parquet at all")
    with pytest.raises(DataError, match="not a Parquet file"):
        list(read_rows(path, TEXT))


@pytest.fixture
def decoded(monkeypatch):
    """How many rows of Parquet files have been decoded, as the only item of a list."""
    count, plain = [0], pyarrow.parquet.ParquetFile.iter_batches

    def counted(self, *arguments, **settings):
        for batch in plain(self, *arguments, **settings):
            count[0] += len(batch)
            yield batch

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", counted)
    return count


def parquet_of(path, groups):
    """A file whose row groups have so many rows; texts are the rows' numbers from 0."""
    texts = iter(range(sum(groups)))
    schema = pyarrow.schema({"text": pyarrow.string()})
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for rows in groups:
            chosen = [str(next(texts)) for _ in range(rows)]
            writer.write_table(pyarrow.table({"text": chosen}), row_group_size=max(rows, 1))
    return rows_of(path)


def numbers(source, parts):
    return [int(row.values["text"]) for part in parts for row in source.read(part, RowColumns(("text",)))]


def test_each_row_of_a_large_row_group_is_decoded_once(tmp_path, decoded):
    source = parquet_of(tmp_path / "train.parquet", [30_000])
    parts = list(source.parts(PART_BYTES))
    assert len(parts) == 6
    assert numbers(source, parts) == list(range(30_000))
    assert decoded == [30_000]
    assert numbers(source, parts[1:2]) == list(range(parts[1].start, parts[1].stop))  # again, from the group's start
    assert decoded[0] - 30_000 < parts[1].stop + 1000


def test_one_process_of_several_decodes_a_row_group_once_too(tmp_path, decoded):
    source = parquet_of(tmp_path / "train.parquet", [30_000, 10_000, 30_000])
    parts = list(source.parts(PART_BYTES))
    pickled = pickle.loads(pickle.dumps(source))
    assert numbers(source, parts[::3]) == [n for part in parts[::3] for n in range(part.start, part.stop)]
    assert decoded[0] <= 70_000
    last = list(parts[-2:])
    assert numbers(pickled, last) == list(range(last[0].start, 70_000))
    assert decoded[0] <= 70_000 + 30_000  # the groups before are passed over


@pytest.mark.parametrize(
    ("groups", "stops"),
    [
        ([10], [3, 6, 9, 10]),
        ([2, 2, 2], [2, 4, 6]),
        ([1, 2, 1, 1, 1, 2], [3, 6, 8]),
        ([2, 7, 1], [2, 5, 8, 10]),
        ([3, 3], [3, 6]),
    ],
)
def test_parts_of_a_parquet_file_end_with_row_groups_where_they_can(tmp_path, groups, stops):
    source = parquet_of(tmp_path / "train.parquet", groups)
    parts = list(source.parts(3 * PART_BYTES // ROWS_PER_PART + 3))
    assert [part.stop for part in parts] == stops
    assert [part.start for part in parts] == [0, *stops[:-1]]
    backwards = [number for part in reversed(parts) for number in reversed(numbers(source, [part]))]
    assert numbers(source, parts) == backwards[::-1] == list(range(sum(groups)))


def test_class_numbers_of_a_hub_data_set_become_names():
    features = Features(
        {"idx": Value("int32"), "sentence": Value("string"), "label": ClassLabel(names=["bad", "good"])}
    )
    dataset = Dataset.from_dict({"idx": [5, 6], "sentence": ["A", "B"], "label": [1, -1]}, features=features)
    rows = HubRows("org/data/train", dataset, {"id": "idx", "text": "sentence"})
    found = list(rows.read(Part(0, 2, 1), TEXT))
    assert [row.values for row in found] == [
        {"id": "5", "label": "good", "text": "A"},
        {"id": "6", "label": "", "text": "B"},
    ]
    assert found[1].where == Place("org/data/train", 2)
    assert list(map(str, HubRows("org/data/train", dataset, {}).faults(TEXT))) == [
        "org/data/train: no column 'text'; present: idx, sentence, label. "
        "Name theirs under the task's `source.columns`."
    ]


def test_class_numbers_in_lists_of_a_hub_data_set_become_names():
    features = Features(
        {"id": Value("string"), "tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B"]))}
    )
    dataset = Dataset.from_dict({"id": ["1"], "tokens": [["An", "ox"]], "tags": [[0, 1]]}, features=features)
    (row,) = HubRows("org/data/train", dataset, {}).read(Part(0, 1, 1), RowColumns(("id", "tags", "tokens")))
    assert row.values == {"id": "1", "tags": ["O", "B"], "tokens": ["An", "ox"]}


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "csv", "parquet"])
def test_parts_of_any_size_give_the_rows_of_the_whole(tmp_path, kind):
    texts = [f'text {number}, \u2028 "q" {"x" * (number % 7)}' for number in range(50)]
    if kind == "csv":
        texts[7] += "\nsecond line\n"
    path = tmp_path / f"train.{kind}"
    data = Dataset.from_dict({"id": [str(number) for number in range(50)], "label": ["yes"] * 50, "text": texts})
    if kind == "tsv":
        written(path, "".join(f"{row['id']}\tyes\t{row['text']}\n" for row in data))
    elif kind == "jsonl":
        data.to_json(path)
    elif kind == "csv":
        data.to_csv(path)
    else:
        data.to_parquet(path, batch_size=13)
    whole = list(read_rows(path, TEXT))
    assert [row.values["text"] for row in whole] == texts
    source = rows_of(path)
    for size in (1, 60, 500, 20_000):
        parts = list(source.parts(size))
        assert [row for part in parts for row in source.read(part, TEXT)] == whole
    assert len(list(source.parts(500 if kind != "parquet" else 3000))) > 2


@pytest.mark.parametrize(
    "name", ["rte/train.tsv", "rte_train.tsv", "rte/train.jsonl", "rte_train.csv", "rte/train.parquet"]
)
def test_both_layouts_and_all_endings_are_found(tmp_path, name):
    path = written(tmp_path / name, "x")
    assert find_split(tmp_path, "rte", "train") == path


def test_a_missing_split_reports_where_it_was_looked_for_and_what_is_there(tmp_path):
    written(tmp_path / "rte" / "valid.tsv", "x")
    with pytest.raises(DataError) as caught:
        find_split(tmp_path, "rte", "dev")
    assert str(caught.value) == (
        f"{tmp_path}/rte/dev: no rows for this split; looked for {tmp_path}/rte/dev.tsv, {tmp_path}/rte_dev.tsv "
        "(or .jsonl, .csv, .parquet, .txt). There are: rte/valid.tsv. "
        "Rename a file, or name its split in the task's `splits`."
    )


@pytest.mark.parametrize("name", ["rte/trian.tsv", "rte_trian.jsonl"])
def test_a_file_whose_name_is_near_that_of_a_missing_split_is_offered(tmp_path, name):
    written(tmp_path / name, "x")
    with pytest.raises(DataError, match=rf"There are: {name}\. Did you mean 'trian'\? Rename a file, or "):
        find_split(tmp_path, "rte", "train")


def test_two_files_for_one_split_are_refused(tmp_path):
    written(tmp_path / "rte" / "dev.tsv", "x")
    written(tmp_path / "rte_dev.tsv", "x")
    with pytest.raises(DataError, match="more than one file for this split"):
        find_split(tmp_path, "rte", "dev")


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"unknown ending '.xls'; known: .tsv, .jsonl, .csv, .parquet"):
        rows_of(written(tmp_path / "rows.xls", "x"))
    with pytest.raises(DataError, match=r"rows.tsv: no such file. Check the path"):
        rows_of(tmp_path / "rows.tsv")


def test_running_text_has_a_row_for_each_line_that_is_not_empty(tmp_path):
    source = rows_of(written(tmp_path / "novel.txt", "It rained.\n\n  He sang.\t\n"))
    rows = [row for part in source.parts() for row in source.read(part, RowColumns(("id", "text")))]
    assert [(row.values, row.where.line) for row in rows] == [
        ({"id": "1", "text": "It rained."}, 1),
        ({"id": "3", "text": "He sang."}, 3),
    ]
    assert (
        "a .txt file has no columns; 2 are needed: label, text"
        in source.faults(RowColumns(("id", "label", "text")))[0].found
    )


@pytest.mark.parametrize("name", ["train.tsv", "train.jsonl", "train.csv", "train.txt"])
def test_a_row_longer_than_memory_allows_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr("mtdnn.rows.text.MAX_ROW_BYTES", 1000)
    path = written(tmp_path / name, "id,text\n" + "a" * 3000 + "\n")
    with pytest.raises(DataError, match=rf"{name}:2: a row of more than 16 MiB. Split it into several rows."):
        list(rows_of(path).parts(size=4))


@pytest.mark.parametrize("header", ["id,te\rxt", "id,'" + "x" * 2000])
def test_a_header_that_is_not_csv_is_refused(tmp_path, monkeypatch, header):
    monkeypatch.setattr("mtdnn.rows.text.MAX_ROW_BYTES", 1000)
    path = written(tmp_path / "train.csv", f"{header}\n1,a\n")
    with pytest.raises(DataError, match=r"train.csv:1: (not CSV: .* Close the quotes|a row of more than)"):
        list(read_rows(path, RowColumns(("id", "text"))))


def test_a_damaged_page_of_a_parquet_file_is_refused(tmp_path):
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1", "2"], "text": ["a", "b"]}), path, compression="none")
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # the header of the first page
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train.parquet: damaged: .* Write the file again\."):
        list(read_rows(path, RowColumns(("id", "text"))))


def test_a_quoted_text_longer_than_a_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mtdnn.rows.text.MAX_ROW_BYTES", 1000)
    path = written(tmp_path / "train.csv", 'id,text\n1,"' + "many lines\n" * 200)
    found = list(read_rows(path, RowColumns(("id", "text"))))
    assert [str(each) for each in found] == [
        f"{path}:2: not CSV: field larger than field limit (1000). Close the quotes, and double quotes inside texts."
    ]


@pytest.mark.parametrize("name", ["train.tsv", "train.jsonl", "train.csv", "train.txt", "train.parquet"])
def test_a_file_that_may_not_be_read_is_reported(tmp_path, name, monkeypatch):
    path = written(tmp_path / name, "text\n")

    def refuse(*arguments, **settings):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))  # root may read everything

    monkeypatch.setattr(pyarrow.parquet, "read_metadata", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, RowColumns(("id", "text"))))
    assert caught.value.lines[0] == (f"{path}: cannot be read: Permission denied. Check its permissions, and its disk.")


def test_a_file_in_a_folder_that_may_not_be_searched_is_reported(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DataError, match=r"train\.tsv: cannot be read: Permission denied\."):
        find_split(tmp_path, "nli", "train")


def test_nan_in_json_and_parquet_is_nothing_as_null_is(tmp_path):
    path = written(tmp_path / "train.jsonl", '{"id": NaN, "label": NaN, "text": NaN}\n')
    assert values(path, TEXT) == [("1", "", "")]
    table = pyarrow.table({"label": [1.5, float("nan")], "text": ["a", "nan"]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert values(tmp_path / "train.parquet", TEXT) == [("1", "1.5", "a"), ("2", "", "nan")]


def test_two_columns_of_one_name_are_refused_where_it_is_read(tmp_path):
    path = written(tmp_path / "train.csv", "id,label,text,text\n1,yes,a,b\n")
    with pytest.raises(DataError) as caught:
        values(path, TEXT)
    assert caught.value.lines == (f"{path}:1: 2 columns are named 'text'. Rename all but one.",)
    path = written(tmp_path / "dev.csv", "id,label,text,,\n1,yes,a,b,c\n")
    assert values(path, TEXT) == [("1", "yes", "a")]


@pytest.mark.parametrize("name", ["train.txt", "train.csv", "train.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_two_bytes_a_character_are_refused_without_a_mark_too(tmp_path, name, encoding):
    path = written(tmp_path / name, "text\nAn ox.\n".encode(encoding))
    with pytest.raises(DataError, match=rf"{name}:1: not UTF-8 but UTF-16 or UTF-32 \(a byte is zero\)"):
        list(read_rows(path, RowColumns(("text",))))


def test_a_carriage_return_within_a_row_is_a_character_of_it(tmp_path):
    assert values(written(tmp_path / "train.tsv", "1\tyes\ta\rb\n2\tno\tc"), TEXT)[0] == ("1", "yes", "a\rb")
    assert values(written(tmp_path / "one.tsv", "1\tyes\ta\r"), TEXT) == [("1", "yes", "a")]


@pytest.mark.parametrize(
    "header",
    ["id\tlabel\ttext", "index\tsentence\tlabel", "\ufeffID\tText\tstars", "idx\tquestion1\tquestion2", "text\tlabel"],
)
@pytest.mark.parametrize("columns", [TEXT, RowColumns(("id", "text")), RowColumns(TEXT.names, repeats_last=True)])
def test_a_header_of_a_tsv_is_refused_and_not_read_as_a_row(tmp_path, header, columns):
    path = written(tmp_path / "train.tsv", f"{header}\n1\tyes\tA\n")
    with pytest.raises(DataError) as caught:
        list(read_rows(path, columns))
    names = header.removeprefix("\ufeff").replace("\t", ", ")
    assert str(caught.value) == (
        f"{path}:1: the first line is a header ({names}), which a .tsv does not have. Remove it, or save the file as "
        ".csv with a header. A row without a label has an empty column."
    )


@pytest.mark.parametrize("line", ["1\tlabel\ttext", "id\tyes\tAn ox.", "index\t1\tA text.", "text\tlabel\tAn ox."])
def test_a_row_with_a_word_that_may_name_a_column_is_a_row(tmp_path, line):
    assert values(written(tmp_path / "train.tsv", f"{line}\n"), TEXT) == [tuple(line.split("\t"))]


OTHER_NAMES = ["Label", " label", "LABEL ", "\ufefflabel", '"label"', "\u00a0label"]


@pytest.mark.parametrize("other", OTHER_NAMES)
def test_labels_under_almost_their_name_are_not_overlooked(tmp_path, other):
    rows = [{"text": "An ox.", other: "yes"}]
    written(tmp_path / "dev.csv", 'text,"' + other.replace('"', '""') + '"\nAn ox.,yes\n')
    written(tmp_path / "dev.jsonl", json.dumps(rows[0]) + "\n")
    Dataset.from_list(rows).to_parquet(tmp_path / "dev.parquet")
    for kind in ("csv", "jsonl", "parquet"):
        try:
            (found,) = map(str, read_rows(tmp_path / f"dev.{kind}", TEXT))
        except DataError as error:
            found = str(error)
        assert "no column 'label'; present: text, " in found, kind
    assert "no column 'label'" in str(HubRows("org/data", Dataset.from_list(rows), {}).faults(TEXT)[0])
    listed = table_rows(rows, place="rows")
    assert "no column 'label'" in str(next(listed.read(Part(0, 1, 1), TEXT)))
    renamed = RowColumns(TEXT.names, renamed={"label": other})
    assert next(listed.read(Part(0, 1, 1), renamed)).values["label"] == "yes"


def test_rows_without_a_column_of_labels_are_unlabelled_whatever_else_they_have(tmp_path):
    path = written(tmp_path / "test.csv", "ID,text,labels\n7,An ox.,yes\n")
    assert values(path, TEXT) == [("2", "", "An ox.")]


def test_a_column_that_comes_twice_is_refused_in_every_format(tmp_path):
    import pandas

    written(tmp_path / "train.jsonl", '{"text": "A", "label": "yes", "text": "B", "more": {"a": 1}}\n')
    (found,) = map(str, read_rows(tmp_path / "train.jsonl", TEXT))
    assert found.startswith(f"{tmp_path}/train.jsonl:1: not JSON: 'text' is given twice in an object. ")
    twice = pyarrow.Table.from_arrays([pyarrow.array(["A"]), pyarrow.array(["B"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet: 2 columns are named 'text'. Rename all but one."):
        list(read_rows(tmp_path / "train.parquet", TEXT))
    frame = table_rows(pandas.DataFrame([["A", "B"]], columns=["text", "text"]), place="rows")
    assert [str(each) for each in frame.faults(TEXT)] == ["rows: 2 columns are named 'text'. Rename all but one."]


def test_a_class_number_that_a_data_set_does_not_name_is_refused():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    table = pyarrow.table({"text": ["A", "B"], "label": [1, 2]}, schema=features.arrow_schema)  # as in a Parquet file
    rows = HubRows("org/data/train", Dataset(table), {})
    first, second = rows.read(Part(0, 2, 1), TEXT)
    assert first.values["label"] == "good"
    assert str(second) == (
        "org/data/train:2: label: 2 is no number of one of its 2 classes. "
        "Correct the row, or the names of the classes of the data set."
    )
