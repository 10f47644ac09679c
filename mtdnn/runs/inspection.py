"""The rows of every split, part by part in several processes → their errors and statistics, for `check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mtdnn.config.run import RunConfig
from mtdnn.data.encode import Job, id_hash, map_parts
from mtdnn.data.split_faults import SplitFaults
from mtdnn.errors import MAX_REPORTED_ERRORS, Fault
from mtdnn.rows.example import Example
from mtdnn.rows.source import Part
from mtdnn.rows.summaries import number_counts
from mtdnn.runs.check_report import Report, SplitFacts
from mtdnn.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class PartFacts:
    """Statistics and errors of the rows of a part; see `SplitFacts`."""

    faults: list[Fault]
    num_faults: int
    rows: int
    unlabelled: int
    counts: Counter[str]
    numbers: Counter[float]
    ids: np.ndarray
    texts: np.ndarray
    lengths: np.ndarray
    truncated: int
    words_without_token: Counter[str]
    names: list[str]
    labelled: np.ndarray


def inspect_part(job: Job, part: Part, tokenizer: Tokenizer | None, *, keep_ids: Collection[str] = ()) -> PartFacts:
    """Read the rows of a part, and encode them if there is a tokenizer.

    Args:
        job: a split of a task to prepare.
        part: consecutive rows of the split.
        tokenizer: of the run's encoder.
        keep_ids: tasks whose row ids are kept as text.
    """
    found = list(job.examples(part))
    faults = [each for each in found if isinstance(each, Fault)]
    examples = [each for each in found if isinstance(each, Example)]
    labels = [example.label for example in examples]
    parts = [each for label in labels if label is not None for each in job.task_type.counted_labels(label)]
    lengths, truncated, words_without_token = _lengths(job, examples, tokenizer)
    return PartFacts(
        faults=faults[:MAX_REPORTED_ERRORS],
        num_faults=len(faults),
        rows=len(examples),
        unlabelled=labels.count(None),
        counts=Counter(each for each in parts if isinstance(each, str)),
        numbers=number_counts(each for each in parts if isinstance(each, float)),
        ids=_hashes(example.id for example in examples),
        texts=_hashes("\x1f".join(example.texts) for example in examples),
        lengths=lengths,
        truncated=truncated,
        words_without_token=Counter(words_without_token),
        names=[example.id for example in examples] if job.task.name in keep_ids else [],
        labelled=np.array([label is not None for label in labels if job.task.rows is not None], dtype=np.bool_),
    )


def _lengths(job: Job, examples: list[Example], tokenizer: Tokenizer | None) -> tuple[np.ndarray, int, list[str]]:
    """[rows] tokens, number of truncated rows, and words without a token; without a tokenizer [rows] words, 0, none."""
    if tokenizer is None or not examples:
        words = (sum(len(text.split()) for text in example.texts) for example in examples)
        return np.fromiter(words, np.int32, len(examples)), 0, []
    columns: dict[str, Any] = job.encode(examples, tokenizer)
    lengths = columns["input_ids"].lengths.astype(np.int32)
    return lengths, int(np.count_nonzero(columns["truncated"])), job.task_type.words_without_token(examples, columns)


def _hashes(texts: Iterator[str]) -> np.ndarray:
    return np.fromiter(map(id_hash, texts), np.uint64)


def inspect_splits(
    jobs: list[Job], tokenizer: Tokenizer | None, report: Report, run: RunConfig | None, num_workers: int | None
) -> None:
    """Add the statistics and errors of every split to the report.

    Args:
        jobs: the splits to read.
        tokenizer: of the run's encoder; without it words are counted in place of tokens.
        report: the results are added to it.
        run: decides which row ids are kept.
        num_workers: processes; None = one per core.
    """
    parts = [job.parts() for job in jobs]
    work = partial(inspect_part, keep_ids=_chosen_by_length(jobs, run))
    found: dict[int, list[PartFacts]] = {}
    for index, facts in map_parts(work, jobs, parts, tokenizer, num_workers=num_workers):
        found.setdefault(index, []).append(facts)
    for index, job in enumerate(jobs):
        of_split = found[index]
        faults = SplitFaults()
        for each in of_split:
            faults.add(each.faults, each.num_faults, each.ids)
        collected = faults.collected(job)
        report.faults += collected
        report.splits.append(_joined(job, of_split, whole=not collected))


def _chosen_by_length(jobs: Sequence[Job], run: RunConfig | None) -> frozenset[str]:
    """The tasks of which the run trains on a part chosen by ids, with batches that depend on its lengths."""
    if run is None or run.max_tokens is None:
        return frozenset()
    return frozenset(job.task.name for job in jobs if job.task.max_rows or job.task.name in run.subset)


def _joined(job: Job, parts: list[PartFacts], *, whole: bool) -> SplitFacts:
    return SplitFacts(
        task=job.task,
        split=job.split,
        roles=tuple(role for role, names in job.task.splits.items() if job.split in names),
        rows=sum(each.rows for each in parts),
        unlabelled=sum(each.unlabelled for each in parts),
        truncated=sum(each.truncated for each in parts),
        words_without_token=sum((each.words_without_token for each in parts), Counter()),
        counts=sum((each.counts for each in parts), Counter()),
        numbers=sum((each.numbers for each in parts), Counter()),
        lengths=np.concatenate([each.lengths for each in parts]),
        texts=np.concatenate([each.texts for each in parts]),
        labelled=np.concatenate([each.labelled for each in parts]),
        ids=[name for each in parts for name in each.names],
        whole=whole,
    )
