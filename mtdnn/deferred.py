"""Modules that are imported on first use, so that reading rows and tokenizing need no PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """A placeholder for a module, which is imported when one of its names is first accessed.

    Used together with an import that only type checkers see:

        if TYPE_CHECKING:
            import torch
        else:
            torch = deferred("torch")
    """

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__version__":  # import, pickle and copy mean this object
            raise AttributeError(f"module '{self.__name__}' is not imported yet and has no '{attribute}'")
        if sys.modules.get(self.__name__) is self:  # see `imported_later`
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


def deferred(name: str) -> Any:
    """The module with that dotted name, imported on first use."""
    return Deferred(name)


@contextmanager
def imported_later(name: str) -> Iterator[None]:
    """Within this context, `import name` in other packages gives a module that is imported on first use.

    Modules imported within the context keep that placeholder. Importing a submodule (`import torch.nn`) raises
    ModuleNotFoundError, as the placeholder is not a package; the caller then retries without this context.

    Args:
        name: a package that is not imported yet; for one that is imported, or not installed, nothing changes.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        yield
        return
    found = Deferred(name)
    found.__spec__ = spec  # other packages check this to see whether it is installed
    sys.modules[name] = found
    try:
        yield
    finally:
        if sys.modules.get(name) is found:
            del sys.modules[name]
