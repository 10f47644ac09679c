"""WNLI by the hybrid network on a tiny masked LM, next to the majority class: `python -m experiments.pronouns.run`."""

from __future__ import annotations

import argparse
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import mtdnn
from data_prep import pronouns
from data_prep.demo import train_tokenizer
from data_prep.rows_out import Row, read_rows
from mtdnn.seeding import preserved_default_generators, seed_default_generators

HERE = Path(__file__).parent
LINES = {"train": 12_000, "dev": 500}
SEEDS = (1, 2, 3)
TASKS = ("alone", "apart", "shared")


def write_rows(source: Path, out: Path) -> None:
    """The first lines of the novels, and the rows of WNLI by task.

    Args:
        source: folder with `lm/*.txt` and `wnli/*.tsv`.
        out: `<task>/<split>` below it.
    """
    pronouns.convert(source, out)
    (out / "lm").mkdir(parents=True, exist_ok=True)
    for split, count in LINES.items():
        with (source / "lm" / f"{split}.txt").open(encoding="utf-8") as file:
            text = "".join(islice((line for line in file if line.strip()), count))
        (out / "lm" / f"{split}.txt").write_text(text, encoding="utf-8")
    train, dev = (list(read_rows(out / "wnli_pronoun" / f"{split}.tsv")) for split in ("train", "dev"))
    for task in TASKS:
        rows = {"alone": alone_from(train, dev), "apart": apart_from(train, dev), "shared": train}[task]
        for split, chosen in (("train", rows), ("dev", dev)):
            (out / task).mkdir(exist_ok=True)
            lines = ("\t".join((row.id, row.label, *row.texts)) + "\n" for row in chosen)
            (out / task / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


def apart_from(train: Sequence[Row], dev: Sequence[Row]) -> list[Row]:
    """The train rows whose text no dev row has, wherever the pronoun is marked."""
    known = {row.texts[0].replace("*", "").lower() for row in dev}
    return [row for row in train if row.texts[0].replace("*", "").lower() not in known]


def alone_from(train: Sequence[Row], dev: Sequence[Row]) -> list[Row]:
    """The train rows that share neither the text nor the candidates with a dev row."""
    known = {candidates_of(row) for row in dev}
    return [row for row in apart_from(train, dev) if candidates_of(row) not in known]


def candidates_of(row: Row) -> frozenset[str]:
    """The candidates of a row, without case and article; those of the two texts of a schema are equal."""
    return frozenset(re.sub(r"^(the|a|an) ", "", text.lower()) for text in row.texts[1:])


def twins(train: Sequence[Row], dev: Sequence[Row]) -> set[str]:
    """Ids of the dev rows whose candidates some train row has, but not their text."""
    known = {candidates_of(row) for row in apart_from(train, dev)}
    return {row.id for row in dev if candidates_of(row) in known}


def write_encoder(lines: Path, folder: Path) -> None:
    """A BERT of two layers with random weights, and a vocabulary of 2,000 word pieces."""
    from transformers import BertConfig, BertModel

    tokenizer = train_tokenizer(lines.read_text(encoding="utf-8").splitlines())
    tokenizer.model_max_length = 128
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=128,
        initializer_range=0.05,
    )
    with preserved_default_generators():
        seed_default_generators(1, "pronouns", "encoder")
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_all(out: Path) -> None:
    """The language model, and each task with each seed; finished runs are kept."""
    where: dict[str, Any] = {"data": str(out / "prepared"), "encoder": str(out / "encoder"), "output": str(out / "lm")}
    if not (out / "lm" / "last").is_dir():
        mtdnn.train(HERE / "lm.yml", progress=False, **where)
    for task in TASKS:
        for seed in SEEDS:
            run = out / f"{task}-{seed}"
            if not (run / "last").is_dir():
                changes = {"data": where["data"], "encoder.run": where["output"], "output": str(run)}
                changes |= {"train": [task], "seed": seed}
                mtdnn.train(HERE / "wnli.yml", progress=False, **changes)


def verdicts(record: Mapping[str, Any]) -> dict[str, str]:
    """What each part of the score, and both together, say of a row: is the first candidate the antecedent?"""
    found = {"both": record["prediction"]}
    for part in ("language_model", "similarity"):
        first, *others = [each[part] for each in record["candidates"]]
        if others:
            found[part] = str(int(first >= max(others)))
    return found


def measured(run: Path, rows: Path, task: str, with_twins: set[str]) -> dict[str, float]:
    """Accuracies on the dev rows: of both parts together, each alone, and both on rows with and without a twin."""
    records = mtdnn.open_run(run, checkpoint="last").predict(task, rows)[task]
    right: dict[str, list[bool]] = {}
    for record in records:
        found = verdicts(record)
        found["with a twin" if record["id"] in with_twins else "without"] = found["both"]
        for part, verdict in found.items():
            right.setdefault(part, []).append(verdict == record["label"])
    return {part: statistics.mean(values) for part, values in sorted(right.items())}


def table(out: Path) -> Iterator[str]:
    """The lines of the table in the README."""
    rows = {task: list(read_rows(out / "data" / task / "train.tsv")) for task in TASKS}
    dev = list(read_rows(out / "data/apart/dev.tsv"))
    rivals = sum(len(row.texts) > 2 for row in dev)
    with_twins = twins(rows["shared"], dev)
    labels = dict(Counter(row.label for row in dev))
    yield f"dev: {len(dev)} rows, {rivals} with rivals, {len(with_twins)} with a twin, labels {labels}"
    for task in TASKS:
        majority = Counter(row.label for row in rows[task]).most_common(1)[0][0]
        share = sum(row.label == majority for row in dev) / len(dev)
        yield f"{task}: {len(rows[task])} train rows; always {majority}: {share:.3f}"
        place = out / "data" / task / "dev.tsv"
        found = [measured(out / f"{task}-{seed}", place, task, with_twins) for seed in SEEDS]
        for part in found[0]:
            values = [each[part] for each in found]
            shown = ", ".join(f"{value:.3f}" for value in values)
            yield f"{task} {part}: {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} ({shown})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with lm/*.txt and wnli/*.tsv")
    parser.add_argument("--out", type=Path, default=Path("runs/pronouns"))
    arguments = parser.parse_args()
    out = arguments.out
    if not (out / "encoder").is_dir():
        write_rows(arguments.data, out / "data")
        write_encoder(out / "data/lm/train.txt", out / "encoder")
    mtdnn.prepare(HERE / "tasks.yml", data=out / "data", encoder=str(out / "encoder"), out=out / "prepared")
    train_all(out)
    print("\n".join(table(out)))


if __name__ == "__main__":
    main()
