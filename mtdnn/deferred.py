"""Modules that are imported when something of them is first used: what reads rows and tokenizes needs no PyTorch."""

from __future__ import annotations

import importlib
from typing import Any


class Deferred:
    """Stands for a module until one of its names is asked for.

    Written beside an import for type checkers alone:

        if TYPE_CHECKING:
            import torch
        else:
            torch = deferred("torch")
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by pickle, copy and the like, which mean this object
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def deferred(name: str) -> Any:
    """The module of that dotted name, imported at first use."""
    return Deferred(name)
