"""Hub names and folders → the models of transformers that encoders are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from mtdnn.errors import ConfigError, fault, first_line
from mtdnn.registry import is_trusted
from mtdnn.tokens.families import WITH_DECODER, WITH_OWN_ENCODER, decoder_fault
from mtdnn.tokens.hub import hub_error, refuse_missing_folder


def read_config(where: str) -> PretrainedConfig:
    """The configuration of a hub name or folder; ConfigError if it cannot be read."""
    refuse_missing_folder(where)
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # also values of wrong types in it
        fix = "Give a Hugging Face hub name, or a folder with config.json."
        raise ConfigError(
            fault("", "encoder", f"{where}: no configuration found ({hub_error(where, error)})", fix)
        ) from error


def refuse_decoders(config: PretrainedConfig, where: str) -> None:
    """Raise ConfigError for encoder-decoders without a separate encoder, and for encoders configured as decoders."""
    found = decoder_fault(config, where)
    if found is not None:
        raise ConfigError(found)


class EncoderOfPair:
    """Builds the encoder of an encoder-decoder that has no class for it alone."""

    @classmethod
    def from_config(cls, config: PretrainedConfig, **keywords: Any) -> PreTrainedModel:
        """An encoder with random weights."""
        return cast(PreTrainedModel, AutoModelForSeq2SeqLM.from_config(config, **keywords).model.encoder)

    @classmethod
    def from_pretrained(cls, where: str, **keywords: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The encoder in the files of the pair, and which weights they lack, as transformers returns them."""
        whole, info = AutoModelForSeq2SeqLM.from_pretrained(where, **keywords)
        lacking = {name for name in info["missing_keys"] if ".encoder." in name or ".shared." in name}
        return whole.model.encoder, {**info, "missing_keys": lacking}


def backbone_class(config: PretrainedConfig) -> Any:
    """The class that builds the model of a configuration; for an encoder-decoder, its encoder."""
    if config.model_type in WITH_OWN_ENCODER:
        return AutoModelForTextEncoding
    return EncoderOfPair if config.model_type in WITH_DECODER else AutoModel


def read_backbone(where: str, dtype: torch.dtype) -> tuple[PreTrainedModel, list[str]]:
    """The model of a hub name or folder, and the names of pooler weights that are missing in the files."""
    try:
        with no_bars_for_folders(where):
            backbone, info = backbone_class(read_config(where)).from_pretrained(
                where, dtype=dtype, output_loading_info=True, **loading_only_data()
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        fix = "Give a folder with model.safetensors as save_pretrained writes it."
        if not is_trusted():
            fix += " Pickled weights (pytorch_model.bin) can run code; if you trust them, add --trust."
        raise ConfigError(
            fault("", "encoder", f"{where}: weights cannot be loaded ({first_line(error)})", fix)
        ) from error
    missing = sorted(info["missing_keys"])
    lacking = [name for name in missing if "pooler" not in name]
    if lacking:
        found = f"{where}: {len(lacking)} weights are missing, first '{lacking[0]}'"
        raise ConfigError(
            fault("", "encoder", found, "The files belong to another architecture; choose another encoder.")
        )
    own_storages(backbone)
    return backbone, missing


def loading_only_data() -> dict[str, bool | None]:
    """Keywords of `from_pretrained`: no code from hub repositories, and no pickled weights unless they are trusted."""
    return {"trust_remote_code": False, "use_safetensors": None if is_trusted() else True}


def own_storages(backbone: PreTrainedModel) -> None:
    """Copy each weight that is a view of a larger tensor (NomicBERT's q, k and v) into its own memory.

    Different tensors that share memory cannot be written to weight files.
    """
    for weight in backbone.parameters():
        if weight.untyped_storage().nbytes() > weight.nbytes:
            weight.data = weight.data.clone()


@contextmanager
def no_bars_for_folders(where: str) -> Iterator[None]:
    """A context without transformers' progress bars if weights are read from or written to a folder that
    exists; downloads keep theirs."""
    if not Path(where).is_dir() or not is_progress_bar_enabled():
        yield
        return
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


def recompute_layers(backbone: PreTrainedModel) -> None:
    """Turn on gradient checkpointing, in PyTorch's variant that keeps all gradients and restores random states."""
    newer_name = getattr(backbone, "activation_checkpointing_enable", None)
    enable = newer_name or backbone.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def pooler_weights(backbone: PreTrainedModel) -> dict[str, Tensor] | None:
    """Copies of the weight and bias of the pooler's dense layer (BERT, ALBERT, …); None without one."""
    pooler = getattr(backbone, "pooler", None)
    dense = pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)
    return None if dense is None else {name: value.detach().clone() for name, value in dense.named_parameters()}
