"""The facts that decide whether SMART works, for every preset; its options; its precision guard."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtdnn.config.options import Named, named_faults
from mtdnn.errors import ConfigError
from mtdnn.regularizers.adversarial import Adversarial
from mtdnn.regularizers.base import REGULARIZERS, RunPrecision
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.perturbation import PerturbationRegularizer
from mtdnn.regularizers.r3f import R3F
from mtdnn.regularizers.smart import Smart
from mtdnn.regularizers.vat import VAT
from mtdnn.training.objective import Objective
from tests.reference.tiny import make_batch, make_model

PRESETS = sorted(name for name in REGULARIZERS if issubclass(REGULARIZERS.get(name), Smart))
BF16 = RunPrecision("bf16", torch.finfo(torch.bfloat16).eps)
FLOAT32 = RunPrecision("float32", torch.finfo(torch.float32).eps)


def prepared(preset: str, **options: Any) -> Smart:
    method = REGULARIZERS.get(preset)(**options)
    method.prepare(embedding_rms=0.1, embedding_size=16, precision=FLOAT32)
    return method


def pass_of(model: torch.nn.Module, batch: object, step: int = 0) -> ForwardPass:
    return ForwardPass(model, batch, seed=1, step=step)


def perturbation(method: Smart, given: ForwardPass) -> Tensor:
    return method.perturbation(given, given.embeddings.detach(), given.logits.detach())


def test_there_are_the_papers_preset_the_released_one_and_the_tuned_one() -> None:
    assert PRESETS == ["smart", "smart-mtdnn-release", "smart-tuned"]


def test_the_tuned_preset_is_the_paper_s_with_other_sizes_and_weight() -> None:
    tuned, options = prepared("smart-tuned"), {"epsilon": {"relative": 0.05}, "eta": {"relative": 0.05}, "weight": 3}
    model, batch = make_model(), make_batch()
    same = prepared("smart", **options)
    assert tuned.options.model_dump() == same.options.model_dump()
    assert tuned.penalty(pass_of(model, batch)).item() == same.penalty(pass_of(model, batch)).item()


# Fact 1: with independent masks the term mostly measures dropout; with the same ones, the perturbation.


@pytest.mark.parametrize("preset", PRESETS)
def test_with_the_same_masks_dropout_alone_gives_no_penalty_and_with_independent_ones_it_does(preset: str) -> None:
    model, batch = make_model(dropout=0.2, dtype=torch.float32), make_batch()
    options = {"epsilon": 1e-7, "eta": 1e-7, "noise": 0, "projection": "ball"}  # x̃ is x
    options |= {"embeddings": "word"} if preset == "smart-mtdnn-release" else {}
    same = prepared(preset, dropout="same", **options).penalty(pass_of(model, batch)).item()
    independent = prepared(preset, dropout="independent", **options).penalty(pass_of(model, batch)).item()
    off = prepared(preset, dropout="off", **options).penalty(pass_of(model, batch)).item()
    assert same < 1e-12
    assert off < 1e-12
    assert independent > 1e-4


def test_at_the_published_epsilon_dropout_outweighs_the_perturbation_a_hundredfold() -> None:
    model, batch = make_model(dropout=0.1, dtype=torch.float32), make_batch(rows=16)
    same = prepared("smart", dropout="same").penalty(pass_of(model, batch)).item()
    independent = prepared("smart", dropout="independent").penalty(pass_of(model, batch)).item()
    assert independent > 100 * same


# Fact 2: a perturbation below the resolution of the run's numbers.


def test_auto_precision_runs_in_float32_where_bf16_cannot_hold_epsilon_and_says_so(caplog: Any) -> None:
    method = Smart(epsilon=1e-5)
    with caplog.at_level(logging.INFO):
        method.prepare(embedding_rms=0.1, embedding_size=16, precision=BF16)
    assert method.precision == "float32"
    # 0.1 · 2⁻⁷ = 0.00078125, the distance of neighbouring bf16 numbers around 0.1
    assert "the smallest size that works is 0.00079 (epsilon): its passes run in float32" in caplog.text


@pytest.mark.parametrize(
    ("options", "precision", "expected"),
    [
        ({"epsilon": 1e-3}, BF16, "run"),
        ({"epsilon": 1e-5}, FLOAT32, "run"),
        ({"epsilon": 1e-5, "eta": 1e-2, "projection": "none"}, BF16, "run"),
        ({"epsilon": 1e-3, "norm": "l2"}, BF16, "float32"),  # a coordinate of the ball is about 1e-3/√16
        ({"epsilon": 1e-3, "precision": "float32"}, BF16, "float32"),
        ({"epsilon": {"relative": 0.02}}, BF16, "run"),
    ],
)
def test_precision_follows_the_size_of_a_coordinate(
    options: dict[str, Any], precision: RunPrecision, expected: str
) -> None:
    method = Smart(**options)
    method.prepare(embedding_rms=0.1, embedding_size=16, precision=precision)
    assert method.precision == expected


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        (Smart, {"epsilon": 1e-5}, ["epsilon"]),
        (Smart, {"epsilon": 1e-5, "eta": 1.0, "norm": "l2"}, ["epsilon"]),
        (Smart, {"epsilon": 1e-2, "eta": 2e-5}, ["eta"]),
        (Smart, {"epsilon": 1e-2, "steps": 0}, ["noise"]),
        (Smart, {"epsilon": 1e-2, "steps": 0, "norm": "l2"}, ["noise"]),
        (Smart, {"eta": 1e-5, "noise": 1e-6, "projection": "none"}, ["eta"]),
        (Adversarial, {"eta": 1e-5, "epsilon": 1e-4}, ["eta", "epsilon"]),
        (VAT, {"xi": 1e-5}, ["xi"]),
        (R3F, {"noise": 1e-5}, ["noise"]),
    ],
)
@pytest.mark.parametrize("spacing", [BF16, RunPrecision("tf32", 2.0**-10)])
@pytest.mark.parametrize("rms", [0.1, 0.0953])
def test_precision_run_with_too_small_a_size_is_refused_with_the_smallest_that_works(
    kind: type[PerturbationRegularizer], options: dict[str, Any], names: list[str], spacing: RunPrecision, rms: float
) -> None:
    place: dict[str, Any] = {"embedding_rms": rms, "embedding_size": 384, "precision": spacing}
    method = kind(**options, precision="run")
    with pytest.raises(
        ConfigError, match=rf"resolution of {spacing.name} .* that works is .* \({', '.join(names)}\)\."
    ):
        method.prepare(**place)
    (found,) = map(str, method.precision_faults("run.yml:9", "regularizer", **place))
    assert found.startswith("run.yml:9: regularizer.precision: run: moves of ")
    assert found.endswith("Use precision: auto, or larger sizes.")
    reported = found.partition("that works is ")[2].split()[0]
    enough = {**options, **dict.fromkeys(names, reported)}
    assert kind(**enough, precision="run").precision_faults("", "", **place) == []
    smaller = {**options, **dict.fromkeys(names, float(reported) / 1.2)}  # more than one of the second digit
    assert kind(**smaller, precision="run").precision_faults("", "", **place) != []


@pytest.mark.parametrize("mode", ["auto", "run", "float32"])
def test_sizes_that_float32_cannot_hold_are_refused_whatever_the_precision(mode: str) -> None:
    place: dict[str, Any] = {"embedding_rms": 0.1, "embedding_size": 16}
    method = Smart(epsilon=1e-9, precision=mode)
    assert method.needs_resolution
    for precision in (BF16, FLOAT32):
        (found,) = map(str, method.precision_faults("run.yml:9", "regularizer", **place, precision=precision))
        assert found.startswith("run.yml:9: regularizer: moves of 1e-09 are below the resolution of float32 ")
        assert found.endswith("the smallest size that works is 1.2e-08 (epsilon). Give larger sizes.")
    assert Smart(epsilon=1.2e-8, precision="float32").precision_faults("", "", **place, precision=BF16) == []


@pytest.mark.parametrize(
    ("name", "options", "reported"),
    [
        ("smart", {}, ["epsilon 1e-05", "eta 0.001", "noise 1e-05"]),
        ("smart", {"projection": "none"}, ["eta 0.001", "noise 1e-05"]),
        ("smart", {"projection": "unit"}, ["eta 0.001", "noise 1e-05"]),
        ("smart-mtdnn-release", {}, ["eta 1e-05", "noise 1e-05"]),
    ],
)
def test_only_sizes_that_are_used_are_announced(
    caplog: Any, name: str, options: dict[str, Any], reported: list[str]
) -> None:
    with caplog.at_level(logging.INFO):
        prepared(name, **options)
    assert caplog.messages[0].startswith(f"{name}: {', '.join(reported)}; word embeddings have root mean square ")


def test_an_ascent_that_starts_where_the_gradient_is_zero_is_reported(caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        prepared("smart", noise=0)
        assert "noise is 0" in caplog.messages[-1]
        caplog.clear()
        prepared("smart", steps=0)
        assert "noise is 0" not in caplog.text


def test_logits_as_coarse_as_bf16_are_compared_in_float32_alone_and_weight_0_needs_no_numbers() -> None:
    place: dict[str, Any] = {"embedding_rms": 0.1, "embedding_size": 16, "precision": replace(BF16, of_logits=True)}
    method = Smart(epsilon=0.5, eta=0.5)
    method.prepare(**place)
    assert method.precision == "float32"
    with pytest.raises(ConfigError, match=r"the logits are in bf16, too coarse .* passes. Use precision: auto.$"):
        Smart(epsilon=0.5, eta=0.5, precision="run").prepare(**place)
    attack = Adversarial(eta=0.5)  # one pass, and a label to climb against
    attack.prepare(**place)
    assert attack.precision == "run"
    Smart(weight=0, precision="run").prepare(**place)


def test_what_several_tasks_say_alike_is_logged_once(caplog: Any) -> None:
    model = make_model(dtype=torch.float32)

    def bf16() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    with caplog.at_level(logging.INFO):
        Objective(model, {"nli": Smart(), "similarity": Smart()}, seed=1, autocast=bf16)
    assert [line.split(" ")[1] for line in caplog.messages] == ["epsilon", "moves"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Objective(model, {"nli": Smart(), "similarity": Smart(epsilon=0.5)}, seed=1, autocast=bf16)
    assert [line.split(" ")[1] for line in caplog.messages] == ["epsilon", "moves", "epsilon"]


def test_in_bf16_a_step_with_a_small_epsilon_computes_both_passes_in_float32() -> None:
    model, batch = make_model(dtype=torch.float32, layers=2), make_batch()

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def measured(context: Any, **options: Any) -> float:
        part = next(Objective(model, {"nli": Smart(**options)}, seed=1, autocast=context).parts(batch, step=0))
        return float(part.named["smart"])

    assert measured(autocast) == measured(nullcontext)
    coarse = Objective(model, {"nli": Smart()}, seed=1, autocast=autocast)
    coarse.regularizers["nli"].precision = "run"  # what would be measured is rounding of the embeddings
    assert float(next(coarse.parts(batch, step=0)).named["smart"]) != pytest.approx(measured(nullcontext), rel=0.2)


# Fact 3: the inner gradient is with respect to x̃ only.


@pytest.mark.parametrize("preset", PRESETS)
def test_the_inner_steps_compute_no_gradient_of_a_weight(preset: str) -> None:
    model, batch = make_model(), make_batch()
    given, seen = pass_of(model, batch), []
    for name, weight in model.named_parameters():
        weight.grad = torch.full_like(weight, 7.0)
        weight.register_hook(lambda gradient, name=name: seen.append(name))
    perturbation(prepared(preset, steps=2), given)
    assert seen == []
    assert all((weight.grad == 7.0).all() for weight in model.parameters())


# Fact 4: padding, the ball, a zero gradient.


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_padding_is_never_perturbed(preset: str, steps: int) -> None:
    given = pass_of(make_model(), make_batch(padding=3))
    delta = perturbation(prepared(preset, steps=steps), given)
    assert delta[given.mask].any()
    assert not delta[~given.mask].any()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_ball_holds_exactly_in_float32(preset: str, epsilon: float, steps: int) -> None:
    given = pass_of(make_model(dtype=torch.float32), make_batch())
    delta = perturbation(prepared(preset, projection="ball", epsilon=epsilon, steps=steps, eta=1e-2), given)
    x = given.embeddings.detach()
    assert not (delta.abs() > epsilon).any()
    assert not (((x + delta) - x).abs() > epsilon).any()
    assert delta.abs().max().item() > 0.5 * epsilon


@pytest.mark.parametrize("preset", PRESETS)
def test_a_gradient_that_is_zero_leaves_x_tilde_where_it_is(preset: str) -> None:
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        model.heads["nli"].output.weight.zero_()  # the output no longer depends on the input
    given = pass_of(model, batch)
    delta = perturbation(prepared(preset, projection="none", steps=3, noise=1e-4), given)
    assert torch.equal(delta, given.noise(1e-4))


# Fact 5: weight 0 changes nothing (for every regularizer, in tests/contract); chance comes from its own stream.


@pytest.mark.parametrize("preset", PRESETS)
def test_the_clean_pass_draws_the_same_masks_with_and_without(preset: str) -> None:
    model, batch = make_model(dropout=0.2), make_batch()
    plain = next(Objective(model, seed=1).parts(batch, step=4))
    state = torch.get_rng_state()
    regularized = next(Objective(model, {"nli": prepared(preset)}, seed=1).parts(batch, step=4))
    assert torch.equal(plain.named["task"], regularized.named["task"])
    assert torch.equal(state, torch.get_rng_state())


# The rest of the specification.


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", ["nli", "similarity"])
def test_padding_changes_no_penalty(preset: str, task: str) -> None:
    model, method = make_model(), prepared(preset, dropout="off")
    short = method.penalty(pass_of(model, make_batch(task)))
    long = method.penalty(pass_of(model, make_batch(task, padding=9)))
    torch.testing.assert_close(short, long, rtol=1e-9, atol=1e-16)  # float64, sums in another order


def test_the_papers_defaults() -> None:
    options = Smart().options
    values = options.epsilon, options.eta, options.noise, options.steps, options.norm, options.weight
    assert values == (1e-5, 1e-3, 1e-5, 1, "inf", 1.0)
    assert (options.scope, options.projection, options.dropout, options.precision) == (
        "example", "ball", "same", "auto",
    )  # fmt: skip


def test_relative_sizes_are_settled_at_the_start_and_kept_by_a_resumed_run(caplog: Any) -> None:
    method = Smart(epsilon={"relative": 0.002}, eta={"relative": 0.2}, noise=1e-4)
    with caplog.at_level(logging.INFO):
        method.prepare(embedding_rms=0.057, embedding_size=384, precision=FLOAT32)
    assert method.sizes == pytest.approx({"epsilon": 1.14e-4, "eta": 0.0114, "noise": 1e-4})
    assert (
        "smart: epsilon 0.000114, eta 0.0114, noise 0.0001; word embeddings have root mean square 0.057" in caplog.text
    )
    resumed = Smart(epsilon={"relative": 0.002}, eta={"relative": 0.2}, noise=1e-4)
    resumed.prepare(embedding_rms=0.06, embedding_size=384, precision=FLOAT32)  # fine-tuned embeddings
    resumed.load_state_dict(method.state_dict())
    assert resumed.sizes == method.sizes


def test_more_steps_find_a_worse_point() -> None:
    model, batch = make_model(), make_batch(rows=8)
    options = {"epsilon": 0.05, "eta": 0.02, "noise": 1e-4}
    values = [prepared("smart", steps=steps, **options).penalty(pass_of(model, batch)).item() for steps in (0, 1, 3)]
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"epsilon": -1e-5}, "run.yml:9: regularizer.epsilon: -1e-05: expected a number ≥ 0"),
        ({"epsilon": 0}, "run.yml:9: regularizer.epsilon: 0: expected a number above 0; to turn"),
        ({"norm": "l1"}, "run.yml:9: regularizer.norm: 'l1': input should be 'inf' or 'l2'"),
        ({"steps": -1}, "run.yml:9: regularizer.steps: -1"),
        ({"every": 0}, "run.yml:9: regularizer.every: 0"),
        ({"weight": -1}, "run.yml:9: regularizer.weight: -1"),
        ({"dropout": "none"}, "run.yml:9: regularizer.dropout: 'none': input should be 'same', 'independent' or 'off'"),
        ({"epsilom": 1e-5}, "Did you mean 'epsilon'?"),
        (
            {"projection": "sphere"},
            "run.yml:9: regularizer.projection: 'sphere': input should be 'ball', 'none' or 'unit'",
        ),
        ({"inner_loss": "odds"}, "regularizer.inner_loss: 'odds': only the released code does this. Use smart-mtdnn-r"),
        ({"targets": "fixed"}, "regularizer.targets: unknown key 'targets'; known: weight, every,"),
        ({"embeddings": "block"}, "It is an option of smart-mtdnn-release."),
        ({"inner_loss": "both"}, "regularizer.inner_loss: 'both': input should be 'symmetric' or 'one_sided'"),
    ],
)
def test_bad_values_are_refused_with_their_place(options: dict[str, Any], expected: str) -> None:
    (found,) = map(str, named_faults(REGULARIZERS, Named(name="smart", **options), "regularizer", where="run.yml:9"))
    assert expected in found


@pytest.mark.parametrize("task", ["nli", "similarity"])
def test_in_bf16_every_row_of_a_fitted_model_ascends_for_a_size_that_the_guard_accepts(task: str) -> None:
    """Where logits are bf16 too, the start changes none of them: the gradient is 0, and the perturbation only noise."""
    model, batch = make_model(dtype=torch.float32, layers=2, scale=1.0), make_batch(task, rows=16, tokens=12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.task_types[task].loss(model(batch).float(), batch).backward()
        optimizer.step()

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def still_rows_and_penalty(context: Any, precision: RunPrecision) -> tuple[int, float]:
        method = Smart(epsilon={"relative": 0.05}, eta={"relative": 0.05}, noise={"relative": 2e-4}, precision="run")
        rms = model.encoder.embedding_rms()
        method.prepare(embedding_rms=rms, embedding_size=16, precision=precision)
        given = ForwardPass(model, batch, seed=1, step=0, autocast=context)
        start = given.noise(method.sizes["noise"])
        moved = (perturbation(method, given) - start).abs().amax((1, 2))
        return int((moved == 0).sum()), float(method.penalty(given).detach())

    still, penalty = still_rows_and_penalty(autocast, BF16)
    still_in_float32, penalty_in_float32 = still_rows_and_penalty(nullcontext, FLOAT32)
    assert still == still_in_float32 == 0
    assert penalty == pytest.approx(penalty_in_float32, rel=0.5)
