"""Trained runs → an archive: heads of other tasks, several runs of one task, and one list of what is missing."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import mtdnn
from data_prep import pronouns
from mtdnn.cli.main import main
from mtdnn.config.tasks import load_task_defs
from mtdnn.metrics.records import read_records
from mtdnn.runs import submission
from mtdnn.runs.opened import open_run
from tests.conftest import REPOSITORY

TASKS = """
mnli:
  task_type: classification
  inputs: [premise, hypothesis]
  max_length: 32
  labels: [contradiction, neutral, entailment]
  splits: {train: train, dev: dev, test: [test_matched, test_mismatched]}
ax:
  task_type: classification
  inputs: [premise, hypothesis]
  max_length: 32
  labels: [contradiction, neutral, entailment]
  splits: {test: [test]}
  head_of: mnli
stsb:
  task_type: regression
  inputs: [premise, hypothesis]
  max_length: 32
  splits: {train: train, dev: dev, test: test}
"""
SPLITS = {
    "mnli": ("train", "dev", "test_matched", "test_mismatched"),
    "ax": ("test",),
    "stsb": ("train", "dev", "test"),
}
LABELS = {"mnli": ("entailment", "neutral", "contradiction"), "stsb": ("1.0", "4.5", "2.0"), "ax": ("",) * 3}
TEXTS = ("A kite flew.\tA red kite.", "Rain fell.\tIt was dry.", "Two boys run.\tThey sleep.")


@pytest.fixture(scope="module")
def project(demo, tmp_path_factory):
    """Two runs with all tasks, one with MNLI alone, and three rows in each split."""
    root = tmp_path_factory.mktemp("submit")
    (root / "tasks.yml").write_text(TASKS)
    for task, splits in SPLITS.items():
        (root / "data" / task).mkdir(parents=True)
        for split in splits:
            labels = ("",) * 3 if split.startswith("test") else LABELS[task]
            lines = [
                f"{split}-{row}\t{label}\t{text}\n" for row, (label, text) in enumerate(zip(labels, TEXTS, strict=True))
            ]
            (root / "data" / task / f"{split}.tsv").write_text("".join(lines))
    common = ["--encoder", str(demo.encoder)]
    tasks = str(root / "tasks.yml")
    assert main(["prepro", tasks, "--data", str(root / "data"), "--out", str(root / "prepared"), *common]) == 0
    for name, seed, only in (("one", "1", "mnli,stsb"), ("two", "2", "mnli,stsb"), ("part", "1", "mnli")):
        words = ["--train", f"[{only}]", "--seed", seed, "--epochs", "1", "--batch_size", "2"]
        output = ["--output", str(root / name), "--data", str(root / "prepared")]
        assert main(["train", "--tasks", tasks, *output, *words, *common]) == 0
    return root


@pytest.fixture
def few(monkeypatch):
    """GLUE with the files of these tasks, three rows each."""
    names = ("MNLI-m.tsv", "MNLI-mm.tsv", "STS-B.tsv", "AX.tsv")
    kept = tuple(replace(file, rows=3) for file in submission.GLUE if file.name in names)
    monkeypatch.setitem(submission.BENCHMARKS, "glue", kept)
    monkeypatch.setattr(submission, "GLUE", kept)


def lines_of(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode().splitlines()


def test_an_archive_holds_what_the_run_predicts(project, few, capsys):
    out = project / "one.zip"
    assert main(["submit", "glue", str(project / "one"), "--out", str(out)]) == 0
    assert "MNLI-mm.tsv" in capsys.readouterr().out
    assert main(["submit", "--check", str(out)]) == 0
    run = open_run(project / "one")
    for name, task, split in (("MNLI-m.tsv", "mnli", "test_matched"), ("AX.tsv", "ax", "test")):
        records = run.predict(task, project / "data" / task / f"{split}.tsv")[task]
        expected = [f"{row}\t{record['prediction']}" for row, record in enumerate(records)]
        assert lines_of(out, name) == ["index\tprediction", *expected]


def test_several_runs_of_a_task_are_averaged(project, few):
    """Mean of the two runs' numbers, cut to 0 … 5 and three decimals."""
    out = project / "both.zip"
    assert main(["submit", "glue", f"{project / 'one'},{project / 'two'}", "--out", str(out)]) == 0
    rows = project / "data" / "stsb" / "test.tsv"
    found = []
    for name in ("one", "two"):
        path = project / f"{name}.jsonl"
        assert (
            main(["predict", str(project / name), "--task", "stsb", "--input", str(rows), "--output", str(path)]) == 0
        )
        found.append([record["prediction"] for record in read_records(path)])
    means = np.clip(np.mean(found, axis=0), 0, 5)
    assert lines_of(out, "STS-B.tsv")[1:] == [f"{row}\t{value:.3f}" for row, value in enumerate(means)]


def test_what_is_missing_is_one_list_and_nothing_is_written(project, few, capsys):
    out = project / "part.zip"
    assert main(["submit", "glue", str(project / "part"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"STS-B.tsv: no run of {project / 'part'} answers it. Add a run with the task 'stsb'." in error
    assert not out.exists() and not list(project.glob(".part.zip*"))


def test_rows_of_another_count_than_the_benchmarks_are_refused(project, few, capsys, monkeypatch):
    monkeypatch.setattr(submission, "GLUE", tuple(replace(file, rows=4) for file in submission.GLUE))
    out = project / "rows.zip"
    assert main(["submit", "glue", str(project / "one"), "--out", str(out)]) == 2
    assert "AX.tsv: 3 rows. Expected 4, the rows of the test split." in capsys.readouterr().err
    assert not out.exists()


def test_copa_is_answered_by_the_number_of_the_choice(demo, tmp_path, monkeypatch):
    kept = tuple(replace(file, rows=2) for file in submission.SUPERGLUE if file.name == "COPA.jsonl")
    monkeypatch.setitem(submission.BENCHMARKS, "superglue", kept)
    monkeypatch.setattr(submission, "SUPERGLUE", kept)
    (tmp_path / "data" / "copa").mkdir(parents=True)
    rows = ["0\tIt rained.\tWhy?\tA cloud came.\tThe sun shone.", "1\tHe fell.\tWhy?\tHe slept.\tIce."]
    for split in ("train", "dev", "test"):
        lines = [f"{split}-{place}\t{row if split != 'test' else row[1:]}\n" for place, row in enumerate(rows)]
        (tmp_path / "data" / "copa" / f"{split}.tsv").write_text("".join(lines))
    tasks = tmp_path / "tasks.yml"
    tasks.write_text(
        "copa:\n  task_type: multiple_choice\n  inputs: [premise, question, choice]\n  max_length: 32\n"
        "  splits: {train: train, dev: dev, test: test}\n"
    )
    common = ["--encoder", str(demo.encoder)]
    prepared, run, out = tmp_path / "prepared", tmp_path / "run", tmp_path / "out.zip"
    assert main(["prepro", str(tasks), "--data", str(tmp_path / "data"), "--out", str(prepared), *common]) == 0
    words = ["--tasks", str(tasks), "--data", str(prepared), "--output", str(run), "--epochs", "1", *common]
    assert main(["train", *words]) == 0
    assert main(["submit", "superglue", str(run), "--out", str(out)]) == 0
    records = open_run(run).predict("copa", tmp_path / "data" / "copa" / "test.tsv")["copa"]
    choices = [row.split("\t")[3:] for row in rows]
    expected = [each.index(record["prediction"]) for each, record in zip(choices, records, strict=True)]
    assert [json.loads(line) for line in lines_of(out, "COPA.jsonl")] == [
        {"idx": row, "label": label} for row, label in enumerate(expected)
    ]


SCHEMAS = [
    ("Mia thanked Ida because she had waited.", "Mia had waited.", "Mia", "0"),
    ("Mia thanked Ida because she had waited.", "Ida had waited.", "Ida", "1"),
    ("The drawer stuck, so Ola oiled it.", "Ola oiled the drawer.", "The drawer", "1"),
]


def test_pronouns_as_converted_answer_wnli_and_wsc(demo, tmp_path, monkeypatch):
    """The archive has a line for each row of the benchmarks' own files, in their words."""
    for split in ("train", "dev", "test"):
        header = ["index\tsentence1\tsentence2" + ("" if split == "test" else "\tlabel")]
        cells = [(str(row), *each[:2], *([] if split == "test" else [each[3]])) for row, each in enumerate(SCHEMAS)]
        path = tmp_path / "in" / "WNLI" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*header, *("\t".join(each) for each in cells)]) + "\n")
        words = {"Mia": ("she", 4), "Ida": ("she", 4), "The drawer": ("it", 6)}
        rows = []
        for text, _, candidate, label in SCHEMAS:
            pronoun, place = words[candidate]
            target = {"span1_text": candidate, "span1_index": 0, "span2_text": pronoun, "span2_index": place}
            rows.append({"text": text, "target": target} | ({} if split == "test" else {"label": label == "1"}))
        path = tmp_path / "in" / "WSC" / f"{'val' if split == 'dev' else split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pronouns.convert(tmp_path / "in", tmp_path / "data")
    shipped = load_task_defs(REPOSITORY / "task_defs/pronouns.yml")
    tasks = {name: shipped[name].model_copy(update={"max_length": 32}) for name in ("wnli_pronoun", "wsc_pronoun")}
    mtdnn.prepare(tasks, data=tmp_path / "data", encoder=demo.encoder, out=tmp_path / "prepared", num_workers=1)
    mtdnn.train(
        tasks=tasks, data=tmp_path / "prepared", encoder=demo.encoder, output=tmp_path / "run", max_steps=2,
        batch_size=3, progress=False,
    )  # fmt: skip
    for benchmark, name in (("glue", "WNLI.tsv"), ("superglue", "WSC.jsonl")):
        files = submission.BENCHMARKS[benchmark]
        kept = tuple(replace(file, rows=3) for file in files if file.name == name)
        monkeypatch.setitem(submission.BENCHMARKS, benchmark, kept)
        monkeypatch.setattr(submission, benchmark.upper(), kept)
        out = tmp_path / f"{benchmark}.zip"
        assert main(["submit", benchmark, str(tmp_path / "run"), "--out", str(out)]) == 0
        lines = zipfile.ZipFile(out).read(name).decode().splitlines()
        if benchmark == "glue":
            assert lines[0] == "index\tprediction"
            assert [line.split("\t")[0] for line in lines[1:]] == ["0", "1", "2"]
            assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}
        else:
            assert [json.loads(line)["idx"] for line in lines] == [0, 1, 2]
            assert {json.loads(line)["label"] for line in lines} <= {"True", "False"}
