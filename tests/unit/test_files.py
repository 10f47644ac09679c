"""A file is whole or not there."""

import pytest

from mtdnn.files import whole_file


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("before")
    with whole_file(path) as beside:
        beside.write_text("after")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"results.json": "after"}


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), whole_file(path) as beside:
        beside.write_text("half")
        raise OSError("full")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"results.json": "before"}
