"""What a regularizer is given: dropout that can be replayed, noise that belongs to a row, nothing left behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModel, DistilBertConfig, PretrainedConfig, RobertaConfig

from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.modes import evaluation_mode
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.forward_pass import NOISE_CHUNK, ForwardPass
from mtdnn.seeding import seed_default_generators
from tests.reference.tiny import make_batch, make_model, slice_batch


def pass_of(model: torch.nn.Module, batch: object, **place: int) -> ForwardPass:
    return ForwardPass(model, batch, **{"seed": 1, "step": 0, **place})


def test_clean_logits_are_those_of_the_plain_forward_after_seeding_dropout() -> None:
    model, batch = make_model(dropout=0.3), make_batch()
    seed_default_generators(1, "dropout", 5, 2, 3)
    assert torch.equal(model(batch), pass_of(model, batch, step=5, part=2, rank=3).logits)


def test_rerun_with_the_same_masks_gives_the_same_logits_again_and_again() -> None:
    model, batch = make_model(dropout=0.3), make_batch()
    given = pass_of(model, batch)
    for _ in range(2):
        assert torch.equal(given.rerun(given.embeddings, dropout="same"), given.logits)


def test_rerun_with_independent_masks_differs_each_time_but_not_between_runs() -> None:
    model, batch = make_model(dropout=0.3), make_batch()
    first, second = pass_of(model, batch), pass_of(model, batch)
    logits = [first.rerun(first.embeddings, dropout="independent") for _ in range(2)]
    assert not torch.equal(logits[0], first.logits)
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], second.rerun(second.embeddings, dropout="independent"))


def test_rerun_without_dropout_equals_evaluation_and_leaves_every_mode_as_it_was() -> None:
    model, batch = make_model(dropout=0.3), make_batch()
    model.heads["nli"].eval()
    modes = [module.training for module in model.modules()]
    given = pass_of(model, batch)
    logits = given.rerun(given.embeddings, dropout="off")
    assert [module.training for module in model.modules()] == modes
    with evaluation_mode(model):
        assert torch.equal(logits, model(batch))
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("dropout", ["same", "independent", "off"])
def test_reruns_and_noise_leave_the_default_generator_where_it_was(dropout: str) -> None:
    model, batch = make_model(dropout=0.3), make_batch()
    given = pass_of(model, batch)
    given.logits  # noqa: B018  # the clean pass may move it
    before = torch.get_rng_state()
    given.rerun(given.embeddings, dropout=dropout)
    given.rerun_with(copy.deepcopy(model))
    given.noise(1.0)
    torch.rand(3, generator=given.generator)
    assert torch.equal(before, torch.get_rng_state())


def test_rerun_with_other_weights_has_no_dropout_and_no_gradient() -> None:
    model, batch = make_model(dropout=0.3), make_batch()
    other = make_model(dropout=0.3, seed=9)
    logits = pass_of(model, batch).rerun_with(other)
    assert not logits.requires_grad
    assert other.training
    with evaluation_mode(other):
        assert torch.equal(logits, other(batch))


def test_the_clean_pass_runs_only_when_asked_for_and_once() -> None:
    model, batch, calls = make_model(), make_batch(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    given = pass_of(model, batch)
    assert not given.has_logits
    assert given.logits is given.logits
    assert given.has_logits
    assert len(calls) == 1


def test_noise_has_the_size_asked_for_and_none_at_padding() -> None:
    given = pass_of(make_model(), make_batch(rows=400))
    normal, uniform = given.noise(0.5), given.noise(0.5, uniform=True)
    real = given.mask.unsqueeze(-1).expand_as(normal)
    assert normal[real].std().item() == pytest.approx(0.5, rel=0.02)  # 30,000 draws: 0.4 % standard error
    assert uniform[real].abs().max().item() <= 0.5
    assert uniform[real].std().item() == pytest.approx(0.5 / 3**0.5, rel=0.02)
    assert not normal[~real].any()
    assert not uniform[~real].any()


@pytest.mark.parametrize("padding", [1, 30, NOISE_CHUNK + 3])
def test_noise_of_a_row_does_not_depend_on_padding(padding: int) -> None:
    model = make_model()
    short, long = pass_of(model, make_batch()), pass_of(model, make_batch(padding=padding))
    assert torch.equal(short.noise(1.0), long.noise(1.0)[:, :7])


def test_noise_of_a_row_does_not_depend_on_the_part_or_rank_that_holds_it() -> None:
    model, batch = make_model(), make_batch()
    whole = pass_of(model, batch).noise(1.0)
    part = pass_of(model, slice_batch(batch, slice(2, 4)), part=1, rank=1).noise(1.0)
    assert torch.equal(whole[2:], part)


def test_noise_differs_between_rows_and_steps() -> None:
    model, batch = make_model(), make_batch()
    first, second = pass_of(model, batch).noise(1.0), pass_of(model, batch, step=1).noise(1.0)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0, :3], first[1, :3])


def test_noise_of_a_row_with_several_sequences_differs_between_them() -> None:
    batch = make_batch(rows=4)
    batch.row_ids[:] = ["a", "b"] + [""] * 2
    del batch.row_ids[2:]
    batch.extras["sequences"] = torch.tensor([3, 1])
    noise = pass_of(make_model(), batch).noise(1.0)
    assert not torch.equal(noise[0, :3], noise[1, :3])


def test_the_embedding_block_gives_what_the_backbone_computes_from_ids() -> None:
    model, batch = make_model(), make_batch()
    given = pass_of(model, batch)
    ids, segments = batch.inputs["input_ids"], batch.inputs["token_type_ids"]
    expected = model.encoder.backbone.embeddings(input_ids=ids, token_type_ids=segments)
    torch.testing.assert_close(given.embedding_block(given.embeddings)[batch.mask], expected[batch.mask])


@pytest.mark.parametrize(
    "config",
    [
        DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=32),
        RobertaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, type_vocab_size=1),
    ],
    ids=["without token types", "with one"],
)
def test_the_embedding_block_takes_only_what_its_encoder_knows(config: PretrainedConfig) -> None:
    batch, bert = make_batch(), make_model(dtype=torch.float32)
    model = MultiTaskModel(Encoder(AutoModel.from_config(config)), bert.task_types).train()
    given = pass_of(model, batch)
    assert batch.inputs["token_type_ids"].any()
    penalty = REGULARIZERS.get("smart-mtdnn-release")().penalty(given)
    assert penalty > 0


def test_float32_passes_are_untouched_by_autocast() -> None:
    model, batch = make_model(dtype=torch.float32), make_batch()

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    coarse = ForwardPass(model, batch, seed=1, step=0, autocast=autocast).logits
    fine = ForwardPass(model, batch, seed=1, step=0, autocast=autocast, precision="float32").logits
    assert not torch.equal(coarse.float(), model(batch))
    assert torch.equal(fine, model(batch))


@pytest.fixture(params=["high", "tf32"])
def tf32_allowed(request: pytest.FixtureRequest) -> Iterator[None]:
    """As a script may allow it, in the older way and in the newer one, after which PyTorch refuses the older."""
    if request.param == "high":
        torch.set_float32_matmul_precision("high")
    else:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")


def precision_of_products() -> str:
    return str(torch.backends.cuda.matmul.fp32_precision)


@pytest.mark.usefixtures("tf32_allowed")
@pytest.mark.parametrize(("precision", "expected"), [("float32", "ieee"), ("run", "tf32")])
def test_float32_passes_have_no_tf32_and_the_run_has_it_back_after_each(precision: str, expected: str) -> None:
    model, batch, seen = make_model(dtype=torch.float32), make_batch(), []
    for module in (model, model.encoder.backbone.get_input_embeddings(), model.encoder.backbone.embeddings):
        module.register_forward_hook(lambda *_: seen.append(precision_of_products()))
    given = ForwardPass(model, batch, seed=1, step=0, precision=precision)
    passes = [
        given.embed,
        lambda: given.logits,
        lambda: given.rerun(given.embeddings),
        lambda: given.rerun_with(model),
        lambda: given.embedding_block(given.embeddings),
    ]
    for each in passes:
        seen.clear()
        each()
        assert set(seen) == {expected}
        assert precision_of_products() == "tf32"


@pytest.mark.usefixtures("tf32_allowed")
def test_a_float32_pass_that_fails_leaves_tf32_as_it_was() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    model = make_model(dtype=torch.float32)
    model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        ForwardPass(model, make_batch(), seed=1, step=0, precision="float32").logits  # noqa: B018
    assert precision_of_products() == "tf32"
