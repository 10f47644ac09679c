"""Tasks with labels on the same rows: stored once, encoded once, in training, evaluation and prediction."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mtdnn
from mtdnn.config.run import RunConfig, load_run_config
from mtdnn.data.arrow import SplitFile
from mtdnn.networks.encoder import Encoder
from mtdnn.publishing.onnx_export import export_onnx
from mtdnn.publishing.onnx_run import open_onnx
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup
from mtdnn.runs.train import train
from mtdnn.study.size import run_size
from mtdnn.training.turn import Turn
from mtdnn.training.updater import Updater
from tests.conftest import Demo
from tests.reference.forks import launched
from tests.reference.interrupted import stopped_and_resumed

DEFINITIONS = """\
intent:
  task_type: classification
  labels: [ask, report]
  rows: {file: messages, columns: {label: intent}}
  max_length: 12
  dropout: 0.0
topics:
  task_type: multilabel
  labels: [past, place]
  rows: {file: messages, columns: {label: topics}}
  max_length: 12
  dropout: 0.0
stars:
  task_type: regression
  rows: {file: messages, columns: {label: stars}}
  max_length: 12
  dropout: 0.0
slots:
  task_type: sequence_labeling
  labels: [O, B-X, I-X]
  rows: {file: messages, columns: {label: tags}}
  max_length: 12
  dropout: 0.0
  overlap: 2
alone:
  task_type: classification
  labels: [negative, positive]
  max_length: 12
  dropout: 0.0
"""
LONGER = "max_length: 13, but 'intent', which shares its rows, has 12"
MISSPELT = "no row of 'messages/train' has a label in column 'star'"
SHARING = ["intent", "topics", "stars", "slots"]


def message(number: int, text: str) -> dict[str, Any]:
    """A row with all labels, but for every third without an intent, every fifth without tags, the last without any."""
    words = text.split()
    row: dict[str, Any] = {"id": f"m{number}", "text": " ".join(words), "stars": number % 5}
    row["topics"] = [label for label, every in (("past", 2), ("place", 3)) if number % every == 0]
    if number % 3:
        row["intent"] = ["ask", "report"][number % 2]
    row["tags"] = None if number % 5 == 0 else ["B-X" if len(word) > 5 else "O" for word in words]
    return row


@pytest.fixture(scope="module")
def world(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Forty rows that four tasks share, one of them with windows, and a task with its own rows."""
    root = tmp_path_factory.mktemp("shared")
    tasks, data = root / "tasks.yml", root / "data"
    tasks.write_text(DEFINITIONS)
    for split, count in (("train", 40), ("dev", 12)):
        lines = (demo.data / "demo_sentiment" / f"{split}.tsv").read_text().splitlines()[:count]
        rows = [message(number, line.split("\t")[2]) for number, line in enumerate(lines)]
        rows.append({"id": "none", "text": "Nothing is known of this."})
        for name, text in (
            (f"messages/{split}.jsonl", "\n".join(map(json.dumps, rows)) + "\n"),
            (f"alone/{split}.tsv", "\n".join(lines[:20]) + "\n"),
        ):
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_text(text)
    mtdnn.prepare(tasks, data=data, encoder=demo.encoder, out=root / "prepared", num_workers=1)
    return Demo(tasks, data, without_dropout(demo.encoder, root / "encoder"), root / "prepared")


def without_dropout(encoder: Path, copy: Path) -> Path:
    """A copy of the encoder; windows of a row are sequences of their own, and change the masks that others get."""
    shutil.copytree(encoder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def values_of(world: Demo, output: Path, **more: Any) -> dict[str, Any]:
    common = {"train": SHARING, "evaluate_every": "never", "log_every": 1, "batch_size": 8, "max_steps": 4}
    return world.run_values(output, **{**common, "checkpoint_every": 2, **more})


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@contextmanager
def passes_counted() -> Iterator[Counter[str]]:
    """Counts the passes of the encoder by the number of sequences."""
    counts: Counter[str] = Counter()
    encode = Encoder.encode

    def counted(self: Encoder, embeddings: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
        counts["with gradient" if torch.is_grad_enabled() else "without"] += 1
        return encode(self, embeddings, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "encode", counted)
        yield counts


def test_tokens_are_stored_once_and_each_task_has_its_labels(world: Demo) -> None:
    names = SplitFile(world.prepared / "shared.messages" / "train").names
    assert sum("input_ids" in name for name in names) == 1
    assert {"intent.label", "topics.label", "stars.label", "slots.label", "slots.words"} <= set(names)
    made = mtdnn.prepare(world.tasks, data=world.data, encoder=world.encoder, out=world.prepared, num_workers=1)
    for name in SHARING:
        assert [path.name for path in (world.prepared / name / "train").iterdir()] == ["manifest.json"]
        assert made[name]["train"].rows == 41
    unlabelled = {name: made[name]["train"].labels["unlabelled"] for name in SHARING}
    assert unlabelled == {"intent": 15, "topics": 1, "stars": 1, "slots": 9}  # 14 of 40, 0, 0, 8, and the last row


def test_a_task_chosen_alone_prepares_those_it_shares_rows_with(world: Demo, tmp_path: Path) -> None:
    made = mtdnn.prepare(
        world.tasks, data=world.data, encoder=world.encoder, out=tmp_path, only=["stars"], num_workers=1
    )
    assert list(made) == SHARING


def test_one_pass_serves_the_tasks_of_a_step_and_each_gets_the_losses_it_has_alone(
    world: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32, a sum of four gradients in another order, and matrices of other sizes: 1e-4."""
    values = values_of(world, tmp_path / "one", max_steps=3, checkpoint_every="never")
    with passes_counted() as counts:
        train(load_run_config(None, values), progress=False)
    assert counts["with gradient"] == 3
    monkeypatch.setattr(Updater, "_share_passes", lambda self, update: None)
    with passes_counted() as counts:
        train(load_run_config(None, {**values, "output": str(tmp_path / "four")}), progress=False)
    assert counts["with gradient"] == 12
    one, four = ([line["train"] for line in log_of(tmp_path / name)] for name in ("one", "four"))
    assert [list(line) for line in one] == [list(line) for line in four]
    for first, second in zip(one, four, strict=True):
        for task in SHARING:
            assert first[task] == pytest.approx(second[task], rel=1e-4)


def test_the_tasks_of_a_pass_have_the_dropout_masks_of_a_pass_of_their_own(
    world: Demo, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the encoder and of their heads: the losses of the first step are equal, bit for bit."""
    tasks = tmp_path / "tasks.yml"
    tasks.write_text(DEFINITIONS.replace("dropout: 0.0", "dropout: 0.3"))
    own = {"tasks": str(tasks), "encoder": str(demo.encoder), "train": SHARING[:3], "max_steps": 1}
    values = values_of(world, tmp_path / "one", **own, checkpoint_every="never")
    train(load_run_config(None, values), progress=False)
    monkeypatch.setattr(Updater, "_share_passes", lambda self, update: None)
    train(load_run_config(None, {**values, "output": str(tmp_path / "three")}), progress=False)
    one, three = (log_of(tmp_path / name)[0]["train"] for name in ("one", "three"))
    assert {task: found["task"] for task, found in one.items()} == {task: each["task"] for task, each in three.items()}


@pytest.mark.parametrize(
    "more",
    [
        {"balance": "uncertainty", "accumulate": 2, "gradient_checkpointing": True},
        {"balance": "pcgrad", "log_conflicts": 2, "gradient_checkpointing": True},
        {"balance": "pcgrad", "accumulate": 2},
        {"balance": "gradnorm"},
        {"balance": "famo", "precision": "bf16", "execution": {"products": "torch"}},
        {"log_affinity": 2, "regularizer": {"name": "smart", "epsilon": 1e-2, "eta": 1e-2}, "proximal": "momentum"},
        {"regularizer": {"name": "free_lb", "steps": 2}, "execution": "packed"},
        {"regularizer": {"name": "free_at", "steps": 2}},
        {"freeze_encoder": True},
    ],
    ids=lambda more: "-".join(str(value.get("name") if isinstance(value, dict) else value) for value in more.values()),
)
def test_every_method_computes_what_it_does_without_a_shared_pass(
    world: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """Two steps; sums in another order in float32: 1e-3. bf16 rounds each of the four passes' gradients: 2e-2."""
    tasks = ["intent", "stars"] if "regularizer" in more else SHARING  # not every regularizer is for every type
    config = load_run_config(None, values_of(world, tmp_path, train=tasks, **more))
    together = means_of_two_steps(config)
    monkeypatch.setattr(Updater, "_share_passes", lambda self, update: None)
    tolerance = 2e-2 if "precision" in more else 1e-3
    for task, found in means_of_two_steps(config).items():
        assert together[task] == pytest.approx(found, rel=tolerance, abs=1e-5)


def means_of_two_steps(config: RunConfig) -> dict[str, dict[str, float]]:
    """Task → its mean loss, penalties, weight and the norm of the gradient."""
    setup = Setup.of(config)
    trainer = setup.trainer(RunFolder(config.output))
    setup.model.train()
    setup.loader.set_epoch(0)
    for parts in islice(setup.loader, 2):
        trainer.train_step(parts)
    return trainer.meter.take()


def test_a_resumed_run_equals_the_unbroken_one(world: Demo, tmp_path: Path) -> None:
    """Weights and log, bit for bit, stopped within an epoch, with a task that has its own rows."""
    more = {"train": [*SHARING, "alone"], "tasks_per_step": 2, "balance": "uncertainty", "accumulate": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(load_run_config(None, values_of(world, whole, **more)), progress=False)
    stopped_and_resumed(load_run_config(None, values_of(world, broken, **more)), step=3)
    assert log_of(whole) == log_of(broken)
    one, other = (load_file(run / "last" / "model.safetensors") for run in (whole, broken))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("trained", [[*SHARING, "alone"], ["intent", "slots"], ["intent"]])
def test_check_dry_run_and_training_count_the_same_steps_and_see_each_labelled_row_once(
    world: Demo, tmp_path: Path, trained: list[str]
) -> None:
    more = {"train": trained, "epochs": 1, "max_steps": None, "checkpoint_every": "never", "subset": {}}
    config = load_run_config(None, values_of(world, tmp_path / "run", **more))
    run = tmp_path / "run.yml"
    run.write_text(config.to_yaml())
    report = mtdnn.check(world.tasks, data=world.data, encoder=str(world.encoder), run=run, num_workers=1)
    assert report.faults == [] and report.length is not None
    setup = Setup.of(config)
    size = run_size(config, {name: setup.tasks[name] for name in trained})
    setup.loader.set_epoch(0)
    steps = list(setup.loader)
    assert report.length.steps == size.steps == setup.plan.total_steps == len(steps)
    seen = {task: Counter(row for parts in steps for part in parts if part.task == task for row in part.row_ids)
            for task in trained}  # fmt: skip
    labelled = {
        task: {row_id for row_id, known in zip(setup.train_stores[task].ids, setup.train_stores[task].labelled,
                                               strict=True) if known}
        for task in trained if task != "alone"
    }  # fmt: skip
    assert all(count == 1 for task in trained for count in seen[task].values())
    assert all(labelled[task] <= set(seen[task]) for task in labelled)
    assert all("none" not in rows for rows in seen.values())
    if trained == ["intent"]:
        assert set(seen["intent"]) == labelled["intent"] and len(labelled["intent"]) == 26


def test_a_task_without_a_label_in_the_batch_is_left_out(world: Demo, tmp_path: Path) -> None:
    config = load_run_config(None, values_of(world, tmp_path / "run", batch_size=1, epochs=1, max_steps=None))
    setup = Setup.of(config)
    setup.loader.set_epoch(0)
    tasks = {parts[0].row_ids[0]: [part.task for part in parts] for parts in setup.loader}
    assert tasks["m0"] == ["topics", "stars"] and tasks["m1"] == SHARING and tasks["m3"] == ["topics", "stars", "slots"]
    train(config.model_copy(update={"max_steps": 3, "balance": config.balance}), progress=False)


def test_every_process_has_the_same_tasks_in_a_step(world: Demo, tmp_path: Path) -> None:
    """Also where its own rows have no label for one of them: with two rows in a batch, each process has one."""
    setup = Setup.of(load_run_config(None, values_of(world, tmp_path, batch_size=2)))
    of_ranks = []
    for rank in (0, 1, 2):
        setup.loader.rank, setup.loader.num_processes = rank, 3
        setup.loader.set_epoch(0)
        of_ranks.append(list(setup.loader))
    for steps in zip(*of_ranks, strict=True):
        assert len({tuple(part.task for part in parts) for parts in steps}) == 1
        assert all(part.is_placeholder and part.shared is parts[0].shared for parts in steps[2:] for part in parts)
    rows = [row for steps in of_ranks for parts in steps for row in parts[0].row_ids if not parts[0].is_placeholder]
    assert len(rows) == len(set(rows)) == 40


def test_a_pass_is_shared_by_the_tasks_that_can_in_every_process(world: Demo, tmp_path: Path) -> None:
    """A process whose rows do not allow it for one task must not take the tasks in another order than the rest."""
    setup = Setup.of(load_run_config(None, values_of(world, tmp_path)))
    updater = setup.trainer(RunFolder(tmp_path)).updater
    update = Turn.of(next(iter(setup.loader)))
    assert [turn.task for turn in update] == SHARING
    other = [1, 0, 1, 1]  # the other of two processes cannot for `topics`
    summed = lambda numbers: [own + its for own, its in zip(numbers, other, strict=True)]  # noqa: E731
    updater.processes = SimpleNamespace(count=2, sums_on_host=summed)
    updater.reduce = lambda tensors: tensors
    updater._share_passes(update)
    assert [turn.task for turn in update if turn.passes] == ["intent", "stars", "slots"]


@pytest.mark.slow
def test_two_processes_train_as_one_does(world: Demo, tmp_path: Path) -> None:
    """Sums in another order, four steps of AdamW in float32: 1e-3."""
    train(load_run_config(None, values_of(world, tmp_path / "one")), progress=False)
    run = tmp_path / "run.yml"
    run.write_text(load_run_config(None, values_of(world, tmp_path / "two")).to_yaml())
    status, _, errors = launched(2, "-m", "mtdnn", "train", str(run))
    assert status == 0, errors[-2000:]
    for first, second in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        for task, values in first.get("train", {}).items():
            assert second["train"][task] == pytest.approx(values, rel=1e-3, abs=1e-5)


def test_evaluation_and_prediction_take_one_pass_and_equal_those_of_each_task_alone(
    world: Demo, tmp_path: Path
) -> None:
    train(load_run_config(None, values_of(world, tmp_path, max_steps=1, checkpoint_every="never")), progress=False)
    run = mtdnn.open_run(tmp_path)
    with passes_counted() as counts:
        results = run.evaluate()
    assert counts["without"] == 1  # 13 rows fit into a batch
    assert results["intent"]["dev"]["rows"] == 8 and results["slots"]["dev"]["rows"] == 9
    rows = world.data / "messages" / "dev.jsonl"
    with passes_counted() as counts:
        together = run.predict(SHARING, rows)
    assert counts["without"] == 1
    for task in SHARING:
        written = [json.loads(line) for line in (tmp_path / "predictions" / f"{task}.dev.jsonl").open()]
        for record, alone, stored in zip(together[task], run.predict(task, rows)[task], written, strict=True):
            assert record["scores"] == pytest.approx(alone["scores"], rel=1e-4)
            if task == "stars":
                assert record["prediction"] == pytest.approx(alone["prediction"], rel=1e-4)
            else:
                assert record["prediction"] == alone["prediction"]
            assert record["label"] == alone["label"] == stored["label"]
            assert record["id"] == stored["id"]


def test_a_graph_predicts_tasks_on_the_same_rows_as_the_run_does(world: Demo, tmp_path: Path) -> None:
    train(load_run_config(None, values_of(world, tmp_path / "run", max_steps=1)), progress=False)
    run, rows = mtdnn.open_run(tmp_path / "run"), world.data / "messages" / "dev.jsonl"
    export_onnx(run, SHARING, tmp_path / "graph")
    ours, theirs = (each.predict(SHARING, rows) for each in (run, open_onnx(tmp_path / "graph")))
    for task in SHARING:
        assert [each["label"] for each in theirs[task]] == [each["label"] for each in ours[task]]
        for one, other in zip(ours[task], theirs[task], strict=True):
            assert other["scores"] == pytest.approx(one["scores"], abs=1e-4)


def test_tasks_of_other_types_are_predicted_in_one_pass_from_texts_and_tables(world: Demo, tmp_path: Path) -> None:
    """Intent and slots of the same sentence, also where the words come as a list."""
    train(load_run_config(None, values_of(world, tmp_path, max_steps=1, checkpoint_every="never")), progress=False)
    run = mtdnn.open_run(tmp_path)
    texts = ["The slow boat sails over the lake and the kite flies over the barn.", "A kite."]
    with passes_counted() as counts:
        found = run.predict(["intent", "slots"], [(text,) for text in texts])
    assert counts["without"] == 1
    assert [len(record["prediction"]) for record in found["slots"]] == [14, 2]
    alone = run.predict("intent", [(text,) for text in texts])["intent"]
    scores = [record["scores"]["ask"] for record in found["intent"]]
    assert scores == pytest.approx([record["scores"]["ask"] for record in alone], rel=1e-4)
    listed = run.predict(["slots", "intent"], [{"text": text.split(), "intent": "ask"} for text in texts])
    assert [record["label"] for record in listed["intent"]] == ["ask", "ask"]
    assert [record["scores"]["ask"] for record in listed["intent"]] == pytest.approx(scores, rel=1e-5)


def test_tasks_of_other_types_have_ids_and_labels_under_our_names_too(world: Demo, tmp_path: Path) -> None:
    """As one task alone, though the first task's data has other names: ids became row numbers, labels were missing."""
    text = {"inputs": ["text"], "max_length": 64, "splits": {"train": "train"}}
    intent = {"task_type": "classification", **text, "labels": ["ask", "tell"], "metrics": ["accuracy"]}
    slots = {"task_type": "sequence_labeling", **text, "labels": ["O", "B-x"], "metrics": ["token_accuracy"]}
    tasks = {"intent": {**intent, "columns": {"id": "key", "label": "verdict"}}, "slots": slots}
    data = {
        "intent": {"train": [{"key": "a", "verdict": "ask", "text": "A kite."}]},
        "slots": {"train": [{"id": "a", "label": ["O", "B-x"], "text": ["A", "kite."]}]},
    }
    mtdnn.train(tasks=tasks, data=data, encoder=str(world.encoder), output=str(tmp_path), max_steps=1, progress=False)
    rows = [{"text": "A boat."}, {"id": "order-77", "label": "tell", "text": "A kite."}]
    found = mtdnn.open_run(tmp_path).predict(["intent", "slots"], rows)
    assert [(record["id"], record["label"]) for record in found["intent"]] == [("1", None), ("order-77", "tell")]
    assert [record["id"] for record in found["slots"]] == ["1", "order-77"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("columns: {label: stars}", "columns: {labl: stars}", "unknown column 'labl'"),
        ("columns: {label: stars}", "columns: {label: star}", MISSPELT),
        ("max_length: 12\n  dropout: 0.0\n  overlap", "max_length: 13\n  overlap", LONGER),
        ("task_type: regression", "task_type: masked_lm", "masked_lm has rows of its own"),
        ("alone:", "messages:", "'messages' is also the name of a task with its own rows"),
    ],
)  # fmt: skip
def test_bad_definitions_are_reported_with_the_place(
    world: Demo, tmp_path: Path, old: str, new: str, line: str
) -> None:
    tasks = tmp_path / "tasks.yml"
    tasks.write_text(DEFINITIONS.replace(old, new))
    faults = [str(each) for each in mtdnn.check(tasks, data=world.data, num_workers=1).faults]
    assert any(line in each for each in faults), faults
    with pytest.raises((mtdnn.ConfigError, mtdnn.DataError), match=line.replace("'", ".")):
        mtdnn.prepare(tasks, data=world.data, encoder=world.encoder, out=tmp_path / "out", num_workers=1)


def test_parts_and_steps_of_a_run_that_cannot_be_are_refused(world: Demo, tmp_path: Path) -> None:
    def faults(**more: Any) -> list[str]:
        run = tmp_path / "run.yml"
        run.write_text(load_run_config(None, values_of(world, tmp_path / "run", **more)).to_yaml())
        return [str(each) for each in mtdnn.check(world.tasks, run=run).faults]

    assert faults(balance="pcgrad") == []  # tasks on the same rows are compared with one batch a step
    (line,) = faults(tasks_per_step=2)
    assert "2 tasks, but the run has 1, counting tasks that share rows as one" in line
    (line,) = faults(subset={"intent": {"rows": 5}})
    assert "share rows, but have different subsets" in line
    teacher = tmp_path / "soft.jsonl"
    teacher.write_text('{"id": "m1", "label": "ask", "prediction": "ask", "scores": {"ask": 0.5, "report": 0.5}}\n')
    (line,) = faults(distill={"intent": {"from": str(teacher)}})
    assert "distill.intent: its rows are shared with other tasks, which is not supported" in line


def test_rows_without_names_of_columns_are_refused(world: Demo, tmp_path: Path) -> None:
    (tmp_path / "messages").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "messages" / f"{split}.tsv").write_text("1\task\tA kite.\n")
    with pytest.raises(mtdnn.DataError, match=r"names its columns, but this format has no names.*Give \.jsonl"):
        mtdnn.prepare(world.tasks, data=tmp_path, encoder=world.encoder, out=tmp_path / "out", only=["intent"])
