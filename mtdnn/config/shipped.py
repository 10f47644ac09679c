"""What comes with the package: task definitions by name, and the converters of public sources.

In a checkout they are the folders `task_defs/` and `data_prep/` next to the package; a wheel has both within it.
"""

from __future__ import annotations

from pathlib import Path

from mtdnn.errors import ConfigError, did_you_mean, fault

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """The folder of this name within an installed package, or next to the package of a checkout."""
    within = PACKAGE / name
    return within if within.is_dir() else PACKAGE.parent / name


def shipped_definitions() -> dict[str, Path]:
    """Name → file of the task definitions that come with the package, such as `glue`."""
    return {path.stem: path for path in sorted(shipped_folder("task_defs").glob("*.yml"))}


def definitions_file(word: str | Path) -> str | Path:
    """The file of task definitions that a user names: a path, or the name of one that comes with the package.

    A file or folder of that name in the current folder has precedence.

    Raises:
        ConfigError: there is no such file, and the word is, or looks like, a name.
    """
    if isinstance(word, Path) or Path(word).exists():
        return word
    known = shipped_definitions()
    near = did_you_mean(Path(word).stem, known)
    if word in known or Path(word).name != word or not (near or Path(word).stem == word):
        return known.get(word, word)
    found = f"no such file, nor definitions of this name; known: {', '.join(known)}.{near}"
    raise ConfigError(fault(word, "", found, "" if near else "Check the path."))
