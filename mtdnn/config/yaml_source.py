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


LONGEST_VALUE = 200
"""Characters of a flag's text that a message repeats."""

LARGEST_FILE = 16 << 20
"""Bytes of a YAML file; the largest of ours have some hundred kilobytes."""

MOST_NODES = 200_000
"""Values of a document, aliases counted as often as they are used: eight lines of aliases can name billions."""

DEEPEST = 64
"""Lists and mappings within each other."""

FAULTY_VALUE = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)
"""What PyYAML raises for values that the YAML grammar allows and Python cannot hold: `!!int ''`, `2020-02-31`, …"""

KNOWN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}
KNOWN_TAGS |= {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "merge", "value")}


# Lines come from PyYAML's nodes, because ruamel.yaml's round-trip loader (43 lines of ours instead of 58; 94 ms instead
# of 87 for a file of 500 lines) builds values before tags, nesting and aliases can be checked, and loses 15 messages.
class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-5` is a number, as in YAML 1.2; PyYAML alone takes it for a word."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; one that cannot be had is an error with its line."""
        try:
            return super().construct_object(node, deep=deep)  # type: ignore[no-untyped-call]
        except FAULTY_VALUE as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back as it was: a word that it would take for a number is put in quotes."""


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """A text; in double quotes, where signs are escaped, when it holds one that YAML takes for the end of a line."""
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _represent_text)

FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def dump_yaml(value: object) -> str:
    """YAML text that `parse_yaml` reads back as the same value; keys in their order."""
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


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
        ConfigError: no such file, too large, not UTF-8, not YAML, a key given twice, a value within itself, more values
            than any document needs, or not a mapping.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"not UTF-8 (byte {error.start})"
        raise ConfigError(fault(str(path), "", found, "Save the file as UTF-8.")) from error
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        found = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(fault(str(path), "", found, "Check the path.")) from error
    if len(content) > LARGEST_FILE:
        found = f"more than {LARGEST_FILE >> 20} MiB"
        raise ConfigError(fault(str(path), "", found, "Give a file of definitions, not of rows."))
    return parse_yaml(text, path=str(path))


def parse_yaml(text: str, *, path: str) -> YamlSource:
    """The mapping in a YAML text; `path` names it in messages. Raises as `read_yaml`."""
    node = _composed(text, path)
    if node is None:
        raise ConfigError(fault(path, "", "the file is empty", "A mapping of keys to values is expected."))
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(fault(Place(path, 1), "", "not a mapping of keys to values"))
    _refuse_oddities(node, path)
    lines: dict[KeyPath, int] = {}
    faults: list[Fault] = []
    _walk(node, (), lines, faults, path)
    if faults:
        raise ConfigError(faults)
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_fault(error, text, path)) from error
    return YamlSource(path=path, value=value, lines=lines)


def _composed(text: str, path: str) -> yaml.Node | None:
    """The document as nodes with their lines; None for an empty one."""
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=Loader)
        return node
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_fault(error, text, path)) from error
    except RecursionError as error:
        raise ConfigError(fault(path, "", "values are nested too deep", "Flatten them.")) from error
    except FAULTY_VALUE as error:  # of a directive, or an escape
        raise ConfigError(fault(path, "", f"not valid YAML: {error}", "Remove directives and escapes.")) from error


def _refuse_oddities(root: yaml.Node, path: str) -> None:
    """ConfigError for tags, nesting, halves of characters and numbers of values that no definition needs.

    Looked at before anything is built from the nodes, node by node, with aliases counted and not followed again.
    """
    sizes: dict[int, int] = {}
    todo: list[tuple[yaml.Node, int, bool]] = [(root, 1, False)]
    entered: set[int] = set()
    while todo:
        node, depth, done = todo.pop()
        if done:
            sizes[id(node)] = min(1 + sum(sizes.get(id(each), 1) for each in _inner(node)), MOST_NODES + 1)
            continue
        if id(node) in entered:
            continue
        entered.add(id(node))
        if odd := _oddity(node, depth):
            raise ConfigError(fault(Place(path, node.start_mark.line + 1), "", *odd))
        todo.append((node, depth, True))
        todo += [(each, depth + 1, False) for each in _inner(node)]
    if sizes[id(root)] > MOST_NODES:
        found = f"more than {MOST_NODES:,} values, aliases counted as often as they are used"
        raise ConfigError(fault(path, "", found, "Write fewer values, or no aliases of aliases."))


def _inner(node: yaml.Node) -> list[yaml.Node]:
    """Keys and values of a mapping, items of a list; nothing of a scalar."""
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _oddity(node: yaml.Node, depth: int) -> tuple[str, str] | None:
    """What is found at a node and what to do, or None."""
    if depth > DEEPEST:
        return f"more than {DEEPEST} lists or mappings within each other", "Flatten them."
    if node.tag not in KNOWN_TAGS:
        name = node.tag.replace("tag:yaml.org,2002:", "!!")
        return f"the tag {name} means nothing here", "Write the value without a tag."
    if isinstance(node, yaml.ScalarNode) and any("\ud800" <= sign <= "\udfff" for sign in node.value):
        return "half of a surrogate pair (\\ud8… alone)", "Escape whole characters."
    return None


def _yaml_fault(error: yaml.YAMLError, text: str, path: str) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        fix = "Put the value in quotes." if isinstance(error.__cause__, FAULTY_VALUE) else ""
        return fault(Place(path, line), "", f"not valid YAML: {error.problem}", fix)
    position = getattr(error, "position", 0)
    found = f"character {text[position : position + 1]!r} is not allowed in YAML"
    return fault(Place(path, text.count(chr(10), 0, position) + 1), "", found, "Remove it.")


def parse_value(text: str, *, where: str) -> object:
    """The value of a YAML text on its own, as after `--key`: a number, a word, `{name: smart, weight: 3}`, …

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        node = _composed(text, where)
        if node is not None:
            _refuse_oddities(node, where)
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ConfigError) as error:
        shown = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
        fix = "Put it in quotes if it is text."
        raise ConfigError(fault(where, "", f"{shown!r} is not valid YAML", fix)) from error


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

    Args:
        model: what the value must be.
        value: as YAML has it.
        source: the document it is in.
        keys: path of keys to the value.
    Raises:
        ConfigError: every fault pydantic finds, each with the file:line of its key below `keys`.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(refusals(error, model, source, keys)) from error


def refusals(
    error: ValidationError, model: type[BaseModel], source: YamlSource, keys: KeyPath = (), *, kind: str = "key"
) -> list[Fault]:
    """What pydantic refused, each with its place.

    Args:
        error: as the model raised it.
        model: the one that was to be made.
        source: the document that holds the values.
        keys: the place of the values in it.
        kind: what the model's own fields are called: key, or keyword of a call.
    """
    details = [detail for detail in error.errors() if not _other_member(detail, error.errors())]
    return list(dict.fromkeys(_told(detail, model, source, keys, kind) for detail in details))


def _other_member(detail: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """True for "should be a string" about a mapping that another member of the same union read further into."""
    parent = detail["loc"][:-1]
    deeper = any(len(other["loc"]) > len(detail["loc"]) and other["loc"][: len(parent)] == parent for other in details)
    return detail["type"] == "string_type" and isinstance(detail["input"], dict) and deeper


def _told(detail: ErrorDetails, model: type[BaseModel], source: YamlSource, keys: KeyPath, kind: str) -> Fault:
    """One pydantic fault as `file:line: key: found. fix`."""
    here = (*keys, *_named_in(detail["loc"], source, keys))
    if detail["type"] == "missing" and here[-1] != detail["loc"][-1]:
        here = (*here, detail["loc"][-1])
    where, name = source.where(here), ".".join(str(key) for key in here)
    if where == Place.of_flag(name):
        name = ""
    if detail["type"] == "extra_forbidden":
        inner = here[len(keys) : -1]
        return fault(where, name, unknown("key" if inner else kind, str(here[-1]), _fields_at(model, inner)))
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
