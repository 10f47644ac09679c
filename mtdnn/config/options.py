"""Plug-ins named in YAML as `{name: …, options}`; for every kind, the options are the fields of a pydantic model."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from mtdnn.config.arguments import home_expanded
from mtdnn.config.booleans import ExactBooleans
from mtdnn.config.expectations import remedy
from mtdnn.config.other_names import ours
from mtdnn.config.refusals import refusal, refusals
from mtdnn.config.yaml_source import YamlSource
from mtdnn.errors import NOWHERE, ConfigError, Fault, Place, fault, unknown
from mtdnn.registry import Registry

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

Model = TypeVar("Model", bound=BaseModel)
Function = TypeVar("Function", bound=Callable[..., Any])

PLAIN = (bool, int, float, str)
"""Argument types that are validated where a class or function declares no `Options`."""


class RaisesConfigError(ModelMetaclass):
    """Metaclass of models whose constructor raises our ConfigError: `RunConfig(): unknown keyword 'epoch'; …`.

    `model_validate` and fields of other models do not call the constructor; they raise pydantic's ValidationError.
    """

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            source = YamlSource(path=f"{cls.__name__}()", value=values)
            model = cast(type[BaseModel], cls)
            raise ConfigError(refusals(error, model, source, kind="keyword")) from error


class Frozen(ExactBooleans, metaclass=RaisesConfigError):
    """Base of the parts of a definition: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def args_from_fields(model: type[Model]) -> type[Model]:
    """A decorator that writes the descriptions of a model's fields as the Args section of its docstring."""
    opening, _, rest = inspect.cleandoc(model.__doc__ or "").partition("\n\n")
    lines = [f"    {field.alias or name}: {field.description}" for name, field in model.model_fields.items()]
    model.__doc__ = "\n".join([opening, "", "Args:", *lines, rest])
    return model


class Options(Frozen):
    """Base of a plug-in's options, each a field with a description; a plug-in declares them as `Options`.

    Unknown keys, infinite numbers and NaN are errors.
    """

    model_config = ConfigDict(allow_inf_nan=False)


class NoOptions(Options):
    """For a plug-in without options."""


class AnyOptions(Options):
    """For a function that accepts any keyword argument and does not declare which."""

    model_config = ConfigDict(extra="allow")


def takes_options(options: type[Options]) -> Callable[[Function], Function]:
    """A decorator that declares the options of a function, passed as keyword arguments.

    A class defines `Options` in its body instead.
    """

    def declared(function: Function) -> Function:
        function.Options = options  # type: ignore[attr-defined]
        return function

    return declared


class Named(ExactBooleans, metaclass=RaisesConfigError):
    """A plug-in by name with its options: `{name: smart, weight: 3}`, or only the name `smart`.

    The options are kept as given; `named_faults` checks them against what the plug-in declares.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Registered name, or dotted path of your own class or function.")

    @property
    def options(self) -> dict[str, Any]:
        """All keys except the name and those common to all plug-ins of this kind."""
        return dict(self.model_extra or {})


def named(value: object) -> object:
    """A mapping with `name` from `smart`, `{name: smart, weight: 3}`, `none` or `off` (which YAML reads as false)."""
    if isinstance(value, str) or value is False:
        return {"name": value if isinstance(value, str) else "none"}
    if isinstance(value, dict) and value.get("name") == "none" and len(value) > 1:
        options = ", ".join(key for key in value if key != "name")
        raise ValueError(f"none turns it off and has no options; remove {options}, or give another name")
    if not isinstance(value, (dict, Named)):
        raise ValueError("expected a name, or {name: …} with its options")
    return value


def path_as_text(value: object) -> object:
    """The text of a path, with `~` as the home directory; other values unchanged. Raises ValueError for no text."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("expected a path or a name, not an empty text")
    return home_expanded(str(value) if isinstance(value, Path) else value)


PathText = Annotated[str, BeforeValidator(path_as_text, json_schema_input_type=str)]
"""The type of a field that is a path."""

NamedOrWord = Annotated[Named, BeforeValidator(named, json_schema_input_type=str | Named)]


def named_or_default(default: str) -> Callable[[object], object]:
    """As `named`, of a key with a default: a mapping without `name` has options of the default."""

    def with_name(value: object) -> object:
        given = named(value)
        return {"name": default, **given} if isinstance(given, dict) else given

    return with_name


def options_of(registry: Registry[Any], item: Any, common: Collection[str] = ()) -> type[Options]:
    """The model of a plug-in's options: its `Options`, or one made of its own arguments.

    A class that inherits `Options` and has its own arguments has those; with `**options` also the inherited ones.

    Args:
        registry: the registry of its kind; its arguments `takes`, `keywords` and `optional` are not options.
        item: a registered class or function, or an imported one.
        common: keys that all plug-ins of this kind have; they are not options either.
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
    """Name → default (`...` if required) of the arguments that are options."""
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
    """Name → type of the arguments whose type is in `PLAIN`."""
    try:
        found = typing.get_type_hints(vars(item).get("__init__", item) if isinstance(item, type) else item)
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker can read
        return {}
    return {name: hint for name, hint in found.items() if hint in PLAIN}


def option_values(model: type[Options], options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option by name, with defaults for those not given: the keyword arguments for the plug-in.

    Raises:
        ConfigError: an option is invalid, as reported by `option_faults`.
    """
    checked = model(**options)
    return {**{name: getattr(checked, name) for name in type(checked).model_fields}, **(checked.model_extra or {})}


class OptionFault(NamedTuple):
    """An error in one option of a plug-in; nested keys are joined with dots."""

    key: str
    found: str
    fix: str = ""


def option_faults(
    model: type[BaseModel], options: Mapping[str, Any], known: Sequence[str] = (), *, within: str = ""
) -> list[OptionFault]:
    """Every unknown, invalid or missing option.

    Args:
        model: the pydantic model of the plug-in's options.
        options: the options as given in YAML.
        known: further known names, listed before the model's fields.
        within: key of the plug-in, such as `optimizer`, or `tasks` for a block of task definitions.
    """
    is_open = model.model_config.get("extra") == "allow"
    fields = [*known, *model.model_fields]
    strange = [key for key in options if not is_open and key not in model.model_fields]
    faults = [OptionFault(key, unknown("key", key, fields, instead=ours(key, within=within))) for key in strange]
    try:
        model.model_validate({key: value for key, value in options.items() if key not in strange})
    except ValidationError as error:
        for each in error.errors():
            field = model.model_fields.get(str(each["loc"][0])) if len(each["loc"]) == 1 else None
            found = ("is missing", "Add it.") if each["type"] == "missing" else (refusal(each), remedy(each, field))
            faults.append(OptionFault(".".join(map(str, each["loc"])), *found))
    return faults


def named_faults(registry: Registry[Any], given: Named, key: str, *, where: Place | str = NOWHERE) -> list[Fault]:
    """Every error in `{name: …, options}`: an unknown name, unknown keys, invalid values.

    Args:
        registry: the registry of the plug-in's kind.
        given: the name and options given by the user.
        key: key of the block, such as "optimizer".
        where: place of the block.
    """
    try:
        item = registry.get(given.name, where=where, key=key)
    except ConfigError as error:
        return list(error.faults)
    common = () if type(given) is Named else tuple(type(given).model_fields)
    model = options_of(registry, item, common)
    return [
        fault(where, f"{key}.{each.key}".rstrip("."), each.found, each.fix or _owners(registry, model, each.key))
        for each in option_faults(model, given.options, common, within=key)
    ]


def _owners(registry: Registry[Any], model: type[Options], option: str) -> str:
    """`It is an option of sgd.` if only other plug-ins of this kind have the option; else empty."""
    if option in model.model_fields:
        return ""
    owners = [name for name in registry if option in options_of(registry, registry.get(name)).model_fields]
    return f"It is an option of {', '.join(owners)}." if owners else ""
