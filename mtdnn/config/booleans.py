"""Models in which a boolean is no number and a number or word no boolean, in strict JSON as in YAML and in Python.

YAML reads `yes` and `on` as true, which pydantic takes as 1 where a number is expected: `epochs: yes` would train one
epoch. In the other direction it takes 1, "1", "t" and "yes" as true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

WITHIN = (
    *("schema", "fields", "choices", "steps", "items_schema", "values_schema"),
    *("json_schema", "python_schema", "lax_schema", "strict_schema"),
)
"""The keys of pydantic's schemas that hold other schemas, or lists or mappings of them."""


def _refusing_booleans(kind: str) -> Callable[[object], object]:
    """A validator that refuses booleans with pydantic's own type of error for a value that is no number."""

    def no_boolean(value: object) -> object:
        if isinstance(value, bool):
            raise PydanticCustomError(kind, "input should be a number, not a boolean")  # type: ignore[arg-type]
        return value

    return no_boolean


CHECKS = {"int": _refusing_booleans("int_type"), "float": _refusing_booleans("float_type")}
"""Type of pydantic's schema → what is called before it."""


def _change(schema: Any) -> None:
    """Change the numbers and booleans within a schema, in place; one that is changed already stays as it is."""
    for holder, key in _inner(schema):
        inner = holder[key]
        if inner["type"] == "bool":
            inner["strict"] = True
        elif inner["type"] in CHECKS:
            holder[key] = core_schema.no_info_before_validator_function(CHECKS[inner["type"]], inner)
        elif inner["type"] != "model" and not _is_changed(inner):
            _change(inner)


def _inner(schema: Any) -> Iterator[tuple[Any, Any]]:
    """(list or mapping, index or key) of the schemas directly within one."""
    for key in WITHIN:
        found = schema.get(key)
        if isinstance(found, dict) and isinstance(found.get("type"), str):
            yield schema, key
        elif isinstance(found, (dict, list)):
            indices = found if isinstance(found, dict) else range(len(found))
            yield from ((found, index) for index in indices if isinstance(found[index], dict))


def _is_changed(schema: Any) -> bool:
    return schema["type"] == "function-before" and schema["function"]["function"] in CHECKS.values()


class ExactBooleans(BaseModel):
    """Base of models whose numbers refuse booleans and whose booleans refuse all else.

    The schemas of the fields are changed: behind a validator of the model, or of every field, strict JSON is validated
    as Python values, among which a list is no tuple.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of a model with its own fields changed; the models within it change theirs."""
        made = handler(source)
        model = handler.resolve_ref_schema(made)
        while model["type"] != "model-fields" and "schema" in model:
            model = model["schema"]
        _change(model)
        return made
