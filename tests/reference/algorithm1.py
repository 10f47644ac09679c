"""Algorithm 1 of the SMART paper (Jiang et al. 2020, arXiv 1911.03437), line by line and example by example.

A transcription to test against: it knows nothing of `mtdnn.regularizers` and `mtdnn.training.objective`. There are no
batches and no padding in it: each example is one sequence of its real tokens, and what the paper writes as a
sum over examples is a sum over examples. Slow on purpose.

One thing the paper leaves open is decided here: x_i is the row's word embeddings, looked up in a table that belongs to
θ, and x̃_i is x_i plus a constant, so that the table gets gradients through both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.model import MultiTaskModel

Divergence = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """Names as in the paper."""

    epsilon: float
    eta: float
    iterations: int  # T_x̃
    p: float  # 2 or infinity
    lambda_s: float
    mu: float
    S: int
    beta: float
    beta_late: float
    late_after: float  # fraction of all updates


def symmetric_kl(p: Tensor, q: Tensor) -> Tensor:
    """ℓ_s(P, Q) = D_KL(P‖Q) + D_KL(Q‖P) of two rows of logits, section 2."""
    P, Q = torch.softmax(p, 0), torch.softmax(q, 0)
    return (P * (P / Q).log()).sum() + (Q * (Q / P).log()).sum()


def squared(p: Tensor, q: Tensor) -> Tensor:
    """ℓ_s(p, q) = (p − q)², section 2, for regression."""
    return ((p - q) ** 2).sum()


def examples(batch: Batch) -> Iterator[Batch]:
    """Each row alone, without padding."""
    for i in range(len(batch)):
        length = int(batch.mask[i].sum())
        inputs = {name: tensor[i : i + 1, :length] for name, tensor in batch.inputs.items()}
        yield Batch(batch.task, inputs, batch.labels[i : i + 1], batch.row_ids[i : i + 1])


def x_of(model: MultiTaskModel, example: Batch) -> Tensor:
    """[1, T, E]: rows of the embedding table."""
    table = model.encoder.backbone.get_input_embeddings().weight
    return table[example.inputs["input_ids"]]


def f(model: MultiTaskModel, example: Batch, x: Tensor) -> Tensor:
    """[C]: the model's output for word embeddings x."""
    return model(example, x)[0]


def norm(value: Tensor, p: float) -> Tensor:
    return value.abs().max() if p == torch.inf else (value * value).sum() ** 0.5


def adversarial_x(model: MultiTaskModel, example: Batch, nu: Tensor, ell: Divergence, settings: Settings) -> Tensor:
    """Lines 6-10 for one example: x̃ [1, T, E], given ν [1, T, E]."""
    x = x_of(model, example).detach()
    x_tilde = x + nu  # line 6
    for _ in range(settings.iterations):  # line 7
        x_tilde = x_tilde.detach().requires_grad_()
        (g,) = torch.autograd.grad(ell(f(model, example, x), f(model, example, x_tilde)), x_tilde)
        if norm(g, settings.p) > 0:
            g = g / norm(g, settings.p)  # line 8
        x_tilde = x_tilde + settings.eta * g  # line 9
        away = x_tilde - x
        if settings.p == torch.inf:
            away = torch.minimum(torch.maximum(away, torch.tensor(-settings.epsilon)), torch.tensor(settings.epsilon))
        elif norm(away, 2) > settings.epsilon:
            away = away * settings.epsilon / norm(away, 2)
        x_tilde = x + away
    return x_tilde.detach()


def smoothness(
    model: MultiTaskModel, batch: Batch, noises: Sequence[Tensor], ell: Divergence, settings: Settings
) -> Tensor:
    """R_s(θ) of equation 1, at the x̃ of Algorithm 1."""
    total = torch.zeros((), dtype=torch.float64)
    for example, nu in zip(examples(batch), noises, strict=True):
        x_tilde = adversarial_x(model, example, nu, ell, settings)
        x = x_of(model, example)
        constant = (x_tilde - x).detach()
        total = total + ell(f(model, example, x + constant), f(model, example, x))
    return total / len(batch)


def bregman(model: MultiTaskModel, teacher: MultiTaskModel, batch: Batch, ell: Divergence) -> Tensor:
    """D_Breg(θ, θ̃) below equation 2."""
    total = torch.zeros((), dtype=torch.float64)
    for example in examples(batch):
        reference = f(teacher, example, x_of(teacher, example)).detach()
        total = total + ell(f(model, example, x_of(model, example)), reference)
    return total / len(batch)


def task_loss(model: MultiTaskModel, batch: Batch) -> Tensor:
    """L(θ): cross entropy, or squared error."""
    total = torch.zeros((), dtype=torch.float64)
    for example in examples(batch):
        output = f(model, example, x_of(model, example))
        if batch.task == "similarity":
            total = total + (output[0] - example.labels[0]) ** 2
        else:
            total = total - torch.log_softmax(output, 0)[example.labels[0]]
    return total / len(batch)


def run(
    model: MultiTaskModel,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batches: Sequence[Batch],
    noises: Callable[[MultiTaskModel, Batch, int], Sequence[Tensor]],
    ell: Divergence,
    settings: Settings,
) -> list[dict[str, Tensor]]:
    """Lines 1-15: the weights θ after each optimizer step.

    Args:
        model: θ_0; moved in place.
        batches: one per optimizer step; their number is a multiple of S.
        noises: ν of each example of the batch of an optimizer step (counted from 0).
    """
    optimizer = make_optimizer(model)
    teacher = copy.deepcopy(model)  # line 1: θ̃_1 ← θ_0
    trajectory = []
    for t in range(1, len(batches) // settings.S + 1):  # line 2; θ̄_1 ← θ_{t−1} (line 3) is the model as it is
        for s in range(settings.S):  # line 4
            number = (t - 1) * settings.S + s
            batch = batches[number]  # line 5
            objective = task_loss(model, batch)
            objective = objective + settings.lambda_s * smoothness(
                model, batch, noises(model, batch, number), ell, settings
            )
            objective = objective + settings.mu * bregman(model, teacher, batch, ell)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()  # line 11
            trajectory.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        updates = t * settings.S
        beta = settings.beta if updates <= settings.late_after * len(batches) else settings.beta_late
        with torch.no_grad():  # line 14
            for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                slow.copy_((1 - beta) * fast + beta * slow)
    return trajectory
