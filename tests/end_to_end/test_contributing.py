"""The examples in CONTRIBUTING.md do what the text beside them says."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from mtdnn.balancing.base import BALANCERS
from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.data.samplers import SAMPLERS
from mtdnn.metrics.base import METRICS, compute
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.registry import GROUP
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.rows.example import RowError
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.optim import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def examples(monkeypatch):
    """Everything the Python blocks define, registered for the length of one test."""
    for registry in (TASK_TYPES, REGULARIZERS, SAMPLERS, METRICS, OPTIMIZERS, SCHEDULES, BALANCERS):
        monkeypatch.setattr(registry, "_known", dict(registry._known))
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    return names


def task_type(name, block):
    task = task_def_from(name, block)
    assert TASK_TYPES.get(task.task_type).faults(task) == []
    return TASK_TYPES.get(task.task_type)(task)


def batch_of(labels):
    mask = torch.ones(len(labels), 5, dtype=torch.bool)
    inputs = {"input_ids": torch.arange(5 * len(labels)).view(-1, 5) % 30, "mask": mask}
    return Batch("coin", inputs, torch.tensor(labels), [str(number) for number in range(len(labels))])


def test_the_task_can_be_used():
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    ((name, value),) = yaml.safe_load(block).items()
    assert task_type(name, value).num_outputs == 3


def test_the_metric_counts_how_far_off_predictions_are(examples):
    labels = ["bad", "fair", "good"]
    pairs = [("good", "bad"), ("fair", "fair"), ("bad", "fair")]  # 2, 0 and 1 places
    records = [{"id": str(n), "prediction": guess, "label": label} for n, (guess, label) in enumerate(pairs)]
    assert compute(["label_distance"], records, labels) == {"label_distance": 1.0}
    assert METRICS.get("label_distance").scale.comparable(1.0) == 0.5


def test_the_task_type_learns_a_probability(examples):
    kind = task_type("coin", examples["Probability"].sample_block)
    assert kind.parse_label("0.9") == 0.9
    with pytest.raises(RowError, match=r"'1.5' is not a probability"):
        kind.parse_label("1.5")
    batch, logits = batch_of([1.0, float("nan")]), torch.tensor([[0.0], [3.0]])
    assert kind.loss(logits, batch).item() == pytest.approx(0.6931472)  # -ln σ(0) = ln 2; the NaN row does not count
    assert kind.predict(logits, batch)[0]["prediction"] == 0.5


def test_its_divergence_is_that_of_two_coins(examples):
    kind = task_type("coin", examples["Probability"].sample_block)
    p, q = torch.tensor([0.2, 0.5]), torch.tensor([0.7, 0.5])
    logits_p, logits_q = torch.logit(p).unsqueeze(1), torch.logit(q).unsqueeze(1)

    def kl(a, b):
        return a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()

    batch = batch_of([1.0, 0.0])
    one_sided = kind.divergence(logits_p, logits_q, batch, symmetric=False)
    torch.testing.assert_close(one_sided, kl(q, p), atol=1e-6, rtol=1e-5)  # rounding of float32
    torch.testing.assert_close(kind.divergence(logits_p, logits_q, batch), kl(p, q) + kl(q, p), atol=1e-6, rtol=1e-5)


def test_the_regularizer_is_the_mean_squared_logit_above_a_limit(examples):
    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = MultiTaskModel(
        Encoder(BertModel(config)), {"coin": task_type("coin", examples["Probability"].sample_block)}
    )
    forward_pass = ForwardPass(model, batch_of([1.0, 0.0]), seed=1, step=0)
    squares = forward_pass.logits.detach() ** 2
    limit = squares.min().item()
    penalty = REGULARIZERS.get("logit_norm")(weight=2.0, above=limit).penalty(forward_pass)
    assert penalty.item() == pytest.approx((squares - limit).clamp(min=0).mean().item())
    penalty.backward()
    assert model.encoder.backbone.get_input_embeddings().weight.grad is not None


def test_the_sampler_takes_the_smallest_task_first_and_every_row_once(examples):
    sampler = SAMPLERS.get("smallest_first")({"large": 10, "small": 3}, {"large": 2, "small": 2}, seed=1)
    steps = list(sampler)
    assert [step.task for step in steps] == ["small"] * 2 + ["large"] * 5
    assert len(sampler) == 7
    assert sorted(row for step in steps if step.task == "large" for row in step.rows) == list(range(10))


def test_the_balancer_keeps_what_the_tasks_agree_on(examples):
    signed = BALANCERS.get("signed")({"a": "classes", "b": "number"}, share=1.0)
    assert signed.combine(torch.tensor([[1.0, -2.0], [3.0, 4.0]])).tolist() == [2.0, 0.0]
    (moved, head), _ = signed.combine_apart([[torch.tensor([1.0, -2.0]), None], [torch.tensor([3.0, 4.0]), None]])
    assert moved.tolist() == [2.0, 0.0] and head is None


def test_the_optimizer_takes_steps_of_one_size_and_the_schedule_falls_with_the_root(examples):
    weight = torch.nn.Parameter(torch.tensor([1.0, -1.0, 1.0]))
    groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.5}]
    optimizer = build_optimizer("lion", groups, lr=0.1, betas=[0.9, 0.5])
    scheduler = build_schedule("inverse_root", optimizer, num_steps=20, warmup=0.05)
    rates = []
    for gradient in ([0.0, 0.0, 0.0], [3.0, -0.2, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]):
        rates.append(scheduler.get_last_lr()[0])
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0, 0.1, 0.1 / 2**0.5, 0.1 / 3**0.5, 0.1 / 2])  # one step of warm-up
    # Decay takes 0.95, 1 − 0.05/√2, …. Signs of 0.9·average + 0.1·gradient: + − 0, + (0.9·1.5 − 0.1) −, + −, + −.
    kept = torch.tensor([1 - rate / 2 for rate in rates])
    first = 1.0
    for rate, keep in list(zip(rates, kept.tolist(), strict=True))[1:]:
        first = first * keep - rate
    assert weight.tolist() == pytest.approx([first, -first, kept.prod().item()])


def test_the_group_of_entry_points_is_the_one_that_is_read():
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert list(tomllib.loads(block)["project"]["entry-points"]) == [GROUP]
