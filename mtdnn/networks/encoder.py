"""Token ids → word embeddings → hidden states, for any Hugging Face encoder.

Dimensions: B batch, T tokens, E size of the word embeddings, H hidden. `embed` and `encode` are separate so that a
regularizer can encode other word embeddings; together they are the usual forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    PretrainedConfig,
    PreTrainedModel,
)

from mtdnn.batch import on_device
from mtdnn.config.execution import Execution, execution_of
from mtdnn.config.run import EncoderSource
from mtdnn.errors import ConfigError, fault, first_line
from mtdnn.execution.attention import ATTENTION_NAME, known_padding, packed_attention, use_packed_attention
from mtdnn.execution.dropout import hide_from_compiler, use_fast_dropout
from mtdnn.execution.layout import LastLayout, Layout
from mtdnn.execution.products import compiled_for, use_fast_products
from mtdnn.networks import adapters
from mtdnn.networks.adapters import Adapter
from mtdnn.networks.layers import depth_of, named_layers
from mtdnn.networks.pretrained import pooler_weights, read_backbone, read_config, recompute_layers, refuse_decoders
from mtdnn.tokens.families import (
    is_causal,
    is_known,
    max_tokens,
    obstacle_to_feeding,
    position_offset,
    unsupported_family,
)

_LOG = logging.getLogger(__name__)
DEFAULT_EXECUTION = Execution()

PACKED_TOLERANCE = 1e-4
"""Largest difference of a hidden state between packed and padded rows, relative to the largest hidden state. Families
that can be packed stay below 4e-7 in float32; in transformers 5.2 to 5.6 packed ModernBERT is wrong by 3.5e-3."""


class Encoder(nn.Module):
    """A pretrained encoder: word embeddings → hidden states.

    Args:
        backbone: an encoder, or a decoder without one, as `AutoModel` builds it; its pooler, if it has one, is removed.
        execution: the speed switches, or a word for the layout: `packed` computes real tokens only, `padded` also
            padding; `auto` packs where the results are equal.
        pooler: `{"weight": [H, H], "bias": [H]}` of a pretrained pooler, for heads that start from it, or None.
    Raises:
        ConfigError: `packed` with a family that cannot be packed, or an unknown word.
    Attributes:
        execution: the speed switches; the layout is packed or padded, not auto.
        adapter: set by `adapt`; None without an adapter.
        position_offset: number of the first position: 0, or padding index + 1 in families such as RoBERTa's.
        base, base_sha256: where the weights below an adapter come from, and their digest.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        *,
        execution: Execution | str = DEFAULT_EXECUTION,
        pooler: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        switches = execution_of(execution)
        self.backbone = backbone
        if is_causal(backbone.config):
            backbone.config.use_cache = False  # keys and values are only needed for generation
        self.position_offset = position_offset(backbone)
        self._refuse_unfit()
        self.hidden_size: int = backbone.config.hidden_size
        self.num_layers: int = backbone.config.num_hidden_layers
        self._pooler = pooler
        if getattr(backbone, "pooler", None) is not None:
            backbone.register_module("pooler", nn.Identity())  # None is not enough: SqueezeBERT and LayoutLM call it
        self.execution, self._layouts = switches, LastLayout()
        self.execution = switches.model_copy(update={"layout": self._settled_layout(switches.layout)})
        self._use_switches()
        self.adapter: Adapter | None = None
        self.base: str | EncoderSource | None = None
        self.base_sha256: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        execution: Execution | str = DEFAULT_EXECUTION,
        gradient_checkpointing: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Encoder:
        """The encoder of a hub name or of a local folder, in evaluation mode.

        Args:
            name_or_folder: hub name, or folder with config.json.
            execution: as for the class.
            gradient_checkpointing: recompute layers in the backward pass: less memory, about a third more time.
            dtype: dtype of the weights in memory, whatever that of the files.
        Raises:
            ConfigError: there is no configuration or no weights, the weights belong to another architecture, or it is
                not an encoder.
        """
        where = str(name_or_folder)
        refuse_decoders(read_config(where), where)
        backbone, missing = read_backbone(where, dtype)
        if gradient_checkpointing:
            if not backbone.supports_gradient_checkpointing:
                found = f"{type(backbone).__name__} cannot recompute its layers"
                raise ConfigError(fault("", "gradient_checkpointing", found, "Set gradient_checkpointing: false."))
            recompute_layers(backbone)
        pooler = None if missing else pooler_weights(backbone)
        return cls(backbone, execution=execution, pooler=pooler).eval()

    def adapt(self, adapter: Adapter, *, base: str | EncoderSource, seed: int) -> None:
        """Freeze the weights, and add an adapter to the linear layers; at first the outputs are unchanged.

        Args:
            adapter: the kind of adapter, and its tasks.
            base: where the frozen weights come from.
            seed: for the adapter's initial weights.
        Raises:
            ConfigError: peft is not installed, or the encoder does not have the adapter's targets.
        """
        self.base, self.base_sha256 = base, adapters.digest(self.backbone.state_dict())
        adapters.put_into(self.backbone, adapter, seed=seed)
        self.adapter = adapter
        self._use_switches()

    def use_adapter_of(self, task: str) -> None:
        """Activate the adapter of a task, if each task has one."""
        if self.adapter is not None and self.adapter.per_task:
            adapters.use(self.backbone, task)

    @cached_property
    def mixes_adapters(self) -> bool:
        """Whether the adapters of several tasks can be used in one pass: peft does so for LoRA, and the layers of the
        family get the tokens of the batch and nothing else."""
        if self.adapter is None or not self.adapter.per_task or not adapters.mixes(self.backbone):
            return False
        return self._obstacle_to_packing() is None

    def encode_for(
        self, tasks: Sequence[str], embeddings: Tensor, mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Hidden states [N, T, H] by the adapter of each task, from one pass; for prediction only.

        Args:
            tasks: that have an adapter each, and for which the encoder `mixes_adapters`.
            embeddings, mask, token_type_ids: as for `encode`.
        """
        count, (rows, width) = len(tasks), mask.shape
        types = None if token_type_ids is None else token_type_ids.repeat(count, 1)
        repeated = mask.repeat(count, 1)
        places = torch.arange(count * rows * width, device=embeddings.device)
        if self.execution.layout == "packed":
            places = Layout.of(repeated, embeddings.device).index
        order = (places // (rows * width)).argsort(stable=True)
        with adapters.mixed(self.backbone, tasks, order):
            return self.encode(embeddings.repeat(count, 1, 1), repeated, types).chunk(count)

    def frozen_weights(self) -> set[str]:
        """Names of the frozen weights below an adapter; empty without an adapter."""
        if self.adapter is None:
            return set()
        own = adapters.own_weights(self.backbone)
        return {f"backbone.{name}" for name in self.backbone.state_dict() if name not in own}

    def merged_weights(self, task: str) -> dict[str, Tensor]:
        """The backbone's weights with the task's adapter merged into them, named as without adapter."""
        if self.adapter is None:
            return dict(self.backbone.state_dict())
        return adapters.merged(self.backbone, task if self.adapter.per_task else adapters.SHARED)

    def _use_switches(self) -> None:
        if self.execution.dropout == "fast":
            use_fast_dropout(self.backbone)
        if self.execution.products == "fast":
            use_fast_products(self.backbone)

    @property
    def config(self) -> PretrainedConfig:
        """The Hugging Face configuration of the backbone."""
        return self.backbone.config

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table of the word embeddings."""
        return cast(nn.Embedding, self.backbone.get_input_embeddings())

    @property
    def max_positions(self) -> int | None:
        """The largest number of tokens in one example; None if positions are only relative."""
        return max_tokens(self.backbone)

    @property
    def embedding_size(self) -> int:
        """E, the size of a word embedding."""
        return int(self.word_embeddings.weight.shape[1])

    def embedding_rms(self) -> float:
        """Root mean square of all word embeddings: the unit in which relative perturbations are given."""
        return embedding_rms(self.word_embeddings)

    def pooler_state(self) -> dict[str, Tensor] | None:
        """`{"weight": [H, H], "bias": [H]}` of the checkpoint's pretrained pooler; None without one."""
        return self._pooler

    def compile_layers(self) -> None:
        """Compile each layer with torch.compile; call it once the encoder is on its device.

        Attention over packed rows is excluded: every batch has another layout, and would be compiled again. On a CPU
        dropout is excluded as well, as its random numbers come from numpy.
        """
        AttentionInterface.register(ATTENTION_NAME, torch.compiler.disable(packed_attention))
        if self.word_embeddings.weight.device.type == "cpu":
            hide_from_compiler()
        for _, module in named_layers(self.backbone):
            module.compile(dynamic=True)

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter, for learning rates by layer; see `depth_of`."""
        return depth_of(parameter_name, self.backbone, tables=self._tables)

    @cached_property
    def _tables(self) -> list[str]:
        """Names of the embedding tables in the backbone."""
        return [name for name, module in self.backbone.named_modules() if isinstance(module, nn.Embedding)]

    def embed(self, input_ids: Tensor) -> Tensor:
        """[B, T] token ids → [B, T, E] word embeddings only, without positions, types or normalisation."""
        return cast(Tensor, self.word_embeddings(input_ids))

    def encode(self, embeddings: Tensor, mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Hidden states of word embeddings.

        Args:
            embeddings: [B, T, E]; gradients flow to them, except at padding.
            mask: [B, T] bool, True = real token.
            token_type_ids: [B, T] long, or None; families without token types ignore them.
        Returns:
            [B, T, H]; zero at padding.
        """
        limit = self.max_positions
        if limit is not None and mask.shape[1] > limit:
            raise ValueError(f"{mask.shape[1]} tokens in a row; this encoder takes at most {limit}")
        encode = self._encode_packed if self.execution.layout == "packed" else self._encode_padded
        return encode(embeddings, mask, token_type_ids)

    def forward(self, input_ids: Tensor, mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """[B, T] token ids → [B, T, H] hidden states, `encode(embed(input_ids), …)`.

        Args:
            input_ids: [B, T] long.
            mask: [B, T] bool, True = a real token.
            token_type_ids: [B, T] long; None without segments.
        """
        return self.encode(self.embed(input_ids), mask, token_type_ids)

    def _products_are_compiled(self, embeddings: Tensor, mask: Tensor) -> bool:
        """Whether oneDNN computes the linear layers for these embeddings: see `Layout.tail`."""
        if embeddings.device.type != "cpu":
            return False
        if torch.is_autocast_enabled("cpu") or embeddings.dtype in (torch.bfloat16, torch.float16):
            return True
        return self.execution.products == "fast" and compiled_for(int(mask.sum()), self.hidden_size)

    def _encode_packed(self, embeddings: Tensor, mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        rounded = self._products_are_compiled(embeddings, mask)
        layout = self._layouts.of(mask, embeddings.device, rounded=rounded)
        if not layout.lengths:
            return embeddings.new_zeros(*mask.shape, self.hidden_size)
        columns = position_ids(on_device(mask, embeddings.device), self.position_offset)
        inputs = {
            "inputs_embeds": layout.pack_rounded(embeddings)[None],
            "position_ids": layout.pack_rounded(columns)[None],
        }
        if token_type_ids is not None and has_token_types(self.config):
            inputs["token_type_ids"] = layout.pack_rounded(token_type_ids)[None]
        # All families use a mask of four dimensions as it is and build none; packed attention needs none. It is on the
        # device, as FSDP copies what a layer gets on the host, and would wait for that.
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, device=embeddings.device)
        switches = {
            "packing": layout,
            "dropout_masks": self.execution.dropout,
            "packed_by": self.execution.attention,
        }
        hidden = self.backbone(**inputs, **switches).last_hidden_state
        return layout.unpack(hidden[0, : len(layout.index)])

    def _encode_padded(self, embeddings: Tensor, mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        known, mask = known_padding(mask), on_device(mask, embeddings.device)
        inputs = {"inputs_embeds": embeddings, "attention_mask": mask.long()}
        if self.position_offset:
            inputs["position_ids"] = position_ids(mask, self.position_offset)
        if token_type_ids is not None and has_token_types(self.config):
            inputs["token_type_ids"] = token_type_ids
        with known:
            hidden = cast(Tensor, self.backbone(**inputs).last_hidden_state)
        return hidden.masked_fill(~mask.unsqueeze(-1), 0)

    def _refuse_unfit(self) -> None:
        """Raise ConfigError if the family cannot take word embeddings as input; an unknown one is tried on two rows."""
        if is_known(self.config):
            return
        training = self.backbone.training
        obstacle = obstacle_to_feeding(self.backbone.eval())
        self.backbone.train(training)
        if obstacle is not None:
            name = self.config.name_or_path or type(self.backbone).__name__
            raise ConfigError(unsupported_family(name, self.config, obstacle))

    def _settled_layout(self, wanted: str) -> str:
        """`packed` or `padded`; a family is packed only if the results are equal."""
        if wanted == "padded":
            return wanted
        family = self.config.model_type
        obstacle = self._obstacle_to_packing()
        if obstacle is None:
            _LOG.debug("%s: packed execution, the encoder computes real tokens only", family)
            return "packed"
        if wanted == "packed":
            found = f"packed, which '{family}' does not allow ({obstacle})"
            raise ConfigError(fault("", "execution.layout", found, "Use layout: auto or padded."))
        _LOG.info("%s: padded execution (%s); group batches by length to save work", family, obstacle)
        return "padded"

    def _obstacle_to_packing(self) -> str | None:
        """Why this family cannot be packed, or None; found by computing three short examples in both ways."""
        if not type(self.backbone)._supports_attention_backend:
            return "its attention cannot be exchanged"
        attention, training = self.config._attn_implementation, self.backbone.training
        use_packed_attention(self.backbone)
        self.backbone.eval()
        try:
            difference = self._difference_when_packed()
            obstacle = None if difference < PACKED_TOLERANCE else f"hidden states differ by {difference:.2g}"
        except (TypeError, ValueError, RuntimeError) as error:
            obstacle = first_line(error)
        self.backbone.train(training)
        if obstacle is not None:
            self.backbone.set_attn_implementation(attention)
        return obstacle

    @torch.no_grad()
    def _difference_when_packed(self) -> float:
        """Largest difference of a hidden state between packed and padded rows, relative to the largest one."""
        mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool, device=self.backbone.device)
        table = self.word_embeddings.weight
        embeddings = table[torch.arange(12, device=table.device) % len(table)].view(3, 4, -1)
        packed, padded = (encode(embeddings, mask, None) for encode in (self._encode_packed, self._encode_padded))
        return ((packed - padded).abs().max() / padded.abs().max()).item()


def embedding_rms(table: nn.Embedding) -> float:
    """Root mean square of all word embeddings of a table."""
    return table.weight.detach().float().square().mean().sqrt().item()


def position_ids(mask: Tensor, offset: int) -> Tensor:
    """[B, T] positions as the family counts them: column numbers, or with an offset the numbers of real tokens."""
    if offset == 0:
        return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return (mask.cumsum(1) * mask) + (offset - 1)


def has_token_types(config: PretrainedConfig) -> bool:
    """Whether the family has token types for the two texts of a pair; RoBERTa has one type, DistilBERT none."""
    return bool(getattr(config, "type_vocab_size", 0) > 1)
