"""Arguments of public functions: unknown and missing keywords, values of another type, `~` in paths."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

from mtdnn.errors import ConfigError, Fault, fault, unknown

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

KINDS: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str, os.PathLike), "a text"),
    Path: ((str, os.PathLike), "a path"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    Mapping: ((Mapping,), "a mapping"),
    Sequence: ((Iterable,), "a list"),
    NoneType: ((NoneType,), "None"),
}
"""What an annotation asks for → the types that have it, and its words in a message."""


def keywords_checked(
    more: Callable[[], Iterable[str]] = tuple, *, instead: Callable[[str], str] = lambda word: ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of public functions: an unknown or missing keyword, or a value of another type, is a ConfigError.

    `prepare(): unknown keyword 'encodr'; known: …. Did you mean 'encoder'?` In arguments, `~/data` is in the user's
    home directory, and a word where several are expected is the only one.

    Args:
        more: returns the names that `**options` accepts in addition, with dots for nested keys; called when needed.
        instead: returns what to write in place of an unknown word, for the message; empty if it is not known.
    """

    def checked(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: P.args, **keywords: P.kwargs) -> R:
            found = _keyword_faults(function.__qualname__, signature, args, keywords, more, instead)
            annotations = _annotations(function)
            if found := found or _value_faults(function.__qualname__, signature, annotations, args, keywords):
                raise ConfigError(found)
            of_words: Callable[..., R] = function
            several = {name for name, each in annotations.items() if takes_words(each)}
            ours = [_as_given(each, name in several) for each, name in zip(args, signature.parameters, strict=False)]
            return of_words(
                *ours,
                *args[len(ours) :],
                **{name: _as_given(each, name in several) for name, each in keywords.items()},
            )

        return call

    return checked


@cache
def _annotations(function: Callable[..., object]) -> Mapping[str, Any]:
    """Parameter → its annotation as an object; read at the first call, as it may name what follows the function."""
    return inspect.get_annotations(inspect.unwrap(function), eval_str=True)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; another annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def takes_words(annotation: Any) -> bool:
    """Whether an annotation is a sequence of words, or of paths, and not also a single one."""
    members = _members(annotation)
    items = [item for each in members if get_origin(each) is Sequence for item in _members(get_args(each)[0])]
    return str in items and str not in members


def _as_given(value: object, several: bool) -> object:
    """An argument as its function takes it: see `keywords_checked`."""
    return [home_expanded(value)] if several and isinstance(value, str) else home_expanded(value)


def home_expanded(path: T) -> T:
    """A path that begins with `~` or `~user` in that user's home directory; other paths and values unchanged."""
    if isinstance(path, (str, Path)) and str(path).startswith("~"):
        return type(path)(os.path.expanduser(str(path)))
    return path


def _keyword_faults(
    name: str,
    signature: inspect.Signature,
    args: Sequence[object],
    keywords: Mapping[str, object],
    more: Callable[[], Iterable[str]],
    instead: Callable[[str], str],
) -> list[Fault]:
    """Every unknown keyword of a call, and every required argument that is missing."""
    parameters = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    own = [each.name for each in parameters]
    strange = [word for word in keywords if word not in own]
    further = list(more()) if strange else []
    place, known = f"{name}()", [each for each in (*own, *further) if each != "self"]
    found = [
        fault(place, "", unknown("keyword", word, known, instead=instead(word)))
        for word in strange
        if word.split(".")[0] not in further
    ]
    given = {*own[: len(args)], *keywords}
    needed = (each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL)
    return found + [fault(place, word, "is missing", "Give it.") for word in needed if word not in given]


def _value_faults(
    name: str,
    signature: inspect.Signature,
    annotations: Mapping[str, Any],
    args: Sequence[object],
    keywords: Mapping[str, object],
) -> list[Fault]:
    """Every argument of a call whose type is none of those in its annotation."""
    several = {each.name for each in signature.parameters.values() if each.kind is each.VAR_POSITIONAL}
    given = {**dict(zip(signature.parameters, args, strict=False)), **keywords}
    checked = given.keys() & annotations.keys() - several
    found = {word: wrong_type(value, annotations[word]) for word, value in given.items() if word in checked}
    return [fault(f"{name}()", word, wrong, "Give one.") for word, wrong in found.items() if wrong]


def wrong_type(value: object, annotation: Any) -> str:
    """`is of type int; expected a text or a path`; empty if the value is of a type in the annotation.

    Args:
        value: of an argument.
        annotation: a type or a union; all values are accepted where it has a type that is not in KINDS, nor a class.
    """
    types, words = list[type](), list[str]()
    for each in _members(annotation):
        asked = get_origin(each) or each
        if asked in KINDS:
            types += KINDS[asked][0]
            words.append(KINDS[asked][1])
        elif isinstance(asked, type) and asked not in (bool, Any):
            types.append(asked)
            words.append(f"a {asked.__name__}")
        else:
            return ""
    if isinstance(value, tuple(types)):
        return ""
    expected = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    return f"is of type {type(value).__name__}; expected {expected}"
