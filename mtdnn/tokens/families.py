"""What an encoder's family allows: how many tokens, and whether it can be fed word embeddings, as regularizers do.

Of usual families it is written here, so that `check` and `prepro` need no PyTorch; a test compares it with their model
classes. Others are asked for: the model class is built without memory for its weights.

Dimensions: T tokens, E size of the word embeddings, H hidden.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtdnn.errors import Fault, fault

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FROM_ZERO = (
    "albert", "bert", "bert-generation", "big_bird", "convbert", "distilbert", "electra", "ernie", "eurobert",
    "flaubert", "gte", "jina_embeddings_v3", "layoutlm", "megatron-bert", "mobilebert", "modernbert", "mra",
    "nomic_bert", "nystromformer", "rembert", "roc_bert", "roformer", "splinter", "squeezebert", "xlm", "xlnet", "yoso",
)  # fmt: skip
BEHIND_PADDING = (
    "camembert", "data2vec-text", "esm", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
"""Families whose positions start behind that of the padding token, so that they take fewer tokens than positions."""
MAYBE_RELATIVE = ("deberta", "deberta-v2")  # whose positions are only relative unless `position_biased_input`
MPNET_PADDING = 1  # whatever its configuration says
NEEDED = ("inputs_embeds", "attention_mask")
NO_TABLE = "it has no plain table of word embeddings"
FEED = "Choose an encoder that takes word embeddings, such as bert-base-uncased or microsoft/deberta-v3-base."


@dataclass(frozen=True)
class Family:
    """What is known of a family by its configuration.

    Attributes:
        max_tokens: of the longest sequence it can take; None: there is no such limit.
        obstacle: why it cannot be fed word embeddings; None: nothing is known to be in the way.
    """

    max_tokens: int | None
    obstacle: str | None = None


def family_of(config: PretrainedConfig) -> Family:
    """What is known of a configuration's family, or else what its model class says."""
    kind, limit = config.model_type, limit_of(config)
    if getattr(config, "is_encoder_decoder", False):  # refused, or used by half, where the encoder is built
        return Family(limit)
    if kind in FROM_ZERO:
        return Family(limit)
    if kind in MAYBE_RELATIVE:
        return Family(limit if getattr(config, "position_biased_input", True) else None)
    padding = MPNET_PADDING if kind == "mpnet" else getattr(config, "pad_token_id", None)
    if kind in BEHIND_PADDING and padding is not None:
        return Family(None if limit is None else limit - padding - 1)
    return asked(config)


def is_causal(config: PretrainedConfig) -> bool:
    """Whether it is a family of decoders without encoder, whose tokens see only those before them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING


def is_known(config: PretrainedConfig) -> bool:
    """Whether what its family allows is written here."""
    return config.model_type in (*FROM_ZERO, *BEHIND_PADDING, *MAYBE_RELATIVE)


def asked(config: PretrainedConfig) -> Family:
    """What the model class of a configuration says, without weights and without computing anything."""
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
    except Exception:  # what a constructor computes may need numbers, which there are none of without memory
        return Family(limit_of(config))
    return Family(max_tokens(model), obstacle_to_feeding(model))


def limit_of(config: PretrainedConfig) -> int | None:
    """The number of positions that a configuration names, or None."""
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def max_tokens(backbone: PreTrainedModel) -> int | None:
    """The most tokens one sequence of a model may have; None where positions are only relative."""
    if getattr(getattr(backbone, "embeddings", None), "position_embeddings", 0) is None:
        return None
    limit = limit_of(backbone.config)
    return None if limit is None else limit - position_offset(backbone)


def position_offset(backbone: PreTrainedModel) -> int:
    """Number of the first position: 0, but padding index + 1 for RoBERTa, XLM-R, MPNet and their kin."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def obstacle_to_feeding(model: PreTrainedModel) -> str | None:
    """Why a model cannot be fed word embeddings; None when nothing is in the way.

    Of a model without memory for its weights some obstacles cannot be seen, as its code looks at numbers on the way.
    """
    import torch

    parameters = inspect.signature(model.forward).parameters
    lacking = [name for name in NEEDED if name not in parameters]
    if lacking:
        return f"its forward takes no {' and no '.join(lacking)}"
    size = embedding_size(model)
    if size is None:
        return NO_TABLE
    try:
        with torch.no_grad():
            hidden = model(**_two_rows(model, size))
    except Exception as error:  # whatever its code does with inputs it is not made for
        unseen = isinstance(error, (NotImplementedError, RuntimeError)) or "meta" in str(error)
        has_memory = not any(weight.is_meta for weight in model.parameters())
        return None if unseen and not has_memory else first_line(error)
    return misfit(model.config, getattr(hidden, "last_hidden_state", None), tokens=4)


def _two_rows(model: PreTrainedModel, size: int) -> dict[str, Any]:
    """Inputs of two rows of up to four tokens, the second one padded."""
    import torch

    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=model.device)
    inputs = {"inputs_embeds": torch.zeros(2, 4, size, device=model.device, dtype=model.dtype), "attention_mask": mask}
    offset = position_offset(model)
    return {**inputs, "position_ids": mask.cumsum(1) * mask + (offset - 1)} if offset else inputs


def embedding_size(model: PreTrainedModel) -> int | None:
    """E of its word embeddings; None where they are not rows of a table."""
    from torch import nn

    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return table.embedding_dim if isinstance(table, nn.Embedding) else None


def misfit(config: PretrainedConfig, hidden: Any, *, tokens: int) -> str | None:
    """What is wrong with the hidden states of a sequence of so many tokens; None when they are [_, T, H]."""
    size = getattr(config, "hidden_size", None)
    if hidden is None:
        return "it gives no hidden states"
    if tuple(hidden.shape[1:]) != (tokens, size):
        return f"{tokens} tokens give hidden states of {tuple(hidden.shape[1:])}, not {(tokens, size)}"
    return None


def told_unfit(where: str, config: PretrainedConfig, obstacle: str) -> Fault:
    """The fault of an encoder of a family that cannot be fed."""
    found = f"{where}: '{config.model_type}' cannot be fed word embeddings ({obstacle.rstrip('.')})"
    return fault("", "encoder", found, FEED)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
