"""What is wrong with the words of a command is reported at its flag, in our words and in one report."""

import pytest

from mtdnn.cli.main import main

PREPRO = ["prepro", "tasks.yml", "--encoder", "e", "--out", "o"]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([*PREPRO, "--workers", "x"],
         ["--workers: 'x': expected a whole number. Give another value, or leave it out."]),
        ([*PREPRO, "--workers", "true"],
         ["--workers: 'true': expected a whole number. Give another value, or leave it out."]),
        ([*PREPRO, "--workers=1.5"],
         ["--workers: '1.5': expected a whole number. Give another value, or leave it out."]),
        ([*PREPRO, "--merge=1"],
         ["--merge: '1': expected true or false. Give another value, or leave it out for the default, false."]),
        ([*PREPRO, "--merge", "maybe"], ["--merge: 'maybe': takes no value. Leave it out."]),
        (["tune", "run.yml", "--space", "s", "--out", "o", "--prune", "maybe"],
         ["--prune: 'maybe': expected true or false. Leave it out."]),
        (["study", "s.yml", "--rate", "x"],
         ["--rate: 'x': expected a number. Give another value, or leave it out."]),
        (["study", "s.yml", "--slurm.time", "x"],
         ["--slurm.time: 'x': expected a whole number. Give another value, or leave it out for the default, 240."]),
        (["study", "s.yml", "--slurm", "nope.yml"],
         ["--slurm: 'nope.yml' is no YAML file of these options. Check the path, or give them one by one: "
          "--slurm.NAME VALUE."]),
        (["study", "s.yml", "--variables.rows", "null"],
         ["--variables.rows: 'null': expected a text. Give another value."]),
        ([*PREPRO, "--merge", "--workers", "3"],
         ["--workers: given in addition to --merge. Leave it out: nothing is encoded."]),
        (["list", "taks"],
         ["mtdnn list: unknown word 'taks'; known: tasks, converters, types, heads, losses, metrics, regularizers, "
          "proximal, mixings, balancers, optimizers, schedules, adapters. Did you mean 'tasks'?"]),
        (["check", "--schema", "rn"], ["--schema: unknown word 'rn'; known: tasks, run. Did you mean 'run'?"]),
        (["train", "--resume", "maybe", "run.yml"],
         ["mtdnn train: takes RUN.yml; given in addition: run.yml. For several, call mtdnn train once for each."]),
        (["train", "run.yml", "--resume", "maybe"], ["--resume: 'maybe': takes no value. Leave it out."]),
        (["train", "run.yml", "--json=1"], ["--json: '1': takes no value. Leave it out."]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_reported_at_its_flag(words, lines, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["prepro"],
         ["mtdnn prepro: DEFINITIONS is missing. Give it: Task definitions: a YAML file, or a name of `mtdnn list "
          "tasks`.",
          "mtdnn prepro: --encoder is missing. Give it: Hub name or folder of the encoder whose tokenizer is used.",
          "mtdnn prepro: --out is missing. Give it: Folder of the prepared rows."]),
        (["score"], ["mtdnn score: PREDICTIONS is missing. Give it: JSON lines written by `mtdnn predict`, `evaluate` "
                     "or `train`."]),
        (["prepro", "a.yml", "--encodr", "e", "--ou", "o"],
         ["--encodr: mtdnn prepro has no such flag. Did you mean '--encoder'?",
          "--ou: mtdnn prepro has no such flag. Did you mean '--out'?"]),
        (["prepro", "a.yml", "--out"], ["--out: no value is given. Give one."]),
        (["train", "a.yml", "b.yml", "c.yml"],
         ["mtdnn train: takes RUN.yml; given in addition: b.yml c.yml. For several, call mtdnn train once for each."]),
        (["train", "a.yml", "\t"],
         ["mtdnn train: takes RUN.yml; given in addition: '\\t'. For several, call mtdnn train once for each."]),
        (["push", "runs/a"], ["--repo: is missing. Name the repository: --repo user/name."]),
        (["push", "runs/a", "me/a", "--repo", "me/b"],
         ["--repo: 'me/b' is given in addition to 'me/a'. Leave out one of them."]),
        (["evaluate", "runs/a", "--batch_size", "3"],
         ["--batch_size: mtdnn evaluate has no such flag. See mtdnn evaluate --help."]),
    ],
)  # fmt: skip
def test_flags_and_words_that_are_missing_or_too_many_are_one_report(words, lines, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([*PREPRO[:-1], ""], ["--out: '' is not a value. Give one."]),
        (["prepro", "a.yml", "--data", "", "--encoder", " ", "--out", "o"],
         ["--data: '' is not a value. Give one, or leave it out.", "--encoder: ' ' is not a value. Give one."]),
        (["check", ""], ["mtdnn check: DEFINITIONS: '' is not a value. Give one."]),
        (["train", ""], ["mtdnn train: RUN: '' is not a value. Give one."]),
        (["train", "r.yml", "--output", ""], ["--output: '' is not a value. Give a value."]),
        (["train", "r.yml", "--data="], ["--data: '' is not a value. Give a value."]),
        (["train", "r.yml", "--encoder", " "], ["--encoder: ' ' is not a value. Give a value."]),
        (["evaluate", "run", "--split", ""], ["--split: '' is not a value. Give one, or leave it out."]),
        (["push", "run", "--repo", ""], ["--repo: '' is not a value. Give one, or leave it out."]),
        (["init", "f", "--from", ""], ["--from: '' is not a value. Give one, or leave it out."]),
    ],
)  # fmt: skip
def test_an_empty_text_is_no_value(words, lines, capsys):
    """As from `--out "$OUT"` without an OUT; it would be the current folder."""
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--learning_rate", "1e-5"],
         ["--learning_rate: mtdnn train has no such flag. Did you mean '--optimizer.lr'?"]),
        (["--num_train_epochs=3", "--fp16", "--epocs", "2"],
         ["--num_train_epochs: mtdnn train has no such flag. Did you mean '--epochs'?",
          "--fp16: mtdnn train has no such flag. Did you mean '--precision fp16'?",
          "--epocs: mtdnn train has no such flag. Did you mean '--epochs'?"]),
        (["--max_seq_length", "128"],
         ["--max_seq_length: mtdnn train has no such flag. It is `max_length` of a task, in the task definitions, as "
          "`mtdnn prepro` cuts rows."]),
    ],
)  # fmt: skip
def test_flags_of_transformers_are_explained(words, lines, capsys):
    assert main(["train", "run.yml", *words]) == 2
    assert capsys.readouterr().err.splitlines() == lines
