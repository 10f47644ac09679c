"""In every model of the configuration a boolean is no number, and a number or a word is no boolean."""

import types
import typing
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ValidationError

from mtdnn.config.options import Options, options_of
from mtdnn.config.run import RunConfig
from mtdnn.config.splits import CutFile
from mtdnn.config.task import TaskDef
from mtdnn.networks.losses import LOSSES
from mtdnn.study.definition import Study
from mtdnn.task_types.base import TASK_TYPES
from tests.contract.test_options import KINDS


def models():
    """Every model that values of a file are validated by, with its name for the test."""
    found = {"RunConfig": RunConfig, "TaskDef": TaskDef, "Study": Study, "CutFile": CutFile}
    for kind, (registry, block) in KINDS.items():
        found |= {f"{kind}-{name}": options_of(registry, registry.get(name), block.model_fields) for name in registry}
    found |= {f"loss-{name}": options_of(LOSSES, LOSSES.get(name)) for name in LOSSES}
    found |= {f"type-{name}": TASK_TYPES.get(name).Options for name in TASK_TYPES}
    return found | {inner.__name__: inner for model in list(found.values()) for inner in inner_models(model)}


def inner_models(model):
    for field in model.model_fields.values():
        for kind in kinds_of(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind
                yield from inner_models(kind)


def kinds_of(annotation):
    """The plain types, lists and mappings that a value may be."""
    if typing.get_origin(annotation) is Annotated:
        return kinds_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for member in typing.get_args(annotation) for kind in kinds_of(member)]
    if typing.get_origin(annotation) is dict:
        return [annotation, *kinds_of(typing.get_args(annotation)[1])]
    return [annotation]


def wrapped(annotation, value):
    """The value where the annotation has a number or boolean: itself, or in a list or mapping."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (tuple, list):
        return [value] * max(1, len([each for each in members if each is not ...]))
    return {"a": value} if origin is dict else value


def places(kinds):
    """(model, key, annotation) of the fields with one of some plain types and no boolean next to a number."""
    for name, model in models().items():
        for key, field in model.model_fields.items():
            for annotation in kinds_of(field.annotation):
                plain = {*kinds_of(annotation), *(k for m in typing.get_args(annotation) for k in kinds_of(m))}
                if plain & kinds and not (bool in plain and kinds != {bool}):
                    yield pytest.param(model, field.alias or key, annotation, id=f"{name}.{key}")


def refused(model, key, value):
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        return any(each["loc"][0] == key and each["type"] != "missing" for each in error.errors())
    return False


@pytest.mark.parametrize(("model", "key", "annotation"), places({int, float}))
def test_a_boolean_is_no_number(model, key, annotation):
    assert refused(model, key, wrapped(annotation, True))
    assert refused(model, key, wrapped(annotation, False))


@pytest.mark.parametrize(("model", "key", "annotation"), places({bool}))
@pytest.mark.parametrize("value", [0, 1, 1.0, "1", "yes", "true", "off", "t"])
def test_a_number_or_a_word_is_no_boolean(model, key, annotation, value):
    assert refused(model, key, wrapped(annotation, value))


class Elsewhere(Options):
    """Options of a plug-in that another package declares, with every way to write a type of numbers."""

    number: float | None = None
    count: Annotated[int, "of something"] = 1
    pair: tuple[float, float] = (0.0, 1.0)
    many: list[int] = []
    by_name: dict[str, float] = {}
    either: int | typing.Literal["auto"] = "auto"
    switch: bool = False
    mixed: bool | int = False


@pytest.mark.parametrize("strict", [None, True])
@pytest.mark.parametrize(
    "given",
    [
        {"number": True}, {"count": True}, {"pair": [0.5, True]}, {"many": [1, False]}, {"by_name": {"a": True}},
        {"either": True}, {"switch": 1}, {"switch": "yes"},
    ],
)  # fmt: skip
def test_options_of_other_packages_are_as_exact(given, strict):
    (key,) = given
    with pytest.raises(ValidationError):
        Elsewhere.model_validate(given, strict=strict)
    assert refused(Elsewhere, key, given[key])


def test_all_other_values_are_taken_as_before():
    given: dict[str, Any] = {"number": 1, "count": 2.0, "pair": [1, 2.5], "either": 3, "switch": True, "mixed": True}
    values = Elsewhere.model_validate(given)
    assert (values.number, values.count, values.pair, values.either) == (1.0, 2, (1.0, 2.5), 3)
    assert values.switch is True and values.mixed is True
    assert Elsewhere.model_validate({"mixed": 2}).mixed == 2


def test_strict_json_has_lists_for_tuples():
    """A validator in front of all fields would turn JSON into Python values, of which strict mode takes no list."""
    assert Elsewhere.model_validate_json('{"pair": [1, 2.5]}', strict=True).pair == (1.0, 2.5)
    with pytest.raises(ValidationError):
        Elsewhere.model_validate_json('{"pair": [1, true]}', strict=True)
