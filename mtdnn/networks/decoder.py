"""The decoder of an encoder-decoder as the head of a task: hidden states of the shared encoder → generated text.

Dimensions: B rows, T tokens of the text, L tokens of the target, H hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mtdnn.batch import IGNORED, Batch, on_device
from mtdnn.config.options import NoOptions
from mtdnn.execution.attention import known_padding
from mtdnn.execution.sharding import gathered
from mtdnn.networks.heads import HEADS, Counterpart, Head, StartsAs


class Borrowed(nn.Module):
    """A module in the place of another one that belongs to the encoder: it has no weights of its own.

    So the encoder's weights are saved, trained, copied and moved once.

    Args:
        module: called in its place, and asked for every attribute that this one does not have.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.lender = (module,)  # in a tuple, so that it is not registered as a submodule

    def __getattr__(self, name: str) -> Any:
        if "lender" not in self.__dict__ or name.startswith("__"):  # while it is copied
            raise AttributeError(name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.lender[0], name)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """What the module returns."""
        return self.lender[0](*arguments, **keywords)


class OutputOfEmbeddings(Borrowed):
    """The product with the word embeddings, as an output layer that shares their weights."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, H] → [… , V]."""
        return nn.functional.linear(hidden, gathered(cast(Tensor, self.lender[0].weight)))


def pair_config(encoder_config: PretrainedConfig, *, dropout: float | None = None) -> PretrainedConfig:
    """The configuration of the encoder-decoder that an encoder is half of.

    Args:
        encoder_config: that of the encoder.
        dropout: of the decoder's layers; None: the family's.
    """
    config = copy.deepcopy(encoder_config)
    config.is_encoder_decoder, config.is_decoder, config.use_cache = True, False, True
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id
    if dropout is not None:
        setattr(config, "dropout_rate" if hasattr(config, "dropout_rate") else "dropout", dropout)
    config._attn_implementation = "sdpa" if config._attn_implementation == "sdpa" else "eager"
    return config


@HEADS.register("decoder")
class DecoderHead(Head):
    """The decoder and output layer of the encoder's own family; the word embeddings are the encoder's.

    Args:
        hidden_size: H.
        word_embeddings: those of the encoder.
        backbone: the encoder, as `AutoModel` builds it.
        dropout: of the decoder's layers; None: the family's.
        options: none.
    Attributes:
        model: transformers' model, whose encoder and embeddings are those of the shared encoder.
    """

    Options: ClassVar[Any] = NoOptions
    starts_as: ClassVar[StartsAs] = "decoder"
    counterpart: ClassVar[Counterpart] = "encoder_decoder"

    def __init__(
        self,
        hidden_size: int,
        word_embeddings: nn.Embedding,
        *,
        backbone: PreTrainedModel,
        dropout: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.Options(**options)
        config = pair_config(backbone.config, dropout=dropout)
        self.model: Any = AutoModelForSeq2SeqLM.from_config(config)
        self.model.generation_config.use_cache = True
        core = self.model if hasattr(self.model, "encoder") else self.model.model
        core.encoder = Borrowed(getattr(backbone, "encoder", backbone))
        core.shared = core.decoder.embed_tokens = Borrowed(word_embeddings)
        if config.tie_word_embeddings:
            self.model.lm_head = OutputOfEmbeddings(word_embeddings)

    def start_from(self, pretrained: Mapping[str, Tensor]) -> bool:
        """Copy the weights of a pretrained encoder-decoder; False, and no change, if it has no decoder.

        Args:
            pretrained: its state.
        """
        own = self.model.state_dict()
        if any(name not in pretrained and not name.endswith("final_logits_bias") for name in own):
            return False
        self.model.load_state_dict({name: pretrained[name] for name in own if name in pretrained}, strict=False)
        return True

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [B, L, V] of each target token given those before it, from hidden states [B, T, H].

        A batch without labels has L = 1: the distribution of the first token.
        """
        labels = batch.labels
        if labels is None:
            labels = torch.full((len(hidden), 1), IGNORED, device=hidden.device)
        with known_padding(batch.mask):
            found = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
                attention_mask=on_device(batch.mask, hidden.device).long(),
                decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels=labels),
                use_cache=False,
            )
        logits: Tensor = found.logits
        return logits

    def generate(self, hidden: Tensor, mask: Tensor, settings: Mapping[str, Any]) -> list[list[int]]:
        """The generated token ids of each row, special tokens included, by transformers' `generate`.

        Args:
            hidden: [B, T, H] the encoder's hidden states.
            mask: [B, T] bool, True = a real token.
            settings: keywords of `generate`.
        """
        found: Tensor = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=on_device(mask, hidden.device).long(),
            do_sample=False,
            **settings,
        )
        rows: list[list[int]] = found.tolist()
        return rows
