"""Every adapter with every task type and every regularizer: only what it adds is trained, and it merges exactly."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

import mtdnn.regularizers  # registers them
import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.options import Named
from mtdnn.errors import ConfigError
from mtdnn.model import MultiTaskModel
from mtdnn.networks.adapters import ADAPTERS, Adapter, digest, merged
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.pretrained import backbone_class
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.objective import Objective
from tests.contract.test_task_types import Case
from tests.unit.networks.test_encoder import CONFIGS, PACKED, batch

METHODS: list[Any] = [None, *REGULARIZERS.names(), *(f"proximal {name}" for name in PROXIMAL)]
WAYS = [("lora", method) for method in METHODS] + [(name, "smart") for name in ADAPTERS if name != "lora"]


@pytest.fixture(scope="module", params=list(TASK_TYPES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, TASK_TYPES.get(request.param).heads[0], tmp_path_factory.mktemp(request.param))


def model_of(case: Case, adapter: str, *, scope: str = "shared", layout: str = "auto") -> MultiTaskModel:
    torch.manual_seed(0)
    encoder = Encoder(case.backbone(), execution=layout)
    encoder.adapt(Adapter(Named(name=adapter, scope=scope), ("task",)), base="encoder", seed=0)
    task_type = case.kind(case.task)
    task_type.bind(case.tokenizer)
    return MultiTaskModel(encoder, {"task": task_type})


@pytest.mark.parametrize(("adapter", "method"), WAYS, ids=str)
def test_a_step_moves_the_adapter_and_the_head_and_nothing_else(case: Case, adapter: str, method: str | None) -> None:
    kind = REGULARIZERS.get(method) if method in REGULARIZERS.names() else None
    if kind is not None and kind.logits_of is not None and case.kind.logits_of not in kind.logits_of:
        pytest.skip(f"{method} is for logits of {', '.join(kind.logits_of)}")
    model = model_of(case, adapter, scope="task").train()
    proximal = None
    if method is not None and method.startswith("proximal "):
        proximal = PROXIMAL.get(method.removeprefix("proximal "))(model, total_steps=4)
    before = copy.deepcopy(model.state_dict())
    objective = Objective(model, {"task": None if kind is None else kind()}, proximal, seed=1, autocast=nullcontext)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for step in range(2):  # at the first one LoRA's A has no gradient, as B is 0
        for part in objective.parts(case.batch(model), step=step):
            part.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
    now = model.state_dict()
    moved = {name for name in now if not torch.equal(before[name], now[name])}
    frozen = model.frozen_weights()
    assert not moved & frozen
    assert any(name.startswith("encoder.") for name in moved)
    assert all(bool(value.isfinite().all()) for value in now.values())


@pytest.mark.parametrize("adapter", list(ADAPTERS))
def test_packed_and_padded_rows_get_the_same_adapter(case: Case, adapter: str) -> None:
    if case.kind.needs_decoder:
        pytest.skip("encoder-decoders run padded")
    found = []
    for layout in ("packed", "padded"):
        model = model_of(case, adapter, layout=layout).eval()
        stir(model)
        found.append(model(case.batch(model)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)  # float32 sums in another order


def stir(module: torch.nn.Module) -> None:
    """Move the weights of adapters from where they change nothing; the same numbers each time."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)


@pytest.mark.parametrize("family", list(CONFIGS))
@pytest.mark.parametrize("adapter", list(ADAPTERS))
def test_an_adapter_changes_nothing_at_first_and_merges_into_plain_weights(family: str, adapter: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[family]
    plain = backbone_class(config).from_config(config).eval()
    encoder = Encoder(copy.deepcopy(plain)).eval()
    ids, mask, types = batch((9, 4))
    untouched = encoder(ids, mask, types)
    weights = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    encoder.adapt(Adapter(Named(name=adapter)), base="encoder", seed=0)
    assert encoder.base_sha256 == digest(weights)
    torch.testing.assert_close(encoder.eval()(ids, mask, types), untouched)
    stir(encoder.backbone)
    adapted = encoder(ids, mask, types)
    # IA³ scales what ModernBERT's layers add, which is small at first: by 2.8e-3 with transformers 5.7
    assert float((adapted - untouched).detach().abs().max()) > 1e-3
    again = backbone_class(config).from_config(config).eval()
    found = again.load_state_dict(merged(encoder.backbone, "shared"), strict=False)
    assert found.unexpected_keys == [] and all("pooler" in name for name in found.missing_keys)
    torch.testing.assert_close(Encoder(again).eval()(ids, mask, types), adapted, rtol=1e-4, atol=1e-5)
    assert encoder.frozen_weights() == {f"backbone.{name}" for name in encoder.backbone.state_dict() if ours(name)}


def ours(name: str) -> bool:
    """Whether a weight is the encoder's own, by the names that peft gives its layers."""
    return not any(part.startswith(("lora_", "ia3_")) for part in name.split("."))


def test_layers_that_are_not_there_are_refused() -> None:
    encoder = Encoder(AutoModel.from_config(AutoConfig.for_model("bert", **{"num_hidden_layers": 1})))
    with pytest.raises(ConfigError, match=r"adapter.targets: .*nosuch.*targets: auto"):
        encoder.adapt(Adapter(Named(name="lora", targets=["nosuch"])), base="encoder", seed=0)


def test_tasks_with_an_adapter_each_share_no_trained_number_of_the_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(AutoModel.from_config(CONFIGS["bert"])).eval()
    encoder.adapt(Adapter(Named(name="lora", scope="task"), ("a", "b")), base="encoder", seed=0)
    ids, mask, types = batch((9, 4))
    plain = encoder(ids, mask, types)
    trained = {name: weight for name, weight in encoder.backbone.named_parameters() if weight.requires_grad}
    assert {name.split(".")[-2] for name in trained} == {"a", "b"}
    with torch.no_grad():
        for name, weight in trained.items():
            weight.add_(0.05 if name.endswith("a.weight") else 0)
    outputs = {}
    for task in ("a", "b", "stranger"):
        encoder.use_adapter_of(task)
        outputs[task] = encoder(ids, mask, types)
    torch.testing.assert_close(outputs["b"], plain)
    torch.testing.assert_close(outputs["stranger"], plain)
    assert not torch.allclose(outputs["a"], plain, atol=1e-3)
    encoder.use_adapter_of("a")
    encoder(ids, mask, types).sum().backward()
    assert {name.split(".")[-2] for name, weight in trained.items() if weight.grad is not None} == {"a"}


FAMILIES = ("bert", "roberta", "modernbert", "deberta-v2", "qwen3")
LAYOUTS = [(family, "padded") for family in FAMILIES] + [(family, "packed") for family in FAMILIES if family in PACKED]


@pytest.mark.parametrize(("family", "layout"), LAYOUTS)
@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3"])
def test_tasks_with_an_adapter_each_are_predicted_as_one_by_one(family: str, adapter: str, layout: str) -> None:
    """In one pass by LoRA; peft mixes no others, and DeBERTa's layers are also used for its table of positions."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[family])
    encoder = Encoder(backbone_class(config).from_config(config).eval(), execution=layout)
    encoder.adapt(Adapter(Named(name=adapter, scope="task"), ("a", "b", "c")), base="encoder", seed=0)
    encoder.eval()
    assert encoder.mixes_adapters == (adapter == "lora" and family in PACKED)
    for name, weight in encoder.named_parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(sum(map(ord, name))))
    ids, mask, _ = batch((17, 3, 9))
    embeddings = encoder.embed(ids)
    alone = {}
    with torch.inference_mode():
        for task in ("a", "b", "c"):
            encoder.use_adapter_of(task)
            alone[task] = encoder.encode(embeddings, mask)
        if not encoder.mixes_adapters:
            return
        together = encoder.encode_for(("c", "a", "b"), embeddings, mask)
        encoder.use_adapter_of("a")
        again = encoder.encode(embeddings, mask)
    for task, hidden in zip(("c", "a", "b"), together, strict=True):
        torch.testing.assert_close(hidden, alone[task], rtol=1e-4, atol=1e-5)  # other shapes of float32 products
    assert not torch.allclose(alone["a"], alone["b"], atol=1e-3)
    assert torch.equal(again, alone["a"])  # nothing is left of the mixed pass
