"""Modules that are imported when something of them is first used: what reads rows and tokenizes needs no PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """Stands for a module until one of its names is asked for.

    Written next to an import for type checkers alone:

        if TYPE_CHECKING:
            import torch
        else:
            torch = deferred("torch")
    """

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__version__":  # asked by import, pickle, copy: of this object
            raise AttributeError(f"module '{self.__name__}' is not imported yet and has no '{attribute}'")
        if sys.modules.get(self.__name__) is self:  # see `imported_later`
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


def deferred(name: str) -> Any:
    """The module of that dotted name, imported at first use."""
    return Deferred(name)


@contextmanager
def imported_later(name: str) -> Iterator[None]:
    """While it lasts, `import name` in other packages gives a module that is imported at first use.

    It stays so in modules that were imported meanwhile. An import of something below the name (`import torch.nn`)
    raises ModuleNotFoundError, as there is no package yet; the caller then tries again without this.

    Args:
        name: of a package that is not imported yet; of one that is, or is not installed, nothing changes.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        yield
        return
    found = Deferred(name)
    found.__spec__ = spec  # by which other packages see that it is installed
    sys.modules[name] = found
    try:
        yield
    finally:
        if sys.modules.get(name) is found:
            del sys.modules[name]
