"""When the teacher moves and how far, what the term is at the start, and what survives a resume."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
import torch

from mtdnn.config.options import Named, named_faults
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.proximal import PROXIMAL, Momentum, Vanilla
from tests.reference.tiny import make_batch, make_model


def nudge(model: torch.nn.Module, by: float = 0.1) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by)


def first_weight(model: torch.nn.Module) -> float:
    return next(model.parameters())[0, 0].item()


def test_the_teacher_starts_as_the_model_and_the_term_at_zero() -> None:
    model = make_model()
    proximal = Momentum(model, total_steps=10)
    penalty = proximal.penalty(ForwardPass(model, make_batch(), seed=1, step=0))
    assert penalty.item() == 0.0
    gradients = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
    assert not any(each.any() for each in gradients if each is not None)


@pytest.mark.parametrize("inner_steps", [1, 2, 3])
def test_the_teacher_moves_only_every_s_steps(inner_steps: int) -> None:
    model = make_model()
    proximal = Momentum(model, total_steps=10, inner_steps=inner_steps)
    moves, before = [], first_weight(proximal.teacher.module)
    for _ in range(6):
        nudge(model)
        proximal.after_step(model)
        after = first_weight(proximal.teacher.module)
        moves.append(after != before)
        before = after
    assert moves == [(step + 1) % inner_steps == 0 for step in range(6)]


def test_beta_switches_after_a_tenth_of_the_updates() -> None:
    proximal = Momentum(make_model(), total_steps=40, beta=0.9, beta_late=0.99)
    assert [proximal.beta(update) for update in (1, 4, 5, 40)] == [0.9, 0.9, 0.99, 0.99]


@pytest.mark.parametrize("inner_steps", [1, 5])
def test_after_a_half_life_half_of_the_start_is_left(inner_steps: int) -> None:
    """Twenty steps to a model that is 1 away leave the teacher half way, however often it is updated."""
    model = make_model()
    proximal = Momentum(model, total_steps=200, half_life={"fraction": 0.1}, inner_steps=inner_steps)
    assert proximal.half_life == 20 and proximal.beta(1) == pytest.approx(0.5 ** (inner_steps / 20))
    start = first_weight(model)
    nudge(model, 1.0)
    for _ in range(20):
        proximal.after_step(model)
    assert first_weight(proximal.teacher.module) == pytest.approx(start + 0.5, abs=1e-5)


def test_the_papers_beta_as_a_half_life() -> None:
    """ln ½ / ln 0.999 = 692.8 steps."""
    assert Momentum(make_model(), total_steps=9, half_life=692.8).beta(9) == pytest.approx(0.999, abs=1e-6)


def test_beta_and_half_life_exclude_each_other() -> None:
    given = Named(name="momentum", half_life=20, beta_late=0.9)
    (found,) = named_faults(PROXIMAL, given, "proximal", where="run.yml:3")
    assert "half_life sets β for the whole run; remove beta_late, or half_life" in str(found)
    for half_life in (0, "long", True, {"fraction": 0}, {"part": 0.1}):
        (found,) = named_faults(PROXIMAL, Named(name="momentum", half_life=half_life), "proximal", where="run.yml:3")
        assert "half_life: " in str(found) and "above 0, or {fraction: number} of the run's" in str(found)


def test_a_fraction_of_the_run_is_a_decimal_number_when_steps_are_counted() -> None:
    """0.29 · 100 is 28.999999999999996 as a float."""
    for fraction, steps in ((0.29, 29), (0.57, 57), (0.155, 15)):
        assert Momentum(make_model(), total_steps=100, start_after={"fraction": fraction}).start == steps


@pytest.mark.parametrize("start_after", [3, {"fraction": 0.15}])
def test_a_late_teacher_starts_as_the_model_of_that_step(start_after: int | dict[str, float]) -> None:
    """15 % of 20 steps are 3: no term before, the model of step 3 then, β = ¾ of the way back from there."""
    model = make_model()
    proximal = Momentum(model, total_steps=20, start_after=start_after, beta=0.75, beta_late=0.75)
    weights = []
    for _ in range(3):
        weights.append(proximal.weight)
        nudge(model, 1.0)
        proximal.after_step(model)
    assert weights == [0.0, 0.0, 0.0] and proximal.weight == 1.0
    assert proximal.drift(model) == 0.0
    at_start = first_weight(model)
    nudge(model, 1.0)
    proximal.after_step(model)
    assert first_weight(proximal.teacher.module) == pytest.approx(at_start + 0.25)


def test_a_late_teacher_moves_every_s_steps_from_its_start() -> None:
    model = make_model()
    proximal, moves = Vanilla(model, total_steps=20, start_after=1, inner_steps=2), []
    for _ in range(5):
        before = first_weight(proximal.teacher.module)
        nudge(model)
        proximal.after_step(model)
        moves.append(first_weight(proximal.teacher.module) != before)
    assert moves == [True, False, True, False, True]


def test_a_start_that_is_no_number_of_steps_is_refused() -> None:
    for start_after in (-1, 0.5, "late", True, {"fraction": 1}, {"fraction": -0.1}, {"part": 0.1}):
        named = Named(name="vanilla", start_after=start_after)
        (found,) = named_faults(PROXIMAL, named, "proximal", where="run.yml:3")
        assert "start_after: " in str(found) and "whole number of optimizer steps, or {fraction: " in str(found)


def test_momentum_moves_by_one_minus_beta_of_the_way_also_the_first_time() -> None:
    # AveragedModel copies the model at its first update, which must not be ours
    model = make_model()
    proximal, start = Momentum(model, total_steps=10, beta=0.75, beta_late=0.5), first_weight(model)
    nudge(model, 1.0)
    proximal.after_step(model)
    assert first_weight(proximal.teacher.module) == pytest.approx(start + 0.25)  # step 1 of 10: the first tenth
    proximal.after_step(model)
    assert first_weight(proximal.teacher.module) == pytest.approx(start + 0.25 + 0.5 * 0.75)


def test_vanilla_takes_the_model_over() -> None:
    model = make_model()
    proximal = Vanilla(model, total_steps=10, inner_steps=2)
    for _ in range(2):
        nudge(model)
        proximal.after_step(model)
    for teacher, student in zip(proximal.teacher.module.parameters(), model.parameters(), strict=True):
        assert torch.equal(teacher, student)


def test_vanilla_with_one_inner_step_warns(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        Vanilla(make_model(), total_steps=10, inner_steps=2)
        assert caplog.text == ""
        Vanilla(make_model(), total_steps=10)
    assert "the term and its gradient are zero at every step" in caplog.text


def test_the_teacher_has_no_dropout_and_no_gradient() -> None:
    model = make_model(dropout=0.5)
    proximal = Momentum(model, total_steps=10)
    penalty = proximal.penalty(ForwardPass(model, make_batch(), seed=1, step=0))
    assert penalty.item() > 0  # the student's dropout
    penalty.backward()
    assert not any(weight.requires_grad or weight.grad is not None for weight in proximal.teacher.parameters())
    assert not proximal.teacher.module.training


def test_training_the_model_leaves_the_teacher_in_evaluation_mode() -> None:
    model = make_model(dropout=0.5)
    proximal = Momentum(model, total_steps=10)
    proximal.after_step(model.train())
    assert not any(module.training for module in proximal.teacher.module.modules())


@pytest.mark.parametrize("name", sorted(PROXIMAL))
def test_state_survives_a_file_bit_for_bit(name: str) -> None:
    model = make_model()
    proximal = PROXIMAL.get(name)(model, total_steps=10, inner_steps=2)
    for _ in range(3):
        nudge(model)
        proximal.after_step(model)
    file = io.BytesIO()
    torch.save(proximal.state_dict(), file)
    file.seek(0)
    resumed = PROXIMAL.get(name)(model, total_steps=10, inner_steps=2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for each in (proximal, resumed):
        each.after_step(model)
    for mine, theirs in zip(proximal.teacher.parameters(), resumed.teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert resumed.steps_done == 4


def test_drift_is_the_distance_in_units_of_the_teacher() -> None:
    model = make_model()
    proximal = Momentum(model, total_steps=10)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.25)
    assert proximal.drift(model).item() == pytest.approx(0.25)


def test_the_papers_defaults() -> None:
    options = Momentum(make_model(), total_steps=10).options
    assert (options.mu, options.beta, options.beta_late, options.late_after, options.inner_steps) == (
        1.0, 0.99, 0.999, 0.1, 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"beta": 1.0}, "run.yml:4: proximal.beta: 1.0: input should be less than 1"),
        ({"beta_late": -0.1}, "run.yml:4: proximal.beta_late: -0.1: input should be greater than or equal to 0"),
        ({"inner_steps": 0}, "run.yml:4: proximal.inner_steps: 0: input should be greater than or equal to 1"),
        ({"mu": -1}, "run.yml:4: proximal.mu: -1"),
        ({"bta": 0.9}, "Did you mean 'beta'?"),
    ],
)
def test_bad_values_are_refused_with_their_place(options: dict[str, Any], expected: str) -> None:
    (found,) = map(str, named_faults(PROXIMAL, Named(name="momentum", **options), "proximal", where="run.yml:4"))
    assert expected in found


def test_a_teacher_shares_the_frozen_weights_and_no_other():
    model = make_model()
    model.encoder.requires_grad_(False)
    proximal = PROXIMAL.get("momentum")(model, total_steps=4)
    pairs = zip(model.named_parameters(), proximal.teacher.module.parameters(), strict=True)
    shared = {name for (name, mine), theirs in pairs if mine.data_ptr() == theirs.data_ptr()}
    assert shared == {name for name, _ in model.named_parameters() if name.startswith("encoder.")}
    assert all(name.startswith("heads.") for name in proximal.state_dict()["teacher"] if "weight" in name)
    with pytest.raises(ValueError, match=r"another model.*'heads.nli.dense.bias'"):
        proximal.load_state_dict({"steps_done": 1, "teacher": {}})
