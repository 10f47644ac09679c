"""Plug-ins named in YAML, `{name: …, options}`, and the check of a plug-in's options by its own pydantic model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mtdnn.config.yaml_source import refusal
from mtdnn.errors import unknown


class Frozen(BaseModel):
    """A part of a definition: unknown keys are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(BaseModel):
    """A plug-in by name with its options: `{name: smart, weight: 3}`, or the bare word `smart`.

    The options stay as given; the plug-in's own class checks them.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Registered name, or dotted path of a class living elsewhere.")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


def named(value: object) -> object:
    """`smart`, `{name: smart, weight: 3}`, `none`, and `off`, which YAML reads as false, for a plug-in turned off."""
    if isinstance(value, str) or value is False:
        return {"name": value if isinstance(value, str) else "none"}
    if isinstance(value, dict) and value.get("name") == "none" and len(value) > 1:
        options = ", ".join(key for key in value if key != "name")
        raise ValueError(f"none turns it off and has no options; remove {options}, or name another")
    if not isinstance(value, (dict, Named)):
        raise ValueError("expected one name, or {name: …} with its options")
    return value


NamedOrWord = Annotated[Named, BeforeValidator(named, json_schema_input_type=str | Named)]


class NoOptions(BaseModel):
    """Options of a task type that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def option_faults(
    model: type[BaseModel], options: Mapping[str, Any], known: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """(key, what is wrong) for each option that is no field of the model, and each other one that pydantic refuses.

    Args:
        known: names to suggest before the model's fields.
    """
    from pydantic import ValidationError

    fields = [*known, *model.model_fields]
    faults = [(key, unknown("key", key, fields)) for key in options if key not in model.model_fields]
    try:
        model.model_validate({key: value for key, value in options.items() if key in model.model_fields})
    except ValidationError as error:
        faults += [(".".join(map(str, each["loc"])), refusal(each)) for each in error.errors()]
    return faults
