"""The keys of task definitions and runs, as JSON Schema for editors and as tables for the documentation."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mtdnn.config.expectations import plain_default
from mtdnn.config.options import Named, Options, options_of
from mtdnn.config.run import DEFAULTS, RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.registry import Registry
from mtdnn.runs.plug_ins import KEYS, run_registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_schema() -> dict[str, Any]:
    """JSON Schema of a run's YAML."""
    schema = _described_in_a_line(RunConfig.model_json_schema(by_alias=True))
    for key in KEYS:
        _list_plug_ins(schema, key, run_registry(key), _named_model(RunConfig, key))
    return {"$schema": DIALECT, **schema}


def task_schema() -> dict[str, Any]:
    """JSON Schema of a file of task definitions: names → blocks, with the options of every task type."""
    from mtdnn.networks.heads import HEADS
    from mtdnn.networks.losses import LOSSES
    from mtdnn.task_types.base import TASK_TYPES

    block = _described_in_a_line(TaskDef.model_json_schema(by_alias=True))
    _list_plug_ins(block, "head", HEADS, Named)
    _list_plug_ins(block, "loss", LOSSES, Named)
    _list_plug_ins(block, "regularizer", run_registry("regularizer"), Named)
    definitions = block.pop("$defs", {})
    for key in ("name", "options"):
        block["properties"].pop(key)
    block["required"] = [key for key in block["required"] if key != "name"]
    block["properties"]["task_type"]["anyOf"] = [{"enum": TASK_TYPES.names()}, {"pattern": r"\."}]
    for name in TASK_TYPES.names():
        options = TASK_TYPES.get(name).Options.model_json_schema(by_alias=True)
        definitions.update(options.pop("$defs", {}))
        block["properties"].update(options.get("properties", {}))
    return {
        "$schema": DIALECT,
        "title": "Task definitions",
        "type": "object",
        "patternProperties": {"^[A-Za-z0-9_-]+$": block},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _list_plug_ins(schema: dict[str, Any], key: str, registry: Registry[Any], kind: type[Named]) -> None:
    """Allow for a property: a registered name, alone or with that plug-in's options, or a dotted path."""
    definitions, values = schema["$defs"], schema["properties"][key]
    off = {"type": "null"} in values["anyOf"]
    common, default = kind.model_json_schema()["properties"], DEFAULTS.get(key, kind.model_fields["name"].default)
    words = [{"enum": [*registry.names(), *(["none"] if off else [])]}, {"type": "string", "pattern": r"\."}]
    blocks = []
    for name, options in options_by_name(registry, kind).items():
        own = options.model_json_schema(by_alias=True)
        definitions.update(own.pop("$defs", {}))
        properties = {**common, **own.get("properties", {}), "name": {"const": name}}
        required = {} if default == name else {"required": ["name"]}
        blocks.append({"type": "object", "properties": properties, **required, "additionalProperties": False})
    elsewhere = {"name": {"type": "string", "pattern": r"\."}}
    blocks.append({"type": "object", "properties": {**common, **elsewhere}, "required": ["name"]})
    values["anyOf"] = [*words, *blocks, *([{"type": "null"}] if off else [])]


def options_by_name(registry: Registry[Any], kind: type[Named] = Named) -> dict[str, type[Options]]:
    """Registered name → its options.

    Args:
        registry: the registry of a kind of plug-ins.
        kind: the model of its block, whose fields are not options.
    """
    common = kind.model_fields
    return {name: options_of(registry, registry.get(name), common) for name in registry}


def option_keys(keys: Sequence[str]) -> Iterator[tuple[str, str, list[FieldInfo]]]:
    """(dotted key, plug-ins and description, fields) of every option of the registered plug-ins of a run.

    Args:
        keys: keys of the run, such as `optimizer`; regularizers and proximal terms load PyTorch.
    """
    for key in keys:
        models = options_by_name(run_registry(key), _named_model(RunConfig, key))
        meanings: dict[str, dict[str, list[str]]] = {}
        fields: dict[str, list[FieldInfo]] = {}
        for name, model in models.items():
            for option, field in model.model_fields.items():
                meanings.setdefault(option, {}).setdefault(described(field), []).append(name)
                fields.setdefault(option, []).append(field)
        for option, owners in meanings.items():
            of_all = len(owners) == 1 and len(next(iter(owners.values()))) == len(models)
            parts = (text if of_all else f"{', '.join(names)}: {text}" for text, names in owners.items())
            yield f"{key}.{option}", " ".join(parts), fields[option]


def _named_model(model: type[BaseModel], key: str) -> type[Named]:
    """The model of the block under a key that names a plug-in."""
    found = inner_model(model.model_fields[key].annotation)
    return found if found is not None and issubclass(found, Named) else Named


def described(field: FieldInfo) -> str:
    """The field's description, followed by its default in brackets, if any."""
    default = default_text(field)
    return f"{field.description}{f' [{default}]' if default else ''}"


def _described_in_a_line(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with only the first line of its docstring as description; the rest is for Python."""
    return {**schema, "description": schema["description"].split("\n")[0]}


def key_table(model: type[BaseModel], *, without: tuple[str, ...] = ()) -> str:
    """The keys of a model and of nested models as a Markdown table: key, value, default, meaning."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in fields_of(model):
        if key not in without:
            value, default = values_in_words(field.annotation), default_text(field)
            shown = "required" if field.is_required() else f"`{default}`" if default else ""
            meaning = (field.description or "").replace("|", r"\|")
            lines.append(f"| `{key}` | {value} | {shown} | {meaning} |".replace("  ", " "))
    return "\n".join(lines)


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of a model's fields and of nested models; options of plug-ins are not included.

    In a mapping of words to models the word is shown as `<task>`: `subset.<task>.rows`.
    """
    for name, field in model.model_fields.items():
        key, inner = f"{prefix}{field.alias or name}", inner_model(field.annotation)
        yield key, field
        if inner is not None and inner is not Named:
            between = ".<task>." if typing.get_origin(field.annotation) is dict else "."
            yield from fields_of(inner, key + between)


def is_open(field: FieldInfo) -> bool:
    """Whether the keys below a field are not fixed: a plug-in's options, or names of tasks."""
    inner = inner_model(field.annotation)
    return typing.get_origin(field.annotation) is dict or (inner is not None and issubclass(inner, Named))


def is_list(annotation: Any) -> bool:
    """Whether a value is a list of words, or of plug-ins that words may name."""
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[-1] is ...
    return any(is_list(member) for member in typing.get_args(annotation))


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model that a field's value is, or may be; None for plain values and lists."""
    if typing.get_origin(annotation) is tuple:
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = (inner_model(member) for member in typing.get_args(annotation))
    return next((model for model in models if model is not None), None)


def default_text(field: FieldInfo) -> str:
    """A field's default as YAML; empty if it is required, off, a group of fields, or given in the description."""
    value = field.default
    if isinstance(value, Named):
        return value.name
    if isinstance(value, tuple) and value and all(isinstance(each, Named) for each in value):
        return ", ".join(each.name for each in value)
    return plain_default(field)


def values_in_words(annotation: Any) -> str:
    """The type of a field in words, for the documentation."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{member}`" for member in members)
    if origin is typing.Annotated:
        return values_in_words(members[0])
    if origin is tuple:
        if members[0] is str or inner_model(members[0]) is not None:
            return "words" if members[0] is str else "words or mappings"
        return f"{len(members)} numbers"
    if origin is dict:
        return f"mapping of words to {values_in_words(members[1])}"
    if members:
        return " or ".join(dict.fromkeys(values_in_words(member) for member in members if member is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, Named):
        return "word or mapping"
    if hasattr(annotation, "written_as"):
        return "words or mapping"
    return {str: "word", int: "whole number", float: "number", bool: "true, false"}.get(annotation, "mapping")
