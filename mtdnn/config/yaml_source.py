"""YAML text → plain values with the line of each key; pydantic's errors are reported with file:line."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mtdnn.errors import ConfigError, Fault, Place, fault

KeyPath = tuple[str | int, ...]


MAX_VALUE_CHARACTERS = 200
"""Longest part of a flag's text that a message quotes."""

MAX_FILE_BYTES = 16 << 20
"""Largest YAML file; the largest of ours have some hundred kilobytes."""

MAX_NODES = 200_000
"""Most values in a document. An alias counts at every use: eight lines of aliases can expand to billions of values."""

MAX_DEPTH = 64
"""Deepest nesting of lists and mappings, in YAML and in JSON; our files have at most ten levels."""

NO_MAPPING_FIX = "Write lines of `key: value`."

SYNTAX_FIX = "Check the indentation, colons, brackets and quotes of this line and the one before."

MAX_WHOLE_NUMBER = 2**63 - 1
"""Largest whole number: counts become numbers of 64 bits in NumPy and PyTorch."""

VALUE_ERRORS = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)
"""What PyYAML raises for values that are valid YAML but have no Python value: `!!int ''`, `2020-02-31`, …"""

KNOWN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}
KNOWN_TAGS |= {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "merge", "value")}


# Line numbers come from PyYAML's nodes: ruamel.yaml's round-trip loader (43 lines of code here instead of 58; 94 ms
# instead of 87 for a file of 500 lines) builds values before tags, nesting and aliases can be checked, and would lose
# 15 messages.
class Loader(yaml.SafeLoader):
    """PyYAML's YAML 1.1, except that `1e-5` is a number, as in YAML 1.2, and not a text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; raises a ConstructorError with its line if there is no such Python value."""
        try:
            value = super().construct_object(node, deep=deep)  # type: ignore[no-untyped-call]
            if isinstance(value, int) and abs(value) > MAX_WHOLE_NUMBER:
                raise ValueError("a whole number of more than 64 bits")
            return value
        except VALUE_ERRORS as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


class Dumper(yaml.SafeDumper):
    """Writes YAML that `Loader` reads back unchanged: a text that looks like a number is quoted."""


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """A scalar node; double-quoted, so that they are escaped, if it has characters that YAML reads as line ends."""
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _represent_text)

FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def dump_yaml(value: object) -> str:
    """YAML text that `parse_yaml` reads back as the same value; the order of keys is kept."""
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


@dataclass(frozen=True)
class YamlSource:
    """A YAML document: its value, and the line of every key.

    Attributes:
        path: the file, for messages.
        value: the mapping as plain Python values.
        lines: key path, e.g. ("mnli", "labels", 0) → line, counted from 1.
        flags: key paths whose values were given on the command line, not in the file.
    """

    path: str
    value: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    flags: Collection[KeyPath] = ()

    def where(self, keys: KeyPath) -> Place:
        """File and line of a key, or of the nearest enclosing key with a line; `--key` if it was given as a flag.

        If flags gave part of the value, the place has those flags in addition to the line.
        """
        for end in range(len(keys), 0, -1):
            here = keys[:end]
            if here in self.flags:
                return Place(flags=(_flag(here),))
            place = Place(self.path, self.lines[here]) if here in self.lines else Place()
            if here == keys or not place:  # flags for other keys of an enclosing block do not matter
                place = replace(place, flags=tuple(_flag(each) for each in self.flags if each[:end] == here))
            if place:
                return place
        return Place(self.path)

    def placed(self, found: Fault) -> Fault:
        """The error at its key's place in this document; unchanged if it has a place, or the key is not here."""
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
        ConfigError: there is no such file, or it is too large, not UTF-8, not YAML or not a mapping, or has a duplicate
            key, an alias of an enclosing value or too many values.
    """
    if not isinstance(path, (str, os.PathLike)):
        found = f"a {type(path).__name__}, where the path of a YAML file is expected"
        raise ConfigError(fault("", "", found, "Give the path, or write it to a file first."))
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"not UTF-8 (byte {error.start})"
        raise ConfigError(fault(str(path), "", found, "Save the file as UTF-8.")) from error
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        found = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(fault(str(path), "", found, "Check the path.")) from error
    if len(content) > MAX_FILE_BYTES:
        found = f"more than {MAX_FILE_BYTES >> 20} MiB"
        raise ConfigError(fault(str(path), "", found, "Give a file of definitions, not of rows."))
    return parse_yaml(text, path=str(path))


def parse_yaml(text: str, *, path: str) -> YamlSource:
    """The mapping in a YAML text; `path` is its name in messages. Raises as `read_yaml`."""
    node = _composed(text, path)
    if node is None:
        raise ConfigError(fault(path, "", "the file is empty", "A mapping of keys to values is expected."))
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(fault(Place(path, 1), "", "not a mapping of keys to values", NO_MAPPING_FIX))
    _refuse_unsupported(node, path)
    lines: dict[KeyPath, int] = {}
    faults: list[Fault] = []
    _walk(node, (), lines, faults, path)
    if faults:
        raise ConfigError(faults)
    try:
        value = _constructed(node)
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_fault(error, text, path)) from error
    return YamlSource(path=path, value=value, lines=lines)


def _constructed(node: yaml.Node) -> Any:
    """The value of a document that has been parsed; `yaml.load` would parse the text a second time."""
    return Loader("").construct_document(node)  # type: ignore[no-untyped-call]


def _composed(text: str, path: str) -> yaml.Node | None:
    """The document as nodes with their lines; None if it is empty."""
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=Loader)
        return node
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_fault(error, text, path)) from error
    except RecursionError as error:
        raise ConfigError(fault(path, "", "values are nested too deeply", "Flatten them.")) from error
    except VALUE_ERRORS as error:  # from a directive or an escape sequence
        raise ConfigError(fault(path, "", f"not valid YAML: {error}", "Remove directives and escapes.")) from error


def _refuse_unsupported(root: yaml.Node, path: str) -> None:
    """Raise ConfigError for tags, deep nesting, unpaired surrogates and more values than any definition needs.

    Checked node by node before values are built; an alias is counted at every use, but visited once.
    """
    sizes: dict[int, int] = {}
    todo: list[tuple[yaml.Node, int, bool]] = [(root, 1, False)]
    entered: set[int] = set()
    while todo:
        node, depth, done = todo.pop()
        if done:
            sizes[id(node)] = min(1 + sum(sizes.get(id(each), 1) for each in _inner(node)), MAX_NODES + 1)
            continue
        if id(node) in entered:
            continue
        entered.add(id(node))
        if refused := _unsupported(node, depth):
            raise ConfigError(fault(Place(path, node.start_mark.line + 1), "", *refused))
        todo.append((node, depth, True))
        todo += [(each, depth + 1, False) for each in _inner(node)]
    if sizes[id(root)] > MAX_NODES:
        found = f"more than {MAX_NODES:,} values, aliases counted as often as they are used"
        raise ConfigError(fault(path, "", found, "Write fewer values, or no aliases of aliases."))


def _inner(node: yaml.Node) -> list[yaml.Node]:
    """Keys and values of a mapping, items of a list; empty for a scalar."""
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _unsupported(node: yaml.Node, depth: int) -> tuple[str, str] | None:
    """What is unsupported at a node and what to do, or None."""
    if depth > MAX_DEPTH:
        return f"more than {MAX_DEPTH} nested lists or mappings", "Flatten them."
    if node.tag not in KNOWN_TAGS:
        name = node.tag.replace("tag:yaml.org,2002:", "!!")
        return f"the tag {name} is not supported", "Write the value without a tag."
    if isinstance(node, yaml.ScalarNode) and any("\ud800" <= sign <= "\udfff" for sign in node.value):
        return "an unpaired surrogate (\\ud8… alone)", "Escape both halves of the pair."
    return None


def _yaml_fault(error: yaml.YAMLError, text: str, path: str) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        fix = "Put the value in quotes." if isinstance(error.__cause__, VALUE_ERRORS) else SYNTAX_FIX
        return fault(Place(path, line), "", f"not valid YAML: {error.problem}", fix)
    position = getattr(error, "position", 0)
    found = f"character {text[position : position + 1]!r} is not allowed in YAML"
    return fault(Place(path, text.count(chr(10), 0, position) + 1), "", found, "Remove it.")


def parse_value(text: str, *, where: str) -> object:
    """The value of a YAML text, as given after `--key`: a number, a word, `{name: smart, weight: 3}`, …

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        node = _composed(text, where)
        if node is None:
            return None
        _refuse_unsupported(node, where)
        faults: list[Fault] = []
        _walk(node, (), {}, faults, where)
        if faults:
            raise ConfigError([replace(each, place=Place(where)) for each in faults])
        return _constructed(node)
    except (yaml.YAMLError, ConfigError) as error:
        shown = text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}…"
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
    """Collect the line of every key below `node`, and errors for duplicate keys and aliases of enclosing nodes.

    Args:
        node: the node to walk.
        keys: path of keys to the node.
        lines: key path → line; this function adds to it.
        faults: the errors; this function appends to it. YAML itself would keep the last of two equal keys.
        path: the file, for messages.
        above: the enclosing nodes.
    """
    if any(node is each for each in above):
        found = f"an alias of the enclosing value at line {node.start_mark.line + 1}"
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
