"""VAT, R3F, attacks on the labels, and SMART's options, written from their papers, example by example.

Transcriptions to test against, as `algorithm1` is one of the paper's SMART: they know nothing of `mtdnn.regularizers`;
no batches, no padding, and chance is given: ν, d or u of each example is [1, T, E]. Where a paper takes x for fixed
data, x is the row's word embeddings here, and the table gets gradients through every pass that θ gets them through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtdnn.batch import Batch
from mtdnn.model import MultiTaskModel
from tests.reference.algorithm1 import Divergence, examples, f, symmetric_kl, task_loss, x_of


@dataclass(frozen=True)
class Geometry:
    """What a norm is: p is 2 or infinity, over a whole example or over each of its tokens."""

    p: float
    per_token: bool

    def length(self, value: Tensor) -> Tensor:
        """[1, 1, 1], or [1, T, 1] per token."""
        vectors = value if self.per_token else value.reshape(1, 1, -1)
        if self.p == torch.inf:
            return vectors.abs().max(dim=2, keepdim=True).values
        return (vectors * vectors).sum(dim=2, keepdim=True) ** 0.5

    def in_ball(self, delta: Tensor, radius: float) -> Tensor:
        """The nearest point with ‖δ‖ ≤ radius."""
        if self.p == torch.inf:
            return torch.where(delta.abs() > radius, radius * delta.sign(), delta)
        return torch.where(self.length(delta) > radius, delta * (radius / self.length(delta)), delta)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """D_KL(P‖Q) of two rows of logits."""
    P, Q = torch.softmax(p, 0), torch.softmax(q, 0)
    return (P * (P / Q).log()).sum()


def vat(
    model: MultiTaskModel,
    batch: Batch,
    noises: Sequence[Tensor],
    geometry: Geometry,
    *,
    epsilon: float,
    xi: float,
    iterations: int,
) -> Tensor:
    """Mean LDS, Miyato et al. 2018, arXiv 1704.03976, equations 5-13: power iteration, then KL at r_vadv."""
    total = torch.zeros((), dtype=torch.float64)
    for example, d in zip(examples(batch), noises, strict=True):
        x = x_of(model, example)
        reference = f(model, example, x).detach()  # p(y|x, θ̂): a constant
        d = d / geometry.length(d)
        for _ in range(iterations):
            r = (xi * d).requires_grad_()
            (g,) = torch.autograd.grad(kl(reference, f(model, example, x.detach() + r)), r)
            d = g / geometry.length(g)
        total = total + kl(reference, f(model, example, x + epsilon * d))
    return total / len(batch)


def r3f(model: MultiTaskModel, batch: Batch, noises: Sequence[Tensor]) -> Tensor:
    """Mean KL_S(f(x) ‖ f(x + z)), Aghajanyan et al. 2020, arXiv 2008.03156, equation 5."""
    total = torch.zeros((), dtype=torch.float64)
    for example, z in zip(examples(batch), noises, strict=True):
        x = x_of(model, example)
        total = total + symmetric_kl(f(model, example, x), f(model, example, x + z))
    return total / len(batch)


def one_sided(perturbed: Tensor, clean: Tensor) -> Tensor:
    """KL(clean‖perturbed), as VAT ascends it."""
    return kl(clean, perturbed)


def stable_kl(logit: Tensor, target: Tensor) -> Tensor:
    """What the released code ascends: namisan/mt-dnn, `mt_dnn/loss.py`."""
    p, y = torch.softmax(logit, 0), torch.softmax(target, 0)
    rp = -(1 / (p + 1e-6) - 1 + 1e-6).detach().log()
    ry = -(1 / (y + 1e-6) - 1 + 1e-6).detach().log()
    return (p * (rp - ry) * 2).sum()


def smart(
    model: MultiTaskModel,
    batch: Batch,
    noises: Sequence[Tensor],
    geometry: Geometry,
    *,
    inner: Divergence,
    epsilon: float,
    eta: float,
    iterations: int,
) -> Tensor:
    """R_s of Jiang et al. 2020, arXiv 1911.03437, with another norm and another inner loss than Algorithm 1's.

    Args:
        inner: of the perturbed and the clean logits.
        epsilon: radius of the ball; infinity is no ball.
    """
    total = torch.zeros((), dtype=torch.float64)
    for example, delta in zip(examples(batch), noises, strict=True):
        x = x_of(model, example)
        clean = f(model, example, x)
        for _ in range(iterations):
            delta = delta.detach().requires_grad_()
            (g,) = torch.autograd.grad(inner(f(model, example, x.detach() + delta), clean.detach()), delta)
            delta = geometry.in_ball(delta.detach() + eta * g / geometry.length(g), epsilon)
        total = total + symmetric_kl(f(model, example, x + delta), clean)
    return total / len(batch)


def released_smart(
    model: MultiTaskModel, batch: Batch, noises: Sequence[Tensor], *, inner: Divergence, eta: float, iterations: int
) -> Tensor:
    """What namisan/mt-dnn computes, `mt_dnn/perturbation.py`: `norm_grad` per token, and `SymKlCriterion`."""
    total = torch.zeros((), dtype=torch.float64)
    for example, noise in zip(examples(batch), noises, strict=True):
        words, segments = x_of(model, example), example.inputs["token_type_ids"]
        clean = f(model, example, words)
        embed = model.encoder.backbone.embeddings(inputs_embeds=words, token_type_ids=segments)
        for _ in range(iterations):
            noise = noise.detach().requires_grad_()
            (g,) = torch.autograd.grad(inner(f(model, example, embed.detach() + noise), clean.detach()), noise)
            unscaled = noise.detach() + eta * g
            noise = unscaled / (unscaled.abs().max(dim=2, keepdim=True).values + 1e-6)
        adversarial = f(model, example, embed + noise)
        total = total + kl(clean.detach(), adversarial) + kl(adversarial.detach(), clean)
    return total / len(batch)


@dataclass(frozen=True)
class Attack:
    """Names as in FreeLB, Zhu et al. 2020, arXiv 1909.11764, Algorithm 1.

    Attributes:
        alpha: length of a step.
        epsilon: radius of the ball; infinity is no ball.
        start: bound of the random start.
        K: passes of FreeLB and FreeAT; steps of PGD.
        share: of the attacked loss; the clean loss has the rest.
    """

    geometry: Geometry
    alpha: float
    epsilon: float
    start: float
    K: int
    share: float

    def first(self, u: Tensor) -> Tensor:
        """δ₀ ~ U(−start, start), for l2 over √N_δ, the root of the number of coordinates; u is uniform in [−1, 1]."""
        if self.geometry.p == torch.inf:
            return self.start * u
        _, tokens, size = u.shape
        return self.start * u / (size if self.geometry.per_token else tokens * size) ** 0.5

    def next(self, model: MultiTaskModel, example: Batch, delta: Tensor) -> Tensor:
        """Π(δ + α g/‖g‖)."""
        delta = delta.detach().requires_grad_()
        (g,) = torch.autograd.grad(label_loss(model, example, x_of(model, example).detach() + delta), delta)
        return self.geometry.in_ball(delta.detach() + self.alpha * g / self.geometry.length(g), self.epsilon)


def label_loss(model: MultiTaskModel, example: Batch, x: Tensor) -> Tensor:
    """Cross entropy."""
    return -torch.log_softmax(f(model, example, x), 0)[example.labels[0]]


def attacked_loss(model: MultiTaskModel, batch: Batch, deltas: Sequence[Tensor]) -> Tensor:
    """Mean over the examples of the loss at x + δ."""
    total = torch.zeros((), dtype=torch.float64)
    for example, delta in zip(examples(batch), deltas, strict=True):
        total = total + label_loss(model, example, x_of(model, example) + delta)
    return total / len(batch)


def moved(model: MultiTaskModel, batch: Batch, deltas: Sequence[Tensor], attack: Attack) -> list[Tensor]:
    """δ of each example after a step."""
    return [attack.next(model, example, delta) for example, delta in zip(examples(batch), deltas, strict=True)]


def adversarial(model: MultiTaskModel, batch: Batch, draws: Sequence[Tensor], attack: Attack) -> Tensor:
    """Loss at the end of an attack, Madry et al. 2018, arXiv 1706.06083, equation 2.1."""
    deltas = [attack.first(u) for u in draws]
    for _ in range(attack.K):
        deltas = moved(model, batch, deltas, attack)
    return attack.share * attacked_loss(model, batch, deltas) + (1 - attack.share) * task_loss(model, batch)


def free_lb(model: MultiTaskModel, batch: Batch, draws: Sequence[Tensor], attack: Attack) -> Tensor:
    """Mean of the losses on the way, whose gradient is line 9's g_K."""
    deltas, on_the_way = [attack.first(u) for u in draws], torch.zeros((), dtype=torch.float64)
    for _ in range(attack.K):
        on_the_way = on_the_way + attacked_loss(model, batch, deltas) / attack.K
        deltas = moved(model, batch, deltas, attack)
    return attack.share * on_the_way + (1 - attack.share) * task_loss(model, batch)


def free_at(model: MultiTaskModel, batch: Batch, draws: Sequence[Tensor], attack: Attack, *, lr: float) -> list[Tensor]:
    """Loss of each replay, Shafahi et al. 2019, arXiv 1904.12843, Algorithm 1; θ moves down its gradient in place."""
    deltas, losses = [attack.first(u) for u in draws], []
    for _ in range(attack.K):
        loss = attack.share * attacked_loss(model, batch, deltas) + (1 - attack.share) * task_loss(model, batch)
        deltas = moved(model, batch, deltas, attack)  # both from θ before it moves
        weights = list(model.parameters())
        slopes = torch.autograd.grad(loss, weights, allow_unused=True)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                if slope is not None:
                    weight.sub_(lr * slope)
        losses.append(loss.detach())
    return losses
