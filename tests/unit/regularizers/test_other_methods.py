"""VAT, R3F, attacks and SMART's options against `tests/reference/other_methods.py`, in float64 with dropout off."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtdnn.batch import Batch
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.adversarial import Adversarial
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.free_at import FreeAT
from mtdnn.regularizers.r3f import R3F
from mtdnn.regularizers.r_drop import RDrop
from mtdnn.regularizers.smart import Smart
from mtdnn.regularizers.smart_release import SmartMtdnnRelease
from mtdnn.regularizers.vat import VAT
from mtdnn.training.objective import Objective
from tests.reference import other_methods
from tests.reference.algorithm1 import symmetric_kl
from tests.reference.other_methods import Attack, Geometry
from tests.reference.tiny import make_batch, make_model

SEED = 3
EXACT = {"rtol": 0.0, "atol": 1e-9}  # float64; both sum the same terms in another order, over padded or single rows
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}  # where the ascent follows a gradient that is computed in float32
P = {"inf": torch.inf, "l2": 2.0}
ATTACKS = {"adversarial": other_methods.adversarial, "free_lb": other_methods.free_lb}
INNER = {"symmetric": symmetric_kl, "one_sided": other_methods.one_sided, "odds": other_methods.stable_kl}


@pytest.fixture(params=["unpadded", "padded"])
def batch(request: pytest.FixtureRequest) -> Batch:
    """Three rows of three tokens each, or of three to six, with two columns more."""
    if request.param == "unpadded":
        return make_batch(rows=3, tokens=3)
    return make_batch(rows=3, tokens=6, padding=2)


@pytest.fixture
def model() -> MultiTaskModel:
    return make_model()


def pass_of(model: MultiTaskModel, batch: Batch) -> ForwardPass:
    return ForwardPass(model, batch, seed=SEED, step=0)


def noises(model: MultiTaskModel, batch: Batch, size: float, *, uniform: bool = False) -> list[Tensor]:
    """The noise of each row, cut to its real tokens: chance is the one thing both must share."""
    noise = pass_of(model, batch).noise(size, uniform=uniform)
    return [row[None, : int(mask.sum())] for row, mask in zip(noise, batch.mask, strict=True)]


def assert_same(model: MultiTaskModel, value: Tensor, expected: Tensor, **tolerance: float) -> None:
    """Of both scalars: their values, and their gradients of all weights."""
    assert value.item() > 1e-5, "so small a value would prove little"
    torch.testing.assert_close(value, expected, **tolerance)
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    assert_gradients(model, gradients, expected, **tolerance)


def assert_gradients(
    model: MultiTaskModel, gradients: Sequence[Tensor | None], expected: Tensor, **tolerance: float
) -> None:
    """They are the expected scalar's, for all weights."""
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    assert sum(each is not None for each in gradients) > 20
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert (gradient is None) == (expected_gradient is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected_gradient, **tolerance)


@pytest.mark.parametrize("scope", ["example", "token"])
@pytest.mark.parametrize("steps", [1, 2])
def test_vat_equals_its_paper(model: MultiTaskModel, batch: Batch, scope: str, steps: int) -> None:
    method = VAT(epsilon=0.3, xi=0.05, steps=steps, scope=scope)
    expected = other_methods.vat(
        model,
        batch,
        noises(model, batch, 1.0),
        Geometry(2.0, scope == "token"),
        epsilon=0.3,
        xi=0.05,
        iterations=steps,
    )
    assert_same(model, method.penalty(pass_of(model, batch)), expected, **EXACT)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_r3f_equals_its_paper(model: MultiTaskModel, batch: Batch, distribution: str) -> None:
    value = R3F(noise=0.05, distribution=distribution).penalty(pass_of(model, batch))
    drawn = noises(model, batch, 0.05, uniform=distribution == "uniform")
    assert_same(model, value, other_methods.r3f(model, batch, drawn), **EXACT)


@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("scope", ["example", "token"])
@pytest.mark.parametrize(
    ("projection", "inner_loss"),
    [("ball", "symmetric"), ("ball", "one_sided"), ("ball", "odds"), ("none", "one_sided")],
)
def test_smart_equals_its_paper_with_each_norm_scope_and_inner_loss(
    model: MultiTaskModel, batch: Batch, norm: str, scope: str, projection: str, inner_loss: str
) -> None:
    """The step is longer than the ball is wide: the second one goes on from its rim."""
    options = {"epsilon": 0.02, "eta": 0.03, "norm": norm, "scope": scope, "projection": projection}
    kind: type[Smart] = Smart
    if inner_loss == "odds":  # of the released code alone; all else as in the paper
        kind, options = SmartMtdnnRelease, {**options, "embeddings": "word", "targets": "live", "dropout": "same"}
    method = kind(**options, noise=0.01, steps=2, inner_loss=inner_loss)
    expected = other_methods.smart(
        model,
        batch,
        noises(model, batch, 0.01),
        Geometry(P[norm], scope == "token"),
        inner=INNER[inner_loss],
        epsilon=0.02 if projection == "ball" else torch.inf,
        eta=0.03,
        iterations=2,
    )
    tolerance = FLOAT32 if inner_loss == "odds" else EXACT
    assert_same(model, method.penalty(pass_of(model, batch)), expected, **tolerance)


@pytest.mark.parametrize(("inner_loss", "tolerance"), [("odds", FLOAT32), ("symmetric", EXACT)])
def test_the_released_preset_equals_the_released_code(
    model: MultiTaskModel, batch: Batch, inner_loss: str, tolerance: dict[str, float]
) -> None:
    """The released noise, and a step size at which gradients have a say beside it."""
    method = SmartMtdnnRelease(noise=1e-5, eta=1e-2, steps=2, inner_loss=inner_loss)
    expected = other_methods.released_smart(
        model, batch, noises(model, batch, 1e-5), inner=INNER[inner_loss], eta=1e-2, iterations=2
    )
    assert_same(model, method.penalty(pass_of(model, batch)), expected, **tolerance)


def attack_of(norm: str, scope: str, options: dict[str, Any]) -> Attack:
    """The same attack in the reference's words."""
    radius, geometry = options["epsilon"], Geometry(P[norm], scope == "token")
    return Attack(
        geometry, options["eta"], torch.inf if radius is None else radius, options["start"], 3, options["weight"]
    )


ATTACK_OPTIONS = [
    {"eta": 0.04, "start": 0.08, "epsilon": None, "weight": 1.0},
    {"eta": 0.04, "start": 0.08, "epsilon": 0.05, "weight": 0.4},
]


@pytest.mark.parametrize("name", sorted(ATTACKS))
@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("scope", ["example", "token"])
@pytest.mark.parametrize("options", ATTACK_OPTIONS, ids=["free", "in a ball, shared"])
def test_an_attack_equals_its_paper(
    model: MultiTaskModel, batch: Batch, name: str, norm: str, scope: str, options: dict[str, Any]
) -> None:
    method = REGULARIZERS.get(name)(**options, norm=norm, scope=scope, steps=3)
    value = torch.zeros((), dtype=torch.float64)
    for part in Objective(model, {"nli": method}, seed=SEED).parts(batch, step=0):
        part.loss.backward()
        value += part.loss.detach()
    draws = noises(model, batch, 1.0, uniform=True)
    expected = ATTACKS[name](model, batch, draws, attack_of(norm, scope, options))
    torch.testing.assert_close(value, expected.detach(), **EXACT)
    assert_gradients(model, [weight.grad for weight in model.parameters()], expected, **EXACT)


@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("scope", ["example", "token"])
@pytest.mark.parametrize("options", ATTACK_OPTIONS, ids=["free", "in a ball, shared"])
def test_free_at_moves_all_weights_as_its_paper_does(
    model: MultiTaskModel, batch: Batch, norm: str, scope: str, options: dict[str, Any]
) -> None:
    reference, before = copy.deepcopy(model), copy.deepcopy(model)
    objective = Objective(model, {"nli": FreeAT(**options, norm=norm, scope=scope, steps=3)}, seed=SEED)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=1e-2), []
    draws = noises(model, batch, 1.0, uniform=True)
    for part in objective.parts(batch, step=0):
        part.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(part.loss.detach())
    expected = other_methods.free_at(reference, batch, draws, attack_of(norm, scope, options), lr=1e-2)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), **EXACT)
    for (name, weight), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weight, theirs, **EXACT, msg=lambda text, name=name: f"{name}: {text}")
    table, table_before = (each.encoder.backbone.get_input_embeddings().weight for each in (model, before))
    assert float((table - table_before).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["adversarial", "free_at", "free_lb"])
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_every_pass_of_an_attack_has_the_masks_of_the_clean_pass(name: str, weight: float) -> None:
    """With dropout and next to no move, the mean of its losses is the clean one."""
    model, batch = make_model(dropout=0.3), make_batch()
    method = REGULARIZERS.get(name)(start=0, eta=1e-12, steps=3, weight=weight)
    clean = next(Objective(model, seed=SEED).parts(batch, step=0)).named["task"]
    total = torch.zeros_like(clean)
    for part in Objective(model, {"nli": method}, seed=SEED).parts(batch, step=0):
        part.loss.backward()
        total += part.named["task"]
    torch.testing.assert_close(total, clean, **EXACT)


@pytest.mark.parametrize("name", ["adversarial", "free_at", "free_lb"])
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_an_attack_without_dropout_has_none_in_its_clean_share_either(name: str, weight: float) -> None:
    found = []
    for seed in (1, 2):
        model, method = make_model(dropout=0.5), REGULARIZERS.get(name)(start=0, steps=2, weight=weight, dropout="off")
        parts = Objective(model, {"nli": method}, seed=seed).parts(make_batch(), step=0)
        found.append([(part.loss.backward(), part.named["task"])[1] for part in parts])
    assert found[0] == found[1]


def test_projected_gradient_ascent_has_a_ball_by_default_and_the_ball_can_be_taken_away() -> None:
    """Three steps of 0.04 from a start of about 0.046 reach 0.17; the default ball ends at 0.08, the start's bound."""
    forward_pass = ForwardPass(make_model(), make_batch(), seed=1, step=0)
    lengths = {}
    for given, options in (("default", {}), ("none", {"epsilon": None})):
        method, delta = Adversarial(**options), torch.zeros_like(forward_pass.embeddings)
        method.embedding_rms = 1.0
        for _ in range(3):
            delta = method.ascended(delta, torch.ones_like(delta), forward_pass)
        lengths[given] = torch.linalg.vector_norm(delta, dim=(1, 2)).max().item()
    assert lengths["default"] == pytest.approx(0.08) and lengths["none"] == pytest.approx(0.12)


def test_the_weight_of_r_drop_is_half_of_the_papers_alpha() -> None:
    """Equation 4, −log P₁ − log P₂ + α·½(KL + KL), is twice our sum of loss and penalty at α = 2·weight."""
    first, second = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 0])
    two_passes = SimpleNamespace(
        logits=first,
        embeddings=None,
        rerun=lambda embeddings, dropout: second,
        loss=lambda logits: torch.nn.functional.cross_entropy(logits, labels),
        divergence=lambda p, q: torch.stack([symmetric_kl(a, b) for a, b in zip(p, q, strict=True)]),
    )
    (terms,) = RDrop(weight=3.0).losses(two_passes)
    alpha, log_p, log_q = 2 * 3.0, first.log_softmax(1), second.log_softmax(1)
    kl = ((log_p.exp() * (log_p - log_q)).sum(1) + (log_q.exp() * (log_q - log_p)).sum(1)) / 2
    rows = torch.arange(4)
    paper = (-log_p[rows, labels] - log_q[rows, labels] + alpha * kl).mean()
    assert terms.penalty is not None
    torch.testing.assert_close(2 * (terms.loss + terms.penalty), paper, **EXACT)
