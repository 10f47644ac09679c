"""Limits of encoder families: the largest number of tokens, and whether the model accepts word embeddings as input.

Regularizers need the latter. The limits of common families are listed here, so that `check` and `prepro` need no
PyTorch; a test compares them with the model classes. For other families the model class is built without memory for
its weights.

Dimensions: T tokens, E size of the word embeddings, H hidden.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtdnn.errors import Fault, fault, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FROM_ZERO = (
    "albert", "bert", "bert-generation", "big_bird", "convbert", "distilbert", "electra", "ernie", "eurobert",
    "flaubert", "gte", "jina_embeddings_v3", "layoutlm", "megatron-bert", "mobilebert", "modernbert", "mra",
    "nomic_bert", "nystromformer", "rembert", "roc_bert", "roformer", "splinter", "squeezebert", "xlm", "xlnet", "yoso",
)  # fmt: skip
AFTER_PADDING = (
    "camembert", "data2vec-text", "esm", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
"""Families whose positions start after that of the padding token, so that they take fewer tokens than positions."""
MAYBE_RELATIVE = ("deberta", "deberta-v2")  # whose positions are only relative unless `position_biased_input`
MPNET_PADDING = 1  # fixed in the model, not read from its configuration
WITH_OWN_ENCODER = ("t5", "mt5", "umt5")
"""Encoder-decoders with a separate encoder class in transformers, whose configuration is not an encoder-decoder's."""
WITH_DECODER = (*WITH_OWN_ENCODER, "bart")
"""Encoder-decoders whose encoder can be shared, and whose decoder can be a head."""
OBSTACLES = {"dpr": "it returns no hidden states"}
"""Families that only a model with memory for its weights shows to be unusable."""
NEEDED = ("inputs_embeds", "attention_mask")
NO_TABLE = "it has no plain table of word embeddings"
FIX = "Choose an encoder that takes word embeddings, such as bert-base-uncased or microsoft/deberta-v3-base."


@dataclass(frozen=True)
class Family:
    """The limits of an encoder, as known from its configuration.

    Attributes:
        max_tokens: length of the longest sequence it can take; None: no limit.
        obstacle: why it cannot take word embeddings as input; None if it can, as far as is known.
        decodes: it is half of an encoder-decoder.
    """

    max_tokens: int | None
    obstacle: str | None = None
    decodes: bool = False


def family_of(config: PretrainedConfig) -> Family:
    """The limits of a configuration's family; for an unknown family, those of its model class."""
    kind, limit = config.model_type, limit_of(config)
    if getattr(config, "is_encoder_decoder", False) or kind in WITH_OWN_ENCODER:  # others: see `decoder_fault`
        return Family(limit, decodes=kind in WITH_DECODER)
    if kind in OBSTACLES:
        return Family(limit, OBSTACLES[kind])
    if kind in FROM_ZERO:
        return Family(limit)
    if kind in MAYBE_RELATIVE:
        return Family(limit if getattr(config, "position_biased_input", True) else None)
    padding = MPNET_PADDING if kind == "mpnet" else getattr(config, "pad_token_id", None)
    if kind in AFTER_PADDING and padding is not None:
        return Family(None if limit is None else limit - padding - 1)
    return family_of_model_class(config)


def is_causal(config: PretrainedConfig) -> bool:
    """Whether the family is decoder-only: each token attends only to itself and the tokens before it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(config)
    predicts_next = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    return predicts_next and not is_known(config)  # families that can be both are used as encoders


def decoder_fault(config: PretrainedConfig, where: str) -> Fault | None:
    """The error for an encoder-decoder without a separate encoder, or an encoder configured as a decoder.

    Args:
        config: of the encoder.
        where: its hub name or folder.
    """
    if getattr(config, "is_encoder_decoder", False) and config.model_type not in WITH_DECODER:
        kind = "an encoder-decoder without a separate encoder"
    elif getattr(config, "is_decoder", False) and not is_causal(config):
        kind = "a decoder"
    else:
        return None
    fix = "Choose an encoder, such as bert-base-uncased or microsoft/deberta-v3-base."
    return fault("", "encoder", f"{where}: '{config.model_type}' is {kind}", fix)


def is_known(config: PretrainedConfig) -> bool:
    """Whether the limits of the family are listed here."""
    return config.model_type in (*FROM_ZERO, *AFTER_PADDING, *MAYBE_RELATIVE)


def family_of_model_class(config: PretrainedConfig) -> Family:
    """The limits of a configuration's model class, built without weights."""
    import torch
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        return Family(limit_of(config), "transformers has no model of it")
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = AutoModel.from_config(config).eval()
    except ImportError as error:
        return Family(limit_of(config), f"it cannot be built: {first_line(error)}")
    except Exception:  # a constructor may compute with numbers, which do not exist without memory
        return Family(limit_of(config))
    return Family(max_tokens(model), obstacle_to_feeding(model))


def limit_of(config: PretrainedConfig) -> int | None:
    """`max_position_embeddings` of a configuration; None without one."""
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def vocab_size_of(config: PretrainedConfig) -> int | None:
    """`vocab_size` of a configuration, the number of its word embeddings; None without one."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def max_tokens(backbone: PreTrainedModel) -> int | None:
    """The largest number of tokens in one sequence of a model; None if its positions are only relative."""
    if getattr(getattr(backbone, "embeddings", None), "position_embeddings", 0) is None:
        return None
    limit = limit_of(backbone.config)
    return None if limit is None else limit - position_offset(backbone)


def position_offset(backbone: PreTrainedModel) -> int:
    """Number of the first position: 0, or padding index + 1 for RoBERTa, XLM-R, MPNet and similar families."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def obstacle_to_feeding(model: PreTrainedModel) -> str | None:
    """Why a model cannot take word embeddings as input; None if it can.

    Some obstacles cannot be found in a model without memory for its weights, because its code reads numbers.
    """
    import torch

    parameters = inspect.signature(model.forward).parameters
    lacking = [name for name in NEEDED if name not in parameters]
    if lacking:
        return f"its forward has no argument {' or '.join(lacking)}"
    size = embedding_size(model)
    if size is None:
        return NO_TABLE
    try:
        with torch.no_grad():
            hidden = model(**_two_rows(model, size))
    except Exception as error:  # model code can raise anything for inputs it does not support
        unseen = isinstance(error, (NotImplementedError, RuntimeError)) or "meta" in str(error)
        has_memory = not any(weight.is_meta for weight in model.parameters())
        return None if unseen and not has_memory else first_line(error)
    return hidden_states_error(model.config, getattr(hidden, "last_hidden_state", None), tokens=4)


def _two_rows(model: PreTrainedModel, size: int) -> dict[str, Any]:
    """Inputs of two rows of four tokens, the second one padded after two."""
    import torch

    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=model.device)
    inputs = {"inputs_embeds": torch.zeros(2, 4, size, device=model.device, dtype=model.dtype), "attention_mask": mask}
    offset = position_offset(model)
    return {**inputs, "position_ids": mask.cumsum(1) * mask + (offset - 1)} if offset else inputs


def embedding_size(model: PreTrainedModel) -> int | None:
    """E, the size of its word embeddings; None if they are not an `nn.Embedding`."""
    from torch import nn

    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return table.embedding_dim if isinstance(table, nn.Embedding) else None


def hidden_states_error(config: PretrainedConfig, hidden: Any, *, tokens: int) -> str | None:
    """What is wrong with the hidden states of a sequence of that many tokens; None if they are [_, T, H]."""
    size = getattr(config, "hidden_size", None)
    if hidden is None:
        return "it returns no hidden states"
    if tuple(hidden.shape[1:]) != (tokens, size):
        return f"{tokens} tokens give hidden states of {tuple(hidden.shape[1:])}, not {(tokens, size)}"
    return None


def unsupported_family(where: str, config: PretrainedConfig, obstacle: str) -> Fault:
    """The error for an encoder whose family cannot take word embeddings as input."""
    found = f"{where}: '{config.model_type}' cannot take word embeddings as input ({obstacle.rstrip('.')})"
    return fault("", "encoder", found, FIX)
