"""Plug-ins named in YAML, `{name: …, options}`, and the check of a plug-in's options by its own pydantic model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mtdnn.config.yaml_source import YamlSource, refusal, refusals
from mtdnn.errors import ConfigError, unknown

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

Model = TypeVar("Model", bound=BaseModel)


class Reported(ModelMetaclass):
    """Classes whose constructor raises our ConfigError: `RunConfig(): unknown keyword 'epoch'; …`.

    Pydantic's own ways to make an instance (`model_validate`, a field of another model) do not come by here.
    """

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            source = YamlSource(path=f"{cls.__name__}()", value=values)
            model = cast(type[BaseModel], cls)
            raise ConfigError(refusals(error, model, source, kind="keyword")) from error


class Frozen(BaseModel, metaclass=Reported):
    """A part of a definition: unknown keys are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def args_from_fields(model: type[Model]) -> type[Model]:
    """A decorator: the descriptions of a model's fields become the Args section of its docstring."""
    opening, _, rest = inspect.cleandoc(model.__doc__ or "").partition("\n\n")
    lines = [f"    {field.alias or name}: {field.description}" for name, field in model.model_fields.items()]
    model.__doc__ = "\n".join([opening, "", "Args:", *lines, rest])
    return model


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
        model: the pydantic model of the options.
        options: as YAML has them.
    """
    fields = [*known, *model.model_fields]
    faults = [(key, unknown("key", key, fields)) for key in options if key not in model.model_fields]
    try:
        model.model_validate({key: value for key, value in options.items() if key in model.model_fields})
    except ValidationError as error:
        faults += [(".".join(map(str, each["loc"])), refusal(each)) for each in error.errors()]
    return faults
