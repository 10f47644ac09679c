"""What a family allows is known before anything is tokenized, and is what its model does."""

import warnings
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PretrainedConfig

from mtdnn.config.tasks import task_def_from
from mtdnn.errors import ConfigError
from mtdnn.networks.encoder import Encoder
from mtdnn.tokens.families import (
    AFTER_PADDING,
    FROM_ZERO,
    MAYBE_RELATIVE,
    Family,
    family_of,
    family_of_model_class,
    is_known,
    max_tokens,
)
from mtdnn.tokens.loading import load_tokenizer
from tests.reference.project import WORDS, save_encoder

POSITIONS = 40
SMALL = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": POSITIONS, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0,
    "sep_token_id": 2,
}  # fmt: skip
MORE = {
    "lilt": {"hidden_size": 24, "channel_shrink_ratio": 4},
    "longformer": {"attention_window": 4},
    "squeezebert": {"embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "modernbert": {"num_hidden_layers": 2, "global_attn_every_n_layers": 2},  # 5.7 refuses one kind of attention
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16},
}
KNOWN = (*FROM_ZERO, *AFTER_PADDING, *MAYBE_RELATIVE)
NO_TABLE_OF_POSITIONS = ("esm", "eurobert", "gte", "jina_embeddings_v3", "modernbert", "nomic_bert", "xlnet")
UNFIT = {
    "bros": "You have to specify bbox",
    "canine": "it has no plain table of word embeddings",
    "dpr": "it returns no hidden states",
    "clip_text_model": "its forward has no argument inputs_embeds",
    "esmc": "its forward has no argument inputs_embeds",
    "fnet": "its forward has no argument attention_mask",
    "ibert": "it has no plain table of word embeddings",
    "lxmert": "`visual_feats` cannot be `None`",
    "perceiver": "its forward has no argument inputs_embeds",
    "vit": "its forward has no argument inputs_embeds",
    "xmod": "Input language unknown",
}


def config_of(kind: str, **more) -> PretrainedConfig:
    if kind not in CONFIG_MAPPING and Version(version("transformers")) < Version("5.23"):
        pytest.skip("this version of transformers does not have the family yet")
    wanted = {**SMALL, **MORE.get(kind, {}), **more}
    if kind == "xlnet":
        del wanted["max_position_embeddings"]
    if kind in ("vit", "lxmert"):  # of another shape, or with layers of several kinds
        return AutoConfig.for_model(kind)
    return AutoConfig.for_model(kind, **wanted)


def built(config: PretrainedConfig):
    torch.manual_seed(0)
    return AutoModel.from_config(config).eval()


def encode(encoder: Encoder, tokens: int) -> torch.Tensor:
    ids = torch.randint(5, 60, (2, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[1, 3:] = False
    return encoder(ids, mask)


@pytest.mark.parametrize("kind", KNOWN)
def test_what_is_written_of_a_family_is_what_its_model_class_says(kind):
    config = config_of(kind)
    assert is_known(config)
    assert family_of(config) == family_of_model_class(config)


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("execution", ["auto", "padded"])
def test_a_family_takes_as_many_tokens_as_is_said_and_no_more(kind, execution):
    """One more than its table of positions holds is an error of torch's, which ours comes before."""
    config = config_of(kind)
    limit = family_of(config).max_tokens
    encoder = Encoder(built(config), execution=execution).eval()
    assert encoder.max_positions == limit == max_tokens(encoder.backbone)
    with torch.no_grad():
        assert encode(encoder, limit or POSITIONS).shape[1] == (limit or POSITIONS)
        if limit is None:
            return
        with pytest.raises(ValueError, match=f"this encoder takes at most {limit}"):
            encode(encoder, limit + 1)
        if kind not in NO_TABLE_OF_POSITIONS:
            ids, mask = torch.full((1, limit + 1), 7), torch.ones(1, limit + 1, dtype=torch.bool)
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                encoder._encode_padded(encoder.embed(ids), mask, None)


@pytest.mark.parametrize("kind", AFTER_PADDING)
@pytest.mark.parametrize("padding", [0, 1, 5])
def test_positions_start_behind_the_padding_index_wherever_that_is(kind, padding):
    config = config_of(kind, pad_token_id=padding)
    expected = POSITIONS - (1 if kind == "mpnet" else padding) - 1
    assert family_of(config) == family_of_model_class(config) == Family(expected)


@pytest.mark.parametrize(("biased", "limit"), [(True, POSITIONS), (False, None)])
@pytest.mark.parametrize("kind", MAYBE_RELATIVE)
def test_deberta_has_a_limit_where_it_adds_positions_to_its_input(kind, biased, limit):
    config = config_of(kind, relative_attention=True, position_biased_input=biased)
    assert family_of(config) == family_of_model_class(config) == Family(limit)


@pytest.mark.parametrize(("kind", "obstacle"), UNFIT.items())
def test_an_encoder_that_cannot_be_fed_is_refused_by_its_tokenizer_and_by_its_model(tmp_path, kind, obstacle):
    config = config_of(kind)
    save_encoder(tmp_path, WORDS)
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value).startswith(
        f"encoder: {tmp_path}: '{kind}' cannot take word embeddings as input ({obstacle}"
    )
    assert str(caught.value).endswith("such as bert-base-uncased or microsoft/deberta-v3-base.")
    if kind == "vit":
        return  # it has no words at all, and its default is as large as it is
    with warnings.catch_warnings(), pytest.raises(ConfigError, match=f"'{kind}' cannot take word embeddings as input"):
        warnings.simplefilter("ignore")
        Encoder(built(config), execution="padded")


def test_a_family_that_is_not_known_is_asked_and_used_when_it_can_be_fed():
    class OtherConfig(type(config_of("bert"))):
        model_type = "another-bert"

    from transformers import BertModel

    AutoConfig.register("another-bert", OtherConfig)

    class OtherModel(BertModel):
        config_class = OtherConfig

    AutoModel.register(OtherConfig, OtherModel)
    config = OtherConfig(**SMALL)
    assert not is_known(config)
    assert family_of(config) == Family(POSITIONS)
    assert encode(Encoder(OtherModel(config)).eval(), 9).shape == (2, 9, 16)


@pytest.mark.parametrize(
    ("kind", "more", "found"),
    [
        ("blenderbot", {}, "an encoder-decoder without a separate encoder"),
        ("pegasus", {}, "an encoder-decoder without a separate encoder"),
        ("m2m_100", {}, "an encoder-decoder without a separate encoder"),
        ("bert", {"is_decoder": True}, "a decoder"),
    ],
)
def test_decoders_are_refused_with_their_tokenizer_before_anything_is_tokenized(tmp_path, kind, more, found):
    save_encoder(tmp_path, WORDS)
    config_of(kind, **more).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value) == (
        f"encoder: {tmp_path}: '{kind}' is {found}. "
        "Choose an encoder, such as bert-base-uncased or microsoft/deberta-v3-base."
    )


@pytest.mark.parametrize("kind", ["esm", "luke", "markuplm", "roberta-prelayernorm", "xlm-roberta-xl"])
def test_max_length_is_refused_before_anything_is_tokenized(tmp_path, kind):
    save_encoder(tmp_path, WORDS)
    config_of(kind).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    task = task_def_from("t", {"task_type": "classification", "labels": ["a", "b"], "max_length": POSITIONS - 1})
    assert [str(each) for each in tokenizer.length_faults(task)] == [
        f"t: t.max_length: {POSITIONS - 1} tokens; {tmp_path} takes at most {POSITIONS - 2}. "
        f"Set max_length to {POSITIONS - 2} or less."
    ]
