"""What the hub's library says of a name, in one sentence."""

from __future__ import annotations

from pathlib import Path


def hub_error(encoder: str, error: Exception) -> str:
    """What the hub's library says of a name, in its first sentence; of one that may be a path, that it is none."""
    message = " ".join(str(error).split())
    first = message.partition(". ")[0].removesuffix(".")[:200] or type(error).__name__
    return f"there is no folder of this name, and on the hub: {first}" if may_be_path(encoder) else first


def may_be_path(encoder: str) -> bool:
    """Whether a name that is no folder here may have been meant as one."""
    return "/" in encoder and not Path(encoder).exists()
