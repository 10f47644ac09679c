"""transformers' Trainer with our terms: steps, accumulation, precision, logs and checkpoints."""

import dataclasses
import logging

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from mtdnn.errors import ConfigError
from mtdnn.integrations.functional import Terms
from mtdnn.integrations.trainer import STATE_FILE, RegularizedTrainer

SMART = {"name": "smart", "epsilon": 0.05, "eta": 0.05, "noise": 0.05}
MOMENTUM = {"name": "momentum", "mu": 1.0, "beta": 0.9}


def model(dropout=0.0):
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=40,
        max_position_embeddings=32,
        num_labels=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForSequenceClassification(config)


def rows(count=16, **more):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 40, (count, 6), generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    mask = torch.ones(6, dtype=torch.long)
    return [
        {"input_ids": ids[row], "attention_mask": mask, "labels": labels[row], "row_ids": str(row), **more}
        for row in range(count)
    ]


def collate(batch):
    tensors = {key: torch.stack([row[key] for row in batch]) for key in ("input_ids", "attention_mask", "labels")}
    return {**tensors, **{key: [row[key] for row in batch] for key in ("row_ids", "task") if key in batch[0]}}


def arguments(tmp_path, **changes):
    settings = {
        "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none", "use_cpu": True, "seed": 5,
        "logging_steps": 2, "remove_unused_columns": False, "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(**{**settings, **changes})


def trained(tmp_path, *, kind=RegularizedTrainer, dropout=0.0, data=None, terms=None, **changes):
    trainer = kind(
        model(dropout),
        arguments(tmp_path, **changes),
        train_dataset=rows() if data is None else data,
        data_collator=collate,
        **(terms or {}),
    )
    trainer.train()
    return trainer


def weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def same(first, second, **tolerance):
    torch.testing.assert_close(weights(first), weights(second), **(tolerance or {"rtol": 0, "atol": 0}))


class Plain(Trainer):
    """Takes batches with row ids, as ours does."""

    def compute_loss(self, model, inputs, *args, **keywords):
        inputs.pop("row_ids", None)
        return super().compute_loss(model, inputs, *args, **keywords)


@pytest.mark.parametrize("terms", [{}, {"regularizer": {**SMART, "weight": 0}}, {"regularizer": "none"}])
def test_without_weight_it_is_transformers_trainer_bit_for_bit(tmp_path, terms):
    same(trained(tmp_path, terms=terms), trained(tmp_path, kind=Plain))


def ragged_rows(count=16):
    """Rows of 3 to 6 tokens as lists, whose lengths the sampler of Trainer reads."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(4, 40, (3 + row % 4,), generator=generator).tolist() for row in range(count)]
    return [{"input_ids": each, "labels": row % 3, "row_ids": str(row)} for row, each in enumerate(ids)]


def padded(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in batch])
    labels = torch.tensor([row["labels"] for row in batch])
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "labels": labels,
            "row_ids": [row["row_ids"] for row in batch]}  # fmt: skip


@pytest.mark.parametrize("terms", [{}, {"regularizer": SMART, "proximal": MOMENTUM}])
def test_batches_of_similar_lengths_are_those_of_trainer(tmp_path, terms):
    """`group_by_length` until transformers 4, `train_sampling_strategy` after it."""
    known = {each.name for each in dataclasses.fields(TrainingArguments)}
    new = "train_sampling_strategy" in known
    grouped = {"train_sampling_strategy": "group_by_length"} if new else {"group_by_length": True}
    seen = {RegularizedTrainer: [], Plain: []}
    for kind, batches in seen.items():

        def noted(batch, batches=batches):
            batches.append([row["row_ids"] for row in batch])
            return padded(batch)

        trainer = kind(
            model(),
            arguments(tmp_path, **grouped),
            train_dataset=ragged_rows(),
            data_collator=noted,
            **(terms if kind is RegularizedTrainer else {}),
        )
        trainer.train()
    assert seen[RegularizedTrainer] == seen[Plain] and len(seen[Plain]) >= 4
    longest, *_ = seen[Plain][0]
    assert int(longest) % 4 == 3  # 6 tokens: the sampler begins with the longest row


def test_label_smoothing_and_a_loss_of_the_users_are_those_of_trainer(tmp_path):
    smooth = {"label_smoothing_factor": 0.2}
    same(trained(tmp_path, **smooth), trained(tmp_path, kind=Plain, **smooth))

    def own(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits, labels) ** 2

    own_loss = {"compute_loss_func": own}
    same(trained(tmp_path, terms=own_loss), trained(tmp_path, kind=Plain, terms=own_loss))


def test_a_run_is_that_of_a_plain_loop_over_the_terms(tmp_path):
    class Ordered(RegularizedTrainer):
        def _get_train_sampler(self, *args):
            return SequentialSampler(self.train_dataset)

    terms = {"regularizer": SMART, "proximal": MOMENTUM}
    trainer = trained(tmp_path, kind=Ordered, terms=terms, optim="sgd", max_grad_norm=0.0)
    network, data = model().train(), rows()
    ours = Terms(network, SMART, MOMENTUM, total_steps=4, seed=5)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    for start in range(0, 16, 4):
        for loss in ours.losses(collate(data[start : start + 4])):
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ours.after_step()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weights(trainer)[name], weight.detach(), rtol=1e-6, atol=1e-7)


def test_accumulated_parts_make_the_step_of_a_whole_batch(tmp_path):
    """A sum in another order: equal to float32's rounding."""
    options = {"terms": {"regularizer": SMART, "proximal": MOMENTUM}, "optim": "sgd", "max_grad_norm": 0.0}
    whole = trained(tmp_path, **options, per_device_train_batch_size=8, max_steps=2)
    parts = trained(tmp_path, **options, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=2)
    same(whole, parts, rtol=1e-5, atol=1e-6)
    assert parts._terms.step == 2


def test_each_row_counts_alike_where_the_parts_of_a_step_differ_in_size(tmp_path):
    """Parts of four rows and of one: the penalties of the one counted four times."""
    options = {"terms": {"regularizer": SMART, "proximal": MOMENTUM}, "optim": "sgd", "max_grad_norm": 0.0}
    options |= {"data": rows(5), "max_steps": 2}
    whole = trained(tmp_path, **options, per_device_train_batch_size=5)
    parts = trained(tmp_path, **options, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    same(whole, parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, dropout):
    options = {"dropout": dropout, "terms": {"regularizer": SMART, "proximal": MOMENTUM}}
    whole = trained(tmp_path / "whole", **options)
    trained(tmp_path / "half", **options, save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "half" / "out" / "checkpoint-2"
    assert (checkpoint / STATE_FILE).is_file()
    again = RegularizedTrainer(
        model(dropout), arguments(tmp_path / "half"), train_dataset=rows(), data_collator=collate, **options["terms"]
    )
    again.train(resume_from_checkpoint=str(checkpoint))
    same(again, whole)
    theirs, ours = (each._terms.state_dict() for each in (again, whole))
    torch.testing.assert_close(theirs["proximal"]["teacher"], ours["proximal"]["teacher"], rtol=0, atol=0)


def test_a_checkpoint_without_our_file_is_refused(tmp_path):
    trained(tmp_path, kind=Plain, save_strategy="steps", save_steps=2)
    trainer = RegularizedTrainer(
        model(), arguments(tmp_path), train_dataset=rows(), data_collator=collate, regularizer=SMART
    )
    with pytest.raises(ConfigError, match=f"resume_from_checkpoint: no {STATE_FILE}"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


@pytest.mark.parametrize(
    ("first", "then", "found"),
    [
        ({}, {"regularizer": SMART}, "of training with no term, but this is with regularizer {'name': 'smart'"),
        ({}, {"proximal": MOMENTUM}, "but this is with proximal {'name': 'momentum', 'mu': 1.0"),
        ({"regularizer": SMART, "proximal": MOMENTUM}, {}, "'momentum'.* but this is with no term"),
        ({"regularizer": SMART}, {"regularizer": {**SMART, "weight": 5}}, "'weight': 1.0.* but .*'weight': 5.0"),
    ],
)
def test_a_checkpoint_of_other_terms_is_refused(tmp_path, first, then, found):
    """KeyError, TypeError, and twice not a word."""
    trained(tmp_path, terms=first, save_strategy="steps", save_steps=2)
    trainer = RegularizedTrainer(model(), arguments(tmp_path), train_dataset=rows(), data_collator=collate, **then)
    with pytest.raises(ConfigError, match=found):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def test_the_log_has_each_term_unweighted(tmp_path):
    trainer = trained(tmp_path, terms={"regularizer": {**SMART, "weight": 2.0}, "proximal": MOMENTUM})
    lines = [line for line in trainer.state.log_history if "smart" in line]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert line["loss"] == pytest.approx(line["task"] + 2 * line["smart"] + line["proximal"], abs=2e-4)


def test_the_log_counts_the_steps_that_were_skipped(tmp_path, monkeypatch):
    """As the loss beside the terms does; they were divided by fewer steps."""
    trainer = RegularizedTrainer(
        model(), arguments(tmp_path), train_dataset=rows(), data_collator=collate, regularizer={**SMART, "weight": 0}
    )
    skipped = property(lambda self: trainer.state.global_step % 2 == 0)
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", skipped)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "task" in line]
    assert [line["task"] for line in lines] == [pytest.approx(line["loss"], abs=1e-4) for line in lines]


def test_a_small_penalty_is_not_logged_as_none(tmp_path):
    assert 0 < smart_line(trained(tmp_path, terms={"regularizer": "smart"}))["smart"] < 5e-7


def test_noise_on_the_embeddings_leaves_the_dropout_masks_of_both_passes_the_same(tmp_path):
    """NEFTune draws at the lookup, before the masks are drawn; R_s was 1.7 in place of 3e-7."""
    values = [
        smart_line(trained(tmp_path, dropout=0.3, terms={"regularizer": "smart"}, neftune_noise_alpha=alpha))["smart"]
        for alpha in (None, 5.0)
    ]
    assert values[1] < 100 * values[0]


def test_compiled_passes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"args.torch_compile: compiled passes have dropout masks .* of their own"):
        RegularizedTrainer(model(), arguments(tmp_path, torch_compile=True), train_dataset=rows(), regularizer=SMART)


def smart_line(trainer):
    """The last line of the log with the penalty."""
    return [line for line in trainer.state.log_history if "smart" in line][-1]


def test_a_resumed_run_logs_the_means_of_its_own_steps(tmp_path):
    """The mean was over all steps since the start of the first run, most of which had added nothing."""
    options = {"terms": {"regularizer": SMART}}
    whole = trained(tmp_path, **options, save_strategy="steps", save_steps=2)
    again = RegularizedTrainer(
        model(), arguments(tmp_path), train_dataset=rows(), data_collator=collate, **options["terms"]
    )
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert smart_line(again) == smart_line(whole)


def test_training_again_starts_new_terms(tmp_path):
    """The second training continued with the first one's schedule, teacher and count of steps."""
    trainer = trained(tmp_path, terms={"regularizer": SMART, "proximal": MOMENTUM})
    first = trainer._terms
    trainer.train()
    assert trainer._terms is not first and trainer._terms.step == 4
    line = smart_line(trainer)
    assert line["loss"] == pytest.approx(line["task"] + line["smart"] + line["proximal"], abs=2e-4)


class Strict(BertForSequenceClassification):
    """A model that takes its own inputs only, unlike transformers' since version 5."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, inputs_embeds=None):
        return super().forward(input_ids, attention_mask, labels=labels, inputs_embeds=inputs_embeds)


def test_predictions_and_metrics_are_of_batches_with_tasks_and_names_of_rows(tmp_path):
    """`evaluate` and `predict` passed both keys to the model."""
    seen = []
    trainer = RegularizedTrainer(
        Strict(model().config),
        arguments(tmp_path, label_smoothing_factor=0.1),
        eval_dataset=rows(8, task="a"),
        data_collator=collate,
        tasks={"a": SMART},
        compute_metrics=lambda found: seen.append(found.predictions.shape) or {"rows": len(found.label_ids)},
    )
    assert trainer.evaluate()["eval_rows"] == 8
    assert trainer.predict(rows(4, task="a")).predictions.shape == (4, 3) and seen == [(8, 3), (4, 3)]


def test_bf16_passes_that_compare_run_in_float32_through_accelerates_wrapper(tmp_path):
    """At ε = 1e-5 both passes are equal in bf16: a penalty above 0 shows float32."""
    trainer = trained(tmp_path, terms={"regularizer": {"name": "smart"}}, bf16=True)
    assert trainer._terms.objective.regularizers["task"].precision == "float32"
    assert any(line["smart"] > 0 or line["task"] > 0 for line in trainer.state.log_history if "smart" in line)
    assert "_original_forward" in trainer.model.__dict__ and "forward" in trainer.model.__dict__


def test_in_fp16_the_terms_know_the_scale_of_accelerate(tmp_path):
    """accelerate has a scaler on GPUs alone; here it is given one."""
    trainer = RegularizedTrainer(
        model(), arguments(tmp_path), train_dataset=rows(), data_collator=collate, regularizer="adversarial"
    )
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trainer.train()
    assert trainer._terms.objective.loss_scale.value == 2.0**10


def test_each_task_has_its_own_regularizer(tmp_path):
    terms = {"tasks": {"a": SMART, "b": None}}
    data = rows(8, task="a")
    trainer = trained(tmp_path, terms=terms, data=data)
    assert list(trainer._terms.objective.regularizers) == ["a"]
    with pytest.raises(ConfigError, match="rows of a, b in one batch"):
        trained(tmp_path, terms=terms, data=[*rows(2, task="a"), *rows(2, task="b")])
    with pytest.raises(ConfigError, match="unknown task 'c'"):
        trained(tmp_path, terms=terms, data=rows(4, task="c"))


@pytest.mark.parametrize(("given", "used"), [(None, False), (True, True)])
def test_buffers_are_left_alone_between_the_passes_of_a_batch_where_nothing_is_set(tmp_path, given, used):
    trainer = RegularizedTrainer(model(), arguments(tmp_path, ddp_broadcast_buffers=given), regularizer=SMART)
    assert trainer.accelerator.ddp_handler.broadcast_buffers is used


def test_an_optimizer_that_has_two_modes_is_put_into_that_of_training(tmp_path, monkeypatch):
    """As transformers' own step does, for optimizers without a schedule; its evaluation puts them into the other."""
    modes = []
    monkeypatch.setattr(torch.optim.AdamW, "train", lambda self: modes.append("train"), raising=False)
    monkeypatch.setattr(torch.optim.AdamW, "eval", lambda self: modes.append("eval"), raising=False)
    emptied = []
    monkeypatch.setattr("mtdnn.integrations.trainer.clear_device_cache", lambda: emptied.append(1))
    trainer = trained(tmp_path, terms={"regularizer": SMART}, max_steps=2, torch_empty_cache_steps=1)
    assert modes == ["train", "train"] and len(emptied) == 2
    trainer.evaluate(rows(4))
    assert modes[-1] == "eval"


def test_an_optimizer_that_moves_weights_in_the_backward_pass_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"args.optim: lomo moves the weights in each backward pass"):
        RegularizedTrainer(model(0.0), arguments(tmp_path, optim="lomo"), train_dataset=rows(), regularizer=SMART)


def test_a_typo_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'smart'"):
        RegularizedTrainer(model(), arguments(tmp_path), regularizer="smrt")
    with pytest.raises(ConfigError, match="Did you mean 'momentum'"):
        RegularizedTrainer(model(), arguments(tmp_path), proximal="momentm")
    with pytest.raises(ConfigError, match="given in addition to tasks"):
        RegularizedTrainer(model(), arguments(tmp_path), regularizer="smart", tasks={"a": "smart"})
    for nothing in ({"epsilon": 1}, 3):
        with pytest.raises(ConfigError, match=r"regularizer: .* names no plug-in. Give a name, or a mapping"):
            RegularizedTrainer(model(), arguments(tmp_path), regularizer=nothing)


def test_a_skipped_step_moves_no_teacher(tmp_path, monkeypatch):
    trainer = RegularizedTrainer(
        model(), arguments(tmp_path), train_dataset=rows(), data_collator=collate, proximal=MOMENTUM
    )
    trainer.train()
    before = trainer._terms.step
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", property(lambda self: True))
    trainer.after_optimizer_step()
    assert trainer._terms.step == before


def test_evaluation_is_trainers_own(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    data = [{key: value for key, value in row.items() if key != "row_ids"} for row in rows(8)]
    trainer = RegularizedTrainer(
        model(), arguments(tmp_path), eval_dataset=data, data_collator=collate, regularizer=SMART
    )
    plain = Plain(model(), arguments(tmp_path), eval_dataset=data, data_collator=collate)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
