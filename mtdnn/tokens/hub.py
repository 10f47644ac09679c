"""The hub library's error for a name, shortened to one sentence."""

from __future__ import annotations

from pathlib import Path


def hub_error(encoder: str, error: Exception) -> str:
    """The first sentence of the hub library's error; for a name that may be a path, also that it does not exist."""
    message = " ".join(str(error).split())
    first = message.partition(". ")[0].removesuffix(".")[:200] or type(error).__name__
    return f"there is no folder of this name, and on the hub: {first}" if may_be_path(encoder) else first


def may_be_path(encoder: str) -> bool:
    """Whether a name looks like a path, but does not exist."""
    return "/" in encoder and not Path(encoder).exists()
