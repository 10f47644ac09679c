"""From rows to exported model by commands alone, on demo corpora: what each prints, and what lies where afterwards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml

from data_prep.demo import read_texts, write_demo, write_demo_encoder
from mtdnn.cli.main import main
from mtdnn.errors import ConfigError
from mtdnn.metrics.base import compute
from mtdnn.runs.opened import open_run

REPOSITORY = Path(__file__).parents[2]
CHECK = "check tasks.yml --data data --encoder encoder"
PREPRO = "prepro tasks.yml --data data --encoder encoder --out prepared --workers 1"
TRAIN = (
    "train --tasks tasks.yml --data prepared --encoder encoder --output run --max_steps 6 --batch_size 8 "
    "--train demo_nli,demo_target,demo_similarity"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which `check`, `prepro` and `train` have been run, and what they printed."""
    world = tmp_path_factory.mktemp("commands")
    shutil.copy(REPOSITORY / "task_defs" / "demo.yml", world / "tasks.yml")
    write_demo(world / "data")
    write_demo_encoder(world / "encoder", read_texts(world / "data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        for command in (CHECK, PREPRO, TRAIN):
            assert main(command.split()) == 0
    return world


@pytest.fixture
def answer(world, monkeypatch, capsys):
    """What a command prints."""
    monkeypatch.chdir(world)

    def run(words):
        assert main(words.split()) == 0
        return capsys.readouterr().out

    return run


def records(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_check_reports_rows_labels_and_batches(answer):
    reported = answer(CHECK)
    assert "demo_nli/train" in reported and "2400" in reported
    assert "contradiction" in reported
    assert ["demo_target", "4"] in [line.split() for line in reported.splitlines()]  # 120 rows in batches of 32


def test_a_second_prepro_changes_nothing(answer, world):
    before = {path: path.stat().st_mtime_ns for path in (world / "prepared").rglob("*") if path.is_file()}
    answer(PREPRO)
    after = {path: path.stat().st_mtime_ns for path in (world / "prepared").rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if path.name != ".lock"} == {
        path: time for path, time in before.items() if path.name != ".lock"
    }


def test_a_run_leaves_what_its_documentation_lists(world):
    run = world / "run"
    files = ("run.yml", "tasks.yml", "log.jsonl", "timing.jsonl", "results.json", "tensorboard", "checkpoints/step-6")
    assert [name for name in files if not (run / name).exists()] == []
    for name in ("best", "last"):
        assert (run / name / "model.safetensors").exists()
    assert {path.name for path in (run / "predictions").iterdir()} == {
        "demo_nli.dev.jsonl", "demo_target.dev.jsonl", "demo_similarity.dev.jsonl",
    }  # fmt: skip


def test_every_reported_metric_can_be_scored_from_its_predictions(answer, world):
    results = json.loads((world / "run" / "results.json").read_text())
    for task in ("demo_nli", "demo_similarity"):
        reported = results[task]["dev"]
        names = [name for name in reported if name != "rows"]
        path = world / "run" / "predictions" / f"{task}.dev.jsonl"
        assert compute(names, records(path)) == {name: reported[name] for name in names}
        printed = dict(line.split() for line in answer(f"score {path} --metrics {','.join(names)}").splitlines())
        assert printed == {**{name: f"{reported[name]:.4f}" for name in names}, "rows": str(reported["rows"])}


def test_evaluate_gives_the_results_of_the_run_again(answer, world):
    before = json.loads((world / "run" / "results.json").read_text())
    reported = answer("evaluate run --tasks demo_nli --split dev")
    assert json.loads((world / "run" / "results.json").read_text())["demo_nli"] == before["demo_nli"]
    assert f"{before['demo_nli']['dev']['accuracy']:.4f}" in reported


def test_several_tasks_are_predicted_in_one_command_and_only_the_first_has_labels(answer, world):
    reported = answer("predict run --task demo_nli,demo_target --input data/demo_nli/dev.tsv --output out.jsonl")
    assert reported.splitlines() == [
        "400 predictions of demo_nli: out.demo_nli.jsonl",
        "400 predictions of demo_target: out.demo_target.jsonl",
    ]
    assert records("out.demo_nli.jsonl") == records(world / "run" / "predictions" / "demo_nli.dev.jsonl")
    assert {record["label"] for record in records("out.demo_target.jsonl")} == {None}
    assert set(records("out.demo_target.jsonl")[0]["scores"]) == {"neutral", "entails"}


@pytest.mark.parametrize("change", [{"max_length": 6}, {"max_length": 6, "inputs": ["one", "other"]}])
@pytest.mark.parametrize("form", ["tsv", "texts"])
def test_tasks_that_cut_rows_elsewhere_are_predicted_together_as_alone(world, tmp_path, change, form):
    shutil.copytree(world / "run", tmp_path / "run")
    definitions = yaml.safe_load((tmp_path / "run" / "tasks.yml").read_text())
    definitions["demo_target"].update(change)
    (tmp_path / "run" / "tasks.yml").write_text(yaml.safe_dump(definitions, sort_keys=False))
    run = open_run(tmp_path / "run")
    lines = [line.split("\t") for line in (world / "data/demo_nli/dev.tsv").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "bare.tsv").write_text("".join(f"{row[0]}\t\t{row[2]}\t{row[3]}\n" for row in lines), encoding="utf-8")
    rows, bare = (world / "data/demo_nli/dev.tsv", tmp_path / "bare.tsv")
    if form == "texts":
        rows = bare = [(row[2], row[3]) for row in lines]
    together = run.predict(["demo_nli", "demo_target", "demo_similarity", "demo_nli"], rows)
    assert list(together) == ["demo_nli", "demo_target", "demo_similarity"]
    assert together["demo_nli"] == run.predict("demo_nli", rows)["demo_nli"]
    assert together["demo_target"] == run.predict("demo_target", bare)["demo_target"]
    assert together["demo_target"] != open_run(world / "run").predict("demo_target", bare)["demo_target"]
    assert together["demo_similarity"] == run.predict("demo_similarity", bare)["demo_similarity"]


def test_tasks_that_take_the_texts_in_another_order_are_predicted_apart(world, tmp_path):
    shutil.copytree(world / "run", tmp_path / "run")
    definitions = yaml.safe_load((tmp_path / "run" / "tasks.yml").read_text())
    definitions["demo_target"]["inputs"].reverse()
    (tmp_path / "run" / "tasks.yml").write_text(yaml.safe_dump(definitions, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        open_run(tmp_path / "run").predict(["demo_nli", "demo_target"], world / "data/demo_nli/dev.tsv")
    assert str(caught.value) == (
        "task: 'demo_target' has hypothesis, premise and 'demo_nli' premise, hypothesis. "
        "Predict tasks with another order of inputs separately."
    )


def test_rows_without_labels_get_the_same_predictions(answer, world):
    rows = (world / "data" / "demo_nli" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:20]
    cells = [row.split("\t") for row in rows]
    (world / "bare.tsv").write_text("".join(f"{row[0]}\t\t{row[2]}\t{row[3]}\n" for row in cells), encoding="utf-8")
    named = [{"id": row[0], "premise": row[2], "hypothesis": row[3]} for row in cells]
    (world / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")
    labelled = records(world / "run" / "predictions" / "demo_nli.dev.jsonl")[:20]
    for suffix in ("tsv", "jsonl"):
        answer(f"predict run --task demo_nli --input bare.{suffix} --output bare-out.jsonl")
        found = records("bare-out.jsonl")
        assert {record["label"] for record in found} == {None}
        assert [record["prediction"] for record in found] == [record["prediction"] for record in labelled]


def test_embed_writes_one_vector_per_row(answer):
    reported = answer("embed run --input data/demo_nli/dev.tsv --output vectors.parquet")
    read = pyarrow.parquet.read_table("vectors.parquet")
    assert read["id"].to_pylist() == [f"dev-{number}" for number in range(400)]
    assert np.isfinite(np.stack(read["vector"].to_pylist())).all()
    assert reported.startswith("400 vectors of ")


def test_embed_reads_no_labels_so_that_rows_of_any_task_with_as_many_texts_do(answer, world):
    rows = (world / "data" / "demo_similarity" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:20]
    found = []
    for label in ("4.5", "entailment", ""):
        cells = [row.split("\t") for row in rows]
        lines = "".join(f"{row[0]}\t{label}\t{row[2]}\t{row[3]}\n" for row in cells)
        (world / "any.tsv").write_text(lines, encoding="utf-8")
        answer("embed run --input any.tsv --output any.parquet")
        found.append(pyarrow.parquet.read_table("any.parquet"))
    assert len(found[0]) == 20 and found[0] == found[1] == found[2]


def test_an_exported_model_gives_the_same_probabilities(answer, world):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    shutil.rmtree(world / "exported", ignore_errors=True)
    answer("export run --task demo_nli --output exported")
    model = AutoModelForSequenceClassification.from_pretrained("exported")
    tokenizer = AutoTokenizer.from_pretrained("exported")
    first = (world / "data" / "demo_nli" / "dev.tsv").read_text(encoding="utf-8").splitlines()[0]
    _, _, premise, hypothesis = first.split("\t")
    with torch.inference_mode():
        logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits
    expected = records(world / "run" / "predictions" / "demo_nli.dev.jsonl")[0]["scores"]
    found = dict(zip(model.config.id2label.values(), logits.softmax(-1)[0].tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-5)  # float32, other order of summation


def test_a_finished_run_is_resumed_to_the_same_results(answer, world):
    def results():
        found = json.loads((world / "run" / "results.json").read_text())
        return {task: splits for task, splits in found.items() if not task.startswith("_")}

    before = results()
    answer(f"{TRAIN} --resume")
    assert results() == before
