"""YAML text → plain values that remember the line each key stands on, and pydantic faults told by file:line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mtdnn.errors import ConfigError, Fault, Place, fault, unknown

KeyPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


LONGEST_SHOWN = 40
"""Characters of a mapping or list that a message repeats; a longer one is found by its place alone."""


class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-5` is a number, as in YAML 1.2; PyYAML alone takes it for a word."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class YamlSource:
    """A YAML document: its value, and the line of every key in it.

    Attributes:
        path: the file, for messages.
        value: the plain mapping.
        lines: key path, e.g. ("mnli", "labels", 0) → line, counted from 1.
        flags: key paths whose value was given on the command line, not in the file.
    """

    path: str
    value: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    flags: Collection[KeyPath] = ()

    def where(self, keys: KeyPath) -> Place:
        """File and line of a key, or of the nearest enclosing key that has one; `--key` when it was given as a flag.

        A key whose value flags gave a part of has its line, if the file has one, and those flags.
        """
        for end in range(len(keys), 0, -1):
            here = keys[:end]
            if here in self.flags:
                return Place(flags=(_flag(here),))
            place = Place(self.path, self.lines[here]) if here in self.lines else Place()
            if here == keys or not place:  # a flag for another key of an enclosing block is not to blame
                place = replace(place, flags=tuple(_flag(each) for each in self.flags if each[:end] == here))
            if place:
                return place
        return Place(self.path)

    def placed(self, found: Fault) -> Fault:
        """A fault found later, at its key's place in this document; one that has a place, or no such key, as it is."""
        keys = tuple(found.key.split("."))
        return found if found.place or keys[0] not in self.value else found.at(self.where(keys))

    def holds(self, keys: KeyPath) -> bool:
        """Whether the document has that key."""
        value: Any = self.value
        for key in keys:
            inner = isinstance(value, list) and isinstance(key, int) and key < len(value)
            if not inner and not (isinstance(value, dict) and key in value):
                return False
            value = value[key]
        return True


def _flag(keys: KeyPath) -> str:
    return "--" + ".".join(map(str, keys))


def read_yaml(path: str | Path) -> YamlSource:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, not UTF-8, not YAML, a key given twice, a value within itself, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(fault(str(path), "", f"cannot be read: {error.strerror}", "Check the path.")) from error
    except UnicodeDecodeError as error:
        found = f"not UTF-8 (byte {error.start})"
        raise ConfigError(fault(str(path), "", found, "Save the file as UTF-8.")) from error
    return parse_yaml(text, path=str(path))


def parse_yaml(text: str, *, path: str) -> YamlSource:
    """The mapping in a YAML text; `path` names it in messages. Raises as `read_yaml`."""
    try:
        node = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_fault(error, text, path)) from error
    except RecursionError as error:
        raise ConfigError(fault(path, "", "values lie too deep within each other", "Flatten them.")) from error
    if node is None:
        raise ConfigError(fault(path, "", "the file is empty", "A mapping of keys to values is expected."))
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(fault(Place(path, 1), "", "not a mapping of keys to values"))
    lines: dict[KeyPath, int] = {}
    faults: list[Fault] = []
    _walk(node, (), lines, faults, path)
    if faults:
        raise ConfigError(faults)
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_fault(error, text, path)) from error
    except ValueError as error:  # a date that there is not, say
        raise ConfigError(fault(path, "", f"not valid YAML: {error}", "Put the value in quotes.")) from error
    return YamlSource(path=path, value=value, lines=lines)


def _yaml_fault(error: yaml.YAMLError, text: str, path: str) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return fault(Place(path, line), "", f"not valid YAML: {error.problem}")
    position = getattr(error, "position", 0)
    found = f"character {text[position : position + 1]!r} is not allowed in YAML"
    return fault(Place(path, text.count(chr(10), 0, position) + 1), "", found, "Remove it.")


def parse_value(text: str, *, where: str) -> object:
    """The value of a YAML text on its own, as after `--key`: a number, a word, `{name: smart, weight: 3}`, …

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(fault(where, "", f"{text!r} is not valid YAML", "Put it in quotes if it is text.")) from error


def _walk(
    node: yaml.Node,
    keys: KeyPath,
    lines: dict[KeyPath, int],
    faults: list[Fault],
    path: str,
    above: tuple[yaml.Node, ...] = (),
) -> None:
    """Note the line of every key below `node`; a key given twice is a fault, where YAML would keep the last, and so is
    an alias of one of the nodes `above`."""
    if any(node is each for each in above):
        found = f"the alias leads back to line {node.start_mark.line + 1}, which it lies in"
        faults.append(fault(Place(path, lines[keys]), ".".join(map(str, keys)), found, "Write the value out."))
        return
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*keys, index)] = item.start_mark.line + 1
            _walk(item, (*keys, index), lines, faults, path, above)
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        here = (*keys, str(key_node.value))
        line = key_node.start_mark.line + 1
        if here in lines:
            found = f"given twice, first at line {lines[here]}"
            faults.append(fault(Place(path, line), ".".join(map(str, here)), found, "Remove or rename one."))
        lines[here] = line
        _walk(value_node, here, lines, faults, path, above)


def validated(model: type[Model], value: object, source: YamlSource, keys: KeyPath = ()) -> Model:
    """`value` as `model`.

    Raises:
        ConfigError: every fault pydantic finds, each with the file:line of its key below `keys`.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = [detail for detail in error.errors() if not _other_member(detail, error.errors())]
        faults = [_told(detail, model, source, keys) for detail in details]
        raise ConfigError(list(dict.fromkeys(faults))) from error


def _other_member(detail: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """True for "should be a string" about a mapping that another member of the same union read further into."""
    parent = detail["loc"][:-1]
    deeper = any(len(other["loc"]) > len(detail["loc"]) and other["loc"][: len(parent)] == parent for other in details)
    return detail["type"] == "string_type" and isinstance(detail["input"], dict) and deeper


def _told(detail: ErrorDetails, model: type[BaseModel], source: YamlSource, keys: KeyPath) -> Fault:
    """One pydantic fault as `file:line: key: found. fix`."""
    here = (*keys, *_named_in(detail["loc"], source, keys))
    if detail["type"] == "missing" and here[-1] != detail["loc"][-1]:
        here = (*here, detail["loc"][-1])
    where, name = source.where(here), ".".join(str(key) for key in here)
    if where == Place.of_flag(name):
        name = ""
    if detail["type"] == "extra_forbidden":
        return fault(where, name, unknown("key", str(here[-1]), _fields_at(model, here[len(keys) : -1])))
    if detail["type"] == "missing":
        return fault(where, name, "is missing", "Add it.")
    return fault(where, name, refusal(detail))


def refusal(detail: ErrorDetails) -> str:
    """What one pydantic fault found, in our words: the value, unless it is a long mapping or list, and what is allowed;
    for a key that is missing there is no value, but what it is missing from."""
    ours, message, given = detail["type"] == "value_error", detail["msg"].removeprefix("Value error, "), detail["input"]
    told = message if ours else message[:1].lower() + message[1:]
    long = isinstance(given, (dict, list)) and len(repr(given)) > LONGEST_SHOWN
    return told if long or detail["type"] == "missing" else f"{given!r}: {told}"


def _named_in(loc: Iterable[str | int], source: YamlSource, keys: KeyPath) -> KeyPath:
    """The part of a pydantic location that stands in the file: without the names of union members."""
    path: KeyPath = ()
    for part in loc:
        if not path or not source.value or source.holds((*keys, *path, part)):
            path = (*path, part)
    return path


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Names of the fields of the model found at `path` below `model`, following plain and optional model fields."""
    for part in path:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        inner = [item for item in (annotation, *getattr(annotation, "__args__", ())) if isinstance(item, type)]
        models = [item for item in inner if issubclass(item, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
