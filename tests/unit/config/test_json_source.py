"""Files of JSON: their values, or one message with a place; whatever the bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from mtdnn.config import json_source
from mtdnn.config.json_source import json_lines, json_value, read_json, sorted_json
from mtdnn.errors import DataError, Place
from mtdnn.metrics.records import read_records


class State(TypedDict, total=False):
    step: int
    losses: dict[str, float]


FIX = "Write it again."
BOM = b"\xef\xbb\xbf"


def written(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [2.5, None, "é"]}, '{"a": [2.5, null, "é"], "b": 1}'),
        ({10: "a", 9: "b"}, '{"9": "b", "10": "a"}'),
        ({True: 1, "a": {None: 2, "b": 3}}, '{"True": 1, "a": {"None": 2, "b": 3}}'),
        ([{(1, 2): 3}], '[{"(1, 2)": 3}]'),
        ({"a": {1, }}, '{"a": "{1}"}'),
    ],
)  # fmt: skip
def test_text_for_digests_has_sorted_keys_of_any_type(value, text):
    assert sorted_json(value) == text


def test_values_of_the_right_types_come_back(tmp_path):
    path = written(tmp_path, b'{"step": 3, "losses": {"rte": 1}}')
    assert read_json(path, State, fix=FIX) == {"step": 3, "losses": {"rte": 1.0}}


def test_both_halves_of_a_pair_are_one_character():
    assert json_value('["\\ud83d\\ude00", "\\\\ud800"]', Place("a.json")) == ["😀", "\\ud800"]
    with pytest.raises(DataError, match="unpaired surrogate"):
        json_value('["\ud800"]', Place("a.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"step": "3"}', "step: damaged: expected a whole number. Write it again."),
        (b'{"step": true}', "step: damaged: expected a whole number. Write it again."),
        (b'{"losses": {"rte": null}}', "losses.rte: damaged: expected a number. Write it again."),
        (b"[]", "damaged: expected a mapping of keys to values. Write it again."),
        (b'{"step": 3', "not JSON: Expecting ',' delimiter: line 1 column 11 (char 10). Write it again."),
        (b"\xff", "not UTF-8 (byte 0). Write it again."),
        (b"", "not JSON: Expecting value: line 1 column 1 (char 0). Write it again."),
        (b'{"\\ud800": 1}', "an unpaired surrogate (\\ud8… alone); both halves are expected. Write it again."),
        (b'["\\uDFFF"]', "an unpaired surrogate (\\ud8… alone); both halves are expected. Write it again."),
        (b"[" * 70 + b"]" * 70, "more than 64 nested lists or mappings. Write it again."),
        (b"[" * 100_000, "more than 64 nested lists or mappings. Write it again."),
    ],
)
def test_damaged_files_are_refused_with_place_and_key(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_json(path, State, fix=FIX)
    assert str(caught.value) == f"{path}: {message}"


def test_numbers_of_too_many_digits_are_refused(tmp_path):
    path = written(tmp_path, b'{"step": ' + b"9" * 5000 + b"}")
    with pytest.raises(DataError, match="not JSON: Exceeds the limit"):
        read_json(path, State, fix=FIX)


def test_folders_and_devices_are_no_files(tmp_path):
    for place in (tmp_path, json_source.Path("/dev/null")):
        with pytest.raises(DataError, match="is a folder or a device, not a file"):
            read_json(place, State, fix=FIX)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", State, fix=FIX)


def test_a_file_larger_than_any_of_ours_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_source, "MAX_FILE_BYTES", 8)
    with pytest.raises(DataError, match="larger than 0 MiB"):
        read_json(written(tmp_path, b'{"step": 3}'), State, fix=FIX)


def test_lines_have_numbers_and_a_cut_last_one_may_be_passed_over(tmp_path):
    path = written(tmp_path, b'{"step": 1}\n\n{"step": 2}\n{"st')
    assert [pair for pair in json_lines(path, State, fix=FIX, cut_last=True)] == [(1, {"step": 1}), (3, {"step": 2})]
    with pytest.raises(DataError, match=r"state.json:4: not JSON: .* Write it again"):
        list(json_lines(path, State, fix=FIX))


def test_a_stream_without_line_feeds_ends(monkeypatch):
    monkeypatch.setattr(json_source, "MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(DataError, match="/dev/zero:1: a line of more than 1 MiB"):
        list(json_lines(json_source.Path("/dev/zero"), State, fix=FIX))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr).map(str.encode))
def test_whatever_the_bytes_there_is_a_value_or_one_error(content):
    try:
        json_value(content, Place("x.json", 1))
    except DataError as error:
        assert str(error).startswith("x.json:1: ")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    """Editors of Windows write one; the message was that the file is not JSON."""
    assert read_json(written(tmp_path, BOM + b'{"step": 3}'), State, fix=FIX) == {"step": 3}
    record = b'{"id": "1", "prediction": "a", "label": "a", "scores": {"a": 1.0}}\n'
    assert [each["id"] for each in read_records(written(tmp_path, BOM + record))] == ["1"]
    lines = written(tmp_path, BOM + b'{"step": 3}\r\n{"step": 4}\r\n')
    assert list(json_lines(lines, State, fix=FIX)) == [(1, {"step": 3}), (2, {"step": 4})]
    with pytest.raises(DataError, match=r"state\.json:2: not JSON: Unexpected UTF-8 BOM"):
        list(json_lines(written(tmp_path, b'{"step": 3}\n' + BOM + b'{"step": 4}\n'), State, fix=FIX))
