"""What the parser of a command finds wrong with its words → our errors, at the flag that is wrong."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import ArgumentParser

from mtdnn.cli.help import EXPECTED, is_switch, members_of
from mtdnn.config.other_names import ours
from mtdnn.errors import Fault, did_you_mean, fault, unknown

TOO_MANY = re.compile(r"unrecognized arguments: (?P<words>.*)", re.DOTALL)
MISSING = re.compile(r"the following arguments are required: (?P<names>.*)")
NO_VALUE = re.compile(r"argument (?P<flag>\S+): expected (one|at least one) argument")
ANY_VALUE = re.compile(r"argument (?P<flag>\S+): ignored explicit argument (?P<value>.*)")
CHOICE = re.compile(r"argument (?P<flag>\S+): invalid choice: '(?P<value>.*)' \(choose from (?P<known>.*)\)")
NO_FILE = re.compile(r'key "(?P<key>[\w.]+)": Unable to load config \W(?P<file>[^\'"]*)')
WRONG_TYPE = re.compile(r'key "(?P<key>[\w.]+)": ')
"""What argparse and jsonargparse say."""


def flag_faults(
    message: str, parser: ArgumentParser, argv: Sequence[str], hints: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[Fault]:
    """The errors in the words of a command.

    Args:
        message: of the parser, which stops at the first error.
        parser: of the command.
        argv: the words after its name.
        hints: argument → its type.
        defaults: argument → its default, for those that have one.
    """
    faults = [_unknown_flag(flag, parser) for flag in unknown_flags(argv, parser)]
    if found := MISSING.search(message):
        faults += [_missing(name, parser) for name in found["names"].split(", ")]
    elif found := TOO_MANY.search(message):
        faults += [] if faults else [_too_many(found["words"], parser, argv)]
    elif found := NO_VALUE.search(message):
        faults.append(fault(_place(found["flag"], parser), "", "no value is given", "Give one."))
    elif found := ANY_VALUE.search(message):
        faults.append(fault(_place(found["flag"], parser), "", f"{found['value']}: takes no value", "Leave it out."))
    elif found := CHOICE.search(message):
        known = re.findall(r"'([^']*)'", found["known"])
        faults.append(fault(_place(found["flag"], parser), "", unknown("word", found["value"], known)))
    elif found := NO_FILE.search(message):
        text, flag = f"'{found['file']}' is no YAML file of these options", f"--{found['key']}"
        faults.append(fault(flag, "", text, f"Check the path, or give them one by one: {flag}.NAME VALUE."))
    elif (found := WRONG_TYPE.search(message)) and found["key"] in hints:
        faults.append(_wrong_value(found["key"], parser, argv, hints, defaults))
    return faults or [fault("", parser.prog, message, f"See {parser.prog} --help.")]


def unknown_flags(argv: Sequence[str], parser: ArgumentParser) -> list[str]:
    """The words that look like flags and are none of the parser's, without values."""
    words = dict.fromkeys(word.split("=")[0] for word in argv if word.startswith("--") and word != "--")
    known = flags_of_parser(parser)
    return [flag for flag in words if flag not in known and not _is_of_a_mapping(flag, known)]


def _is_of_a_mapping(flag: str, known: Sequence[str]) -> bool:
    """Whether it is `--variables.name` of a flag that takes any names."""
    whole, dot, _ = flag.partition(".")
    return bool(dot) and whole in known and not any(each.startswith(f"{whole}.") for each in known)


def flags_of_parser(parser: ArgumentParser) -> list[str]:
    """The flags of a parser that begin with two dashes."""
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def _unknown_flag(flag: str, parser: ArgumentParser) -> Fault:
    flags, name = flags_of_parser(parser), flag.removeprefix("--")
    of_run = "--optimizer.lr" in flags
    near = (of_run and ours(name, flag=True)) or did_you_mean(flag, flags)
    return fault(flag, "", f"{parser.prog} has no such flag", near.strip() or f"See {parser.prog} --help.")


def _missing(name: str, parser: ArgumentParser) -> Fault:
    """The error for an argument that must be given."""
    action = _action(name, parser)
    shown = name if action is None else action.option_strings[0] if action.option_strings else str(action.metavar)
    text = "" if action is None or not action.help else f"Give it: {action.help}"
    return fault("", parser.prog, f"{shown} is missing", text)


def _too_many(words: str, parser: ArgumentParser, argv: Sequence[str]) -> Fault:
    """The error for words that no argument takes, such as further paths of `runs/*`, or the value of a switch."""
    blank = next((repr(word) for word in argv if not word.strip()), "''")
    first = next((word for word in argv if f"{words} ".startswith(f"{word} ")), words)
    if (action := _switch_before(first, parser, argv)) is not None:
        takes = "takes no value" if action.nargs == 0 or is_switch(action) else "expected true or false"
        return fault(action.option_strings[-1], "", f"'{words}': {takes}", "Leave it out.")
    names = [str(each.metavar or each.dest) for each in parser._actions if not each.option_strings]
    takes = f"takes {' and '.join(names)}" if names else "takes only flags"
    fix = f"For several, call {parser.prog} once for each." if names else f"See {parser.prog} --help."
    return fault("", parser.prog, f"{takes}; given in addition: {words.strip() or blank}", fix)


def _switch_before(word: str, parser: ArgumentParser, argv: Sequence[str]) -> Action | None:
    """The flag without a value that a word comes after; `options` has written `true` between the two."""
    before = argv[: argv.index(word)] if word in argv else []
    flags = before[:-1] if before[-1:] == ["true"] else before
    action = _action(flags[-1], parser) if flags and flags[-1].startswith("-") else None
    return action if action is not None and (action.nargs == 0 or flags is not before) else None


def _wrong_value(
    key: str, parser: ArgumentParser, argv: Sequence[str], hints: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Fault:
    """The error for a value of another type; arguments as for `flag_faults`."""
    members, place = members_of(hints[key]), _place(key, parser)
    given = _given(key, argv)
    if (part := next((word.split("=")[0] for word in argv if word.startswith(f"--{key}.")), None)) is not None:
        key, place, given = part.removeprefix("--"), part, _given(part.removeprefix("--"), argv)
    if words := [each for each in members if isinstance(each, str)]:
        return fault(place, "", unknown("word", given, words))
    expected = " or ".join(dict.fromkeys(EXPECTED[each] for each in members))
    leave = ", or leave it out" if key in defaults else ""
    if (default := defaults.get(key)) is not None:
        leave += f" for the default, {str(default).lower() if isinstance(default, bool) else default}"
    return fault(place, "", f"'{given}': expected {expected}", f"Give another value{leave}.")


def _given(key: str, argv: Sequence[str]) -> str:
    """What was given for an argument: what follows its flag, or the first word that is no flag."""
    flag = f"--{key}"
    for word, following in pairwise([*argv, ""]):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return next((word for word in argv if not word.startswith("-")), "")


def _place(name: str, parser: ArgumentParser) -> str:
    """The flag of an argument, or the command for one that is given by position."""
    action = _action(name, parser)
    if action is None:
        return name if name.startswith("-") else f"--{name}"
    return action.option_strings[-1] if action.option_strings else parser.prog


def _action(name: str, parser: ArgumentParser) -> Action | None:
    """The argument of a name, a flag or several flags (`-q/--quiet`)."""
    flag = name.split("/")[-1]
    return next((each for each in parser._actions if each.dest == name or flag in each.option_strings), None)
