"""Names in YAML → classes or functions, one registry per kind of plug-in.

Installed packages register more names by entry points of the group `mtdnn.plugins`; each names a module to import.
A dotted path in a file names code as well; it is imported only if the user trusts the file, see `trusted`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar, cast

from mtdnn.errors import NOWHERE, ConfigError, Fault, Place, fault, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

GROUP = "mtdnn.plugins"
"""The group of entry points."""

TRUST = "MTDNN_TRUST"
"""The environment variable that is 1 while files may name code; worker processes inherit it."""

_OWN_WORDS: ContextVar[frozenset[str]] = ContextVar("own_words", default=frozenset())
"""Dotted paths that the user gave as flags or keywords, and not in a file."""


def is_trusted() -> bool:
    """Whether code named by files (dotted paths, pickles) may be run."""
    return os.environ.get(TRUST) == "1"


@contextmanager
def trusted(trust: bool = True) -> Iterator[None]:
    """A context in which files may name code, in this process and in those it starts; False changes nothing."""
    before = os.environ.get(TRUST)
    if trust:
        os.environ[TRUST] = "1"
    try:
        yield
    finally:
        if trust and before is None:
            os.environ.pop(TRUST, None)
        elif trust and before is not None:
            os.environ[TRUST] = before


def trusting(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator of functions with a keyword `trust`, which applies while they run."""

    @wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        with trusted(bool(keywords.get("trust"))):
            return function(*args, **keywords)

    return call


@contextmanager
def own_words(given: object) -> Iterator[None]:
    """A context in which dotted paths among these values may be imported, since the user typed them.

    Args:
        given: flags or keywords and their values; texts within lists and mappings count as well.
    """
    token = _OWN_WORDS.set(_OWN_WORDS.get() | frozenset(_texts(given)))
    try:
        yield
    finally:
        _OWN_WORDS.reset(token)


def _texts(value: object, within: tuple[int, ...] = ()) -> Iterator[str]:
    """The texts in a value; a list or mapping that contains itself, as YAML allows, is looked into once."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)) and id(value) not in within:
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner, (*within, id(value)))


class _Packages:
    """The plug-in modules of installed packages, imported at the first look-up in any registry."""

    def __init__(self) -> None:
        self._started = False
        self._faults: list[Fault] = []

    def load(self) -> None:
        """Import them, once for all registries; a look-up during these imports sees what is registered so far.

        Raises:
            ConfigError: names every package whose module cannot be imported; raised at every call.
        """
        from importlib.metadata import entry_points  # slow to import, and `--help` does not need it

        if not self._started:
            self._started = True
            found = [each for entry in entry_points(group=GROUP) if (each := _package_fault(entry)) is not None]
            self._faults = found
        if self._faults:
            raise ConfigError(self._faults)


_PACKAGES = _Packages()


def _package_fault(entry: EntryPoint) -> Fault | None:
    """Import the module of an entry point; the error if that fails, else None."""
    try:
        entry.load()
    except (Exception, SystemExit) as error:  # code that is not ours can raise anything
        package = entry.dist.name if entry.dist is not None else entry.name
        reason = " ".join(f"{_place_of(error)}{type(error).__name__}: {error}".split())
        found = f"its entry point '{entry.name} = {entry.value}' cannot be imported: {reason}"
        return fault(f"package {package}", "", found, "Update the package, or uninstall it.")
    return None


class Registry(Generic[T]):
    """Names → objects of one kind.

    Args:
        kind: what the registry contains, for messages ("metric", "regularizer").
        base: returns the class that all objects derive from; called late, as it may be defined after the registry.
        own: names that each class must define itself, not inherit from `base`; "penalty or losses" = one of the two.
        takes: names of the positional arguments that each object is called with.
        keywords: names of the keyword arguments that each object is called with.
        optional: keyword arguments passed to the objects that accept them; all other arguments are options.
        makes: returns the class of what registered functions return; its subclasses are accepted as well.
        modules: modules that register more names; imported at the first look-up, before those of packages.
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
        """A decorator that registers its object under `name`.

        Raises:
            ValueError: the name is already registered.
        """

        def add(item: T) -> T:
            if name in self._known:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._known[name]} and {item}")
            self._known[name] = item
            return item

        return add

    def get(self, name: str, *, where: Place | str = NOWHERE, key: str = "") -> T:
        """The object registered under a name; a dotted path `package.module.Object` is imported where it is trusted.

        Args:
            name: the registered name, or a dotted path.
            where, key: the place of the name (file:line, key), for the message.
        Raises:
            ConfigError: the name is unknown, or the dotted path is not trusted, cannot be imported or is not of this
                kind.
        """
        if name in self:
            return self._known[name]
        if "." in name:
            return self._import(name, where, key)
        raise ConfigError(fault(where, key, unknown(self.kind, name, self.names())))

    def _import(self, path: str, where: Place | str, key: str) -> T:
        known = f"Known by name: {', '.join(self.names())}."
        if all(path.split(".")) and not (is_trusted() or path in _OWN_WORDS.get()):
            found = f"{self.kind} '{path}' is code that would be imported, and this file is not trusted to name code"
            fix = f"If you trust it, add --trust, or trust=True in Python; or name one of: {', '.join(self.names())}."
            raise ConfigError(fault(where, key, found, fix))
        try:
            item = _imported(path)
        except _Unimportable as error:
            found = f"cannot import {self.kind} '{path}': {error}"
            raise ConfigError(fault(where, key, found, f"{error.fix} {known}")) from error
        if found := self._mismatch(item):
            raise ConfigError(fault(where, key, f"'{path}' {found}", known))
        return cast(T, item)

    def _mismatch(self, item: object) -> str:
        """Why an imported object cannot be used as one of this kind, and what is expected; empty when it can."""
        if self._base is None:
            return self._mismatch_of_function(item)
        base = self._base()
        if not (isinstance(item, type) and issubclass(item, base)):
            return f"is {_described(item)}; expected a class derived from {_full_name(base)}"
        lacking = [names for names in self._own if all(_is_inherited(name, item, base) for name in names.split(" or "))]
        lacking += sorted(getattr(item, "__abstractmethods__", ()))
        return f"does not define {', '.join(lacking)}; every {self.kind} has to" if lacking else ""

    def _mismatch_of_function(self, item: object) -> str:
        """As `_mismatch`, for plug-ins that are functions."""
        made = None if self._makes is None else self._makes()
        right_kind = not isinstance(item, type) or (made is not None and issubclass(item, made))
        if not self.takes or (right_kind and _can_take(item, self.takes, self.keywords)):
            return ""
        or_class = "" if made is None else f", or a class derived from {_full_name(made)}"
        return f"is {_described(item)}; expected a function of ({', '.join((*self.takes, *self.keywords))}){or_class}"

    def names(self) -> list[str]:
        """All registered names, in alphabetical order."""
        self._load()
        return sorted(self._known)

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


class _Unimportable(Exception):
    """Why a dotted path cannot be imported, and what to do."""

    def __init__(self, found: str, fix: str) -> None:
        self.fix = fix
        super().__init__(" ".join(found.split()))


def _imported(path: str) -> object:
    """The object at `package.module.Object`.

    Raises:
        _Unimportable: there is none, or importing the module fails.
    """
    module_name, _, attribute = path.rpartition(".")
    if not all(path.split(".")):
        raise _Unimportable("a name before or after a dot is missing; expected package.module.Name", "Add it.")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # code that is not ours can raise anything, and a script ends the process
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise _Unimportable(str(error), _fix_of_missing(str(error.name))) from error
        raise _Unimportable(f"{_place_of(error)}{type(error).__name__}: {error}", "Fix the module.") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise _Unimportable(str(error), "Check the path.") from error


def _fix_of_missing(module: str) -> str:
    """What to do when a module is not found."""
    if "." in module:
        return "Check the path."
    return "Install its package, or add its folder to PYTHONPATH (PYTHONPATH=. for the current folder)."


def _place_of(error: BaseException) -> str:
    """`file:line: ` of the line of the imported module that raised the error, or of the syntax error; empty if unknown.

    An error raised by a library has the line that called it: also `sys.exit`, which some trackers replace by their own.
    """
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename}:{error.lineno}: "
    ours = (__file__, str(Path(importlib.__file__).parent), "<frozen importlib")
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(ours)]
    modules = [each.filename for each in frames if each.name == "<module>"]
    frame = next((each for each in reversed(frames) if each.filename in modules[-1:]), None)
    return "" if frame is None else f"{frame.filename}:{frame.lineno}: "


def _can_take(item: object, arguments: Sequence[str], keywords: Sequence[str]) -> bool:
    """Whether an object can be called with that many arguments and these keywords; others may be its options."""
    if not callable(item):
        return False
    try:
        inspect.signature(item).bind_partial(*arguments, **dict.fromkeys(keywords))
    except TypeError:
        return False
    except ValueError:  # some functions written in C have no signature
        return True
    return True


def _is_inherited(name: str, item: type, base: type) -> bool:
    """Whether a class only inherits that name from its base."""
    return getattr(item, name, None) is getattr(base, name, None)


def _described(item: object) -> str:
    """What an object is, for a message: "a function", "a class derived from …"."""
    if isinstance(item, type):
        return f"a class derived from {', '.join(map(_full_name, item.__bases__)) or 'nothing'}"
    if inspect.isroutine(item):
        return "a function"
    return "a module" if inspect.ismodule(item) else f"an object of the class {_full_name(type(item))}"


def _full_name(item: type) -> str:
    return item.__qualname__ if item.__module__ == "builtins" else f"{item.__module__}.{item.__qualname__}"
