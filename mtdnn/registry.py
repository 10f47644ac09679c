"""Words in YAML → classes or functions, one registry per kind of plug-in."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar, cast

from mtdnn.errors import NOWHERE, ConfigError, Place, fault, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names → objects of one kind.

    Args:
        kind: what the names stand for, in messages ("metric", "regularizer").
        base: gives the class that all of them derive from; called late, as that class may stand below the registry.
        own: what each class defines itself and does not leave to `base`; "penalty or losses" = one of the two.
        takes: arguments that each is called with, where they are functions.
        modules: modules that register more names; imported when a name is first asked for.
    """

    def __init__(
        self,
        kind: str,
        *,
        base: Callable[[], type] | None = None,
        own: Sequence[str] = (),
        takes: Sequence[str] = (),
        modules: Iterable[str] = (),
    ) -> None:
        self.kind = kind
        self._base, self._own, self._takes = base, own, takes
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

    def get(self, name: str, *, where: Place | str = NOWHERE, key: str = "") -> T:
        """The object of that name; `package.module.Object` is imported.

        Args:
            where, key: the place of the word (file:line, key), for the message.
            name: the registered name.
        Raises:
            ConfigError: the name is unknown, or the dotted path leads nowhere, or to something else.
        """
        if name in self:
            return self._known[name]
        if "." in name:
            return self._import(name, where, key)
        raise ConfigError(fault(where, key, unknown(self.kind, name, self.names())))

    def _import(self, path: str, where: Place | str, key: str) -> T:
        known = f"Known by name: {', '.join(self.names())}."
        try:
            item = _imported(path)
        except _Unimportable as error:
            found = f"cannot import {self.kind} '{path}': {error}"
            raise ConfigError(fault(where, key, found, f"{error.fix} {known}")) from error
        if found := self._misfit(item):
            raise ConfigError(fault(where, key, f"'{path}' {found}", known))
        return cast(T, item)

    def _misfit(self, item: object) -> str:
        """What an imported object is or lacks, and what is expected; empty when it can be one of this kind."""
        if self._base is None:
            fits = not self._takes or _can_take(item, self._takes)
            return "" if fits else f"is {_described(item)}; expected a function of ({', '.join(self._takes)})"
        base = self._base()
        if not (isinstance(item, type) and issubclass(item, base)):
            return f"is {_described(item)}; expected a class derived from {_full_name(base)}"
        lacking = [names for names in self._own if all(_is_left(name, item, base) for name in names.split(" or "))]
        lacking += sorted(getattr(item, "__abstractmethods__", ()))
        return f"does not define {', '.join(lacking)}; every {self.kind} has to" if lacking else ""

    def names(self) -> list[str]:
        """Known names, in alphabetical order."""
        self._load()
        return sorted(self._known)

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


class _Unimportable(Exception):
    """Why a dotted path leads nowhere, and what to do."""

    def __init__(self, found: str, fix: str) -> None:
        self.fix = fix
        super().__init__(" ".join(found.split()))


def _imported(path: str) -> object:
    """What stands at `package.module.Object`.

    Raises:
        _Unimportable: nothing does, or importing the module fails.
    """
    module_name, _, attribute = path.rpartition(".")
    if not all(path.split(".")):
        raise _Unimportable("a name before or after a dot is missing; expected package.module.Name", "Complete it.")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # code that is not ours can raise anything, and a script ends the process
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise _Unimportable(str(error), _fix_of_missing(str(error.name))) from error
        raise _Unimportable(f"{_place_of(error)}{type(error).__name__}: {error}", "Mend the module.") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise _Unimportable(str(error), "Check the path.") from error


def _fix_of_missing(module: str) -> str:
    """What to do when there is no such module."""
    if "." in module:
        return "Check the path."
    return "Install its package, or add the folder it lies in to PYTHONPATH (PYTHONPATH=. for the current folder)."


def _place_of(error: BaseException) -> str:
    """`file:line: ` of the line that raised it within what was imported, or that cannot be read as code."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename}:{error.lineno}: "
    ours = (__file__, importlib.__file__)
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename not in ours]
    frames = [each for each in frames if not each.filename.startswith("<frozen importlib")]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _can_take(item: object, arguments: Sequence[str]) -> bool:
    """Whether something is a function, or an object to be called like one, of that many arguments."""
    if isinstance(item, type) or not callable(item):
        return False
    try:
        inspect.signature(item).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # some functions written in C do not tell
        return True
    return True


def _is_left(name: str, item: type, base: type) -> bool:
    """Whether a class has nothing of that name but what its base has."""
    return getattr(item, name, None) is getattr(base, name, None)


def _described(item: object) -> str:
    """What an object is, in words."""
    if isinstance(item, type):
        return f"a class derived from {', '.join(map(_full_name, item.__bases__)) or 'nothing'}"
    if inspect.isroutine(item):
        return "a function"
    return "a module" if inspect.ismodule(item) else f"an object of the class {_full_name(type(item))}"


def _full_name(item: type) -> str:
    return item.__qualname__ if item.__module__ == "builtins" else f"{item.__module__}.{item.__qualname__}"
