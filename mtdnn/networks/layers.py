"""The layers of a model by their names, which differ from family to family."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from torch import nn
from transformers import PreTrainedModel

_LAYER = re.compile(r"\b(layers?|block|h|albert_layer_groups)\.(\d+)\.")


def named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model, also those within another layer, as T5 has them, with their names."""
    for name, module in model.named_modules():
        found = _LAYER.search(f"{name}.")
        if found is not None and found.end() == len(name) + 1:
            yield name, module


def outermost_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, in their order; none of a family that has no module for a layer, such as XLM."""
    found: dict[str, nn.Module] = {}
    for name, module in named_layers(model):
        if not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return list(found.values())


def depth_of(parameter_name: str, backbone: PreTrainedModel, *, tables: Collection[str]) -> int:
    """Depth of a parameter: 0 for embeddings, 1 … number of layers; the top for all others.

    Tables of words and positions outside the layers are embeddings whatever their names: `wte` in GPT-2, `shared` in
    T5. ALBERT uses one layer at several depths; it gets the largest of them.

    Args:
        parameter_name: below any prefix.
        backbone: the model it is a parameter of.
        tables: names of its embedding tables.
    """
    num_layers = int(backbone.config.num_hidden_layers)
    found = _LAYER.search(parameter_name)
    if found is None:
        in_table = any(f".{table}." in f".{parameter_name}" for table in tables)
        return 0 if in_table or "embed" in parameter_name else num_layers
    if found.group(1) == "albert_layer_groups":
        return (int(found.group(2)) + 1) * num_layers // int(backbone.config.num_hidden_groups)
    return int(found.group(2)) + 1
