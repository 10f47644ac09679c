"""A Parquet file takes memory by its pages and not by its rows, and its values are those of PyArrow."""

import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from mtdnn.errors import DataError
from mtdnn.rows.arrow_values import largest_dictionary, text_size, texts_in_lists, values_of
from mtdnn.rows.places import rows_of
from mtdnn.rows.source import Row, RowColumns

COLUMNS = RowColumns(("id", "text"))
LISTS = RowColumns(("id", "candidate"), repeats_last=True)
MIB = 1 << 20

VALUES = {
    "texts": ["a", None, "b", "a", "", "a"],
    "numbers": [1, None, 2, 3, 4, 5],
    "lists": [["a", "b"], None, [], ["b", None, "a"], ["a"], ["c"]],
    "nested": [[["a"], []], [], None, [["b", "a"], None], [["c"]], [[]]],
    "mappings": [{"a": "x", "b": [1]}, None, {"a": None, "b": []}, {"a": "x", "b": None}, {"a": "y", "b": [2]}, None],
    "mappings in lists": [[{"a": "x"}], [], None, [{"a": "x"}, None], [{"a": None}], []],
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("part", [slice(0, 6), slice(1, 5), slice(3, 4)])
def test_values_are_those_of_pyarrow_with_and_without_dictionaries(tmp_path, kind, part):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"column": VALUES[kind]}), path)
    paths = [pyarrow.parquet.read_metadata(path).schema.column(0).path]
    for shared in ([], paths):
        table = pyarrow.parquet.ParquetFile(path, read_dictionary=shared).read().combine_chunks()
        column = table.column("column").chunk(0)[part]
        assert values_of(column) == column.to_pylist() == VALUES[kind][part]


def test_a_text_of_a_dictionary_is_one_object():
    text = "a" * 100
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 0, None, 0], pyarrow.int32()), [text, "b"])
    values = values_of(column)
    assert values == [text, "b", text, None, text]
    assert values[0] is values[2] is values[4]


@pytest.mark.parametrize(("value", "size"), [("abc", 3), (["ab", ["c"], None, 4], 3), ({"a": "xy", "b": ["z"]}, 3)])
def test_the_size_of_a_value_is_that_of_its_texts(value, size):
    assert text_size(value) == size


def written(path, texts, rows, *, in_lists=1, compression="zstd"):
    """A file in which so many rows share texts by turns, as lists of so many if more than one."""
    numbers = [number % len(texts) for number in range(rows * in_lists)]
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array(numbers, pyarrow.int32()), texts)
    if in_lists > 1:
        offsets = pyarrow.array(range(0, rows * in_lists + 1, in_lists), pyarrow.int32())
        column = pyarrow.ListArray.from_arrays(offsets, column)
    table = pyarrow.table({"id": list(map(str, range(rows))), "candidate" if in_lists > 1 else "text": column})
    pyarrow.parquet.write_table(table, path, compression=compression, dictionary_pagesize_limit=1 << 30)
    return path


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_the_largest_dictionary_of_texts_is_read_from_the_headers_of_pages(tmp_path, compression):
    path = written(tmp_path / "rows.parquet", ["a" * 1000, "b" * 500], 20, compression=compression)
    with path.open("rb") as file:  # of each text its length in 4 bytes, and the text; the ids are 10 of 1 and 10 of 2
        assert largest_dictionary(file, pyarrow.parquet.read_metadata(path)) == 1508


def test_a_header_that_cannot_be_read_counts_as_the_whole_column(tmp_path):
    path = written(tmp_path / "rows.parquet", ["a" * 1000, "b" * 500], 20)
    metadata = pyarrow.parquet.read_metadata(path)
    column = metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset] = 0
    path.write_bytes(content)
    with path.open("rb") as file:
        assert largest_dictionary(file, metadata) == column.total_uncompressed_size


def read(path, columns):
    """Rows read before the file was refused, the refusal or "", and how much memory Python and PyArrow took."""
    rows, refused = 0, ""
    pool, before = pyarrow.default_memory_pool(), pyarrow.total_allocated_bytes()
    tracemalloc.start()
    source, most = rows_of(path), 0
    try:
        for part in source.parts():
            for row in source.read(part, columns):
                rows += isinstance(row, Row)
                most = max(most, pyarrow.total_allocated_bytes() - before)
    except DataError as error:
        refused = str(error)
    taken = most + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pool.bytes_allocated() >= 0
    return rows, refused, taken


def test_a_text_that_many_rows_share_takes_little_memory_and_is_refused_when_it_comes_to_gigabytes(tmp_path):
    """Read at once, the rows would take 4 GB."""
    path = written(tmp_path / "rows.parquet", ["x" * (4 * MIB)], 1000)
    assert path.stat().st_size < 10_000
    rows, refused, taken = read(path, COLUMNS)
    assert rows == 63  # 64 and their ids are more than 256 MiB
    assert f"{path}: expands from {path.stat().st_size} bytes to 256 MiB or more. Check its texts" in refused
    assert taken < 300 * MIB


def test_rows_that_are_read_several_times_are_counted_once(tmp_path, monkeypatch):
    """As by the splits that are cut from one file."""
    monkeypatch.setattr("mtdnn.rows.parquet.ANY_EXPANSION_BYTES", 4 * MIB)  # in place of 256, for a quick test
    path = written(tmp_path / "rows.parquet", ["x" * MIB], 3)
    source = rows_of(path)
    for _ in range(3):
        assert sum(isinstance(row, Row) for row in source.read_all(COLUMNS)) == 3
    many = written(tmp_path / "many.parquet", ["x" * MIB], 5)
    assert read(many, COLUMNS)[0] == 3


def test_a_row_of_a_list_with_many_references_to_one_text_takes_little_memory(tmp_path):
    """Read at once, the first row would take 2 GB."""
    path = written(tmp_path / "rows.parquet", ["x" * MIB], 2, in_lists=2000)
    assert texts_in_lists(pyarrow.parquet.read_metadata(path)) == ["candidate.list.element"]
    rows, refused, taken = read(path, LISTS)
    assert rows == 0
    assert f"{path}: expands from {path.stat().st_size} bytes to 2000 MiB or more." in refused
    assert taken < 64 * MIB


def test_a_page_that_expands_to_gigabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("mtdnn.rows.parquet.ANY_EXPANSION_BYTES", 9 * MIB)  # in place of 256, for a quick test
    path = tmp_path / "rows.parquet"
    texts = pyarrow.array(["x" * MIB] * 10)
    pyarrow.parquet.write_table(
        pyarrow.table({"id": list("0123456789"), "text": texts}), path, compression="zstd", use_dictionary=False
    )
    rows, refused, taken = read(path, COLUMNS)
    assert rows == 0
    assert f"{path}: text: expands from " in refused
    assert taken < MIB


def test_a_row_longer_than_can_be_tokenized_is_refused_by_its_number(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1", "2"], "text": ["a", "x" * (17 * MIB)]}), path)
    source = rows_of(path)
    found = [each for part in source.parts() for each in source.read(part, COLUMNS)]
    assert [str(each) for each in found[1:]] == [f"{path}:2: a row of more than 16 MiB. Split it into several rows."]
    assert found[0].values == {"id": "1", "text": "a"}
