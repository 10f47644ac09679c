"""Runs on the Hugging Face hub: `user/name` → a folder with the run's files, in the hub library's cache."""

from __future__ import annotations

import re
from pathlib import Path

from mtdnn.errors import ConfigError, fault
from mtdnn.tokens.hub import hub_error

HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
SHORT_NAME = re.compile(r"\w[\w.-]*")
"""Of the hub's first models and data sets, whose names have no user."""

RUN_FILES = ("*.json", "*.jsonl", "*.yml", "best/**", "README.md")
"""What is downloaded of a run: nothing that is run when it is read."""


def hub_name(place: str | Path) -> re.Match[str] | None:
    """The parts of `user/name` or `user/name@revision`; None for a path.

    A name whose first part is a folder here is a path: a misspelt `runs/frist` is not looked up on the hub.
    """
    text = str(place)
    found = None if isinstance(place, Path) else HUB_NAME.fullmatch(text)
    if found is None or Path(text).exists() or Path(text.split("/")[0]).is_dir():
        return None
    return found


def on_hub(place: str) -> bool:
    """Whether an encoder or a data set is named as on the hub: `user/name`, or a name alone, as `bert-base-uncased`.

    Args:
        place: a name, or a folder, which may be on another machine.
    """
    return hub_name(place) is not None or (SHORT_NAME.fullmatch(place) is not None and not Path(place).exists())


def run_place(place: str | Path) -> Path:
    """The folder of a run: the path given, or a copy of the run of this name on the hub.

    Args:
        place: a folder, or `user/name`, or `user/name@revision` with a branch, tag or commit.
    Raises:
        ConfigError: there is neither such a folder nor such a run on the hub.
    """
    found = hub_name(place)
    if found is None:
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(found["repo"], revision=found["revision"], allow_patterns=[*RUN_FILES])
        )  # the pattern list is copied, as the library may extend it
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = f"contains no run: {hub_error(str(place), error)}"
        fix = "Give the `output` folder of `mtdnn train`, or the name of a run on the hub."
        raise ConfigError(fault(str(place), "", what, fix)) from error
