"""Command line → arguments of a function, or overrides of a run's YAML.

The flags of a command and their help come from the signature and docstring of its function (jsonargparse); those of
`train` from the fields of RunConfig, whose values `load_run_config` checks together with the file's.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from argparse import Action, ArgumentError, Namespace
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from jsonargparse import SUPPRESS, ArgumentParser

from mtdnn.cli.flag_errors import flag_faults, flags_of_parser
from mtdnn.cli.flags import names_in
from mtdnn.cli.help import NAMES, PlainHelp, make_plain, name_groups, shown_fields
from mtdnn.cli.schema import described, fields_of, inner_model, is_open, option_keys
from mtdnn.cli.verbosity import VERBOSITY_FLAGS
from mtdnn.config.arguments import home_expanded
from mtdnn.config.options import Named
from mtdnn.config.run import RunConfig
from mtdnn.config.yaml_source import parse_value
from mtdnn.errors import ConfigError, Fault, fault
from mtdnn.runs.plug_ins import LIGHT_KEYS

NULLS = ("null", "Null", "NULL", "~")
"""The ways to write null in YAML."""


def call_arguments(function: Callable[..., object], argv: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of `function` from the command line, and `trust`; parameters without default are positional.

    Raises:
        ConfigError: a flag is unknown or missing, or a value has the wrong type.
        SystemExit: after --help or --schema.
    """
    parser = _call_parser(function)
    found = vars(parser.instantiate(_parsed(parser, _spelt_out(function, argv), function)))
    _refuse_empty(found, function)
    renamed = {name.rstrip("_"): name for name in _python_words(function)}
    return {renamed.get(name, name): home_expanded(each) for name, each in found.items()}


def _refuse_empty(given: Mapping[str, object], function: Callable[..., object]) -> None:
    """Raise ConfigError for each argument that is an empty text."""
    if faults := [each for name, value in given.items() if (each := _empty_fault(name, value, function)) is not None]:
        raise ConfigError(faults)


def _empty_fault(name: str, value: object, function: Callable[..., object]) -> Fault | None:
    """The error for an argument of a command that is empty, as in `--out "$OUT"` without an OUT."""
    if isinstance(value, list) and (empty := [each for each in value if isinstance(each, str) and not each.strip()]):
        value = empty[0]
    if not isinstance(value, str) or value.strip():
        return None
    parameter = inspect.signature(function).parameters.get(name)
    is_flag = parameter is None or parameter.kind is parameter.KEYWORD_ONLY
    optional = parameter is None or parameter.default is not parameter.empty
    place = f"--{name}" if is_flag else f"mtdnn {function.__name__}"
    key = "" if is_flag else name.upper()
    return fault(place, key, f"{value!r} is not a value", f"Give one{', or leave it out' if optional else ''}.")


def _call_parser(function: Callable[..., object]) -> ArgumentParser:
    """The parser of a command's flags."""
    parser = _parser(function, description=(inspect.getdoc(function) or "").split("\n")[0])
    if function.__name__ == "check":
        text = "Print the JSON Schema of task definitions or of a run, for editors, and exit."
        parser.add_argument("--schema", action=PrintSchema, metavar="tasks|run", help=text)
    optional = _optional_positionals(function)
    several = _list_positionals(function)
    for name, text in several.items():
        parser.add_argument(name, nargs="+", metavar=name.upper(), help=text)
    words = _python_words(function)
    skipped = {*optional, *several, *words}
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=skipped)
    for name, text in optional.items():  # after those that must be given
        parser.add_argument(name, nargs="?", default=None, metavar=name.upper(), help=text)
    for name, text in words.items():
        parser.add_argument(f"--{name.rstrip('_')}", default=None, metavar="FILE", help=text)
    _add_common(parser)
    for action in parser._actions:
        if dataclasses.is_dataclass(typing.get_type_hints(function).get(action.dest)):
            action.help, action.metavar = "These options as a YAML file.", "FILE"
    make_plain(parser, _hints(function), usage="[flags]")
    return parser


def _hints(function: Callable[..., object]) -> dict[str, Any]:
    """Argument of a command → its type; those of a group with the group's name and a dot before it."""
    hints = {name: hint for name, hint in typing.get_type_hints(function).items() if name != "return"}
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    nested = {
        f"{name}.{key}": hint for name, kind in groups.items() for key, hint in typing.get_type_hints(kind).items()
    }
    return {**{name: hint for name, hint in hints.items() if name not in groups}, **nested}


def _defaults(function: Callable[..., object]) -> dict[str, Any]:
    """Argument of a command → its default, for those that have one; groups as in `_hints`."""
    found = inspect.signature(function).parameters.values()
    given = {each.name: each.default for each in found if each.default is not each.empty}
    groups = {name: value for name, value in given.items() if dataclasses.is_dataclass(value)}
    nested = {f"{name}.{key}": each for name, value in groups.items() for key, each in vars(value).items()}
    return {**given, **nested}


def command_parser(function: Callable[..., object]) -> ArgumentParser:
    """The parser of a command, for shell completion."""
    return _run_parser(function, (), {}) if function.__name__ == "train" else _call_parser(function)


def run_arguments(function: Callable[..., object], argv: Sequence[str]) -> dict[str, Any]:
    """`run` (a YAML file or None), `overrides` (dotted key → value), `resume`, `json`, `trust`.

    Raises as `call_arguments`.
    """
    given: dict[str, str] = {}
    argv = _with_true(argv)
    parser = _run_parser(function, argv, given)
    found = _parsed(parser, argv, function)
    _refuse_empty({"run": found["run"]}, function)
    lists = {flag for action in parser._actions if action.metavar == NAMES for flag in action.option_strings}
    overrides = {
        key: _value(key, text, is_list=f"--{key}" in lists)
        for key, text in sorted(given.items(), key=lambda pair: pair[0].count("."))
    }
    return {
        "run": home_expanded(found["run"]),
        "resume": found["resume"],
        "json": found["json"],
        "trust": found["trust"],
        "overrides": overrides,
    }


def _run_parser(function: Callable[..., object], argv: Sequence[str], given: dict[str, str]) -> ArgumentParser:
    """The parser of a run's flags, which collects their texts in `given`."""
    usage = f"mtdnn {function.__name__} [RUN.yml] [--resume] [--key value …]"
    about = "A flag has the name and the values of a key of RUN.yml: --optimizer.lr 3e-5, --train rte,mrpc, --ema null."
    epilog = "mtdnn check --schema run also lists the options of regularizers and proximal terms."
    parser = _parser(function, usage=usage, description=f"{function.__doc__} {about}", epilog=epilog)
    name_groups(parser)
    parser.add_argument("run", nargs="?", metavar="RUN.yml", help="A run's YAML file; flags replace its values.")
    parser.add_argument("--resume", action="store_true", help="Resume from the newest complete checkpoint.")
    parser.add_argument("--json", action="store_true", help="Print the results as JSON.")
    _add_common(parser)
    fields = {key: field for key, field in fields_of(RunConfig) if "<" not in key}
    flags = [(key, shown_fields([field]), described(field)) for key, field in fields.items()]
    flags += [(key, shown_fields(same), text) for key, text, same in option_keys(LIGHT_KEYS)]
    blocks = list(RunConfig.model_fields)
    for key, metavar, text in sorted(flags, key=lambda flag: blocks.index(flag[0].split(".")[0])):
        parser.add_argument(f"--{key}", action=Collect, into=given, metavar=metavar, help=text.replace("%", "%%"))
    for key in _open_keys(argv, flags_of_parser(parser)):
        parser.add_argument(f"--{key}", action=Collect, into=given, help=SUPPRESS)
    return parser


class Collect(Action):
    """Stores a flag's text under its dotted key, outside the parser's nested result."""

    def __init__(self, *, into: dict[str, str], **settings: Any) -> None:
        super().__init__(**{**settings, "default": SUPPRESS})
        self.into = into

    def __call__(self, parser: Any, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        self.into[(option_string or "").removeprefix("--")] = values


class PrintSchema(Action):
    """`--schema tasks` or `--schema run`: print the schema and exit, as `--help` does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs="?", const="tasks", default=SUPPRESS, choices=("tasks", "run"), **settings)

    def __call__(self, parser: Any, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        from mtdnn.cli.schema import run_schema, task_schema

        schema = task_schema() if values == "tasks" else run_schema()
        sys.stdout.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
        raise SystemExit(0)


def _parser(function: Callable[..., object], **settings: Any) -> ArgumentParser:
    return ArgumentParser(
        prog=f"mtdnn {function.__name__}",
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=PlainHelp,
        **settings,
    )


def _optional_positionals(function: Callable[..., object]) -> dict[str, str]:
    """Arguments that may be given by position or left out, with their lines of the docstring.

    jsonargparse takes only those without a default by position.
    """
    texts = _argument_texts(function)
    return {
        each.name: texts.get(each.name, "")
        for each in inspect.signature(function).parameters.values()
        if each.kind is each.POSITIONAL_OR_KEYWORD and each.default is not each.empty
    }


def _list_positionals(function: Callable[..., object]) -> dict[str, str]:
    """Arguments that are given as several words by position, with their lines of the docstring."""
    texts, hints = _argument_texts(function), typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    named = (each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD)
    return {name: texts.get(name, "") for name in named if hints[name] == list[str]}


def _argument_texts(function: Callable[..., object]) -> dict[str, str]:
    """Argument → its line of the docstring."""
    lines = (inspect.getdoc(function) or "").splitlines()
    return dict(line.strip().split(": ", 1) for line in lines if ": " in line)


def _python_words(function: Callable[..., object]) -> dict[str, str]:
    """Arguments named by a word of Python with `_` after it, whose flags are without, with their lines of the
    docstring."""
    texts = _argument_texts(function)
    return {name: texts.get(name, "") for name in inspect.signature(function).parameters if name.endswith("_")}


def _add_common(parser: ArgumentParser) -> None:
    """Add the flags that every command has; `main` has taken out those of verbosity before a command is parsed."""
    text = "Import dotted paths named in files, and load pickled weights of an encoder."
    common = parser.add_argument_group("flags of every command")
    common.add_argument("--trust", action="store_true", help=text)
    for flags, text in VERBOSITY_FLAGS.values():
        common.add_argument(*flags, action="store_true", default=SUPPRESS, help=text)


def _parsed(parser: ArgumentParser, argv: Sequence[str], function: Callable[..., object]) -> Any:
    try:
        return parser.parse_args(list(argv))
    except ArgumentError as error:
        message = re.sub(r"\s+", " ", str(error))
        raise ConfigError(flag_faults(message, parser, argv, _hints(function), _defaults(function))) from error


def _spelt_out(function: Callable[..., object], argv: Sequence[str]) -> list[str]:
    """The words with `--dry_run` as `--dry_run true`, which the parser needs."""
    switches = {f"--{name}" for name, kind in typing.get_type_hints(function).items() if kind is bool}
    spelt: list[str] = []
    for word, following in zip_longest(argv, argv[1:]):
        spelt += [word, "true"] if word in switches and following not in ("true", "false") else [word]
    return spelt


def _with_true(argv: Sequence[str]) -> list[str]:
    """The words with `--freeze_encoder` alone as `--freeze_encoder true`."""
    switches = {f"--{key}" for key, field in fields_of(RunConfig) if field.annotation is bool}
    spelt: list[str] = []
    for word, following in zip_longest(argv, argv[1:], fillvalue="-"):
        spelt += [word, "true"] if word in switches and following.startswith("-") else [word]
    return spelt


def _open_keys(argv: Sequence[str], flags: Container[str]) -> list[str]:
    """Keys such as `regularizer.weight` and `subset.rte.rows`, which are not declared as flags."""
    open_fields = [name for name, field in RunConfig.model_fields.items() if is_open(field)]
    words = [word.removeprefix("--").split("=")[0] for word in argv if word.startswith("--")]
    unknown = (word for word in words if f"--{word}" not in flags)
    return list(dict.fromkeys(word for word in unknown if word.split(".")[0] in open_fields))


def _value(key: str, text: str, *, is_list: bool) -> object:
    """A flag's text as the value it would have in a YAML file: numbers, lists, mappings; paths and names stay text.

    Args:
        key: dotted key.
        text: what was given after the flag.
        is_list: the value is a list, whose items may be separated by commas.
    Raises:
        ConfigError: it is not YAML, or it is empty, as in `--regularizer "$METHOD"` without a METHOD.
    """
    annotation = RunConfig.model_fields[key].annotation if key in RunConfig.model_fields else None
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if str in members and not text.startswith("{") and text.strip():
        return text
    if is_list and "," in text and not text.startswith(("[", "{")):
        return names_in(text)
    value = parse_value(text, where=f"--{key}")
    if value is None and text.strip() not in NULLS:
        raise ConfigError(fault(f"--{key}", "", f"{text!r} is not a value", f"Give a value{_word_for_off(key)}."))
    return value


def _word_for_off(key: str) -> str:
    """`, or none to turn it off` for a plug-in, `, or null for none` for another optional key."""
    field = dict(fields_of(RunConfig)).get(key)
    if field is None or types.NoneType not in typing.get_args(field.annotation):
        return ""
    return ", or none to turn it off" if inner_model(field.annotation) is Named else ", or null for none"
