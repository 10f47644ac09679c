"""Words in YAML → classes or functions, one registry per kind of plug-in."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from mtdnn.errors import ConfigError, fault, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names → objects of one kind.

    Args:
        kind: what the names stand for, in messages ("metric", "regularizer").
        modules: modules that register more names; imported when a name is first asked for.
    """

    def __init__(self, kind: str, *, modules: Iterable[str] = ()) -> None:
        self.kind = kind
        self._known: dict[str, T] = {}
        self._modules = list(modules)

    def _load(self) -> None:
        while self._modules:
            importlib.import_module(self._modules.pop())

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that makes its object known under `name`.

        Raises:
            ValueError: the name is taken.
        """

        def add(item: T) -> T:
            if name in self._known:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._known[name]} and {item}")
            self._known[name] = item
            return item

        return add

    def get(self, name: str, *, where: str = "", key: str = "") -> T:
        """The object of that name; `package.module.Object` is imported.

        Args:
            where, key: the place of the word (file:line, key), for the message.
        Raises:
            ConfigError: the name is unknown, or the dotted path leads nowhere.
        """
        if name in self:
            return self._known[name]
        if "." in name:
            return self._import(name, where, key)
        raise ConfigError(fault(where, key, unknown(self.kind, name, self.names())))

    def _import(self, path: str, where: str, key: str) -> T:
        module_name, _, attribute = path.rpartition(".")
        try:
            item: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            found = f"cannot import {self.kind} '{path}': {error}"
            raise ConfigError(fault(where, key, found, f"Known by name: {', '.join(self.names())}.")) from error
        return item

    def names(self) -> list[str]:
        """Known names, in alphabetical order."""
        self._load()
        return sorted(self._known)

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
