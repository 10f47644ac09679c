"""What a function finds wrong with an argument is reported at the flag that gave it."""

import inspect

import pytest

from mtdnn.cli.flags import flags_of, keys_as_flags
from mtdnn.cli.main import COMMANDS, main
from mtdnn.errors import ConfigError, DataError, fault

STUDY = """\
output: study
run: {tasks: tasks.yml, data: prepared, encoder: encoder}
stages: {first: {axes: {seed: [1]}}}
"""


def test_faults_of_arguments_get_their_flags_and_others_stay_as_they_are():
    found = [fault("", "only", "names no task", "Name one."), fault("a.yml", "only", "bad"), fault("", "data", "bad")]
    for kind in (ConfigError, DataError):
        with pytest.raises(kind) as caught, keys_as_flags(only="tasks"):
            raise kind(found)
        assert caught.value.lines == ("--tasks: names no task. Name one.", "a.yml: only: bad", "data: bad")


def test_every_argument_that_a_command_takes_as_a_flag_is_the_key_of_its_own_flag():
    assert flags_of(COMMANDS["predict"])["task"] == "task"
    assert flags_of(COMMANDS["evaluate"]) | {"task": "tasks"} == flags_of(COMMANDS["evaluate"])
    for function in COMMANDS.values():
        keywords = inspect.getfullargspec(function).kwonlyargs
        assert {name: name.rstrip("_") for name in keywords}.items() <= flags_of(function).items()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--stages frst --dry_run", "--stages: unknown stage 'frst'; known: first. Did you mean 'first'?"),
        (
            "--gpus 1",
            "--gpus: is for the launchers ray and slurm. A local study gives each of its jobs a GPU of those it sees.",
        ),
        (
            "--launcher ray --gpus 4 --dry_run",
            "--gpus: 4 GPUs for each cell, which uses one. Give 1, or for ray a part of one for cells that share it; "
            "--jobs says how many run at a time.",
        ),
        ("--launcher slurm --gpus 0.5 --dry_run", "--gpus: 0.5, but SLURM gives whole GPUs. Give 1."),
        (
            "--slurm.partition gpu --dry_run",
            "--slurm: is for the launcher slurm. Give --launcher slurm, or leave it out.",
        ),
        ("--launcher slurm --slurm.time 1 --dry_run", "--slurm.time: 1 is too small. Give 3 or more."),
        ("--stages , --dry_run", "--stages: names no stage. Known: first."),
        ("--dry_run --json", "--json: is for results, and --dry_run has none. Leave out one of them."),
        ("--rate 3", "--rate: is for the estimate of --dry_run. Add --dry_run, or leave it out."),
        ("--rate -1 --dry_run", "--rate: -1 examples per second. Give a number above 0."),
        ("--jobs 0 --dry_run", "--jobs: 0 is not a valid number of processes. Give 1 or more."),
    ],
)
def test_a_study_names_the_flag_that_is_wrong(words, line, project, encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").symlink_to(encoder)
    (tmp_path / "study.yml").write_text(STUDY, encoding="utf-8")
    assert (
        main(["prepro", "tasks.yml", "--data", "data", "--encoder", "encoder", "--out", "prepared", "--workers", "1"])
        == 0
    )
    capsys.readouterr()
    assert main(["study", "study.yml", *words.split()]) == 2
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["submit", "glue", "run", "--out", "x.txt"], "--out: 'x.txt' does not end in .zip. Rename it."),
        (
            ["submit", "glue", "--check", "x.zip"],
            "benchmark: given in addition to --check. Leave it out: nothing is written.",
        ),
        (["embed", "run", "--input", "a.tsv", "--output", "x"], "--output: 'x' does not end in .parquet. Rename it."),
        (
            ["serve", "run", "--port", "70000"],
            "--port: cannot listen at 127.0.0.1:70000: bind(): port must be 0-65535. Give another --port.",
        ),
        (
            ["serve", "run", "--host", "192.0.2.1"],  # TEST-NET-1, RFC 5737: an address of no machine
            "--host: cannot listen at 192.0.2.1:8000: Cannot assign requested address. Give another --host.",
        ),
    ],
)
def test_a_command_names_the_flag_that_is_wrong(words, line, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize(("flags", "shown"), [([], True), (["-q"], False)])
def test_a_quiet_study_shows_no_progress(flags, shown, project, tmp_path, monkeypatch):
    from mtdnn.study import run
    from mtdnn.study.scheduler import Summary

    def noted(grid, *, progress, **settings):
        seen.append(progress)
        return Summary()

    seen: list[bool] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "run_study", noted)
    (tmp_path / "study.yml").write_text(STUDY, encoding="utf-8")
    assert main(["study", "study.yml", *flags]) == 0
    assert seen == [shown]
