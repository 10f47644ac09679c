"""Every task type with each of its heads on its own sample rows: prepared, trained, measured, predicted, saved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, PretrainedConfig, PreTrainedModel, T5Config

import mtdnn.balancing  # registers them
import mtdnn.regularizers  # registers them
import mtdnn.task_types  # noqa: F401  registers them
from data_prep.demo import train_tokenizer
from mtdnn.batch import IGNORED, NO_WORD, Batch
from mtdnn.config.options import Named
from mtdnn.config.tasks import TaskDef, task_def_from
from mtdnn.data.collate import collate
from mtdnn.data.loaders import EvalLoader
from mtdnn.data.prepro import prepare
from mtdnn.data.shards import Shard, merge_shards, prepare_shard
from mtdnn.data.store import Store, open_store
from mtdnn.errors import ConfigError
from mtdnn.metrics import stored
from mtdnn.metrics.base import Record, applicable, measured
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.pretrained import backbone_class
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import Momentum
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.training.evaluation import predict_rows
from mtdnn.training.objective import Objective
from tests.reference.balanced import Made, assert_pcgrad, trainer_of

CASES = [(name, head) for name in TASK_TYPES for head in TASK_TYPES.get(name).heads]
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "classification": [{}, {"labels": ["entailment", "neutral", "contradiction"]}],
    "coreference": [{}, {"labels": ["0", "1"], "metrics": ["f1"]}],
    "multiple_choice": [{"metrics": ["accuracy"]}, {"metrics": ["span_f1"], "several": True}],
    "sequence_labeling": [{}, {"labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "VERB"]}],
}
"""Blocks of a type that differ in what can be measured."""
MAX_LENGTH = 24  # short enough that the longest sample rows of types that read windows have several


def rows_of(name: str) -> list[str]:
    """The sample rows, and one without a label where the type has labels."""
    kind = TASK_TYPES.get(name)
    rows = list(kind.sample_rows)
    task_type = kind(task_def_from("task", dict(kind.sample_block)))
    if "label" in task_type.columns:
        cells = rows[0].split("\t")
        cells[0], cells[task_type.columns.index("label")] = "unlabelled", ""
        rows.append("\t".join(cells))
    return rows


def tiny_config(vocabulary: int, *, pair: bool) -> PretrainedConfig:
    """A BERT of one layer or, as half of a pair, a T5."""
    if pair:
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return T5Config(vocab_size=vocabulary, pad_token_id=0, eos_token_id=3, decoder_start_token_id=0, **sizes)
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MAX_LENGTH,
    )


class Case:
    """A task of one type with its rows prepared, and models for it."""

    def __init__(self, name: str, head: str, folder: Path, **more: Any) -> None:
        self.kind = TASK_TYPES.get(name)
        self.task: TaskDef = task_def_from(
            "task",
            {
                **self.kind.sample_block,
                "head": head,
                "max_length": MAX_LENGTH,
                "splits": {"train": ["train"], "dev": ["dev"]},
                **more,
            },
        )
        rows = rows_of(name)
        self.encoder_folder = folder / "encoder"
        tokenizer = train_tokenizer(cell for row in rows for cell in row.split("\t"))
        self.config = tiny_config(len(tokenizer), pair=self.kind.needs_decoder)
        self.config.save_pretrained(self.encoder_folder)
        tokenizer.save_pretrained(self.encoder_folder)
        self.tokenizer = tokenizer
        for split, lines in (("train", list(self.kind.sample_rows)), ("dev", rows)):
            path = folder / "data" / "task" / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        prepare(
            {"task": self.task}, data=folder / "data", encoder=self.encoder_folder, out=folder / "out", num_workers=1
        )
        self.stores: dict[str, Store] = {
            split: open_store(folder / "out", self.task, split) for split in ("train", "dev")
        }

    def model(self, execution: str = "auto") -> MultiTaskModel:
        torch.manual_seed(0)
        task_type: TaskType = self.kind(self.task)
        task_type.bind(self.tokenizer)
        return MultiTaskModel(Encoder(self.backbone(), execution=execution), {"task": task_type})

    def backbone(self) -> PreTrainedModel:
        return backbone_class(self.config).from_config(self.config)

    def batch(
        self, model: MultiTaskModel, split: str = "train", rows: tuple[int, ...] = (0, 1, 2), seed: int = 0
    ) -> Batch:
        return collate(self.stores[split].take(np.array(rows)), model.task_types["task"], pad_token_id=0, seed=seed)

    def predictions(self, model: MultiTaskModel, batch_size: int = 2, *, tune: bool = False) -> Sequence[Record]:
        loader = EvalLoader(self.stores["dev"], model.task_types["task"], batch_size, 0)
        device = torch.device("cpu")
        tuned = ["task"] if tune else []
        return predict_rows(model, loader, ["task"], device=device, autocast=nullcontext, tune=tuned)["task"]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield Case(*request.param, tmp_path_factory.mktemp(request.param[0]))


def losses_of(case: Case, model: MultiTaskModel, steps: int, regularizer: Any = None) -> list[float]:
    """The sum of the parts of each step's loss over some steps of Adam on the three rows."""
    objective = Objective(model, {"task": regularizer}, None, seed=1, autocast=nullcontext)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    found = []
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for part in objective.parts(case.batch(model), step=step):
            part.loss.backward()
            total += float(part.loss.detach())
        optimizer.step()
        objective.after_step()
        found.append(total)
    return found


def test_the_definition_has_no_fault_and_declares_registered_words(case: Case) -> None:
    assert case.kind.faults(case.task) == []
    for metric in case.kind.default_metrics:
        assert metric in case.kind.metrics
    assert case.kind.default_loss in case.kind.losses


def test_shards_merge_to_the_store_of_a_single_process(case: Case, tmp_path: Path) -> None:
    folder = case.encoder_folder.parent
    given: dict[str, Any] = {"data": folder / "data", "encoder": case.encoder_folder, "out": tmp_path / "out"}
    for number in (1, 2):
        prepare_shard({"task": case.task}, shard=Shard(number, 2), num_workers=1, **given)
    merge_shards({"task": case.task}, **given)
    for path in (folder / "out" / "task").rglob("*.*"):
        assert (tmp_path / "out" / path.relative_to(folder / "out")).read_bytes() == path.read_bytes(), path


def test_training_on_the_sample_rows_lowers_the_loss(case: Case) -> None:
    losses = losses_of(case, case.model(), 15)
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", REGULARIZERS.names())
def test_every_regularizer_takes_a_step(case: Case, name: str) -> None:
    kind = REGULARIZERS.get(name)
    if kind.logits_of is not None and case.kind.logits_of not in kind.logits_of:
        pytest.skip(f"{name} is for logits of {', '.join(kind.logits_of)}")
    model = case.model()
    losses_before = losses_of(case, case.model(), 1)
    losses = losses_of(case, model, 2, kind())
    assert all(np.isfinite(losses)) and np.isfinite(losses_before[0])
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, name)
        for case in CASES
        if case[0] in ("sequence_labeling", "masked_lm")  # the others score rows
        for name in (*REGULARIZERS.names(), "momentum")
        if name == "momentum" or REGULARIZERS.get(name).logits_of is None
    ],
    indirect=["case"],
    ids=str,
)
def test_every_regularizer_takes_a_step_in_which_no_token_is_scored(case: Case, name: str) -> None:
    model = case.model()
    kind = None if name == "momentum" else REGULARIZERS.get(name)
    batch, none = case.batch(model), {"places": torch.empty(0, dtype=torch.long)}
    if "words" in batch.extras:
        none |= {"words": torch.full_like(batch.extras["words"], NO_WORD)}
        none |= {"word_counts": torch.zeros_like(batch.extras["word_counts"])}
    batch = replace(batch, labels=torch.full_like(batch.labels, IGNORED), extras={**batch.extras, **none})
    proximal = Momentum(model, total_steps=2) if kind is None else None
    objective = Objective(model, {"task": kind() if kind else None}, proximal, seed=1, autocast=nullcontext)
    for part in objective.parts(batch, step=0):
        part.loss.backward()
        assert all(float(value) == 0 for value in part.named.values())
    assert all(weight.grad is None or float(weight.grad.abs().max()) == 0 for weight in model.parameters())


def two_tasks(case: Case) -> tuple[Made, list[Batch]]:
    """A model of two tasks of the type, in float64 without dropout, and batches of the first and the last two rows."""
    torch.manual_seed(0)
    kinds = {}
    for name in ("task", "other"):
        kinds[name] = case.kind(case.task.model_copy(update={"name": name, "dropout": 0.0}))
        kinds[name].bind(case.tokenizer)
    model = MultiTaskModel(Encoder(case.backbone()), kinds).double().eval()
    first, last = (case.batch(model, rows=rows) for rows in ((0, 1), (1, 2)))
    return (model, Objective(model, seed=1, autocast=nullcontext)), [first, replace(last, task="other")]


def test_pcgrad_projects_the_gradients_of_two_tasks_of_the_type(case: Case) -> None:
    assert_pcgrad(lambda: two_tasks(case)[0], two_tasks(case)[1])


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm", "famo"])
def test_methods_that_weigh_losses_move_both_tasks_and_take_a_step_of_one(case: Case, name: str) -> None:
    """One that learns weights before the backward pass, one that needs norms, one that weighs gradients after it."""
    (model, objective), batches = two_tasks(case)
    start = {name: each.detach().clone() for name, each in model.named_parameters()}
    trainer = trainer_of(name, model, objective)
    trainer.train_step(batches)
    moved = {key.split(".")[1] for key, each in model.named_parameters()
             if key.startswith("heads.") and not torch.equal(each, start[key])}  # fmt: skip
    assert moved == {key.split(".")[1] for key in start if key.startswith("heads.")}
    trainer.train_step(batches[1:])
    assert all(bool(each.isfinite().all()) for each in model.parameters())


def test_metrics_are_computed_from_the_records_alone(case: Case) -> None:
    model = case.model()
    records = case.predictions(model, tune=True)
    task_type = model.task_types["task"]
    values = measured(records, task_type.metric_names, task_type.task.labels)
    assert set(values) == {*task_type.metric_names, "rows"}
    assert all(np.isfinite(value) for value in values.values())
    reread = [json.loads(json.dumps(record)) for record in records]
    assert measured(reread, task_type.metric_names, task_type.task.labels) == pytest.approx(values)


def test_records_in_a_file_are_those_in_memory(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = case.predictions(case.model(), tune=True)
    monkeypatch.setattr(stored, "HELD_RECORDS", 1)
    model = case.model()
    in_file, task_type = case.predictions(model, tune=True), model.task_types["task"]
    assert isinstance(in_file, stored.Stored)
    assert repr(list(in_file)) == repr(in_memory)
    names, labels = applicable(in_memory, task_type.task.labels), task_type.task.labels
    values = measured(in_file, names, labels)
    monkeypatch.undo()
    assert values == measured(in_memory, names, labels)


@pytest.mark.parametrize(
    ("name", "more"), [(name, more) for name in TASK_TYPES for more in VARIANTS.get(name, [{}])], ids=str
)
def test_a_metric_is_refused_by_check_or_can_be_computed(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    case = Case(name, TASK_TYPES.get(name).heads[0], tmp_path, **more)
    task_type = case.kind(case.task)
    records = case.predictions(case.model(), tune=True)
    assert case.kind.faults(case.task) == []
    for metric in case.kind.metrics:
        found = case.kind.faults(case.task.model_copy(update={"metrics": (metric,)}))
        if metric == "question_exact_match":  # which asks something of ids, and so of rows
            records = [{**record, "id": f"text-1-{number}"} for number, record in enumerate(records)]
        if not found:
            assert set(measured(records, [metric], task_type.task.labels)) == {metric, "rows"}
        else:
            (fault,) = found
            assert str(fault).startswith(("task: task.metrics: ", "task: task.several: "))


def test_records_carry_ids_in_the_order_of_the_rows_and_no_label_where_there_is_none(case: Case) -> None:
    records = case.predictions(case.model())
    assert [record["id"] for record in records] == case.stores["dev"].ids
    assert all({"id", "prediction", "label", "scores"} <= set(record) for record in records)
    if records[-1]["id"] == "unlabelled":
        assert records[-1]["label"] is None
    assert all(record["label"] is not None for record in records[:3])


def test_a_type_says_what_its_logits_belong_to(case: Case) -> None:
    model = case.model()
    logits = model(case.batch(model))
    of_labels = (3, len(case.task.labels))
    shapes = {"classes": of_labels, "labels": of_labels, "number": (3, 1), "candidates": (3, logits.shape[1])}
    assert tuple(logits.shape) == shapes.get(case.kind.logits_of, tuple(logits.shape))
    assert len(logits) != 3 or logits.dim() > 2 or case.kind.logits_of in shapes


def test_mistakes_are_of_labelled_records_that_are_wrong_and_confusions_of_the_labels(case: Case) -> None:
    task_type = case.kind(case.task)
    records = case.predictions(case.model())
    for record in records:
        right = {**record, "prediction": record["label"]}
        assert task_type.mistake(right) is None and task_type.mistake({**record, "label": None}) is None
        size = task_type.mistake(record)
        assert size is None or size > 0
        assert isinstance(task_type.shown([record["prediction"]]), str)
    if task_type.confusion_labels:
        named = {record[key] for record in records for key in ("prediction", "label")} - {None}
        assert named <= set(task_type.confusion_labels)


def test_rows_of_a_task_are_read_and_encoded_alike_by_a_task_of_the_same_type(case: Case) -> None:
    first, second = case.kind(case.task), case.kind(case.task.model_copy(update={"name": "other"}))
    assert first.predicts_with(second) and first.encodes_like(second)
    assert not first.encodes_like(case.kind(case.task.model_copy(update={"max_length": MAX_LENGTH + 1})))


def test_records_carry_no_label_when_the_batch_was_made_for_another_task(case: Case) -> None:
    model = case.model()
    model.eval()
    own = case.batch(model)
    (records,) = model.predict(replace(own, task="another"), ["task"]).values()
    assert [record["label"] for record in records] == [None, None, None]
    with_labels = model.predict(own, ["task"])["task"]
    assert [record["prediction"] for record in records] == [record["prediction"] for record in with_labels]


def test_predictions_do_not_depend_on_the_batch(case: Case) -> None:
    model = case.model()
    assert_alike(case.predictions(model, 1), case.predictions(model, 4))


def test_packed_and_padded_execution_agree(case: Case) -> None:
    if case.kind.needs_decoder:  # T5's relative positions cannot be packed
        with pytest.raises(ConfigError, match=r"execution\.layout: packed, which 't5' does not allow"):
            case.model("packed")
        return
    assert_alike(case.predictions(case.model("packed")), case.predictions(case.model("padded")))


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_every_pooling_trains_and_is_the_same_packed_and_padded(pooling: str, tmp_path: Path) -> None:
    case = Case("classification", "pooled", tmp_path)
    case.task = case.task.model_copy(update={"head": Named(name="pooled", pooling=pooling)})
    assert case.kind.faults(case.task) == []
    found = [case.predictions(case.model(layout)) for layout in ("packed", "padded")]
    assert_alike(*found)
    losses = losses_of(case, case.model("packed"), 15, REGULARIZERS.get("smart")())
    assert losses[-1] < losses[0]


def assert_alike(first: Any, second: Any) -> None:
    """Equal, numbers up to 1e-5: float32 sums in another order."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_alike(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_alike(one, other)
    elif isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-5)
    else:
        assert first == second


def test_a_saved_model_predicts_the_same(case: Case, tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    model = case.model()
    losses_of(case, model, 2)
    records = case.predictions(model, tune=True)
    save_model(model, str(tmp_path / "model.safetensors"))
    again = case.model()
    load_model(again, str(tmp_path / "model.safetensors"))
    assert case.predictions(again) == records


def test_a_batch_without_labels_has_loss_0_with_a_gradient_of_0(case: Case) -> None:
    model = case.model()
    task_type = model.task_types["task"]
    full = case.batch(model)
    ignored = torch.full_like(full.labels, float("nan") if case.task.task_type == "regression" else -1)
    if not full.labels.is_floating_point():
        ignored = torch.full_like(full.labels, -100)
    batch = replace(full, labels=ignored)
    assert task_type.label_count(batch) == 0
    loss = task_type.loss(model(batch), batch)
    loss.backward()
    assert loss.item() == 0
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients)


def test_divergence_is_one_number_a_row_zero_for_equal_and_positive_for_other_logits(case: Case) -> None:
    model = case.model()
    task_type, batch = model.task_types["task"], case.batch(model)
    logits = model(batch).detach()
    other = (logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    for symmetric in (True, False):
        assert task_type.divergence(logits, logits, batch, symmetric=symmetric).abs().max() == 0
        values = task_type.divergence(other, logits, batch, symmetric=symmetric)
        assert values.shape == (len(batch),)
        assert bool((values >= 0).all()) and float(values.sum().detach()) > 0
    values.sum().backward()
    assert bool(other.grad.isfinite().all())


def test_loss_and_divergence_of_16_bit_logits_are_computed_in_float32(case: Case) -> None:
    model = case.model()
    task_type, batch = model.task_types["task"], case.batch(model)
    logits = model(batch).detach().bfloat16()
    other = logits * (1 + 2**-7)  # the next number, or the one after it
    for symmetric in (True, False):
        found = task_type.divergence(other, logits, batch, symmetric=symmetric)
        assert found.dtype == torch.float32
        assert torch.equal(found, task_type.divergence(other.float(), logits.float(), batch, symmetric=symmetric))
    assert torch.equal(task_type.loss(logits, batch), task_type.loss(logits.float(), batch))


def test_parts_of_a_batch_weighted_by_their_labels_give_the_loss_of_the_whole(case: Case) -> None:
    model = case.model().eval()
    task_type = model.task_types["task"]

    def loss_and_count(rows: tuple[int, ...]) -> tuple[float, int]:
        batch = case.batch(model, rows=rows)
        return task_type.loss(model(batch), batch).item(), task_type.label_count(batch)

    whole, count = loss_and_count((0, 1, 2))
    parts = [loss_and_count((0,)), loss_and_count((1, 2))]
    assert count == sum(part for _, part in parts)
    assert whole == pytest.approx(sum(loss * part for loss, part in parts) / count, rel=1e-5)  # float32


def test_logits_loss_and_divergence_are_computed_on_one_device_though_the_mask_stays_on_the_host(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for any other one: it refuses tensors of the host, but holds no values to ask for."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())  # it has none of its own
    model = case.model()
    batch, model = case.batch(model).to("meta"), model.to("meta")
    task_type = model.task_types["task"]
    logits = model(batch)
    assert logits.device.type == "meta"
    for compute in (task_type.loss, partial(task_type.divergence, logits)):
        assert compute(logits, batch).device.type == "meta"
