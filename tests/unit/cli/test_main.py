"""Words in, exit status and plain lines out."""

import errno
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from mtdnn.cli.flags import names_in
from mtdnn.cli.main import COMMANDS, main
from mtdnn.cli.options import call_arguments, run_arguments
from mtdnn.cli.output import results_table
from mtdnn.cli.run_commands import output_file, write_vectors
from mtdnn.columns import table
from mtdnn.config.run import load_run_config
from mtdnn.errors import ConfigError, DataError
from mtdnn.publishing.serve import require_free
from mtdnn.training.bar import ProgressBar
from mtdnn.training.plan import Progress
from tests.conftest import REPOSITORY


def fault_of(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    return str(caught.value)


def sample(run: str, *, tasks: str | None = None, workers: int = 2, dry_run: bool = False) -> str:
    """Do nothing.

    Args:
        run: Folder of the run.
        tasks: Names, separated by commas.
        workers: Processes.
        dry_run: Do even less.
    """
    return run


# -- flags of a command --------------------------------------------------------------------------------------------


def test_arguments_without_default_are_positional_and_the_others_flags():
    found = call_arguments(sample, ["runs/a", "--workers", "3"])
    assert found == {"run": "runs/a", "tasks": None, "workers": 3, "dry_run": False, "trust": False}


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], False), (["--dry_run"], True), (["--dry_run", "false"], False), (["--dry_run", "--workers", "1"], True)],
)
def test_a_switch_needs_no_value(words, expected):
    assert call_arguments(sample, ["runs/a", *words])["dry_run"] is expected


def test_a_name_given_twice_counts_once():
    assert names_in("rte, mrpc,rte") == ["rte", "mrpc"]


def test_a_name_that_looks_like_a_number_stays_a_name():
    assert call_arguments(sample, ["1", "--tasks", "2"])["tasks"] == "2"


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ([], "mtdnn sample: RUN is missing. Give it: Folder of the run."),
        (["a", "--tasks"], "--tasks: no value is given. Give one."),
        (["a", "--taks", "b"], "--taks: mtdnn sample has no such flag. Did you mean '--tasks'?"),
    ],
)
def test_wrong_flags_are_reported_in_one_line(words, reported):
    assert fault_of(call_arguments, sample, words) == reported


def test_a_word_that_a_flag_does_not_take_is_reported_with_those_it_takes(capsys):
    assert main(["export", "runs/first", "--format", "onxx", "--output", "graph"]) == 2
    assert capsys.readouterr().err == "--format: unknown word 'onxx'; known: hf, onnx. Did you mean 'onnx'?\n"


@pytest.mark.parametrize("taken", [True, False])
def test_a_port_that_nobody_can_listen_at_is_reported(taken):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1] if taken else 99999
        assert fault_of(require_free, "127.0.0.1", port).startswith(f"--port: cannot listen at 127.0.0.1:{port}: ")


def test_a_value_of_the_wrong_type_is_reported_in_one_line():
    assert fault_of(call_arguments, sample, ["a", "--workers", "many"]) == (
        "--workers: 'many': expected a whole number. Give another value, or leave it out for the default, 2."
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_reports_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    reported = capsys.readouterr().out
    assert f"usage: mtdnn {name}" in reported and "Annotated" not in reported


# -- flags of a run ------------------------------------------------------------------------------------------------


def overrides(*words):
    return run_arguments(COMMANDS["train"], words)["overrides"]


def test_a_run_file_and_flags_are_distinguished():
    found = run_arguments(COMMANDS["train"], ["run.yml", "--resume", "--optimizer.lr", "3e-5"])
    assert found == {
        "run": "run.yml",
        "resume": True,
        "json": False,
        "trust": False,
        "overrides": {"optimizer.lr": 3e-5},
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epochs", "2"], {"epochs": 2}),
        (["--epochs=0.5"], {"epochs": 0.5}),
        (["--train", "a,b"], {"train": ["a", "b"]}),
        (["--train", "a, b"], {"train": ["a", "b"]}),
        (["--train", "a,"], {"train": ["a"]}),
        (["--train", "2024"], {"train": 2024}),
        (["--also_evaluate", "a,b"], {"also_evaluate": ["a", "b"]}),
        (["--trackers", "wandb,mlflow"], {"trackers": ["wandb", "mlflow"]}),
        (["--adapter.targets", "query,value"], {"adapter.targets": ["query", "value"]}),
        (["--train", "[a, b]"], {"train": ["a", "b"]}),
        (["--output", "2024"], {"output": "2024"}),
        (["--encoder", "bert"], {"encoder": "bert"}),
        (["--encoder", "{run: runs/a}"], {"encoder": {"run": "runs/a"}}),
        (["--encoder.run", "runs/a"], {"encoder.run": "runs/a"}),
        (["--clip_norm", "null"], {"clip_norm": None}),
        (["--evaluate_every", "epoch"], {"evaluate_every": "epoch"}),
        (["--evaluate_every", "50"], {"evaluate_every": 50}),
        (["--gradient_checkpointing", "true"], {"gradient_checkpointing": True}),
        (["--gradient_checkpointing"], {"gradient_checkpointing": True}),
        (
            ["--freeze_encoder", "--compile", "false", "--execution.deterministic", "--resume"],
            {"freeze_encoder": True, "compile": False, "execution.deterministic": True},
        ),
        (["--optimizer.betas", "[0.9, 0.98]"], {"optimizer.betas": [0.9, 0.98]}),
        (["--regularizer", "{name: smart, weight: 2}"], {"regularizer": {"name": "smart", "weight": 2}}),
        (["--subset.rte.rows", "100"], {"subset.rte.rows": 100}),
    ],
)
def test_a_flag_takes_what_a_yaml_file_would_hold(words, expected):
    assert overrides(*words) == expected


def test_a_plug_in_and_its_options_may_come_in_any_order():
    given = overrides("--regularizer.weight", "2", "--regularizer", "smart", "--mixing", "temperature")
    places = {"tasks": "t", "data": "d", "output": "o", "encoder": "e"}
    config = load_run_config(None, {**places, **given})
    assert config.regularizer.model_dump() == {"name": "smart", "weight": 2}
    assert config.mixing.name == "temperature"


def test_a_misspelt_key_of_a_run_is_reported_with_the_nearest():
    reported = fault_of(run_arguments, COMMANDS["train"], ["--optimzer.lr", "1"])
    assert reported == "--optimzer.lr: mtdnn train has no such flag. Did you mean '--optimizer.lr'?"


def test_a_value_that_is_no_yaml_is_reported_by_its_flag():
    reported = fault_of(run_arguments, COMMANDS["train"], ["--mixing", "{name: x"])
    assert reported == "--mixing: '{name: x' is not valid YAML. Put it in quotes if it is text."


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--regularizer", ""], "--regularizer: '' is not a value. Give a value, or none to turn it off."),
        (["--regularizer="], "--regularizer: '' is not a value. Give a value, or none to turn it off."),
        (["--proximal", "  "], "--proximal: '  ' is not a value. Give a value, or none to turn it off."),
        (["--mixing", ""], "--mixing: '' is not a value. Give a value."),
        (["--clip_norm", ""], "--clip_norm: '' is not a value. Give a value, or null for none."),
        (["--optimizer.head_lr", ""], "--optimizer.head_lr: '' is not a value. Give a value, or null for none."),
        (["--optimizer.lr", ""], "--optimizer.lr: '' is not a value. Give a value."),
        (["--regularizer.weight", ""], "--regularizer.weight: '' is not a value. Give a value."),
        (["--subset.rte.rows", "# all"], "--subset.rte.rows: '# all' is not a value. Give a value."),
    ],
)
def test_a_flag_with_nothing_in_it_is_refused(words, reported):
    assert fault_of(overrides, *words) == reported


@pytest.mark.parametrize("word", ["null", "~", " null "])
def test_null_is_a_value(word):
    assert overrides("--clip_norm", word, "--regularizer", word) == {"clip_norm": None, "regularizer": None}


# -- exit status ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of `mtdnn sample`."""

    def put(function):
        def sample() -> str:
            """Do something."""
            return function()

        monkeypatch.setitem(COMMANDS, "sample", sample)

    return put


def fails(error):
    def function():
        raise error

    return function


def test_a_command_that_ends_well_is_status_0_and_its_answer_is_printed(command, capsys):
    command(lambda: "done")
    assert main(["sample"]) == 0
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_faults_of_the_user_are_status_2_one_a_line_and_no_traceback(command, capsys, kind):
    command(fails(kind(["first", "second"])))
    assert main(["sample"]) == 2
    assert capsys.readouterr().err == "first\nsecond\n"


def test_an_interruption_is_status_130(command, capsys):
    command(fails(KeyboardInterrupt()))
    assert main(["sample"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_full_disk_is_reported_with_its_place(command, capsys):
    command(fails(OSError(errno.ENOSPC, "No space left on device", "runs/a/best")))
    assert main(["sample"]) == 2
    reported = capsys.readouterr().err
    assert reported == "runs/a/best: no space left on the disk. Free disk space, then run the same command again.\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("libx.so: cannot open shared object file: Too many open files"), "no file descriptors left."),
        (RuntimeError("I/O error: Too many open files (os error 24)"), "no file descriptors left. Raise the limit"),
    ],
)
def test_files_that_libraries_cannot_open_are_one_line(command, capsys, error, said):
    command(fails(error))
    assert main(["sample"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"mtdnn sample: {said}") and printed.count("\n") == 1


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ZeroDivisionError(), TypeError("ours")])
def test_what_cannot_be_explained_keeps_its_traceback(command, error):
    command(fails(error))
    with pytest.raises(type(error)):
        main(["sample"])


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert "unknown command 'trian'; known: check, prepro, train" in capsys.readouterr().err


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    reported = capsys.readouterr().out
    assert all(f"\n  {name} " in reported for name in COMMANDS)


def test_no_words_at_all_are_a_fault_that_shows_the_help(capsys):
    assert main([]) == 2
    assert "usage: mtdnn" in capsys.readouterr().out


def test_what_the_package_logs_goes_to_stderr_while_a_command_runs(command, capsys):
    command(lambda: logging.getLogger("mtdnn.somewhere").info("reported"))
    assert main(["sample"]) == 0
    assert capsys.readouterr().err == "reported\n"
    logging.getLogger("mtdnn.somewhere").info("not reported")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["tasks", "run"])
def test_a_schema_needs_no_file(kind, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--schema", kind])
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("2020-12/schema")


# -- small parts ---------------------------------------------------------------------------------------------------


def test_names_are_separated_by_commas():
    assert names_in("rte, mrpc,") == ["rte", "mrpc"]
    assert names_in(None) is None


def test_an_output_that_cannot_be_written_is_found_out_before_the_work(tmp_path):
    def reported(name):
        with pytest.raises(ConfigError) as caught:
            output_file(str(tmp_path / name), suffixes=(".jsonl",))
        return str(caught.value)

    (tmp_path / "folder.jsonl").mkdir()
    assert "does not end in .jsonl. Rename it." in reported("out.json")
    assert "there is no writable folder" in reported("none/out.jsonl")
    assert "is a folder. Choose another place." in reported("folder.jsonl")
    assert output_file(str(tmp_path / "out.jsonl"), suffixes=(".jsonl",)) == tmp_path / "out.jsonl"


def test_a_table_is_aligned():
    assert table([["a", "bb"], ["ccc", ""]]) == "a    bb\nccc"
    assert table([["a", "12"], ["ccc", "3"]], right=True) == "a    12\nccc   3"


def test_results_are_one_line_per_split():
    results = {"a": {"dev": {"accuracy": 0.5, "rows": 10}}, "b": {"dev": {"mcc": 0.25, "rows": 4}}}
    results |= {"_run": {"seed": 1}, "_made_by": {"a": {"dev": {"step": 3}}}}
    assert results_table(results).split("\n") == [
        "task  split  rows  accuracy  mcc",
        "a     dev    10    0.5000",
        "b     dev    4               0.2500",
    ]


def test_a_split_without_labels_is_named_below_its_line():
    results = {"a": {"dev": {"accuracy": 0.5, "rows": 10}, "test": {"rows": 0}}, "b": {"test": {"rows": 0}}}
    assert results_table(results).split("\n") == [
        "task  split  rows  accuracy",
        "a     dev    10    0.5000",
        "a     test   0",
        "b     test   0",
        "",
        "no row has a label, so that nothing was measured: a test, b test",
    ]


def test_results_of_nothing_are_a_sentence():
    assert results_table({"_run": {"step": 3}}) == "nothing was measured: no task has a dev split"


def shown_of_a_bar(monkeypatch, *, on_screen, seconds=30.0, pause=0.0):
    """What a bar of 100 steps writes to a terminal, or to a file with a state every so many seconds."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: on_screen, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("mtdnn.columns.ON_SCREEN", 0.0)
    monkeypatch.setattr("mtdnn.columns.IN_FILE", seconds)
    bar = ProgressBar(100)
    for step in range(1, 101):
        time.sleep(pause)
        bar(Progress(step=step), {"rte": {"task": 0.5}})
    bar.close()
    return screen.getvalue()


def test_a_bar_on_a_screen_is_drawn_over_itself(monkeypatch):
    shown = shown_of_a_bar(monkeypatch, on_screen=True)
    assert shown.count("\r") == shown.count("/100") > 50


def test_a_bar_in_a_file_or_a_pipe_is_a_line_now_and_then(monkeypatch):
    """A file would keep every state, and carriage returns run them together."""
    assert shown_of_a_bar(monkeypatch, on_screen=False) == ""  # it took less than 30 s
    shown = shown_of_a_bar(monkeypatch, on_screen=False, seconds=0.05, pause=0.002)
    lines = shown.splitlines()
    assert "\r" not in shown and 1 < len(lines) < 50
    assert all(re.search(r"\d+%.* \d+/100 .*rte=0.500", line) for line in lines)
    assert lines[-1].startswith("100%")


def test_vectors_are_written_whole_with_their_ids(tmp_path):
    import numpy as np
    import pyarrow.parquet

    write_vectors(tmp_path / "v.parquet", ["x", "y"], np.array([[1, 2], [3, 4.5]]))
    read = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pydict()
    assert read == {"id": ["x", "y"], "vector": [[1.0, 2.0], [3.0, 4.5]]}
    assert [path.name for path in tmp_path.iterdir()] == ["v.parquet"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["check", "task_defs/demo.yml"]])
def test_an_answer_that_nobody_reads_ends_quietly(words):
    command = [sys.executable, "-m", "mtdnn", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


# -- errors of the system ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.EMFILE, errno.EIO])
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number), "runs/first/x.json")

    monkeypatch.setitem(COMMANDS, "score", refused)
    monkeypatch.setattr("mtdnn.cli.options.call_arguments", lambda *_: {"trust": False})
    assert main(["score", "x"]) == 2
    assert capsys.readouterr().err == (
        f"runs/first/x.json: cannot be read or written: {os.strerror(number)}. "
        "Check the path, its permissions and the limits of open files.\n"
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")]
)
def test_memory_that_ran_out_is_one_line(monkeypatch, capsys, error):
    def refused(*_, **__):
        raise error

    monkeypatch.setitem(COMMANDS, "score", refused)
    monkeypatch.setattr("mtdnn.cli.options.call_arguments", lambda *_: {"trust": False})
    assert main(["score", "x"]) == 2
    assert capsys.readouterr().err.startswith("mtdnn score: memory ran out. Give fewer or shorter rows, ")


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no such file", "x"), ValueError("ours")])
def test_what_may_be_our_own_mistake_keeps_its_traceback(monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setitem(COMMANDS, "score", broken)
    monkeypatch.setattr("mtdnn.cli.options.call_arguments", lambda *_: {"trust": False})
    with pytest.raises(type(error)):
        main(["score", "x"])


@pytest.mark.parametrize("words", [["score"], ["check"], ["export", "run", "--task", "nli", "--output"]])
def test_a_path_that_is_too_long_is_one_line(words, capsys):
    assert main([*words, "x" * 5000]) == 2
    reported = capsys.readouterr().err
    assert reported.count("\n") == 1
    if sys.version_info < (3, 14):  # from 3.14 on, Path.exists says that there is no such file
        assert "File name too long" in reported


@pytest.mark.parametrize("words", [["train", "r.yml", "--output"], ["export", "run", "--output"], ["score"], []])
def test_a_word_that_is_not_utf_8_is_refused_by_every_command(words, capsys):
    """As Python gives the byte 0xff of a command line."""
    assert main([*words, "\udcff"]) == 2
    assert capsys.readouterr().err == (
        "mtdnn: '\\udcff' is not UTF-8. Rename the file or folder, or give another name.\n"
    )


def test_a_terminal_without_utf8_gets_escapes(monkeypatch):
    """`mtdnn --help` has an ellipsis, and ended with a UnicodeEncodeError under PYTHONIOENCODING=ascii."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["mtdnn", "--help"])
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # which main sets
    assert main() == 0
    stream.flush()
    assert b"usage: mtdnn <command> \\u2026" in stream.buffer.getvalue()
