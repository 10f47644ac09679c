"""What the released SMART does otherwise than Algorithm 1, term by term; its numbers are in test_other_methods.py."""

from __future__ import annotations

import torch

from mtdnn.regularizers.base import RunPrecision
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.smart_release import SmartMtdnnRelease, fixed_target_divergence
from mtdnn.task_types.span import Span
from tests.reference.tiny import make_batch, make_model

FLOAT32 = RunPrecision("float32", torch.finfo(torch.float32).eps)


def prepared(**options: object) -> SmartMtdnnRelease:
    method = SmartMtdnnRelease(**options)
    method.prepare(embedding_rms=0.1, embedding_size=16, precision=FLOAT32)
    return method


def pass_of(model: torch.nn.Module, batch: object) -> ForwardPass:
    return ForwardPass(model, batch, seed=1, step=0)


def perturbation(method: SmartMtdnnRelease, given: ForwardPass) -> torch.Tensor:
    return method.perturbation(given, given.embeddings.detach(), given.logits.detach())


def test_the_released_preset_moves_tokens_by_one_and_stays_in_the_runs_precision() -> None:
    method = SmartMtdnnRelease()
    method.prepare(
        embedding_rms=0.1, embedding_size=16, precision=RunPrecision("bf16", torch.finfo(torch.bfloat16).eps)
    )
    assert method.precision == "run"


def test_the_released_preset_rescales_every_token_to_norm_one_whatever_epsilon() -> None:
    given = pass_of(make_model(), make_batch())
    delta = perturbation(prepared(epsilon=1e-5), given)
    # noise of 1e-5 over its norm + 1e-6: a little below 1
    largest = delta.abs().amax(dim=-1)[given.mask]
    assert largest.min().item() > 0.8
    assert largest.max().item() < 1.0


def test_with_the_released_step_size_the_perturbation_is_the_noise_rescaled() -> None:
    given = pass_of(make_model(), make_batch())
    delta, noise = perturbation(prepared(), given), given.noise(1e-5)
    cosine = torch.nn.functional.cosine_similarity(delta[given.mask], noise[given.mask], dim=-1)
    assert cosine.min().item() > 0.999


def test_fixed_targets_keep_the_value_of_the_divergence_and_only_part_of_its_gradient() -> None:
    # KL(sg q‖p) + KL(sg p‖q): ∂/∂logits of p is p − q, of q it is q − p
    given = pass_of(make_model(), make_batch())
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    values = fixed_target_divergence(given, p, q)
    torch.testing.assert_close(values, given.divergence(p, q))
    of_p, of_q = torch.autograd.grad(values.sum(), (p, q))
    torch.testing.assert_close(of_p, p.softmax(1) - q.softmax(1))
    torch.testing.assert_close(of_q, q.softmax(1) - p.softmax(1))


def test_the_released_preset_embeds_twice_so_that_no_perturbation_still_gives_a_penalty() -> None:
    options = {"steps": 0, "noise": 0, "dropout": "off"}
    model, batch = make_model(), make_batch()
    assert prepared(**options).penalty(pass_of(model, batch)).item() > 1e-5
    once = prepared(**options, embeddings="word").penalty(pass_of(model, batch))
    assert once.item() < 1e-20


def test_the_released_preset_is_refused_for_types_that_code_has_no_term_for() -> None:
    (found,) = map(str, SmartMtdnnRelease.type_faults(Span, "t.yml:3", "ner.regularizer"))
    assert found == (
        "t.yml:3: ner.regularizer: smart-mtdnn-release is for logits of classes, number, candidates; those of Span are "
        "of parts. Use another regularizer, or `none`, for this task."
    )
