"""The benchmark of adapters in one pass: each way takes the passes it stands for. No time decides anything."""

from benchmarks import mixed_adapters
from benchmarks.mixed_adapters import EACH, ONE, batch_of, model_of, seconds_of


def test_one_pass_is_one_and_the_other_way_has_a_pass_for_each_task(tmp_path, monkeypatch):
    tasks, passes = ["task0", "task1", "task2"], []
    model = model_of(tmp_path, "tiny", tasks)
    encode = model.encoder.encode
    monkeypatch.setattr(model.encoder, "encode", lambda *given, **named: passes.append(1) or encode(*given, **named))
    batch = batch_of(2, 5, model.encoder.config.vocab_size)
    for way, expected in ((ONE, 1), (EACH, 3)):
        passes.clear()
        assert seconds_of(model, batch, tasks, way)() > 0
        assert len(passes) == expected


def test_the_command_prints_a_line_for_each_number_of_rows(capsys):
    mixed_adapters.main(["--shape", "tiny", "--tasks", "2", "--rows", "1", "3", "--tokens", "4", "--repeats", "2"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[1:3]] == [["1", "4"], ["3", "12"]]
