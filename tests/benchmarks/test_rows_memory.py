"""The memory of commands by rows: every command is carried out on the rows that are said. No size decides anything."""

import json
from argparse import Namespace

from benchmarks import rows_memory


def test_commands_are_measured_on_so_many_rows_and_a_row_s_share_is_a_difference(tmp_path, monkeypatch):
    """In this process, in place of fresh ones."""
    monkeypatch.setattr(rows_memory, "in_own_process", lambda words, threads: rows_memory.run_command(words))
    given = Namespace(commands=rows_memory.COMMANDS, rows=[20, 40], shape="tiny", threads=1)
    found = rows_memory.measured(tmp_path, given)
    assert [*found] == [(command, rows) for rows in (20, 40) for command in rows_memory.COMMANDS]
    assert all(each["peak"] > 0 and each["seconds"] > 0 for each in found.values())
    predictions = (tmp_path / "train/run/predictions/pairs.dev.jsonl").read_text().splitlines()
    assert len(predictions) == 40 and (tmp_path / "train/run/report.html").is_file()


def test_generated_predictions_are_predictions(tmp_path):
    rows_memory.write_predictions(tmp_path / "found.jsonl", 5)
    for line in (tmp_path / "found.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["prediction"] == max(record["scores"], key=record["scores"].get)


def test_the_table_says_what_a_row_adds():
    found = {("score", rows): {"peak": peak, "seconds": 1.0} for rows, peak in ((1000, 2**20), (2000, 3 * 2**20))}
    line = rows_memory.report(found).splitlines()[-1].split()
    assert line == ["score", "1", "3", "1.0", "1.0", "2.05"]  # 2 MiB over 1,000 rows
