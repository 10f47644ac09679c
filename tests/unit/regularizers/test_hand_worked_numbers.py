"""Each method's number on a model worked by hand: f(x) = 3x₁ + 4x₂ at x = (1, 1), label 5, so L = (7−5)² = 4.

The gradient of any loss with respect to x is along ±w = ±(3, 4); w/‖w‖₂ = (0.6, 0.8), w/‖w‖∞ = (0.75, 1).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mtdnn.regularizers.adversarial import Adversarial
from mtdnn.regularizers.attack import Attack
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.free_at import FreeAT
from mtdnn.regularizers.free_lb import FreeLB
from mtdnn.regularizers.r3f import R3F
from mtdnn.regularizers.r_drop import RDrop
from mtdnn.regularizers.smart import Smart
from mtdnn.regularizers.smart_release import SmartMtdnnRelease, odds_difference
from mtdnn.regularizers.vat import VAT
from mtdnn.training.objective import Objective
from tests.reference.tiny import make_batch, make_model
from tests.unit.regularizers.toy import ToyModel, losses_of, toy_batch, toy_pass

TINY_NOISE = 1e-9  # decides only which of the two sides the ascent takes


def test_smart_goes_to_a_corner_of_the_box() -> None:
    # η·(0.75, 1) = (0.075, 0.1), cut to ε = 0.05 in both: (3 + 4)·0.05 = 0.35, squared 0.1225
    method = Smart(epsilon=0.05, eta=0.1, noise=TINY_NOISE)
    assert losses_of(method)[0]["smart"] == pytest.approx(0.1225, rel=1e-9)
    assert float(method.diagnostics()["clipped"]) == 1.0
    assert float(method.diagnostics()["perturbation"]) == pytest.approx(0.05)


def test_smart_goes_to_the_rim_of_the_l2_ball() -> None:
    # ε·w/‖w‖₂: 5·0.05 = 0.25, squared 0.0625
    assert losses_of(Smart(epsilon=0.05, eta=0.1, noise=TINY_NOISE, norm="l2"))[0]["smart"] == pytest.approx(0.0625)


def test_smart_without_projection_goes_as_far_as_the_step() -> None:
    # η·w/‖w‖₂: 5·0.1 = 0.5, squared 0.25; the noise adds its 1e-9
    value = losses_of(Smart(epsilon=0.05, eta=0.1, noise=TINY_NOISE, norm="l2", projection="none"))[0]["smart"]
    assert value == pytest.approx(0.25, rel=1e-7)


def test_smart_rescaled_to_unit_norm_has_norm_one_whatever_epsilon_and_eta() -> None:
    # η·w/‖w‖₂ at norm 1, less the offset of 1e-6 beside η: (5·1)² = 25
    for eta in (0.1, 7.0):
        method = Smart(epsilon=1e-5, eta=eta, noise=TINY_NOISE, norm="l2", projection="unit")
        assert losses_of(method)[0]["smart"] == pytest.approx(25.0, rel=1e-4)


def test_the_released_step_adds_the_raw_gradient_before_it_is_rescaled() -> None:
    # raw gradient 2·(w·ν)·w with ν ~ 1e-9 is dwarfed by η = 1e9: δ = ±w/‖w‖₂ up to the offset 1e-6: (5·1)² = 25
    options = {"embeddings": "word", "targets": "live", "dropout": "same"}  # all else as in the paper
    method = SmartMtdnnRelease(epsilon=1e-5, eta=1e9, noise=TINY_NOISE, norm="l2", projection="unit", **options)
    assert losses_of(method)[0]["smart-mtdnn-release"] == pytest.approx(25.0, rel=1e-4)


def test_the_sum_is_the_loss_plus_weighted_penalties() -> None:
    named = losses_of(Smart(epsilon=0.05, eta=0.1, noise=TINY_NOISE, weight=2.0))[0]
    assert named["task"] == pytest.approx(4.0)
    assert named["loss"] == pytest.approx(4.0 + 2.0 * 0.1225)


@pytest.mark.parametrize("kind", [Adversarial, FreeAT, FreeLB])
def test_an_attack_takes_the_same_share_whichever_steps_it_applies_at(kind: type[Attack]) -> None:
    assert losses_of(kind(weight=0.5, every=3)) == losses_of(kind(weight=0.5))
    assert "k·λ" not in (kind.Options.model_fields["every"].description or "")


def test_vat_finds_the_direction_of_w() -> None:
    # r = ε·w/‖w‖₂ = 0.1·(0.6, 0.8): (0.1·5)² = 0.25
    assert losses_of(VAT(epsilon=0.1, xi=1e-3))[0]["vat"] == pytest.approx(0.25)


def test_r3f_measures_its_noise() -> None:
    # (w·z)² for the z it drew
    noise = toy_pass().noise(0.01, uniform=True)[0, 0]
    assert float(noise.abs().max()) <= 0.01
    assert losses_of(R3F(noise=0.01))[0]["r3f"] == pytest.approx(float(3 * noise[0] + 4 * noise[1]) ** 2)


def test_adversarial_climbs_the_label_loss() -> None:
    # the residual 2 grows by α·‖w‖₂ = 0.5 a step: (2 + 0.5)² = 6.25, (2 + 1)² = 9
    assert losses_of(Adversarial(steps=1, eta=0.1, start=0, epsilon=None))[0]["task"] == pytest.approx(6.25)
    assert losses_of(Adversarial(steps=2, eta=0.1, start=0, epsilon=None))[0]["task"] == pytest.approx(9.0)


def test_adversarial_stays_in_its_ball() -> None:
    # ‖δ‖₂ ≤ 0.12: (2 + 0.12·5)² = 6.76
    assert losses_of(Adversarial(steps=3, eta=0.1, start=0, epsilon=0.12))[0]["task"] == pytest.approx(6.76)


def test_a_share_of_the_adversarial_loss_leaves_the_rest_to_the_clean_one() -> None:
    # 0.25·6.25 + 0.75·4
    method = Adversarial(steps=1, eta=0.1, start=0, epsilon=None, weight=0.25)
    assert losses_of(method)[0]["task"] == pytest.approx(4.5625)


def test_free_lb_averages_the_losses_on_the_way() -> None:
    # K = 2 from the start: ½·4 and ½·6.25, one backward pass each
    named = losses_of(FreeLB(steps=2, eta=0.1, start=0))
    assert [each["task"] for each in named] == pytest.approx([2.0, 3.125])


def test_free_lb_leaves_the_gradient_of_the_mean() -> None:
    # ∇_w (w·(x+δ) − 5)² = 2·residual·(x+δ): δ₀ = 0, residual 2; δ₁ = (0.06, 0.08), residual 2.5; halves of both
    model = ToyModel()
    losses_of(FreeLB(steps=2, eta=0.1, start=0), model)
    expected = [0.5 * 4 * 1 + 0.5 * 5 * 1.06, 0.5 * 4 * 1 + 0.5 * 5 * 1.08]
    assert model.w.grad.tolist() == pytest.approx(expected)


def test_free_at_moves_the_weights_between_its_replays() -> None:
    # replay 1: loss 4, gradient of w 2·2·(1, 1) = (4, 4), of x along w: δ = 0.1·(0.6, 0.8)
    # SGD with lr 0.01: w = (2.96, 3.96); replay 2: w·(1.06, 1.08) − 5 = 3.1376 + 4.2768 − 5 = 2.4144
    model = ToyModel()
    objective = Objective(model, {"toy": FreeAT(steps=2, eta=0.1, start=0)}, seed=1)
    optimizer = torch.optim.SGD([model.w], lr=0.01)
    parts = []
    for part in objective.parts(toy_batch(), step=0):
        parts.append(part)
        part.loss.backward()
        if part.then_update:
            optimizer.step()
            optimizer.zero_grad()
    assert [part.then_update for part in parts] == [True, False]
    assert [part.loss.item() for part in parts] == pytest.approx([4.0, 2.4144**2])
    assert [float(part.named["task"]) for part in parts] == pytest.approx([2.0, 2.4144**2 / 2])  # the mean of replays


def test_a_loss_that_was_not_sent_backward_is_noticed() -> None:
    parts = Objective(ToyModel(), {"toy": FreeLB(steps=2)}, seed=1).parts(toy_batch(), step=0)
    next(parts)
    with pytest.raises(RuntimeError, match="call backward on each loss before asking for the next"):
        next(parts)


class TwoLogits(ForwardPass):
    """A pass of one row whose second run says something else: ½/½ and ¾/¼."""

    logits = torch.zeros(1, 2, dtype=torch.float64)

    def rerun(self, embeddings: Tensor, **kind: object) -> Tensor:
        assert kind == {"dropout": "independent"}
        return torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)


def test_r_drop_halves_divergence_and_losses() -> None:
    # ℓ_s(½/½, ¾/¼) = ¼·log 3 (as in test_losses), of which half; label 1: ½·(log 2 + log 4)
    model, batch = make_model(), make_batch(rows=1)
    batch.labels.fill_(1)
    terms = next(RDrop().losses(TwoLogits(model, batch, seed=1, step=0)))
    assert float(terms.penalty) == pytest.approx(math.log(3) / 8)
    assert float(terms.loss) == pytest.approx(1.5 * math.log(2))


def test_the_released_inner_loss_is_twice_the_difference_of_log_odds() -> None:
    # p = ¾/¼, q = ½/½: log odds ±log 3 against 0: 2·(¾·log 3 − ¼·log 3) = log 3; the offsets of 1e-6 stay
    p, q = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert odds_difference(p, q).item() == pytest.approx(math.log(3), rel=1e-5)
