"""The commands about the package itself: `mtdnn list | convert`, and shell completion."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mtdnn.cli.output import as_json
from mtdnn.columns import table
from mtdnn.config.shipped import shipped_definitions, shipped_folder
from mtdnn.errors import ConfigError, fault, unknown

if TYPE_CHECKING:
    from mtdnn.registry import Registry

CONVERTERS = "data_prep"
"""The folder of the converters, and the name they import each other by."""

Kind = Literal[
    "tasks", "converters", "types", "heads", "losses", "metrics", "regularizers", "proximal", "mixings", "balancers",
    "optimizers", "schedules", "adapters",
]  # fmt: skip


def list(kind: Kind, *, json: bool = False) -> str:
    """List what can be named: tasks, types, metrics, regularizers, optimizers and the other plug-ins.

    Args:
        kind: Which names, those of installed plug-in packages included:
        json: Print name → description as JSON.
    """
    if kind == "tasks":
        found = {name: ", ".join(_tasks_in(path)) for name, path in shipped_definitions().items()}
    elif kind == "converters":
        found = {name: _first_line(path) for name, path in converters().items()}
    else:
        registry = registry_of(kind)
        found = {name: _summary(registry.get(name)) for name in registry}
    return as_json(found) if json else table([[name, text] for name, text in found.items()])


def registry_of(kind: str) -> Registry[Any]:
    """The plug-ins of a kind of `mtdnn list`."""
    from mtdnn.runs.plug_ins import run_registry

    keys = {
        "regularizers": "regularizer", "proximal": "proximal", "mixings": "mixing", "balancers": "balance",
        "optimizers": "optimizer", "schedules": "schedule", "adapters": "adapter",
    }  # fmt: skip
    if kind in keys:
        return run_registry(keys[kind])
    if kind == "types":
        from mtdnn.task_types.base import TASK_TYPES

        return TASK_TYPES
    if kind == "heads":
        from mtdnn.networks.heads import HEADS

        return HEADS
    if kind == "losses":
        from mtdnn.networks.losses import LOSSES

        return LOSSES
    from mtdnn.metrics.base import METRICS

    return METRICS


def _tasks_in(path: Path) -> Sequence[str]:
    from mtdnn.config.tasks import load_task_defs

    return tuple(load_task_defs(path))


def _summary(item: Any) -> str:
    """The first paragraph of an object's docstring, in one line; of a metric, that of its function."""
    text = getattr(item, "function", item).__doc__ or ""
    return " ".join(text.split("\n\n")[0].split())


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0]


def converters() -> dict[str, Path]:
    """Name → file of the converters that come with the package, and of the tools that change rows."""
    files = sorted(shipped_folder(CONVERTERS).glob("*.py"))
    return {path.stem: path for path in files if '__name__ == "__main__"' in path.read_text(encoding="utf-8")}


def convert(name: str) -> str:
    """Convert the files of a public source, as distributed, to rows: mtdnn convert NAME --input … --out …

    Args:
        name: One of `mtdnn list converters`; `mtdnn convert NAME --help` shows its flags.
    """
    run_converter(name, ())
    return ""


def run_converter(name: str, words: Sequence[str]) -> None:
    """Run the converter of this name, whose flags are its own.

    Raises:
        ConfigError: there is none of this name.
        SystemExit: after --help, or an error in its flags or in the files.
    """
    known = converters()
    if name not in known:
        raise ConfigError(fault("", "mtdnn convert", unknown("converter", name, known), "See mtdnn list converters."))
    with _arguments([f"mtdnn convert {name}", *words]):
        _make_importable(known[name].parent)
        runpy.run_module(f"{CONVERTERS}.{name}", run_name="__main__", alter_sys=False)


@contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    """A context in which these are the arguments of the process."""
    before = sys.argv
    sys.argv = [*words]
    try:
        yield
    finally:
        sys.argv = before


def _make_importable(folder: Path) -> None:
    """Import the package of the converters from its folder, whatever the current folder contains."""
    if CONVERTERS in sys.modules:
        return
    place, folders = folder / "__init__.py", [str(folder)]
    spec = importlib.util.spec_from_file_location(CONVERTERS, place, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise ConfigError(fault(str(place), "", "cannot be imported", "Install the package again."))
    module = importlib.util.module_from_spec(spec)
    sys.modules[CONVERTERS] = module
    spec.loader.exec_module(module)


def completion_script(commands: Mapping[str, Callable[..., str]], shell: str) -> str:
    """A script that completes the names, flags and words of these commands in a shell.

    Raises:
        ConfigError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        fix = "Install it: pip install 'mtdnn[completion]'."
        raise ConfigError(fault("", "mtdnn completion", "needs the package shtab", fix)) from None
    script: str = shtab.complete(_parser_of_all(commands), shell)
    return script


def _parser_of_all(commands: Mapping[str, Callable[..., str]]) -> argparse.ArgumentParser:
    """One parser of all commands, each with its flags."""
    from mtdnn.cli.options import command_parser

    parser = argparse.ArgumentParser(prog="mtdnn")
    parser.add_argument("--version", action="store_true", help="Print the version.")
    below = parser.add_subparsers()
    for name, function in commands.items():
        sub = below.add_parser(name, help=(function.__doc__ or "").split("\n")[0], add_help=False)
        if name == "convert":
            sub.add_argument("name", choices=tuple(converters()))
            continue
        words = {key: get_args(hint) for key, hint in get_type_hints(function).items() if get_origin(hint) is Literal}
        for action in command_parser(function)._actions:
            if action.help != argparse.SUPPRESS:
                _add_like(sub, action, tuple(action.choices or words.get(action.dest, ())))
    return parser


def _add_like(parser: argparse.ArgumentParser, action: argparse.Action, words: tuple[Any, ...]) -> None:
    """Add an argument like another parser's; its value is completed by these words, or as a file."""
    import shtab

    if action.nargs == 0:
        parser.add_argument(*action.option_strings, action="store_true", help=action.help)
        return
    names = action.option_strings or [action.dest]
    added = parser.add_argument(*names, help=action.help, choices=words or None)
    if not words:
        added.complete = shtab.FILE  # type: ignore[attr-defined]
