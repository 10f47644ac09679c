"""`mtdnn <command> …`: dispatch to the commands, and the exit status.

Exit status: 0 done, 2 user errors (one line each, without traceback), 128 + signal if stopped by a signal.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from mtdnn.cli.commands import check, init, prepro, train
from mtdnn.cli.output import EXIT_ERROR, print_text
from mtdnn.cli.package_commands import completion_script, convert, run_converter
from mtdnn.cli.package_commands import list as list_names
from mtdnn.cli.publish_commands import export, push, serve
from mtdnn.cli.run_commands import average, embed, evaluate, predict, score, submit
from mtdnn.cli.study_commands import report, study, subset, tune
from mtdnn.cli.verbosity import current_level, verbosity, without_verbosity
from mtdnn.columns import table
from mtdnn.errors import ConfigError, MtdnnError, fault, printable, system_fault, unknown

EXIT_INTERRUPTED = 130


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> str:
    """Print a script that completes commands and flags: mtdnn completion bash > FILE, then source FILE.

    Args:
        shell: bash, zsh or tcsh.
    """
    return completion_script(COMMANDS, shell)


COMMANDS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        *(
            check,
            prepro,
            train,
            evaluate,
            predict,
            score,
            embed,
            export,
            push,
            serve,
            submit,
            subset,
            study,
            tune,
            report,
        ),
        *(init, average, list_names, convert, completion),
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Args:
        argv: the words after `mtdnn`; None: those of the process.
    """
    if argv is None:  # processes that this one starts import nothing from the current folder either
        os.environ["PYTHONSAFEPATH"] = "1"
        escape_unprintable()
    words, level = without_verbosity(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print_text(overview())
        return 0 if words else EXIT_ERROR
    try:
        with verbosity(level), messages_to_stderr():
            require_utf8(words)
            dispatch(words[0], words[1:])
    except MtdnnError as error:
        print(error, file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        found = system_fault(error, f"mtdnn {words[0]}")
        if found is None:
            raise
        print(found, file=sys.stderr)
        return EXIT_ERROR
    return 0


def escape_unprintable() -> None:
    """Escape characters that the terminal's encoding lacks, such as … in ASCII, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def require_utf8(words: Sequence[str]) -> None:
    """Raise ConfigError for words that are not UTF-8: neither our files nor most libraries can write such names."""
    strange = [word for word in words if any("\ud800" <= character <= "\udfff" for character in word)]
    if strange:
        fix = "Rename the file or folder, or give another name."
        raise ConfigError([fault("", "mtdnn", f"'{word}' is not UTF-8", fix) for word in strange])


def dispatch(name: str, words: Sequence[str]) -> None:
    """Parse the words after the command's name and call its function."""
    if name == "--version":
        from importlib.metadata import version

        print_text(f"mtdnn {version('mtdnn')}")
        return
    if name not in COMMANDS:
        raise ConfigError(fault("", "mtdnn", unknown("command", name, COMMANDS), "See mtdnn --help."))
    from mtdnn.cli.flags import flags_of, keys_as_flags
    from mtdnn.cli.options import call_arguments, run_arguments
    from mtdnn.registry import trusted

    function = COMMANDS[name]
    if function is convert and words and not words[0].startswith("-"):  # its flags are the converter's
        run_converter(words[0], words[1:])
        return
    read = run_arguments if function is train else call_arguments
    arguments = read(function, words)
    with trusted(arguments.pop("trust")), keys_as_flags(**flags_of(function)):
        answer = function(**arguments)
    if answer:
        print_text(answer)


def overview() -> str:
    """The commands, one line each."""
    lines = [[f"  {name}", (function.__doc__ or "").split("\n")[0]] for name, function in COMMANDS.items()]
    head = "usage: mtdnn <command> …\n\nFine-tune one shared encoder on many tasks.\n"
    tail = [
        "`mtdnn <command> --help` shows the arguments of a command, `mtdnn --version` the version.",
        "-q: no progress and no messages; -v: also details.",
    ]
    return "\n".join([head, table(lines), "", *tail])


class PlainLine(logging.Formatter):
    """Formats each message as one line, whatever names it contains."""

    def format(self, record: logging.LogRecord) -> str:
        """The message with control characters escaped."""
        return printable(super().format(record))


@contextmanager
def messages_to_stderr() -> Iterator[None]:
    """A context in which the package's log, from the level of `-q` and `-v` on, is written to stderr as plain lines."""
    logger, handler = logging.getLogger("mtdnn"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLine("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(current_level())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
