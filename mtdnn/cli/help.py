"""The help of a command in plain words: what a value is, and the default in brackets; no types of Python."""

from __future__ import annotations

import types
import typing
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from pydantic.fields import FieldInfo

from mtdnn.cli.schema import inner_model, is_list
from mtdnn.config.options import Named, path_as_text

VALUES = {int: "N", float: "NUMBER", bool: "true|false", str: "TEXT"}
"""Type → how the help shows its values."""

EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
"""Type → what a message says of it."""

NAMES = "NAME,…"
"""How the help shows a list of words."""

MAX_SHOWN = 40
"""Longest list of words in place of a value's name; longer ones are in the text."""


class PlainHelp(DefaultHelpFormatter):  # type: ignore[misc]
    """Formats the help of a command."""

    def _get_help_string(self, action: Action) -> str:
        """The text of an argument, with its default in brackets unless the text has it."""
        text = action.help or ""
        default = None if action.default == SUPPRESS else action.default
        if action.required and action.option_strings:
            return f"{text} (required)"
        if "Default:" in text or default is None or default is False or not action.option_strings:
            return text
        return f"{text} [{'true' if default is True else default}]"

    def _format_action_invocation(self, action: Action) -> str:
        """`-q, --quiet`, `--jobs N`, or only the flag of a switch."""
        if is_switch(action):
            return ", ".join(action.option_strings)
        return super()._format_action_invocation(action)


def is_switch(action: Action) -> bool:
    """Whether a flag needs no value: those that are off by default may be given alone."""
    return getattr(action, "switch", False)


def make_plain(parser: ArgumentParser, hints: dict[str, Any], usage: str) -> None:
    """Show the arguments of a parser in plain words.

    Args:
        parser: the parser of a command.
        hints: argument → its type; nested ones with dots.
        usage: what follows the command in the first line, apart from arguments that must be given.
    """
    name_groups(parser)
    for action in parser._actions:
        if (hint := hints.get(action.dest)) is not None:
            _show_values(action, hint)
    required = [each for each in parser._actions if each.required and each.option_strings]
    given = [_name(each) for each in parser._actions if not each.option_strings]
    flags = [f"{each.option_strings[0]} {each.metavar or each.dest.upper()}" for each in required]
    parser.usage = " ".join([parser.prog, *given, *flags, usage])


def name_groups(parser: ArgumentParser) -> None:
    """Name the groups of a parser's arguments, and describe `--help` as the others are."""
    parser._positionals.title, parser._optionals.title = "arguments", "flags"
    for action in parser._actions:
        if action.dest == "help":
            action.help = "Show this help and exit."


def _show_values(action: Action, hint: Any) -> None:
    """Show the values of an argument by its type: a text by the argument's name, words as they are."""
    action.switch = hint is bool and action.default is False  # type: ignore[attr-defined]
    words = shown_values(hint)
    if len(words) > MAX_SHOWN:
        action.help = f"{action.help} {', '.join(members_of(hint))}."
    if not is_switch(action):
        is_text = words == VALUES[str] or len(words) > MAX_SHOWN
        action.metavar = action.dest.split(".")[-1].upper() if is_text else words


def _name(action: Action) -> str:
    """An argument given by position, in the usage: `[FOLDER]` if it may be left out."""
    name = str(action.metavar or action.dest.upper())
    if action.nargs == "?":
        return f"[{name}]"
    return f"{name} …" if action.nargs == "+" else name


def shown_values(hint: Any) -> str:
    """The values of a type, for the help: `N`, `hf|onnx`, `N|epoch|never`."""
    members = members_of(hint)
    return "|".join(dict.fromkeys(VALUES.get(each, "") or str(each) for each in members))


def members_of(hint: Any) -> list[Any]:
    """The plain types and words that a value may be, apart from None."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return members_of(typing.get_args(hint)[0])
    if origin is typing.Literal:
        return list(typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return [each for member in typing.get_args(hint) if member is not types.NoneType for each in members_of(member)]
    return [hint] if hint in VALUES else [str]


def shown_fields(fields: Sequence[FieldInfo]) -> str:
    """The values of fields of the same name, for the help: `PATH`, `NAME`, `NAME,…`, or by their types."""
    return "|".join(dict.fromkeys(map(_shown_field, fields)))


def _shown_field(field: FieldInfo) -> str:
    annotation, inner = field.annotation, inner_model(field.annotation)
    if is_list(annotation):
        return NAMES
    if _mapping_in(annotation):
        return "{TASK: …}"
    if inner is not None and issubclass(inner, Named):
        return "NAME"
    if inner is not None and str not in typing.get_args(annotation):
        return "{KEY: …}"
    if any(getattr(each, "func", None) is path_as_text for each in field.metadata):
        return "PATH"
    if typing.get_origin(annotation) is tuple:
        return f"[{', '.join(map(shown_values, typing.get_args(annotation)))}]"
    return shown_values(annotation)


def _mapping_in(annotation: Any) -> bool:
    """Whether a value is, or may be, a mapping."""
    return typing.get_origin(annotation) is dict or any(map(_mapping_in, typing.get_args(annotation)))
