"""Words in YAML → classes or functions, one registry per kind of plug-in.

Installed packages add to them by entry points of the group `mtdnn.plugins`, each of which names a module to import.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from mtdnn.errors import NOWHERE, ConfigError, Fault, Place, fault, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")

GROUP = "mtdnn.plugins"
"""The group of entry points."""


class _Packages:
    """The modules that installed packages name, imported when some registry is first asked."""

    def __init__(self) -> None:
        self._begun = False
        self._faults: list[Fault] = []

    def load(self) -> None:
        """Import them, once for all registries; modules that ask a registry while they are imported find what is there.

        Raises:
            ConfigError: every package whose module cannot be imported, each time.
        """
        from importlib.metadata import entry_points  # as it takes its time, and `--help` does without

        if not self._begun:
            self._begun = True
            found = [each for entry in entry_points(group=GROUP) if (each := _package_fault(entry)) is not None]
            self._faults = found
        if self._faults:
            raise ConfigError(self._faults)


_PACKAGES = _Packages()


def _package_fault(entry: EntryPoint) -> Fault | None:
    """Import what an entry point names; why that fails, or None."""
    try:
        entry.load()
    except (Exception, SystemExit) as error:  # code that is not ours can raise anything
        package = entry.dist.name if entry.dist is not None else entry.name
        told = " ".join(f"{_place_of(error)}{type(error).__name__}: {error}".split())
        found = f"its entry point '{entry.name} = {entry.value}' cannot be imported: {told}"
        return fault(f"package {package}", "", found, "Update the package, or uninstall it.")
    return None


class Registry(Generic[T]):
    """Names → objects of one kind.

    Args:
        kind: what the names stand for, in messages ("metric", "regularizer").
        base: gives the class that all of them derive from; called late, as that class may stand below the registry.
        own: what each class defines itself and does not leave to `base`; "penalty or losses" = one of the two.
        takes: positional arguments that each is called with.
        keywords: arguments that each is called with by name.
        optional: arguments that each is called with if it takes them; all others are its options.
        makes: gives the class of what functions return, where one of its subclasses can stand for a function.
        modules: modules that register more names; imported when a name is first asked for, before those of packages.
    """

    def __init__(
        self,
        kind: str,
        *,
        base: Callable[[], type] | None = None,
        own: Sequence[str] = (),
        takes: Sequence[str] = (),
        keywords: Sequence[str] = (),
        optional: Sequence[str] = (),
        makes: Callable[[], type] | None = None,
        modules: Iterable[str] = (),
    ) -> None:
        self.kind, self.takes, self.keywords, self.optional = kind, takes, keywords, optional
        self._base, self._own, self._makes = base, own, makes
        self._known: dict[str, T] = {}
        self._modules = list(modules)

    def _load(self) -> None:
        while self._modules:
            importlib.import_module(self._modules.pop())
        _PACKAGES.load()

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
            return self._misfit_of_function(item)
        base = self._base()
        if not (isinstance(item, type) and issubclass(item, base)):
            return f"is {_described(item)}; expected a class derived from {_full_name(base)}"
        lacking = [names for names in self._own if all(_is_left(name, item, base) for name in names.split(" or "))]
        lacking += sorted(getattr(item, "__abstractmethods__", ()))
        return f"does not define {', '.join(lacking)}; every {self.kind} has to" if lacking else ""

    def _misfit_of_function(self, item: object) -> str:
        """As `_misfit`, where plug-ins are functions."""
        made = None if self._makes is None else self._makes()
        can_stand = not isinstance(item, type) or (made is not None and issubclass(item, made))
        if not self.takes or (can_stand and _can_take(item, self.takes, self.keywords)):
            return ""
        or_class = "" if made is None else f", or a class derived from {_full_name(made)}"
        return f"is {_described(item)}; expected a function of ({', '.join((*self.takes, *self.keywords))}){or_class}"

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
    ours = (__file__, str(Path(importlib.__file__).parent), "<frozen importlib")
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(ours)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _can_take(item: object, arguments: Sequence[str], keywords: Sequence[str]) -> bool:
    """Whether something can be called with that many arguments and these keywords; others may be its options."""
    if not callable(item):
        return False
    try:
        inspect.signature(item).bind_partial(*arguments, **dict.fromkeys(keywords))
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
