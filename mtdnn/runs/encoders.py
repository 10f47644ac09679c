"""The encoder of a run: a pretrained one, an earlier run's, or one with an adapter over either.

A checkpoint describes its own encoder in `encoder/parts.json`. With an adapter it holds what was trained and nothing
else; the frozen weights are found by the name they were read by, and known by their digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field

from mtdnn.config.execution import Execution
from mtdnn.config.json_source import read_json
from mtdnn.config.options import Frozen, Named
from mtdnn.config.run import EncoderSource, RunConfig
from mtdnn.errors import NOWHERE, ConfigError, DataError, Fault, fault, first_line
from mtdnn.files import write_text
from mtdnn.model import MultiTaskModel
from mtdnn.networks.adapters import Adapter, adapter_faults
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.pretrained import backbone_class, read_config, recompute_layers
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.hub import run_place
from mtdnn.training.checkpoint import ENCODER, load_tied, open_checkpoint, read_weights

PARTS = "parts.json"


class Base(Frozen):
    """Frozen weights that an adapter is trained over."""

    encoder: str | EncoderSource = Field(description="Hub name, folder, or an earlier run.")
    sha256: str = Field(description="Digest of the weights, whatever files they are in.")


class EncoderParts(Frozen):
    """What the encoder of a checkpoint consists of; checkpoints of the first versions do not say."""

    base: Base | None = Field(None, description="Of weights that the checkpoint does not hold. None: it holds all.")
    adapter: Named | None = Field(None, description="With every option. None: without.")
    tasks: tuple[str, ...] = Field((), description="Tasks that have an adapter each.")
    pooling: dict[str, str] = Field({}, description="Task → which tokens its head reads.")
    execution: Execution | None = Field(None, description="The switches it was trained with.")


def encoder_place(source: str | EncoderSource) -> str:
    """Hub name or folder that holds an encoder's configuration and tokenizer."""
    if isinstance(source, str):
        return source
    return str(checkpoint_of(source) / ENCODER)


def checkpoint_of(source: EncoderSource) -> Path:
    """The whole checkpoint of an earlier run that a run starts from.

    Raises:
        ConfigError: no such run, or another name than those of checkpoints; at the key `encoder.run` or
            `encoder.checkpoint`.
        DataError: it is missing or damaged, at the key `encoder.run`.
    """
    try:
        return open_checkpoint(RunFolder(run_place(source.run)).checkpoint(source.checkpoint))
    except (ConfigError, DataError) as error:
        raise type(error)([_at_encoder_key(each) for each in error.faults]) from error


def _at_encoder_key(found: Fault) -> Fault:
    """An error of an earlier run, at the key of the run that names it, so that it gets a line or a flag."""
    if not found.place:
        return replace(found, key=f"encoder.{found.key}")
    return replace(found, place=NOWHERE, key="encoder.run", found=f"{found.place}: {found.found}")


def build_encoder(config: RunConfig, tasks: Sequence[str] = ()) -> Encoder:
    """The encoder a run starts from: pretrained weights or an earlier run's, frozen where it has an adapter.

    An earlier run's adapter is taken over with the weights, and need not be named again.

    Args:
        config: the run.
        tasks: those with a head of their own, for adapters by task.
    Raises:
        ConfigError: the adapter is another than that of the earlier run, or cannot be used.
        DataError: the weights that an earlier run's adapter is over are not there, or others.
    """
    if faults := adapter_faults(config.adapter, freeze_encoder=config.freeze_encoder):
        raise ConfigError(faults)
    source = config.encoder
    before = EncoderParts() if isinstance(source, str) else read_parts(checkpoint_of(source))
    adapter = _settled_adapter(config, before, tuple(tasks))
    if adapter is None:
        encoder = plain_encoder(source, config)
        if config.freeze_encoder:
            encoder.requires_grad_(False)
        return encoder
    if before.base is None or isinstance(source, str):
        return with_adapter(plain_encoder(source, config), adapter, source, seed=config.seed)
    encoder = _over_base(before.base, adapter, config, checkpoint_of(source))
    weights = read_weights(checkpoint_of(source), "encoder.")
    wanted = encoder.state_dict()
    encoder.load_state_dict({key: value for key, value in weights.items() if key in wanted}, strict=False)
    return encoder


def plain_encoder(source: str | EncoderSource, config: RunConfig) -> Encoder:
    """An encoder with all its weights and no adapter.

    Args:
        source: hub name, folder or earlier run.
        config: execution and gradient_checkpointing.
    """
    if isinstance(source, str):
        return Encoder.from_pretrained(
            source, execution=config.execution, gradient_checkpointing=config.gradient_checkpointing
        )
    checkpoint = checkpoint_of(source)
    encoder = empty_encoder(checkpoint / ENCODER, config)
    load_tied(encoder, read_weights(checkpoint, "encoder."))
    return encoder


def empty_encoder(folder: Path, config: RunConfig) -> Encoder:
    """An encoder of the configuration in a folder, to be filled with weights.

    Raises:
        DataError: there is no such model, as a value in the configuration is damaged.
    """
    stored = read_config(str(folder))
    try:
        with torch.random.fork_rng(devices=[]):
            backbone = backbone_class(stored).from_config(stored, dtype=torch.float32)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        found = f"no model can be made of it: {first_line(error)}"
        raise DataError(fault(str(folder / "config.json"), "", found, "Put the file back.")) from error
    if config.gradient_checkpointing:
        recompute_layers(backbone)
    return Encoder(backbone, execution=config.execution)


def stored_encoder(checkpoint: Path, config: RunConfig) -> Encoder:
    """The encoder that a checkpoint's weights are of, to be filled with them; with an adapter, over its frozen weights.

    Raises:
        DataError: the frozen weights are not there, or others.
    """
    parts = read_parts(checkpoint)
    if parts.adapter is None or parts.base is None:
        return empty_encoder(checkpoint / ENCODER, config)
    return _over_base(parts.base, Adapter(parts.adapter, parts.tasks), config, checkpoint)


def with_adapter(encoder: Encoder, adapter: Adapter, source: str | EncoderSource, *, seed: int) -> Encoder:
    """The encoder, its weights frozen, with an adapter in it.

    Args:
        encoder: changed in place.
        adapter: which, and for which tasks.
        source: where the frozen weights are from.
        seed: of the adapter's first weights.
    """
    kept = source if isinstance(source, str) else source.model_copy(update={"heads": "new"})
    encoder.adapt(adapter, base=kept, seed=seed)
    return encoder


def _over_base(base: Base, adapter: Adapter, config: RunConfig, checkpoint: Path) -> Encoder:
    """An encoder with an adapter over the frozen weights that a checkpoint names."""
    place = base.encoder if isinstance(base.encoder, str) else base.encoder.run
    try:
        encoder = plain_encoder(base.encoder, config)
    except (ConfigError, DataError) as error:
        found = f"the frozen weights of its adapter were read from '{place}': {error.faults[0].found}"
        raise DataError(fault(str(checkpoint), "", found, "Put them back.")) from error
    with_adapter(encoder, adapter, base.encoder, seed=config.seed)
    refuse_other_base(encoder, checkpoint)
    return encoder


def refuse_other_base(encoder: Encoder, checkpoint: Path) -> None:
    """DataError when the frozen weights of an encoder are others than those a checkpoint was trained over."""
    base = read_parts(checkpoint).base
    if base is None or encoder.base_sha256 == base.sha256:
        return
    place = base.encoder if isinstance(base.encoder, str) else base.encoder.run
    found = f"its adapter was trained over other weights than those that are now at '{place}'"
    hashes = f"SHA-256 {base.sha256[:12]}… then, {(encoder.base_sha256 or 'none')[:12]}… now"
    raise DataError(fault(str(checkpoint), "", f"{found} ({hashes})", "Put the earlier ones back."))


def _settled_adapter(config: RunConfig, before: EncoderParts, tasks: tuple[str, ...]) -> Adapter | None:
    """The run's adapter: the one it names, or that of the run it starts from."""
    if config.adapter is None:
        return None if before.adapter is None else Adapter(before.adapter, tasks)
    adapter = Adapter(config.adapter, tasks)
    if before.adapter is not None and Adapter(before.adapter).block() != adapter.block():
        theirs, ours = _in_words(Adapter(before.adapter)), _in_words(adapter)
        fix = "Leave adapter out to train that one on, or start from the folder that mtdnn export makes of the run."
        raise ConfigError(fault("", "adapter", f"{ours}, but the run it starts from has {theirs}", fix))
    return adapter


def _in_words(adapter: Adapter) -> str:
    block = adapter.block()
    return f"{{{', '.join(f'{key}: {value}' for key, value in block.items())}}}"


def write_parts(folder: Path, model: MultiTaskModel) -> None:
    """Say in the folder of a checkpoint's encoder what it consists of."""
    encoder, adapter = model.encoder, model.encoder.adapter
    base = None
    if adapter is not None and encoder.base is not None:
        base = Base(encoder=encoder.base, sha256=encoder.base_sha256 or "")
    parts = EncoderParts(
        base=base,
        adapter=None if adapter is None else Named(**adapter.block()),
        tasks=() if adapter is None or not adapter.per_task else adapter.tasks,
        pooling=poolings(model),
        execution=encoder.execution,
    )
    write_text(folder / PARTS, parts.model_dump_json(indent=1) + "\n")


def poolings(model: MultiTaskModel) -> dict[str, str]:
    """Task → which tokens its head reads, of the heads that read one vector."""
    named = ((name, getattr(head, "pooling", None)) for name, head in model.heads.items())
    return {name: word for name, word in named if isinstance(word, str)}


def read_parts(checkpoint: Path) -> EncoderParts:
    """What a whole checkpoint says of its encoder.

    Raises:
        DataError: the file is damaged.
    """
    try:
        found: EncoderParts = read_json(checkpoint / ENCODER / PARTS, EncoderParts, fix="Use another checkpoint.")
    except FileNotFoundError:
        return EncoderParts()
    return found


def refuse_other_poolings(model: MultiTaskModel, checkpoint: Path, definitions: Path) -> None:
    """DataError for heads that would read other tokens than those the checkpoint was trained with.

    Args:
        model: as the definitions have it.
        checkpoint: whose weights it will be filled with.
        definitions: their file.
    """
    now, fix = poolings(model), "Undo the change."
    faults = [
        fault(str(definitions), f"{task}.head.pooling", f"{now[task]}, but {checkpoint} was trained with {then}", fix)
        for task, then in read_parts(checkpoint).pooling.items()
        if task in now and now[task] != then
    ]
    if faults:
        raise DataError(faults)
