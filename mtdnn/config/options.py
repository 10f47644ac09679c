"""Plug-ins named in YAML, `{name: …, options}`, and their options: pydantic fields, in one way for every kind."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from mtdnn.config.yaml_source import YamlSource, refusal, refusals
from mtdnn.errors import NOWHERE, ConfigError, Fault, Place, fault, unknown
from mtdnn.registry import Registry

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

Model = TypeVar("Model", bound=BaseModel)
Function = TypeVar("Function", bound=Callable[..., Any])

PLAIN = (bool, int, float, str)
"""Types of arguments whose values are checked where a class or function declares no options of its own."""


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


class Options(Frozen):
    """Options of a plug-in, each a field with a description; a plug-in has them as its attribute `Options`.

    Unknown keys are refused, as are numbers that are infinite or NaN.
    """

    model_config = ConfigDict(allow_inf_nan=False)


class NoOptions(Options):
    """Options of a plug-in that has none."""


class AnyOptions(Options):
    """Options of a function that takes every keyword and does not say which."""

    model_config = ConfigDict(extra="allow")


def takes_options(options: type[Options]) -> Callable[[Function], Function]:
    """A decorator that declares a function's options; it gets each as a keyword. A class has `Options` in its body."""

    def declared(function: Function) -> Function:
        function.Options = options  # type: ignore[attr-defined]
        return function

    return declared


class Named(BaseModel, metaclass=Reported):
    """A plug-in by name with its options: `{name: smart, weight: 3}`, or the bare word `smart`.

    The options stay as given; `named_faults` checks them by what the plug-in declares.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Registered name, or dotted path of a class living elsewhere.")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name and what is common to all plug-ins of this kind."""
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


def options_of(registry: Registry[Any], item: Any, common: Collection[str] = ()) -> type[Options]:
    """What checks the options of a plug-in: its `Options`, or a model of the arguments that it takes beyond its kind's.

    A class that inherits `Options` and takes arguments of its own has those; with `**options` the inherited ones too.

    Args:
        registry: of its kind, which gives the arguments that are no options.
        item: a registered class or function, or an imported one.
        common: keys that all plug-ins of this kind have, and which are no options either.
    """
    declared: type[Options] | None = getattr(item, "Options", None)
    if "Options" in getattr(item, "__dict__", ()) or not callable(item):
        return declared or NoOptions
    try:
        parameters = list(inspect.signature(item).parameters.values())
    except ValueError:  # some functions written in C have no signature
        return declared or AnyOptions
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters)
    inherited = (declared or AnyOptions) if open_ended else None
    own = _own_arguments(registry, parameters, common)
    if not own:
        return inherited or declared or NoOptions
    hints = _hints(item)
    fields: dict[str, Any] = {name: (hints.get(name, Any), default) for name, default in own.items()}
    return create_model(f"{item.__name__}Options", __base__=inherited or Options, **fields)


def _own_arguments(
    registry: Registry[Any], parameters: Sequence[inspect.Parameter], common: Collection[str]
) -> dict[str, Any]:
    """Name → default (`...` = required) of the arguments that are options."""
    named_ones = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    given = {
        *registry.keywords,
        *registry.optional,
        *common,
        *(each.name for each in named_ones[: len(registry.takes)]),
    }
    rest = (each for each in named_ones if each.name not in given and each.kind is not each.POSITIONAL_ONLY)
    return {each.name: ... if each.default is each.empty else each.default for each in rest}


def _hints(item: Any) -> dict[str, Any]:
    """Name → type of the arguments whose type is a plain one."""
    try:
        found = typing.get_type_hints(vars(item).get("__init__", item) if isinstance(item, type) else item)
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker can read
        return {}
    return {name: hint for name, hint in found.items() if hint in PLAIN}


def option_values(model: type[Options], options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option by name, those that are not given at their defaults: the keywords of a plug-in's call.

    Raises:
        ConfigError: `option_faults` finds something.
    """
    checked = model(**options)
    return {**{name: getattr(checked, name) for name in type(checked).model_fields}, **(checked.model_extra or {})}


class OptionFault(NamedTuple):
    """What is wrong with one key of a plug-in's options; dots in it for keys within the value."""

    key: str
    found: str
    fix: str = ""


def option_faults(model: type[BaseModel], options: Mapping[str, Any], known: Sequence[str] = ()) -> list[OptionFault]:
    """Each option that is no field of the model, each other one that pydantic refuses, and each that is missing.

    Args:
        model: the plug-in's options.
        options: as given.
        known: names to suggest before the model's fields.
        model: the pydantic model of the options.
        options: as YAML has them.
    """
    is_open = model.model_config.get("extra") == "allow"
    fields = [*known, *model.model_fields]
    strange = [key for key in options if not is_open and key not in model.model_fields]
    faults = [OptionFault(key, unknown("key", key, fields)) for key in strange]
    try:
        model.model_validate({key: value for key, value in options.items() if key not in strange})
    except ValidationError as error:
        for each in error.errors():
            told = ("is missing", "Add it.") if each["type"] == "missing" else (refusal(each),)
            faults.append(OptionFault(".".join(map(str, each["loc"])), *told))
    return faults


def named_faults(registry: Registry[Any], given: Named, key: str, *, where: Place | str = NOWHERE) -> list[Fault]:
    """Everything in `{name: …, options}` that cannot be used: the name, keys the plug-in does not have, their values.

    Args:
        registry: of its kind.
        given: the plug-in as the user names it.
        key: of the block, such as "optimizer".
        where: its place.
    """
    try:
        item = registry.get(given.name, where=where, key=key)
    except ConfigError as error:
        return list(error.faults)
    common = () if type(given) is Named else tuple(type(given).model_fields)
    model = options_of(registry, item, common)
    return [
        fault(where, f"{key}.{each.key}".rstrip("."), each.found, each.fix or _owners(registry, model, each.key))
        for each in option_faults(model, given.options, common)
    ]


def _owners(registry: Registry[Any], model: type[Options], option: str) -> str:
    """`It is an option of sgd.` where plug-ins of other names have it and this one has not."""
    if option in model.model_fields:
        return ""
    owners = [name for name in registry if option in options_of(registry, registry.get(name)).model_fields]
    return f"It is an option of {', '.join(owners)}." if owners else ""
