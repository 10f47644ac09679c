"""Splits cut from one file: `{file: all, part: 0.9}`, `{file: all, fold: 1, folds: 5}`, `{rest: all}`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import Any, ClassVar

from pydantic import Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from mtdnn.config.options import Frozen
from mtdnn.config.words import Words

ROLES = ("train", "dev", "test")


class CutFile(Frozen):
    """The rows of a role, as a part of the rows of one file."""

    file: str | None = Field(None, description="Name of the split, or file under --data, that is cut.")
    part: float | None = Field(None, gt=0, lt=1, description="Fraction of its rows, rounded down.")
    folds: int | None = Field(None, ge=2, description="In place of part: number of folds of equal size.")
    fold: int | None = Field(None, ge=1, description="The fold of this role, counted from 1.")
    rest: str | None = Field(None, description="Alone: the rows of that file that no other role has.")
    stratify: bool = Field(False, description="Every label has the same share in each part.")
    seed: int = Field(0, ge=0, description="Seed of the random choice, which depends on ids only.")

    @model_validator(mode="after")
    def _one_way(self) -> CutFile:
        if self.rest is not None:
            if others := self.model_fields_set - {"rest"}:
                raise ValueError(
                    f"`rest` is given alone; remove {', '.join(sorted(others))}, which the other roles give"
                )
            return self
        if self.file is None:
            raise ValueError("names no file; give {file: all, part: 0.9} or {rest: all}")
        if (self.part is None) == (self.folds is None and self.fold is None):
            raise ValueError("give either `part`, or `fold` and `folds`")
        if (self.fold is None) != (self.folds is None):
            raise ValueError("`fold` and `folds` are given together, as {file: all, fold: 1, folds: 5}")
        if self.fold is not None and self.folds is not None and self.fold > self.folds:
            raise ValueError(f"there is no fold {self.fold} of {self.folds}")
        return self


@dataclass(frozen=True)
class Cut:
    """Which rows of a file a split has: those from `start` to `stop`, as fractions, in the order of their hashes.

    Attributes:
        file: name of the split, or of the file, that is cut.
        start, stop: fractions of the rows.
        stratify: the rows of each label are spread evenly over the order.
        seed: of the hashes.
    """

    file: str
    start: Fraction
    stop: Fraction
    stratify: bool
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Plain values, to be stored with prepared rows."""
        return {**vars(self), "start": str(self.start), "stop": str(self.stop)}


class SplitNames(tuple[str, ...]):
    """The names of the splits of a role.

    Attributes:
        given: the cut that the role has, as in YAML; None: splits that have files of their own.
        cuts: name → its rows, for splits that are cut.
    """

    given: CutFile | None = None
    cuts: Mapping[str, Cut] = {}
    written_as: ClassVar[type[CutFile]] = CutFile

    @classmethod
    def of(
        cls, names: Iterable[str], *, given: CutFile | None = None, cuts: Mapping[str, Cut] | None = None
    ) -> SplitNames:
        """Names with what they are cut from; see the attributes.

        Args:
            names: of the splits.
            given, cuts: see the attributes.
        """
        made = cls(names)
        made.given, made.cuts = given, dict(cuts or {})
        return made

    def as_yaml(self) -> list[str] | dict[str, Any]:
        """The value that was given."""
        return list(self) if self.given is None else self.given.model_dump(exclude_unset=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A word, a list of words, or `CutFile`; the names of a cut are known only with the other roles."""
        kinds = core_schema.tagged_union_schema(
            {"<names>": handler.generate_schema(Words), "<cut>": handler.generate_schema(CutFile)},
            discriminator=lambda value: "<cut>" if isinstance(value, (Mapping, CutFile)) else "<names>",
        )
        written = core_schema.plain_serializer_function_ser_schema(cls.as_yaml)
        return core_schema.no_info_after_validator_function(cls._from_value, kinds, serialization=written)

    @classmethod
    def _from_value(cls, value: tuple[str, ...] | CutFile) -> SplitNames:
        return cls.of((), given=value) if isinstance(value, CutFile) else cls(value)


def with_cuts(splits: Mapping[str, SplitNames]) -> dict[str, SplitNames]:
    """The splits with the names and the rows of those that are cut from one file.

    A part has the name of its role; fold 1 of 5 of the file `all` has the name `all-1-of-5`.

    Args:
        splits: role → its splits.
    Raises:
        ValueError: parts of a file overlap, or do not agree on how it is cut.
    """
    found = dict(splits)
    of_file: dict[str, dict[str, CutFile]] = {}
    for role, names in splits.items():
        if names.given is not None:
            of_file.setdefault(names.given.file or str(names.given.rest), {})[role] = names.given
    for file, roles in of_file.items():
        _require_agreement(file, roles)
        cuts = dict(_folds(file, roles) if any(each.folds for each in roles.values()) else _parts(file, roles))
        for role, given in roles.items():
            found[role] = SplitNames.of(cuts[role], given=given, cuts=cuts[role])
    return found


def _require_agreement(file: str, roles: Mapping[str, CutFile]) -> None:
    """Raise ValueError unless the roles that cut a file do it in one way, and at most one has the rest."""
    cuts = {role: each for role, each in roles.items() if each.rest is None}
    rests = [role for role, each in roles.items() if each.rest is not None]
    if len(rests) > 1:
        raise ValueError(f"{' and '.join(rests)} both have the rest of '{file}'; give one of them a part")
    if not cuts:
        raise ValueError(
            f"{rests[0]} is the rest of '{file}', and no role has a part of it, as {{file: {file}, part: 0.9}}"
        )
    for key in ("seed", "stratify", "folds"):
        values = {role: getattr(each, key) for role, each in cuts.items()}
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{role} {value}" for role, value in values.items())
            raise ValueError(f"parts of '{file}' have different `{key}` ({shown}), and would overlap; give the same")


def _parts(file: str, roles: Mapping[str, CutFile]) -> Iterator[tuple[str, dict[str, Cut]]]:
    """Role → {role: its rows}, one part after the other, and what they leave."""
    end, first = Fraction(0), next(each for each in roles.values() if each.rest is None)
    for role, given in roles.items():
        if given.part is not None:
            start, end = end, end + Fraction(str(given.part))
            yield role, {role: Cut(file, start, end, first.stratify, first.seed)}
    rest = next((role for role, each in roles.items() if each.rest is not None), None)
    if end > 1 or (end == 1 and rest is not None):
        what = "more than all rows" if end > 1 else f"all rows, and leave none for {rest}"
        raise ValueError(f"the parts of '{file}' add up to {what}")
    if rest is not None:
        yield rest, {rest: Cut(file, end, Fraction(1), first.stratify, first.seed)}


def _folds(file: str, roles: Mapping[str, CutFile]) -> Iterator[tuple[str, dict[str, Cut]]]:
    """Role → {name of a fold: its rows}; the rest is every fold that no role has."""
    first = next(each for each in roles.values() if each.folds is not None)
    count, left = first.folds or 0, dict.fromkeys(range(1, (first.folds or 0) + 1))

    def cut_of(fold: int) -> tuple[str, Cut]:
        start, stop = Fraction(fold - 1, count), Fraction(fold, count)
        return f"{PurePath(file).stem}-{fold}-of-{count}", Cut(file, start, stop, first.stratify, first.seed)

    for role, given in roles.items():
        if given.fold is not None:
            if given.fold not in left:
                raise ValueError(f"fold {given.fold} of '{file}' is given twice")
            del left[given.fold]
            yield role, dict([cut_of(given.fold)])
    rest = next((role for role, each in roles.items() if each.rest is not None), None)
    if rest is not None:
        if not left:
            raise ValueError(f"the folds of '{file}' leave none for {rest}")
        yield rest, dict(map(cut_of, left))
