"""The kept gradient of the word embeddings: bit for bit PyTorch's, and one tensor for all updates."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from mtdnn.execution.table import Embedding, TableGradient
from mtdnn.training.optim import OPTIMIZERS, build_optimizer
from tests.reference.tiny import make_batch, make_model
from tests.unit.training.test_trainer import trainer_of

ROWS, SIZE = 50, 24


def rule_of(table, **options):
    return torch.optim.SGD(table.parameters(), lr=0.1, **options)


def tables(**options):
    """A table of PyTorch, an equal one with a kept gradient, and that gradient."""
    torch.manual_seed(0)
    plain = nn.Embedding(ROWS, SIZE, **options)
    kept = copy.deepcopy(plain)
    found = TableGradient.of(kept, rule_of(kept))
    assert found is not None
    assert type(kept) is Embedding
    return plain, kept, found


def loss_of(table, ids, upstream):
    return (table(ids) * upstream).sum()


@pytest.mark.parametrize("padding_idx", [None, 0, 7])
@pytest.mark.parametrize("clipped", [True, False])
def test_weights_after_updates_are_those_of_pytorch_bit_for_bit(padding_idx, clipped):
    plain, kept, gradient = tables(padding_idx=padding_idx)
    heads = [nn.Linear(SIZE, 3) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    rules = []
    for table, head in zip((plain, kept), heads, strict=True):
        rules.append(torch.optim.AdamW([*table.parameters(), *head.parameters()], lr=0.1, weight_decay=0.1))
    addresses = set()
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 10 + step, (4, 9), generator=generator)  # rows often, once and never looked up
        upstream = 10 * torch.randn(4, 9, 3, generator=generator)
        for table, head, rule in zip((plain, kept), heads, rules, strict=True):
            (head(table(ids)) * upstream).sum().backward()
            parameters = rule.param_groups[0]["params"]
            if table is kept:
                addresses.add(table.weight.grad.data_ptr())
            if clipped:
                norm = (gradient.clip if table is kept else clip_grad_norm_)(parameters, 1.0)
                assert norm > 1
            rule.step()
            if table is kept:
                gradient.release()
            rule.zero_grad()
        assert torch.equal(kept.weight, plain.weight)
        assert torch.equal(heads[0].weight, heads[1].weight)
    assert len(addresses) == 1  # the same tensor each time, and neither copied nor cleared as a whole


def test_parts_of_an_update_add_up():
    plain, kept, gradient = tables()
    for _ in range(3):
        for _lookup in range(2):
            ids, upstream = torch.randint(ROWS, (30,)), torch.randn(30, SIZE)
            for table in (plain, kept):
                loss_of(table, ids, upstream).backward()
        assert torch.equal(kept.weight.grad, plain.weight.grad)
        gradient.release()
        plain.weight.grad = None
        assert gradient._zeros is not None
        assert not gradient._zeros.any()


OTHERS = {
    "a tied head": lambda table: table.weight.sum(0).square().sum(),
    "a penalty on the weights": lambda table: table.weight.square().sum(),
    "a second lookup": lambda table: table(torch.tensor([3, 49])).square().sum(),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("first", [True, False])
def test_a_gradient_with_more_than_one_lookup_is_not_kept(other, first):
    plain, kept, gradient = tables()
    for step in range(3):
        ids, upstream = torch.randint(ROWS, (5,)), torch.randn(5, SIZE)
        for table in (plain, kept):
            terms = [loss_of(table, ids, upstream), OTHERS[other](table)]
            sum(terms if first else terms[::-1]).backward()
        assert torch.equal(kept.weight.grad, plain.weight.grad), step
        assert torch.equal(gradient.clip(list(kept.parameters()), 1.0), clip_grad_norm_(plain.parameters(), 1.0))
        assert torch.equal(kept.weight.grad, plain.weight.grad)
        gradient.release()
        plain.weight.grad = None


def test_a_batch_without_tokens_has_no_gradient():
    _, kept, gradient = tables()
    kept(torch.zeros(0, 3, dtype=torch.long)).sum().backward()
    assert not kept.weight.grad.any()
    gradient.release()
    assert gradient._zeros is not None


def test_a_gradient_set_by_others_is_not_taken():
    _, kept, gradient = tables()
    loss_of(kept, torch.tensor([1]), torch.ones(1, SIZE)).backward()
    kept.weight.grad = torch.ones_like(kept.weight)
    gradient.release()
    assert kept.weight.grad is None
    loss_of(kept, torch.tensor([2]), torch.ones(1, SIZE)).backward()
    assert kept.weight.grad.sum() == SIZE


def test_gradients_asked_for_and_second_derivatives_are_those_of_pytorch():
    plain, kept, _ = tables(padding_idx=2)
    ids = torch.tensor([[1, 2, 3], [3, 3, 4]])
    found = []
    for table in (plain, kept):
        loss = table(ids).pow(3).sum()
        (first,) = torch.autograd.grad(loss, table.weight, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), table.weight)
        (again,) = torch.autograd.grad(table(ids).pow(3).sum(), table.weight)
        found.append((first, second, again))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    "table",
    [
        nn.Embedding(5, 2, max_norm=1.0),
        nn.Embedding(5, 2, sparse=True),
        nn.Embedding(5, 2, scale_grad_by_freq=True),
        nn.Embedding(5, 2).requires_grad_(False),
        nn.Embedding(5, 2, device="meta"),
        nn.Linear(5, 2),
        type("Own", (nn.Embedding,), {})(5, 2),
    ],
)
def test_other_tables_are_left_as_they_are(table):
    kind = type(table)
    assert TableGradient.of(table, rule_of(table)) is None
    assert type(table) is kind


def test_a_table_can_be_let_go():
    plain, kept, gradient = tables()
    gradient.close()
    again = TableGradient.of(kept, rule_of(kept))
    assert again is not None
    gradient.release()
    for table in (plain, kept):
        loss_of(table, torch.tensor([1, 1]), torch.ones(2, SIZE)).backward()
    assert torch.equal(kept.weight.grad, plain.weight.grad)
    again.release()
    assert gradient._zeros is None
    assert again._zeros is not None


def test_a_copy_has_the_gradients_of_pytorch():
    plain, kept, _ = tables()
    other = copy.deepcopy(kept)
    assert other.gradient is None
    for table in (plain, other):
        loss_of(table, torch.tensor([1, 1]), torch.ones(2, SIZE)).backward()
    assert torch.equal(other.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trainer_keeps_the_gradient_and_ends_with_the_same_weights(monkeypatch, dtype):
    ends = []
    for keeps in (True, False):
        if not keeps:
            monkeypatch.setattr(TableGradient, "of", classmethod(lambda cls, table, optimizer: None))
        trainer = trainer_of(make_model(dtype=dtype), clip_norm=0.1, total_steps=4)
        for _ in range(4):
            trainer.train_step([make_batch()])
        assert (trainer.updater.table_gradient is not None) == keeps
        if trainer.updater.table_gradient is not None:
            assert trainer.updater.table_gradient._zeros is not None
        ends.append(trainer.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


class DecayInGradient(torch.optim.Optimizer):
    """Gradient descent that adds weight decay to the gradient in place, as optimizers outside PyTorch may do."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad.data.add_(weight.data, alpha=0.1)
                    weight.data.sub_(weight.grad.data, alpha=group["lr"])


RULES = {
    "another's": DecayInGradient,
    "PyTorch's with foreach": partial(torch.optim.SGD, momentum=0.9, nesterov=True, foreach=True),
}


@pytest.mark.parametrize("rule", RULES)
def test_an_optimizer_that_writes_into_gradients_moves_weights_as_without_the_kept_one(monkeypatch, rule):
    """What it wrote for rows without tokens in a step is no part of the next step's gradient."""
    ends = []
    for known in (True, False):
        if not known:
            monkeypatch.setattr(TableGradient, "of", classmethod(lambda cls, table, optimizer: None))
        trainer = trainer_of(make_model(), rule=RULES[rule], total_steps=3)
        for seed in range(3):
            trainer.train_step([make_batch(seed=seed)])
        ends.append(trainer.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_gradient_is_kept_for_every_optimizer_that_has_a_name(name):
    table = nn.Embedding(ROWS, SIZE)
    groups = [{"params": [table.weight], "lr": 0.1, "weight_decay": 0.01}]
    assert TableGradient.of(table, build_optimizer(name, groups, lr=0.1)) is not None
