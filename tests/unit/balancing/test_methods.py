"""Each method against its paper's equations, written out here in NumPy and float64, and against cases done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import mtdnn.balancing
from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.balancing.gramian import cosines, gramian, weighted_sum
from mtdnn.errors import ConfigError

assert mtdnn.balancing
TASKS = {"a": "classes", "b": "number", "c": "candidates"}
GRADIENT_METHODS = [name for name in BALANCERS if BALANCERS.get(name).acts == "together"]
EXACT = 1e-9


def made(name: str, tasks: dict[str, Any] | None = None, **options: Any) -> Any:
    return BALANCERS.get(name)(tasks or TASKS, **options)


def random_gradients(tasks: int, seed: int = 0) -> np.ndarray:
    """[tasks, 6], some of them against each other."""
    return np.random.default_rng(seed).normal(size=(tasks, 6))


def rows(gradients: np.ndarray) -> list[list[Tensor | None]]:
    """Each gradient as those of two weights, of shapes [2, 2] and [2]."""
    parts = [(row[:4].reshape(2, 2), row[4:]) for row in gradients]
    return [[torch.tensor(part) for part in pair] for pair in parts]


def combined(balancer: Balancer, gradients: np.ndarray) -> np.ndarray:
    found, _ = balancer.combine_apart(rows(gradients))
    return np.concatenate([each.reshape(-1).numpy() for each in found if each is not None])


def scalars(values: dict[str, float]) -> dict[str, Tensor]:
    return {task: torch.tensor(value, dtype=torch.float64) for task, value in values.items()}


# Gradient methods


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "upgrad", "imtl"])
def test_a_matrix_of_gradients_and_gradients_by_weight_are_combined_alike(name: str) -> None:
    gradients = random_gradients(3)
    apart, matrix = [], torch.tensor(gradients)
    for whole in (False, True):
        torch.manual_seed(0)
        apart.append(made(name).combine(matrix).numpy() if whole else combined(made(name), gradients))
    assert apart[0] == pytest.approx(apart[1], rel=EXACT, abs=EXACT)
    assert np.array_equal(matrix.numpy(), gradients)


def test_a_method_of_ones_own_needs_only_one_function() -> None:
    """A weight that a task does not touch counts as 0 in its row, and is None where no task touches it."""

    class LargestOfEach(Balancer):
        name = "largest_of_each"

        def combine(self, gradients: Tensor) -> Tensor:
            return gradients.gather(0, gradients.abs().argmax(dim=0, keepdim=True))[0]

    class Halved(Balancer):
        name = "halved"

        def weight(self, task: str) -> float:
            return 0.5 if task == "b" else 1

    assert (LargestOfEach.acts, LargestOfEach.needs_apart(), Halved.acts) == ("together", True, "before")
    assert LargestOfEach.needs_several and not Halved.needs_several  # a weight is of use in steps of one task too
    of_norms = type("OfNorms", (Halved,), {"needs_norms": True, "weight": lambda self, task: 1.0})
    assert of_norms.needs_several
    one = [torch.tensor([[1.0, -4.0]]), None, torch.tensor([3.0])]
    other = [torch.tensor([[-2.0, 0.5]]), None, None]
    found, weights = LargestOfEach(TASKS).combine_apart([one, other])
    assert [None if each is None else each.tolist() for each in found] == [[[-2.0, -4.0]], None, [3.0]]
    assert weights is None
    assert {task: float(each) for task, each in Halved(TASKS).weights(["a", "b"]).items()} == {"b": 0.5}


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_projects_each_gradient_off_those_it_conflicts_with(seed: int) -> None:
    """Algorithm 1 of Yu et al.; the order in which the others come is TorchJD's: `randperm` over all tasks."""
    gradients = random_gradients(3, seed)
    torch.manual_seed(seed)
    orders = [[j for j in torch.randperm(3).tolist() if j != i] for i in range(3)]
    total = np.zeros(6)
    for i in range(3):
        own = gradients[i].copy()
        for j in orders[i]:
            inner = own @ gradients[j]
            if inner < 0:
                own -= inner / (gradients[j] @ gradients[j]) * gradients[j]
        total += own
    torch.manual_seed(seed)
    assert combined(made("pcgrad"), gradients) == pytest.approx(total, rel=EXACT, abs=EXACT)


def test_pcgrad_of_two_opposed_gradients_by_hand() -> None:
    """g₁ = (1, 0), g₂ = (−1, 1): g₁·g₂ = −1; g₁' = g₁ + g₂ ∕ 2 = (½, ½), g₂' = g₂ + g₁ = (0, 1)."""
    gradients: list[list[Tensor | None]] = [[torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]]
    found, weights = made("pcgrad").combine_apart(gradients)
    assert found[0] is not None and weights is not None
    assert found[0].tolist() == [0.5, 1.5] and weights.tolist() == [2.0, 1.5]


def test_pcgrad_of_three_opposed_gradients_by_hand() -> None:
    """g₁ = (1, 0), g₂ = (−1, 0), g₃ = (0, 1): the first two cancel whatever the order, the third meets no conflict."""
    gradients: list[list[Tensor | None]] = [[torch.tensor(each)] for each in ([1.0, 0.0], [-1.0, 0.0], [0.0, 1.0])]
    found, _ = made("pcgrad").combine_apart(gradients)
    assert found[0] is not None and found[0].tolist() == [0.0, 1.0]


def cagrad_objective(gradients: np.ndarray, share: np.ndarray, c: float) -> float:
    """g_w·g_0 + √φ‖g_w‖, √φ = c‖g_0‖ (Algorithm 1 of Liu et al.)."""
    mean, mixed = gradients.mean(axis=0), share @ gradients
    return float(mixed @ mean + c * np.linalg.norm(mean) * np.linalg.norm(mixed))


@pytest.mark.parametrize("seed", range(8))
def test_cagrad_moves_from_the_mean_along_the_mixture_that_minimizes_its_objective(seed: int) -> None:
    """The update of the weights found to 1e-9; these by their objective, to the 1e-8 that the solver stops at."""
    gradients, c = random_gradients(3, seed), 0.5
    found, weights = made("cagrad", c=c).combine_apart(rows(gradients))
    assert weights is not None
    share = weights.numpy() - 1 / 3
    share = share / share.sum()
    mean, mixed = gradients.mean(axis=0), share @ gradients
    expected = mean + c * np.linalg.norm(mean) / np.linalg.norm(mixed) * mixed
    together = np.concatenate([each.reshape(-1).numpy() for each in found if each is not None])
    assert together == pytest.approx(expected, rel=EXACT, abs=EXACT)

    def value(free: np.ndarray) -> float:
        return cagrad_objective(gradients, np.exp(free) / np.exp(free).sum(), c)

    best = min(minimize(value, start, tol=1e-15).fun for start in (np.zeros(3), *np.eye(3) * 3))
    assert cagrad_objective(gradients, share, c) == pytest.approx(best, rel=1e-8, abs=1e-8)
    assert share.min() > -1e-8


def upgrad_by_the_paper(gradients: np.ndarray) -> np.ndarray:
    """Mean of the projections onto {x : Gx ≥ 0}; each by trying every set of active constraints."""
    count = len(gradients)
    total = np.zeros(gradients.shape[1])
    for own in gradients:
        found: list[np.ndarray] = []
        for size in range(count + 1):
            for active in combinations(range(count), size):
                rows_ = gradients[list(active)]
                point = own - rows_.T @ np.linalg.solve(rows_ @ rows_.T, rows_ @ own) if active else own
                if (gradients @ point >= -1e-12).all():
                    found.append(point)
        total += min(found, key=lambda point: float(np.linalg.norm(point - own)))
    return total / count


@pytest.mark.parametrize("seed", range(8))
def test_upgrad_averages_the_projections_onto_the_dual_cone(seed: int) -> None:
    gradients = random_gradients(3, seed)
    found = combined(made("upgrad"), gradients)
    assert found == pytest.approx(upgrad_by_the_paper(gradients), rel=EXACT, abs=EXACT)
    assert (gradients @ found >= -1e-9).all()


@pytest.mark.parametrize("seed", range(5))
def test_imtl_has_equal_projections_onto_all_gradients(seed: int) -> None:
    """IMTL-G, equation 8: α = g₁Uᵀ(DUᵀ)⁻¹ for tasks 2 … K, D = g₁ − g_i, U = u₁ − u_i, u = g ∕ ‖g‖; Σ α = 1."""
    gradients = random_gradients(3, seed)
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    differences, directions = gradients[0] - gradients[1:], units[0] - units[1:]
    alpha = gradients[0] @ directions.T @ np.linalg.inv(differences @ directions.T)
    expected = np.concatenate([[1 - alpha.sum()], alpha]) @ gradients
    found = combined(made("imtl"), gradients)
    assert found == pytest.approx(expected, rel=EXACT, abs=EXACT)
    assert np.ptp(units @ found) < 1e-9


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_a_method_is_the_same_for_gradients_of_any_size(name: str, size: float) -> None:
    gradients = random_gradients(3, 1)
    torch.manual_seed(0)
    expected = combined(made(name), gradients)
    torch.manual_seed(0)
    assert combined(made(name), size * gradients) / size == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_gradients_that_are_all_zero_stay_zero(name: str) -> None:
    assert combined(made(name), np.zeros((3, 6))).tolist() == [0.0] * 6


def test_a_weight_that_a_task_does_not_touch_counts_as_zero_and_stays_none_where_no_task_does() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    gradients: list[list[Tensor | None]] = [[one, None, None], [two, two.clone(), None]]
    assert gramian(gradients).tolist() == [[5.0, 11.0], [11.0, 50.0]]
    found = weighted_sum(gradients, torch.tensor([2.0, 1.0]))
    assert found[0] is not None and found[1] is not None and found[2] is None
    assert (found[0].tolist(), found[1].tolist()) == ([5.0, 8.0], [3.0, 4.0])


def test_cosines_by_hand() -> None:
    assert cosines(torch.tensor([[4.0, -6.0, 0.0], [-6.0, 9.0, 0.0], [0.0, 0.0, 0.0]])).tolist() == [
        [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0],
    ]  # fmt: skip


# Weighted methods


def test_uncertainty_weights_as_in_kendall_et_al() -> None:
    """Equations 7 and 10 with s = log σ²: exp(−s)·L + s∕2, and ½exp(−s)·L + s∕2 for regression; slopes by autograd."""
    balancer = made("uncertainty")
    values = {"a": 0.4, "b": -0.7, "c": 0.1}
    for task, value in values.items():
        balancer.log_variances[task].data = torch.tensor(value, dtype=torch.float64)
    losses = scalars({"a": 1.3, "b": 0.2, "c": 0.9})
    weights = balancer.weights(["a", "b", "c"])
    balancer.before_move(losses, {})
    for task, value in values.items():
        s = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        factor = 0.5 * torch.exp(-s) if TASKS[task] == "number" else torch.exp(-s)
        (factor * losses[task] + s / 2).backward()
        assert weights[task].item() == pytest.approx(factor.item(), rel=EXACT)
        assert balancer.log_variances[task].grad.item() == pytest.approx(s.grad.item(), rel=EXACT)  # type: ignore[union-attr]


def test_uncertainty_ends_where_its_optimum_is_in_closed_form() -> None:
    """Constant losses: σ² = 2L for classification and L for regression, where ½ = weight·L."""
    balancer = made("uncertainty")
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    losses = scalars({"a": 1.3, "b": 0.2, "c": 0.9})
    for _ in range(400):
        balancer.before_move(losses, {})
        optimizer.step()
    found = {task: each.exp().item() for task, each in balancer.log_variances.items()}
    assert found == pytest.approx({"a": 2 * 1.3, "b": 0.2, "c": 2 * 0.9}, rel=1e-5)  # float32 weights


def test_uncertainty_leaves_a_task_without_a_batch_alone() -> None:
    balancer = made("uncertainty")
    balancer.before_move(scalars({"a": 1.0}), {})
    assert [balancer.log_variances[task].grad is None for task in TASKS] == [False, True, True]


def test_dwa_weights_as_in_liu_et_al() -> None:
    """Equation 7: λ_k = K·exp(w_k∕T) ∕ Σ exp(w_i∕T), w_k = L_k(t−1) ∕ L_k(t−2), of means over periods of two steps."""
    balancer = made("dwa", every=2, temperature=2.0)
    steps = [(1.0, 2.0, 4.0), (3.0, 2.0, 2.0), (1.0, 1.0, 3.0), (1.0, 2.0, 2.0)]
    for losses in steps:
        assert balancer.weights(list(TASKS)) == {}
        balancer.after_step(scalars(dict(zip(TASKS, losses, strict=True))))
    ratios = np.array([1.0 / 2.0, 1.5 / 2.0, 2.5 / 3.0])
    expected = 3 * np.exp(ratios / 2) / np.exp(ratios / 2).sum()
    found = [balancer.weights(list(TASKS))[task].item() for task in TASKS]
    assert found == pytest.approx(expected, rel=EXACT)


def test_dwa_takes_epochs_for_periods_and_keeps_the_mean_of_a_task_that_did_not_come() -> None:
    balancer = made("dwa")
    balancer.after_step(scalars({"a": 2.0, "b": 2.0, "c": 2.0}))
    balancer.after_epoch()
    balancer.after_step(scalars({"a": 1.0}))
    assert balancer.weights(["a"]) == {}
    balancer.after_step(scalars({"b": 1.0}))
    balancer.after_epoch()
    weights = [balancer.weights([task])[task].item() for task in TASKS]
    ratios = np.exp(np.array([0.5, 0.5, 1.0]) / 2)
    assert weights == pytest.approx(3 * ratios / ratios.sum(), rel=EXACT)


def test_gradnorm_has_the_slopes_of_chen_et_al_and_keeps_the_sum_of_weights() -> None:
    """Equation 2 by autograd, Ḡ·r^α taken as constant, over two movements; then Algorithm 1's renormalization."""
    alpha = 1.5
    balancer = made("gradnorm", alpha=alpha)
    for factor, value in zip(balancer.parameters(), (0.5, 1.5, 1.0), strict=True):
        factor.data = torch.tensor(value, dtype=torch.float64)
    plain = np.array([2.0, 0.5, 1.0])
    first, second = scalars({"a": 2.0, "b": 1.0, "c": 0.5}), scalars({"a": 1.5, "b": 0.4, "c": 0.6})
    norms = dict(zip(TASKS, torch.tensor(plain * np.array([0.5, 1.5, 1.0])), strict=True))
    balancer.before_move(first, norms)
    balancer.before_move(second, norms)
    weights = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64, requires_grad=True)
    lengths = weights * torch.tensor(plain)
    falls = torch.stack([second[task] / first[task] for task in TASKS])
    target = (lengths.mean() * (falls / falls.mean()) ** alpha).detach()
    (lengths - target).abs().sum().backward()
    assert weights.grad is not None
    found = [factor.grad.item() for factor in balancer.parameters()]
    assert found == pytest.approx(weights.grad.tolist(), rel=EXACT)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.1)
    moved = weights.detach() - 0.1 * weights.grad
    optimizer.step()
    balancer.after_step(second)
    assert [factor.item() for factor in balancer.parameters()] == pytest.approx((moved * 3 / moved.sum()).tolist())


def test_famo_weights_and_moves_as_algorithm_1_of_liu_et_al() -> None:
    """Three steps; Adam from PyTorch on logits whose gradient is that of Σ z_i(ξ)·(log ℓ_i − log ℓ′_i) by autograd."""
    balancer = made("famo", lr=0.1, weight_decay=1e-3)
    for each in balancer.parameters() or balancer.logits.values():
        each.data = each.data.double()
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1, weight_decay=1e-3)
    draws = np.random.default_rng(0)
    for _ in range(3):
        before, after = draws.uniform(0.2, 2, 3), draws.uniform(0.2, 2, 3)
        losses, again = (scalars(dict(zip(TASKS, each, strict=True))) for each in (before, after))
        shares = torch.softmax(logits, 0).detach().numpy() / (before + 1e-8)
        factor = balancer.common_factor(list(TASKS), losses).item()
        found = [factor * balancer.weight_after(task, list(TASKS), losses[task]).item() for task in TASKS]
        assert found == pytest.approx(shares / shares.sum(), rel=EXACT)
        optimizer.zero_grad()
        fall = torch.log(torch.tensor(before) + 1e-8) - torch.log(torch.tensor(after) + 1e-8)
        (torch.softmax(logits, 0) * fall).sum().backward()
        optimizer.step()
        balancer.after_measuring(losses, again)
        assert [each.item() for each in balancer.logits.values()] == pytest.approx(logits.tolist(), rel=EXACT)


def test_famo_leaves_out_a_task_whose_loss_is_zero() -> None:
    balancer, losses = made("famo"), scalars({"a": 0.0, "b": 0.5})
    tasks = ["a", "b"]
    factor = balancer.common_factor(tasks, losses)
    assert [float(factor * balancer.weight_after(task, tasks, losses[task])) for task in tasks] == [
        0.0, pytest.approx(1.0),
    ]  # fmt: skip


def used(balancer: Balancer, task: str, losses: Sequence[float]) -> float:
    """The weight that a method ends with for its only task."""
    for value in losses:
        loss = scalars({task: value})
        balancer.weights([task])
        balancer.before_move(loss, {task: torch.tensor(2.0)})
        for each in balancer.parameters():
            if each.grad is not None:
                each.data -= 0.1 * each.grad
        balancer.after_step(loss)
        balancer.after_measuring(loss, loss)
        balancer.after_epoch()
    if balancer.acts == "after":
        factor = balancer.common_factor([task], loss)
        return float(factor * balancer.weight_after(task, [task], loss[task]))
    weights = balancer.weights([task])
    return float(weights[task]) if weights else 1.0


@pytest.mark.parametrize("name", ["fixed", "dwa", "gradnorm", "famo"])
def test_a_single_task_keeps_the_weight_1(name: str) -> None:
    """`uncertainty` would weight it by 1 ∕ (2·loss); a run of one task has `fixed` in its place."""
    assert used(made(name, {"a": "classes"}), "a", [2.0, 0.5, 0.1]) == pytest.approx(1.0, rel=EXACT)


@pytest.mark.parametrize("name", list(BALANCERS))
def test_a_method_resumes_from_its_state(name: str) -> None:
    """State through a file, as in a checkpoint; then both go on alike."""
    import io

    def step(balancer: Balancer, number: int) -> None:
        losses = scalars({"a": 1.0 / (number + 1), "b": 2.0, "c": 0.5 + number})
        norms = scalars({"a": 1.0, "b": 0.1 * number + 0.1, "c": 0.7})
        balancer.weights(list(losses))
        if balancer.acts != "after":
            balancer.before_move(losses, norms)
        for each in balancer.parameters():
            each.data -= 0.1 * each.grad  # type: ignore[operator]
        balancer.after_step(losses)
        balancer.after_measuring(losses, scalars({"a": 0.3, "b": 1.0, "c": 0.4}))
        if number % 2 == 1:
            balancer.after_epoch()

    def weights(balancer: Balancer) -> list[float]:
        if balancer.acts == "after":
            return [float(balancer.weight_after(task, list(TASKS), torch.tensor(1.0))) for task in TASKS]
        found = balancer.weights(list(TASKS))
        return [float(found[task]) if task in found else 1.0 for task in TASKS]

    one, other = made(name), made(name)
    for number in range(5):
        step(one, number)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for number in range(5, 9):
        step(one, number)
        step(other, number)
    assert weights(one) == weights(other)
    assert name in ("fixed", *GRADIENT_METHODS) or weights(one) != [1.0, 1.0, 1.0]


def test_fixed_has_the_weights_it_is_given() -> None:
    assert {task: float(each) for task, each in made("fixed", weights={"b": 0.25}).weights(["a", "b"]).items()} == {
        "b": 0.25
    }


def test_a_weight_below_0_is_refused_as_it_would_raise_the_loss() -> None:
    with pytest.raises(ConfigError, match=r"weights.a: -1: input should be greater than or equal to 0"):
        made("fixed", weights={"a": -1})
    assert float(made("fixed", weights={"a": 0}).weight("a")) == 0
