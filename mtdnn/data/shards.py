"""`mtdnn prepro --shard i/n` and `--merge`: parts encoded by several calls, on any machines, then written as one store.

Every call numbers the parts of all splits in the same order, and encodes a share of them into `<out>/.parts`. Merging
writes them with the code, and in the order, of a single process: the store is the same to the last byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from mtdnn.config.json_source import read_json
from mtdnn.config.tasks import Definitions
from mtdnn.data.encode import EncodedPart, Job, encode_part, map_parts, with_bar
from mtdnn.data.manifest import Manifest
from mtdnn.data.part_files import PARTS, PartFiles, remove_parts
from mtdnn.data.plan import Plan, planned
from mtdnn.data.prepro import complete, made_splits
from mtdnn.data.split_faults import SplitFaults
from mtdnn.data.staging import clean_staging, full_disk_reported
from mtdnn.errors import ConfigError, DataError, Fault, MtdnnError, fault
from mtdnn.execution.machine import num_launched_here, usable_cores
from mtdnn.files import sole_writer, write_text
from mtdnn.registry import trusting
from mtdnn.rows.places import Data
from mtdnn.rows.source import Part

if TYPE_CHECKING:
    from mtdnn.execution.processes import Processes

T = TypeVar("T")

NUM_SHARDS = "shards.json"
"""File in `<out>/.parts` with the number of shards of the last call, to name those that are missing."""


class Shard(NamedTuple):
    """One of several calls that encode the rows together: `number` from 1 to `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`3/8`. Raises ConfigError for anything else."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            expected = f"'{text}' is not a shard; expected i/n with i from 1 to n, as in 3/8"
            raise ConfigError(fault("--shard", "", expected, "A job array may count from 1."))
        return cls(int(found[1]), int(found[2]))

    def of_parts(self, num_parts: int) -> range:
        """The numbers of its parts, consecutive, among those of all splits."""
        first, behind = ((self.number - 1) * num_parts // self.of, self.number * num_parts // self.of)
        return range(first, behind)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class _Parts:
    """The splits that are not prepared yet, their parts, and the files of these."""

    plan: Plan
    jobs: list[Job]
    parts: list[list[Part]]
    files: list[PartFiles]

    @classmethod
    def of(cls, plan: Plan) -> _Parts:
        jobs = [job for job in plan.jobs if not plan.holds(plan.out, job)]
        parts = [job.parts() for job in jobs]
        files = [PartFiles.of(plan.out, job, plan.wanted[job.key]) for job in jobs]
        return cls(plan, jobs, parts, files)

    @property
    def order(self) -> list[tuple[int, int]]:
        """(number of the split, number of its part) of every part: the same in every call."""
        return [(index, number) for index, parts in enumerate(self.parts) for number in range(len(parts))]

    def missing(self, chosen: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the chosen parts that have no file."""
        return [
            (index, number)
            for index, of_split in groupby(chosen, key=lambda pair: pair[0])
            for number in self.files[index].missing([number for _, number in of_split])
        ]

    def encode(self, chosen: Sequence[tuple[int, int]], *, num_workers: int | None, progress: bool) -> None:
        """Encode parts and write their files."""
        parts = [[of_job[number] for at, number in chosen if at == index] for index, of_job in enumerate(self.parts)]
        tokenizer = self.plan.tokenizer
        made = map_parts(encode_part, self.jobs, parts, tokenizer, num_workers=num_workers, progress=progress)
        for (_, number), (index, part) in zip(chosen, made, strict=True):
            self.files[index].write(number, part)

    def read(self) -> Iterator[tuple[int, EncodedPart]]:
        """(number of the split, part) of every part, in order."""
        return ((index, self.files[index].read(number)) for index, number in self.order)


@trusting
def prepare_shard(
    tasks: Definitions,
    *,
    shard: Shard,
    data: Data = None,
    encoder: str | Path,
    out: str | Path,
    only: Sequence[str] | None = None,
    num_workers: int | None = None,
    progress: bool = False,
    trust: bool = False,
) -> tuple[int, int]:
    """Encode the parts of one shard into `<out>/.parts`; those that a killed call finished are kept.

    Args:
        shard: which of how many shards.
        tasks, data, encoder, out, only, num_workers, progress, trust: as for `prepare`.
    Returns:
        The number of parts of this shard, and how many of them this call encoded.
    Raises:
        ConfigError: as `prepare`.
        DataError: as `prepare`, but for errors in the rows of this shard only.
    """
    plan = planned(tasks, data=data, encoder=encoder, out=out, only=only, num_workers=num_workers, progress=progress)
    with full_disk_reported(plan.out):
        parts = _Parts.of(plan)
        order = parts.order
        chosen = [order[place] for place in shard.of_parts(len(order))]
        (plan.out / PARTS).mkdir(parents=True, exist_ok=True)
        write_text(plan.out / PARTS / NUM_SHARDS, f'{{"of": {shard.of}}}\n')
        missing = parts.missing(chosen)
        parts.encode(missing, num_workers=num_workers, progress=progress)
    faults = list(_faults(parts, chosen))
    if faults:
        raise DataError(faults)
    return len(chosen), len(missing)


def _faults(parts: _Parts, chosen: Sequence[tuple[int, int]]) -> Iterator[Fault]:
    """The errors in the rows of some parts; ids that occur twice are found when all are merged."""
    for index, of_split in groupby(chosen, key=lambda pair: pair[0]):
        found = SplitFaults()
        for _, number in of_split:
            part = parts.files[index].read(number)
            found.add(part.faults, part.num_faults, part.id_hashes)
        yield from found.of_rows(parts.jobs[index])
        found.id_hashes.close()


@trusting
def merge_shards(
    tasks: Definitions,
    *,
    data: Data = None,
    encoder: str | Path,
    out: str | Path,
    only: Sequence[str] | None = None,
    progress: bool = False,
    trust: bool = False,
) -> dict[str, dict[str, Manifest]]:
    """Write the store from the parts that all shards have encoded in `<out>/.parts`, which are removed then.

    Args:
        tasks, data, encoder, out, only, progress, trust: as for `prepare`.
    Returns:
        Task → split → its manifest, as `prepare`.
    Raises:
        ConfigError: as `prepare`.
        DataError: as `prepare`; or shards are missing, or were made from other rows or settings.
    """
    plan = planned(tasks, data=data, encoder=encoder, out=out, only=only, num_workers=1, progress=progress)
    with sole_writer(plan.out, command="mtdnn prepro"), full_disk_reported(plan.out):
        clean_staging(plan.out, [], {})
        parts = _Parts.of(plan)
        if faults := list(_missing_faults(parts)):
            raise DataError(faults)
        made = with_bar(parts.read(), parts.jobs, total=len(parts.order), progress=progress)
        complete(plan, parts.jobs, [len(of_job) for of_job in parts.parts], made)
        remove_parts(plan.out, plan.jobs)
    return made_splits(plan, parts.jobs)


def prepare_by_processes(
    tasks: Definitions,
    *,
    processes: Processes,
    data: Data = None,
    encoder: str | Path,
    out: str | Path,
    only: Sequence[str] | None = None,
    num_workers: int | None = None,
    progress: bool = False,
    trust: bool = False,
) -> dict[str, dict[str, Manifest]]:
    """Prepare rows by the processes that a launcher started: each encodes a shard, and the first merges them.

    Args:
        processes: of which this is one; they share the folder of the prepared rows.
        num_workers: processes that each of them starts; None: the cores of its machine, divided among them.
        tasks, data, encoder, out, only, progress, trust: as for `prepare`.
    Returns:
        Task → split → its manifest, as `prepare`; nothing for the other processes.
    Raises:
        ConfigError, DataError: as `prepare`, the same on all processes.
        LostProcess: another process has ended.
    """
    given: dict[str, Any] = {"data": data, "encoder": encoder, "out": out, "only": only, "trust": trust}
    given["progress"] = progress and processes.is_first
    shard = Shard(processes.rank + 1, processes.count)
    workers = num_workers or max(usable_cores() // num_launched_here(), 1)
    _on_all(processes, lambda: prepare_shard(tasks, shard=shard, num_workers=workers, **given))
    made = _on_all(processes, lambda: merge_shards(tasks, **given) if processes.is_first else None)
    return made or {}


def _on_all(processes: Processes, step: Callable[[], T]) -> T:
    """What a step of this process returns, when all have done theirs; or the errors of all, on all of them."""
    own: T | None = None
    error: MtdnnError | None = None
    try:
        own = step()
    except MtdnnError as found:
        error = found
    errors = [(type(each), each.faults) for each in processes.gather(error) if each is not None]
    if errors:
        kind = ConfigError if any(issubclass(each, ConfigError) for each, _ in errors) else DataError
        raise kind(list(dict.fromkeys(line for _, faults in errors for line in faults)))
    return cast(T, own)


def _missing_faults(parts: _Parts) -> Iterator[Fault]:
    """An error for each shard with missing parts, and for each split with parts of other rows or settings."""
    order, folder = parts.order, parts.plan.out / PARTS
    missing = set(parts.missing(order))
    for files, of_job in zip(parts.files, parts.parts, strict=True):
        if files.missing(range(len(of_job))) and (others := files.others(parts.plan.wanted[files.job.key])):
            found = f"there are encoded parts of other rows or settings: {'; '.join(others)}"
            fix = f"Give the arguments of the shards, or remove {folder} and encode them all again."
            yield fault("/".join(files.job.key), "", found, fix)
    if len(missing) == len(order) and missing:
        fix = "First run the same command with --shard 1/n, …, --shard n/n in place of --merge."
        yield fault(str(folder), "", "no shard has encoded any part", fix)
    elif missing and not (folder / NUM_SHARDS).is_file():
        found = f"{len(missing)} of {len(order)} parts are missing"
        fix = "Run the command that has encoded the others again: with --launcher ray, or --shard 1/n, …, --shard n/n."
        yield fault(str(folder), "", found, fix)
    elif missing:
        num_shards = int(read_json(folder / NUM_SHARDS, dict[str, int], fix="")["of"])
        for shard in (Shard(number, num_shards) for number in range(1, num_shards + 1)):
            own = [order[place] for place in shard.of_parts(len(order))]
            if lacking := missing.intersection(own):
                found = f"{len(lacking)} of the {len(own)} parts of shard {shard} are missing"
                fix = f"Run the same command with --shard {shard} in place of --merge."
                yield fault(str(folder), "", found, fix)
