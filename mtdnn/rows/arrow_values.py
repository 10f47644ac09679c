"""How large the rows of a Parquet file are once they are read, and their values in Python.

A file of a few kilobytes can expand to gigabytes: pages are compressed, and a text that many rows share is stored once,
in the dictionary page of its column, and copied into every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from mtdnn.rows.source import missing_columns

INDEX_BYTES = 4
"""Size of the number by which a value of a list refers to a dictionary."""

MAX_HEADER_BYTES = 32
NUMBER_FOLLOWS = 0x15
"""In Thrift's compact protocol: the next field of a struct, a 32-bit number."""


def values_of(column: Any) -> list[Any]:
    """The values of a column or array: texts, numbers, lists and mappings, None for null.

    Args:
        column: a `pyarrow.Array`. Equal texts of a dictionary become one object.
    """
    import pyarrow.compute
    import pyarrow.types

    if pyarrow.types.is_dictionary(column.type):
        used = column.indices.drop_null().unique()
        known = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
        return [None if index is None else known[index] for index in column.indices.to_pylist()]
    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        inner = iter(values_of(column.flatten()))
        sizes = pyarrow.compute.list_value_length(column).to_pylist()
        return [None if size is None else list(islice(inner, size)) for size in sizes]
    if pyarrow.types.is_struct(column.type):
        names = [column.type.field(index).name for index in range(column.type.num_fields)]
        rows = zip(*map(values_of, column.flatten()), strict=True)
        present = column.is_valid().to_pylist()
        return [dict(zip(names, row, strict=True)) if kept else None for kept, row in zip(present, rows, strict=True)]
    return list(column.to_pylist())


def schema_paths(schema: Any) -> list[str]:
    """The columns of a table, and after them the paths to what is nested in them; in a list of mappings, its first one.

    Args:
        schema: a `pyarrow.Schema`.
    """
    return list(dict.fromkeys([*schema.names, *schema_leaves(schema)]))


def schema_leaves(schema: Any) -> list[str]:
    """As `schema_paths`, without the columns that hold others."""
    return list(dict.fromkeys(path for field in schema for path in _leaves(field.name, field.type)))


def _leaves(path: str, kind: Any) -> Iterator[str]:
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        for field in (kind.field(index) for index in range(kind.num_fields)):
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif _is_list(kind) and pyarrow.types.is_struct(kind.value_type):
        yield from _leaves(f"{path}.0", kind.value_type)
    else:
        yield path


def has_path(schema: Any, path: str) -> bool:
    """Whether a table has a column of that name, or one that the path leads into.

    Args:
        schema: a `pyarrow.Schema`.
        path: a name, or names and numbers joined by dots, such as `annotations.0.choice`.
    """
    first, *names = path.split(".")
    return path in schema.names or (first in schema.names and _leads(schema.field(first).type, names))


def _leads(kind: Any, names: Sequence[str]) -> bool:
    """Whether the names lead to a value within values of an Arrow type."""
    import pyarrow.types

    if not names:
        return True
    first, *rest = names
    if pyarrow.types.is_struct(kind):
        index = kind.get_field_index(first)
        return index >= 0 and _leads(kind.field(index).type, rest)
    return _is_list(kind) and first.isdecimal() and _leads(kind.value_type, rest)


def _is_list(kind: Any) -> bool:
    import pyarrow.types

    of_lists = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
    return any(is_one(kind) for is_one in of_lists)


def text_size(value: Any) -> int:
    """Characters of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(text_size, value.values()))
    return sum(map(text_size, value)) if isinstance(value, list) else 0


def texts_in_lists(metadata: Any) -> list[str]:
    """Paths of the columns of a Parquet file that hold lists of texts.

    Args:
        metadata: a `pyarrow.parquet.FileMetaData`.
    """
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    return [each.path for each in columns if each.physical_type == "BYTE_ARRAY" and each.max_repetition_level > 0]


def expanded_size(column: Any, *, in_lists: bool) -> int:
    """Bytes of a column of a row group when its pages are decompressed, or of the numbers of its values if more.

    Args:
        column: a `pyarrow.parquet.ColumnChunkMetaData`.
        in_lists: whether its values are in lists, of which one row may have any number.
    """
    return max(column.total_uncompressed_size, INDEX_BYTES * column.num_values if in_lists else 0)


def largest_dictionary(file: BinaryIO, metadata: Any) -> int:
    """Bytes of the largest dictionary page of texts in a Parquet file: no text of a row that shares one is larger.

    Args:
        file: the file, open for reading.
        metadata: its `pyarrow.parquet.FileMetaData`.
    """
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    texts = [each for each in columns if each.physical_type == "BYTE_ARRAY" and each.has_dictionary_page]
    return max((_dictionary_size(file, each) for each in texts), default=0)


def _dictionary_size(file: BinaryIO, column: Any) -> int:
    file.seek(column.dictionary_page_offset)
    size = _page_size(file.read(MAX_HEADER_BYTES))
    return column.total_uncompressed_size if size is None else size


def _page_size(header: bytes) -> int | None:
    """The size of a decompressed page by its header; None if the header is not as writers write it.

    A PageHeader in Thrift's compact protocol begins with two 32-bit numbers, its type and this size.
    Source: parquet.thrift of the Parquet format, and Thrift's compact protocol.
    """
    rest = iter(header)
    size = None
    for _ in range(2):
        if next(rest, None) != NUMBER_FOLLOWS:
            return None
        number = shift = 0
        for byte in rest:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        size = number >> 1  # zigzag: the last bit is the sign
    return size


def missing_paths(needed: Sequence[str], schema: Any) -> str:
    """As `missing_columns`, where a name may also be a path into a column.

    Args:
        needed: names or paths.
        schema: a `pyarrow.Schema`.
    """
    missing = [path for path in needed if not has_path(schema, path)]
    return missing_columns(missing, schema_paths(schema))
