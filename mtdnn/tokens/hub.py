"""Names of encoders that are hub names or folders: what is wrong with one that cannot be found."""

from __future__ import annotations

from pathlib import Path

from mtdnn.errors import ConfigError, fault


def hub_error(encoder: str, error: Exception) -> str:
    """The first sentence of the hub library's error; for a name that may be a path, also that it does not exist."""
    message = " ".join(str(error).split())
    first = message.partition(". ")[0].removesuffix(".")[:200] or type(error).__name__
    return f"there is no folder of this name, and on the hub: {first}" if may_be_path(encoder) else first


def may_be_path(encoder: str) -> bool:
    """Whether a name looks like a path, but does not exist."""
    return "/" in encoder and not Path(encoder).exists()


def refuse_missing_folder(encoder: str) -> None:
    """Raise ConfigError for an encoder that can only be a path but does not exist; hub names have at most one slash."""
    is_path = encoder.startswith((".", "/", "~")) or encoder.count("/") > 1 or encoder.endswith("/")
    if is_path and not Path(encoder).is_dir():
        found, fix = f"there is no folder '{encoder}'", "Check the path, or give a Hugging Face hub name."
        raise ConfigError(fault("", "encoder", found, fix))
