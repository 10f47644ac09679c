"""What is sent backward: weights, shares, one clean pass, resume, accumulation, ranks."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from mtdnn.batch import Batch
from mtdnn.regularizers.adversarial import Adversarial
from mtdnn.regularizers.base import Regularizer
from mtdnn.regularizers.free_lb import FreeLB
from mtdnn.regularizers.proximal import Momentum, Vanilla
from mtdnn.regularizers.r_drop import RDrop
from mtdnn.regularizers.smart import Smart
from mtdnn.training.objective import Objective, run_precision
from tests.reference.pretended_gpu import GPU, pretended_gpu, waiting_allowed
from tests.reference.tiny import make_batch, make_model, slice_batch

SIZES: dict[str, Any] = {"epsilon": 0.02, "eta": 0.03, "noise": 0.01}


def send_backward(objective: Objective, batch: Batch, **place: Any) -> dict[str, float]:
    """Sums of the named values of a step's parts."""
    named: dict[str, float] = {}
    for part in objective.parts(batch, **{"step": 0, **place}):
        part.loss.backward()
        for name, value in part.named.items():
            named[name] = named.get(name, 0.0) + float(value)
    return named


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], **{"rtol": 0.0, "atol": 0.0, **tolerance})


def train(model: torch.nn.Module, objective: Objective, batches: Iterable[Batch], *, start: int = 0) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, batch in enumerate(batches, start):
        optimizer.zero_grad()
        send_backward(objective, batch, step=step)
        optimizer.step()
        objective.after_step()


def test_without_regularizer_the_loss_is_the_weighted_loss_of_the_task() -> None:
    model, batch = make_model(weight=0.5), make_batch()
    (part,) = Objective(model, seed=1).parts(batch, step=0)
    expected = model.task_types["nli"].loss(model(batch), batch)
    torch.testing.assert_close(part.loss, 0.5 * expected)
    torch.testing.assert_close(part.named["task"], expected.detach())
    assert part.named.keys() == {"task"}


def test_the_total_is_the_loss_plus_lambda_times_smoothness_plus_mu_times_bregman() -> None:
    model, batch = make_model(weight=0.5), make_batch()
    proximal = Momentum(make_model(seed=5), total_steps=10, mu=0.25)
    (part,) = Objective(model, {"nli": Smart(**SIZES, weight=3.0)}, proximal, seed=1).parts(batch, step=0)
    task, smart, bregman = (part.named[name] for name in ("task", "smart", "proximal"))
    assert min(smart, bregman) > 1e-4
    torch.testing.assert_close(part.loss.detach(), 0.5 * task + 3.0 * smart + 0.25 * bregman)


def test_a_task_without_its_own_regularizer_has_none() -> None:
    objective = Objective(make_model(), {"nli": Smart(**SIZES), "similarity": None}, seed=1)
    assert send_backward(objective, make_batch("similarity")).keys() == {"task"}


def test_the_clean_pass_runs_once_for_all_terms_and_goes_backward_once() -> None:
    model, batch, calls = make_model(), make_batch(), []
    proximal = Momentum(model, total_steps=10)
    model.register_forward_hook(lambda *_: calls.append(1))
    parts = list(Objective(model, {"nli": Smart(**SIZES)}, proximal, seed=1).parts(batch, step=0))
    assert len(parts) == 1
    assert len(calls) == 3  # clean, inner, perturbed; the teacher is another model


def test_a_method_that_needs_no_clean_pass_runs_none() -> None:
    model, batch, calls = make_model(), make_batch(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    send_backward(Objective(model, {"nli": FreeLB(steps=3)}, seed=1), batch)
    assert len(calls) == 3


def test_with_several_backward_passes_the_bregman_term_is_a_part_of_its_own() -> None:
    model, batch = make_model(), make_batch()
    objective = Objective(model, {"nli": FreeLB(steps=2)}, Momentum(make_model(seed=5), total_steps=10), seed=1)
    names = [set(part.named) for part in objective.parts(batch, step=0) if part.loss.backward() is None]
    assert names == [{"proximal"}, {"task"}, {"task"}]


METHODS = [None, Smart(**SIZES), Adversarial(), FreeLB(), RDrop()]


@pytest.mark.parametrize("task", ["nli", "similarity"])
@pytest.mark.parametrize("method", METHODS, ids=lambda each: getattr(each, "name", "none"))
def test_parts_of_a_batch_add_up_to_the_whole_batch(task: str, method: Regularizer | None) -> None:
    model, batch = make_model(), make_batch(task, rows=6)
    if task == "nli":
        batch.labels[1] = -100  # unlabelled rows count as rows, not as labels
    objective = Objective(model, {task: method}, Momentum(make_model(seed=5), total_steps=10), seed=1)
    whole = send_backward(objective, batch), gradients(model)
    split: dict[str, float] = {}
    label_count = model.task_types[task].label_count
    for index, rows in enumerate([slice(0, 2), slice(2, 6)]):
        part = slice_batch(batch, rows)
        shares = {"row_share": len(part) / 6, "label_share": label_count(part) / label_count(batch)}
        for name, value in send_backward(objective, part, part=index, **shares).items():
            split[name] = split.get(name, 0.0) + value
    assert split == pytest.approx(whole[0], rel=1e-9)
    assert_equal(gradients(model), whole[1], rtol=1e-7, atol=1e-11)  # float64, sums in another order


def test_padding_changes_neither_values_nor_gradients() -> None:
    model = make_model()
    objective = Objective(model, {"nli": Smart(**SIZES, steps=2)}, Momentum(make_model(seed=5), total_steps=9), seed=1)
    short = send_backward(objective, make_batch()), gradients(model)
    long = send_backward(objective, make_batch(padding=5)), gradients(model)
    assert short[0] == pytest.approx(long[0], rel=1e-9)
    assert_equal(short[1], long[1], rtol=1e-7, atol=1e-11)


def test_every_second_step_has_the_penalty_with_double_weight() -> None:
    model, batch = make_model(), make_batch()
    objective = Objective(model, {"nli": Smart(**SIZES, every=2)}, seed=1)
    once = Objective(model, {"nli": Smart(**SIZES)}, seed=1)
    kinds = []
    for step in range(4):
        (part,) = objective.parts(batch, step=step)
        kinds.append("smart" in part.named)
        if kinds[-1]:
            (plain,) = once.parts(batch, step=step)
            penalty = plain.loss - plain.named["task"]
            torch.testing.assert_close(part.loss - part.named["task"], 2 * penalty)
            assert part.named["smart"].item() == plain.named["smart"].item()  # R_s, whatever its weight
        objective.after_step()
    assert kinds == [True, False, True, False]


def test_every_counts_the_steps_of_its_own_task() -> None:
    objective = Objective(make_model(), {"nli": Smart(**SIZES, every=2)}, seed=1)
    kinds = []
    for step in range(6):
        task = "nli" if step % 2 == 0 else "similarity"
        kinds.append("smart" in send_backward(objective, make_batch(task), step=step))
        objective.after_step()
    assert kinds == [True, False, False, False, True, False]


@pytest.mark.parametrize("dropout", ["same", "independent", "off"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(dropout: str) -> None:
    batches = [
        make_batch(task, seed=each) for each, task in enumerate(["nli", "similarity", "nli", "nli", "nli", "nli"])
    ]

    def start(model: torch.nn.Module) -> Objective:
        methods = {"nli": Smart(epsilon={"relative": 0.1}, dropout=dropout, every=2), "similarity": FreeLB()}
        return Objective(model, methods, Momentum(model, total_steps=6, beta=0.5, inner_steps=2), seed=1)

    model = make_model(dropout=0.1)
    whole = copy.deepcopy(model)
    train(whole, start(whole), batches)
    objective = start(model)
    train(model, objective, batches[:3])
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "objective": objective.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.manual_seed(77)  # whatever was drawn before must not matter
    resumed = make_model(dropout=0.1, seed=3)
    resumed.load_state_dict(state["model"])
    objective = start(resumed)
    objective.load_state_dict(state["objective"])
    train(resumed, objective, batches[3:], start=3)
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_ranks_draw_different_masks_but_the_same_noise_for_the_same_row() -> None:
    model, batch = make_model(dropout=0.3), make_batch()
    values = []
    for rank in (0, 1):
        (part,) = Objective(model, {"nli": Smart(**SIZES, dropout="off")}, seed=1, rank=rank).parts(batch, step=0)
        values.append(part.named)
    assert values[0]["task"] != values[1]["task"]
    assert values[0]["smart"] == values[1]["smart"]


def test_diagnostics_cover_the_tasks_seen_since_the_last_call() -> None:
    model = make_model()
    objective = Objective(model, {"nli": Smart(**SIZES)}, Vanilla(model, total_steps=9, inner_steps=2), seed=1)
    assert objective.diagnostics() == {}
    train(model, objective, [make_batch("nli"), make_batch("similarity")])
    reported = objective.diagnostics()
    assert reported.keys() == {"nli", "similarity"}
    assert reported["nli"].keys() == {"smart.perturbation", "smart.clipped", "proximal.drift"}
    assert 0 < reported["nli"]["smart.perturbation"] <= 0.02 / model.encoder.embedding_rms()
    assert 0 < reported["nli"]["smart.clipped"] < 1
    assert reported["similarity"] == {"proximal.drift": 0.0}  # the teacher has just taken the model over
    assert objective.diagnostics() == {}


def test_gradient_norms_are_those_of_the_weighted_terms_and_leave_nothing_behind() -> None:
    model, batch = make_model(), make_batch()
    proximal = Momentum(make_model(seed=5), total_steps=9, mu=2.0)
    norms = Objective(model, {"nli": Smart(**SIZES, weight=3.0)}, proximal, seed=1).gradient_norms(batch, step=0)
    assert all(weight.grad is None for weight in model.parameters())
    assert norms.keys() == {"task", "smart", "proximal"}
    send_backward(Objective(model, seed=1), batch)
    assert norms["task"] == pytest.approx(
        torch.cat([each.flatten() for each in gradients(model).values()]).norm().item()
    )
    single = Objective(model, {"nli": Smart(**SIZES, weight=1.0)}, seed=1).gradient_norms(batch, step=0)
    assert norms["smart"] == pytest.approx(3 * single["smart"])


def test_the_runs_precision_is_known() -> None:
    model = make_model(dtype=torch.float32)
    assert run_precision(model).name == "float32"
    assert run_precision(model, lambda: torch.autocast("cpu", dtype=torch.bfloat16)).name == "bf16"
    assert run_precision(make_model()).spacing == 2.0**-52


def test_float32_on_a_gpu_is_tf32_where_a_script_has_allowed_it() -> None:
    found = []
    with pretended_gpu() as gpu, waiting_allowed(gpu):
        model = make_model(dtype=torch.float32).to(GPU)
        for allowed in ("tf32", "ieee"):
            torch.backends.cuda.matmul.fp32_precision = allowed
            found.append(run_precision(model).name)
    assert found == ["tf32", "float32"]
