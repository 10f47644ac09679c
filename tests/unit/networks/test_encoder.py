"""The encoder against the plain Hugging Face forward, on tiny random models of every family, packed and padded.

Float32 sums in another order differ by a few units in the last place: 1e-5 relative leaves a factor of ten.
"""

import copy
import re

import pytest
import torch
from safetensors.torch import load_model, save_model
from transformers import (
    AlbertConfig,
    AutoModel,
    BartConfig,
    BertConfig,
    BertGenerationConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GemmaConfig,
    GPT2Config,
    LayoutLMConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    MT5Config,
    NomicBertConfig,
    PegasusConfig,
    Qwen3Config,
    RobertaConfig,
    SqueezeBertConfig,
    T5Config,
    UMT5Config,
    XLMRobertaConfig,
    XLNetConfig,
)
from transformers.utils.logging import is_progress_bar_enabled

from mtdnn.config.execution import Execution
from mtdnn.errors import ConfigError
from mtdnn.networks.encoder import Encoder, has_token_types
from mtdnn.networks.pretrained import backbone_class, recompute_layers
from mtdnn.tokens.loading import load_tokenizer
from tests.reference.project import save_encoder

PAD = 1
SIZE = {"vocab_size": 60, "max_position_embeddings": 40, "pad_token_id": PAD}
SHAPE = SIZE | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
SPECIAL = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
CAUSAL = {"num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.1}
HALF = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48, "pad_token_id": PAD}
BART = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE),
    "xlm-roberta": XLMRobertaConfig(**SHAPE),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "albert": AlbertConfig(**SHAPE, embedding_size=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1),
    "distilbert": DistilBertConfig(**SIZE, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "modernbert": ModernBertConfig(
        **SHAPE, **SPECIAL, local_attention=8, global_attn_every_n_layers=2, attention_dropout=0.1
    ),
    "mpnet": MPNetConfig(**SHAPE),
    "deberta": DebertaConfig(**SHAPE, **DISENTANGLED, type_vocab_size=2),
    "gpt2": GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=40),
    "llama": LlamaConfig(**SHAPE, **CAUSAL),
    "mistral": MistralConfig(**SHAPE, **CAUSAL, sliding_window=4),
    "qwen3": Qwen3Config(**SHAPE, **CAUSAL),
    "gemma": GemmaConfig(**SHAPE, **CAUSAL),
    "t5": T5Config(**HALF),
    "umt5": UMT5Config(**HALF),
    "mt5": MT5Config(**HALF),
    "bart": BartConfig(**SIZE, d_model=32, **BART),
    "deberta-v2": DebertaV2Config(
        **SHAPE, **DISENTANGLED, type_vocab_size=0, position_buckets=8, position_biased_input=False, share_att_key=True
    ),
}
DECODERS = ["gpt2", "llama", "mistral", "qwen3", "gemma"]
PACKED = ["bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "modernbert", *DECODERS]
WAYS = [(family, "padded") for family in CONFIGS] + [(family, "packed") for family in PACKED]
LENGTHS = {
    "ragged": (17, 3, 9, 3),
    "a single token among others": (1, 12),
    "one example": (11,),
    "one token in all": (1,),
    "all equal": (7, 7, 7),
}


def backbone(family: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[family])
    model = backbone_class(config).from_config(config).eval()
    for parameter in model.parameters():  # biases start at zero and would hide a missing term
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def encoder(family: str, execution="auto", **options) -> Encoder:
    return Encoder(backbone(family), execution=execution, **options)


def batch(lengths, left: bool = False):
    """ids, mask, token types of random rows; pairs: the second half has type 1."""
    columns = torch.arange(max(lengths))
    generator = torch.Generator().manual_seed(7)
    mask = columns < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if left else mask
    ids = torch.randint(5, 60, mask.shape, generator=generator).masked_fill(~mask, PAD)
    return ids, mask, (columns > max(lengths) // 2).long().expand(mask.shape)


def plain_forward(model, ids, mask, types):
    extra = {"token_type_ids": types} if has_token_types(model.config) else {}
    return model(input_ids=ids, attention_mask=mask.long(), **extra).last_hidden_state


def gradients(model, hidden, mask):
    """Gradients of a random projection of the hidden states of real tokens."""
    for parameter in model.parameters():
        parameter.grad = None
    projection = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    (hidden * projection)[mask].sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and "pooler" not in name}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize(("family", "execution"), WAYS)
def test_hidden_states_and_gradients_are_those_of_the_plain_forward(family, execution, lengths):
    ids, mask, types = batch(lengths)
    plain = backbone(family)
    expected = plain_forward(plain, ids, mask, types)
    expected_gradients = gradients(plain, expected, mask)
    ours = encoder(family, execution)
    hidden = ours(ids, mask, types)
    torch.testing.assert_close(hidden[mask], expected[mask], rtol=1e-5, atol=1e-5)
    assert not hidden[~mask].any()
    found = gradients(ours.backbone, hidden, mask)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        largest = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-5, atol=1e-5 * max(largest, 1), msg=name)


@pytest.mark.parametrize("execution", ["packed", "padded"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_rows_padded_on_the_left_are_encoded_as_the_plain_forward_does(family, execution):
    ids, mask, types = batch((9, 4), left=True)
    expected = plain_forward(backbone(family), ids, mask, types)
    hidden = encoder(family, execution)(ids, mask, types)
    torch.testing.assert_close(hidden[mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "execution"), [("bert", "packed"), ("bert", "padded"), ("deberta-v2", "padded")])
def test_other_embeddings_receive_a_gradient_at_real_tokens_only(family, execution):
    ids, mask, types = batch((6, 2))
    ours = encoder(family, execution).train()
    embeddings = ours.embed(ids).detach().requires_grad_()
    ours.encode(embeddings, mask, types)[:, 0].pow(2).sum().backward()
    assert embeddings.grad[mask].abs().sum(-1).min() > 0
    assert not embeddings.grad[~mask].any()


def test_auto_packs_the_families_that_can_be_packed_and_no_other():
    chosen = {family for family in CONFIGS if encoder(family).execution.layout == "packed"}
    assert chosen == set(PACKED)


@pytest.mark.parametrize("words", [1, 5, 11])
def test_an_encoder_of_fewer_words_than_its_trial_has_tokens_is_packed_as_well(words):
    torch.manual_seed(0)
    config = BertConfig(**{**SHAPE, "vocab_size": words, "pad_token_id": 0})
    plain = backbone_class(config).from_config(config).eval()
    _, mask, types = batch((9, 4, 1))
    ids = torch.arange(mask.numel()).view(mask.shape) % words
    expected = plain_forward(plain, ids, mask, types)
    ours = Encoder(plain, execution="packed")
    torch.testing.assert_close(ours(ids, mask, types)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_packing_a_family_that_cannot_be_packed_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"execution.layout: packed, which 'deberta-v2' does not allow.*or padded"):
        encoder("deberta-v2", "packed")


def test_an_unknown_word_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"layout: .*'auto', 'packed' or 'padded'"):
        encoder("bert", "paked")


@pytest.mark.parametrize("family", PACKED)
@pytest.mark.parametrize("dropout", ["fast", "torch"])
def test_dropout_is_a_function_of_the_random_state_alone(family, dropout):
    ids, mask, types = batch((9, 4, 4))
    ours = encoder(family, Execution(dropout=dropout)).train()
    torch.manual_seed(5)
    first, second = ours(ids, mask, types), ours(ids, mask, types)
    torch.manual_seed(5)
    assert torch.equal(ours(ids, mask, types), first)
    assert not torch.allclose(first[mask], second[mask])


def test_evaluation_draws_nothing_at_random():
    ids, mask, types = batch((9, 4))
    ours = encoder("bert")
    state = torch.get_rng_state()
    ours(ids, mask, types)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_recomputed_layers_find_their_masks_and_their_layout_again(family):
    first, second = batch((9, 4, 4)), batch((2, 7))
    found = []
    for recompute in (False, True):
        ours = encoder(family, "packed").train()
        if recompute:
            recompute_layers(ours.backbone)
        torch.manual_seed(5)
        (ours(*first)[:, 0].pow(2).sum() + ours(*second)[:, 0].pow(2).sum()).backward()
        found.append({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("products", ["fast", "torch"])
@pytest.mark.parametrize(("quicker", "smallest"), [(True, 17 * 32 * 32), (True, 17 * 32 * 32 + 1), (False, 0)])
def test_packed_rows_are_rounded_up_where_products_are_compiled_for_each_length(
    products, quicker, smallest, monkeypatch
):
    monkeypatch.setattr("mtdnn.execution.products.onednn_is_faster", lambda: quicker)
    monkeypatch.setattr("mtdnn.execution.products._SMALLEST", smallest)
    ids, mask, types = batch((9, 4, 4))
    ours = encoder("bert", Execution(layout="packed", products=products))
    exact, rows = ours(ids, mask, types), []
    layer = ours.backbone.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda layer, inputs, output: rows.append(output.shape[-2]))
    found = ours(ids, mask, types)
    with torch.autocast("cpu", torch.bfloat16):
        ours(ids, mask, types)
    assert rows == [24 if quicker and products == "fast" and smallest == 17 * 32 * 32 else 17, 24]
    assert ours.hidden_size == 32
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("family", PACKED)
def test_bfloat16_autocast_stays_near_float32_in_training_and_evaluation(family):
    ids, mask, types = batch((9, 4, 4))
    ours = encoder(family, "packed")
    exact = ours(ids, mask, types)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours(ids, mask, types)
        ours.train()(ids, mask, types).float().sum().backward()
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()  # bf16 keeps 8 bits: 0.4 % per operation
    assert all(p.grad.isfinite().all() for p in ours.parameters() if p.grad is not None)


def test_inference_mode_gives_the_same_hidden_states_and_leaves_training_possible():
    ids, mask, types = batch((9, 4))
    ours = encoder("bert", "packed")
    with torch.inference_mode():
        quick = ours(ids, mask, types)
    hidden = ours(ids, mask, types)
    assert torch.equal(quick, hidden)
    hidden.sum().backward()


def test_an_example_without_tokens_and_a_batch_without_tokens_are_zero():
    ours = encoder("bert", "packed").train()
    ids, mask, types = batch((3, 2))
    mask[1] = False
    assert not ours(ids, mask, types)[1].any()
    assert not ours(ids, torch.zeros_like(mask), types).any()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_compiled_layers_compute_the_same_and_draw_the_same_masks(family):
    """Float32, fused operations round otherwise: 1e-5."""
    plain, compiled = encoder(family).train(), encoder(family).train()
    compiled.compile_layers()
    assert sum(module._compiled_call_impl is not None for module in compiled.backbone.modules()) == compiled.num_layers
    for lengths in ((5, 3, 7), (4, 4), (9, 2, 1)):
        ids, mask, types = batch(lengths)
        found = []
        for each in (plain, compiled):
            torch.manual_seed(3)
            hidden = each(ids, mask, types)
            words = each.backbone.get_input_embeddings().weight
            found.append((hidden, *torch.autograd.grad(hidden.square().sum(), words)))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_a_copy_of_an_encoder_computes_the_same():
    ids, mask, types = batch((5, 2))
    ours = encoder("bert")
    assert torch.equal(copy.deepcopy(ours)(ids, mask, types), ours(ids, mask, types))


def test_too_many_tokens_are_refused_with_both_numbers():
    ids, mask, types = batch((39,))
    assert encoder("bert").max_positions == 40
    assert encoder("roberta").max_positions == 38  # its positions start at padding index + 1 = 2
    assert encoder("deberta-v2").max_positions is None
    with pytest.raises(ValueError, match="39 tokens in a row; this encoder takes at most 38"):
        encoder("roberta")(ids, mask, types)


def test_the_size_of_the_embeddings_is_their_root_mean_square():
    ours = encoder("bert")
    torch.nn.init.constant_(ours.backbone.get_input_embeddings().weight, -0.5)
    assert ours.embedding_rms() == pytest.approx(0.5)


def test_layers_are_counted_from_the_embeddings_upward():
    bert, albert, modernbert = encoder("bert"), encoder("albert"), encoder("modernbert")
    assert bert.num_layers == 2
    assert bert.layer_of("backbone.embeddings.word_embeddings.weight") == 0
    assert bert.layer_of("backbone.encoder.layer.0.output.dense.weight") == 1
    assert bert.layer_of("encoder.backbone.encoder.layer.1.output.dense.bias") == 2
    assert albert.layer_of("backbone.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight") == 2
    assert modernbert.layer_of("backbone.layers.0.mlp.Wi.weight") == 1
    assert modernbert.layer_of("backbone.final_norm.weight") == 2


@pytest.mark.parametrize("family", CONFIGS)
def test_every_table_of_embeddings_is_below_the_first_layer(family):
    """GPT-2's are `wte` and `wpe`, T5's is `shared`; a table of distances within a layer belongs to that layer."""
    ours = encoder(family)
    words = ours.word_embeddings.weight
    assert [ours.layer_of(name) for name, weight in ours.named_parameters() if weight is words] == [0]
    names = [f"{name}.weight" for name, module in ours.named_modules() if isinstance(module, torch.nn.Embedding)]
    assert {ours.layer_of(name) for name in names if not re.search(r"\.\d+\.", name)} == {0}


def test_reading_a_folder_shows_no_bar_and_leaves_bars_as_they_were(tmp_path, capfd):
    backbone("bert").save_pretrained(tmp_path)
    Encoder.from_pretrained(tmp_path)
    assert "Loading" not in capfd.readouterr().err
    assert is_progress_bar_enabled()


def test_a_folder_gives_the_encoder_and_its_pooler_in_evaluation_mode(tmp_path):
    model = backbone("bert")
    model.save_pretrained(tmp_path)
    ours = Encoder.from_pretrained(tmp_path)
    assert not ours.training
    assert not list(ours.backbone.pooler.parameters())
    assert torch.equal(ours.pooler_state()["weight"], model.pooler.dense.weight)
    assert torch.equal(ours.pooler_state()["bias"], model.pooler.dense.bias)


def test_a_folder_without_a_pooler_gives_none(tmp_path):
    encoder("bert").backbone.save_pretrained(tmp_path)
    assert Encoder.from_pretrained(tmp_path).pooler_state() is None


def test_gradient_checkpointing_is_turned_on_by_its_word_and_refused_where_there_is_none(tmp_path):
    backbone("bert").save_pretrained(tmp_path / "bert")
    ours = Encoder.from_pretrained(tmp_path / "bert", gradient_checkpointing=True)
    assert all(layer.gradient_checkpointing for layer in ours.backbone.encoder.layer)
    with torch.inference_mode():
        assert ours(*batch((5, 2))).isfinite().all()
    backbone("mpnet").save_pretrained(tmp_path / "mpnet")
    with pytest.raises(ConfigError, match="gradient_checkpointing: MPNetModel cannot recompute"):
        Encoder.from_pretrained(tmp_path / "mpnet", gradient_checkpointing=True)


@pytest.mark.parametrize(
    "config",
    [SqueezeBertConfig(**SHAPE, embedding_size=32, q_groups=1, k_groups=1, v_groups=1), LayoutLMConfig(**SHAPE)],
)
def test_a_family_whose_forward_always_calls_its_pooler_is_encoded(config):
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    ids, mask, types = batch((9, 4))
    expected = plain_forward(model, ids, mask, types)
    ours = Encoder(model)
    assert not any("pooler" in name for name, _ in ours.named_parameters())
    torch.testing.assert_close(ours(ids, mask, types)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_weights_cut_out_of_a_larger_tensor_can_be_saved(tmp_path):
    AutoModel.from_config(NomicBertConfig(**SHAPE)).save_pretrained(tmp_path / "nomic")
    ours = Encoder.from_pretrained(tmp_path / "nomic")
    save_model(ours, str(tmp_path / "model.safetensors"))
    again = Encoder.from_pretrained(tmp_path / "nomic")
    load_model(again, str(tmp_path / "model.safetensors"))
    assert torch.equal(again(*batch((5, 2))), ours(*batch((5, 2))))


@pytest.mark.parametrize("name", ["./encodr", "/tmp/no/such/encoder", "~/encodr", "runs/first/encodr", "encodr/"])
def test_a_path_that_is_no_folder_is_reported_as_such(name):
    for load in (Encoder.from_pretrained, load_tokenizer):
        with pytest.raises(ConfigError) as caught:
            load(name)
        assert str(caught.value) == (
            f"encoder: there is no folder '{name}'. Check the path, or give a Hugging Face hub name."
        )


def test_a_name_that_may_be_a_path_is_reported_to_be_no_folder():
    for load in (Encoder.from_pretrained, load_tokenizer):
        with pytest.raises(ConfigError, match="there is no folder of this name, and on the hub: "):
            load("no-such/encoder")


def test_a_family_without_limit_of_length_takes_every_max_length(tmp_path):
    save_encoder(tmp_path, ["a"])
    XLNetConfig(vocab_size=60, d_model=16, n_layer=1, n_head=2, d_inner=32).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).max_positions is None


def test_a_configuration_with_a_value_of_a_wrong_type_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "dtype": ["float32"]}')
    with pytest.raises(ConfigError, match=f"encoder: {tmp_path}: no configuration found"):
        Encoder.from_pretrained(tmp_path)


def test_a_folder_without_configuration_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=f"encoder: {tmp_path}: no configuration found.*config.json"):
        Encoder.from_pretrained(tmp_path)


def test_a_folder_without_weights_is_refused_by_name(tmp_path):
    CONFIGS["bert"].save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"encoder: {tmp_path}: weights cannot be loaded.*model.safetensors"):
        Encoder.from_pretrained(tmp_path)


def test_a_folder_with_weights_of_another_architecture_is_refused(tmp_path):
    backbone("distilbert").save_pretrained(tmp_path)
    CONFIGS["bert"].save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"weights are missing, first '.*another architecture"):
        Encoder.from_pretrained(tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    backbone("bert").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ConfigError, match="weights cannot be loaded"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (BertGenerationConfig(is_decoder=True), "'bert-generation' is a decoder"),
        (PegasusConfig(), "'pegasus' is an encoder-decoder"),
    ],
)
def test_decoders_are_refused_before_their_weights_are_read(tmp_path, config, kind):
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"{kind}.*Choose an encoder"):
        Encoder.from_pretrained(tmp_path)
