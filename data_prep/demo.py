"""Demo corpora and a demo encoder, generated from this project's own word lists: nothing to download.

Four tasks over two worlds (`demo_words.py`) that share one structure, so that training together helps the small one:

- demo_sentiment: one sentence, praise or blame; `never` and `but` turn it round.
- demo_nli: everyday premise and hypothesis; contradiction, neutral, entailment.
- demo_similarity: everyday and science pairs; how much of the meaning is kept, 0 to 5.
- demo_target: science premise and hypothesis; neutral or entails. Its relations are those of demo_nli, its words those
  of the science half of demo_similarity.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.demo_words import BLAME, DEGREES, EVERYDAY, PRAISE, SCIENCE, Kinds, World
from data_prep.rows_out import Report, Row, path_of, write_rows
from mtdnn.seeding import derive_seed, preserved_default_generators, seed_default_generators

if TYPE_CHECKING:
    from transformers import BertTokenizer

LABEL_NOISE = 0.05  # share of training rows with a wrong label; dev rows are all right
SCORE_NOISE_STD = 0.25  # of a training score of demo_similarity, on its scale of 0 to 5
SIZES = {
    "demo_sentiment": {"train": 1500, "dev": 300},
    "demo_nli": {"train": 2400, "dev": 400},
    "demo_similarity": {"train": 1200, "dev": 300},
    "demo_target": {"train": 2000, "dev": 400},
}


# -- sentences and how their meaning changes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Clause:
    """Who does, or never does, what to what, and where."""

    world: World
    actor: str
    verb: str
    target: str
    targets: Kinds  # what else the verb could apply to
    place: str | None = None
    negated: bool = False

    def __str__(self) -> str:
        verb = f"never {self.verb}" if self.negated else self.verb
        where = f" in the {self.place}" if self.place else ""
        return f"the {self.actor} {verb} the {self.target}{where}"


Change = Callable[[Clause, random.Random], Clause | None]  # None: this clause cannot change so


def draw_clause(world: World, rng: random.Random) -> Clause:
    """A sentence of the world; a place only without `never`, so that leaving it out always keeps the sentence true."""
    about_actors = rng.random() < 0.3
    targets = world.actors if about_actors else world.things
    verb = rng.choice(world.verbs_on_actors if about_actors else world.verbs_on_things)
    negated = rng.random() < 0.35
    return Clause(
        world=world,
        actor=draw_noun(world.actors, rng),
        verb=rng.choice((verb.word, verb.synonym)),
        target=draw_noun(targets, rng),
        targets=targets,
        place=draw_noun(world.places, rng) if not negated and rng.random() < 0.5 else None,
        negated=negated,
    )


def draw_noun(kinds: Kinds, rng: random.Random, *, other_than: str = "") -> str:
    """A member of a kind, or one time in five the kind itself."""
    kind = rng.choice([kind for kind, members in kinds.items() if other_than not in (kind, *members)])
    return kind if rng.random() < 0.2 else rng.choice(kinds[kind])


def kind_of(kinds: Kinds, noun: str) -> str | None:
    return next((kind for kind, members in kinds.items() if noun in members), None)


def use_synonym(clause: Clause, rng: random.Random) -> Clause | None:
    entry = clause.world.verb(clause.verb)
    synonyms = {entry.word: entry.synonym, entry.synonym: entry.word}
    return replace(clause, verb=synonyms[clause.verb]) if clause.verb in synonyms else None


def name_kind_of_actor(clause: Clause, rng: random.Random) -> Clause | None:
    kind = kind_of(clause.world.actors, clause.actor)
    return replace(clause, actor=kind) if kind else None


def name_kind_of_target(clause: Clause, rng: random.Random) -> Clause | None:
    kind = kind_of(clause.targets, clause.target)
    return replace(clause, target=kind) if kind else None


def leave_out_place(clause: Clause, rng: random.Random) -> Clause | None:
    return replace(clause, place=None) if clause.place else None


def turn_negation(clause: Clause, rng: random.Random) -> Clause | None:
    return replace(clause, negated=not clause.negated, place=None)


def use_opposite(clause: Clause, rng: random.Random) -> Clause | None:
    entry = clause.world.verb(clause.verb)
    opposite = entry.word if clause.verb == entry.opposite else entry.opposite
    return None if clause.negated else replace(clause, verb=opposite)


def name_member_of_target(clause: Clause, rng: random.Random) -> Clause | None:
    members = clause.targets.get(clause.target)
    return replace(clause, target=rng.choice(members)) if members else None


def change_actor(clause: Clause, rng: random.Random) -> Clause | None:
    return replace(clause, actor=draw_noun(clause.world.actors, rng, other_than=clause.actor))


def change_target(clause: Clause, rng: random.Random) -> Clause | None:
    return replace(clause, target=draw_noun(clause.targets, rng, other_than=clause.target))


def add_place(clause: Clause, rng: random.Random) -> Clause | None:
    return None if clause.place or clause.negated else replace(clause, place=draw_noun(clause.world.places, rng))


def swap_roles(clause: Clause, rng: random.Random) -> Clause | None:
    """Only for verbs between actors of two kinds: with one kind the swapped sentence might be about the same two."""
    if clause.targets is not clause.world.actors or clause.actor == clause.target:
        return None
    return replace(clause, actor=clause.target, target=clause.actor)


KEEPING: tuple[Change, ...] = (use_synonym, name_kind_of_actor, name_kind_of_target, leave_out_place)
CONTRADICTING: tuple[Change, ...] = (turn_negation, use_opposite)
OPEN: tuple[Change, ...] = (change_actor, change_target, add_place, name_member_of_target, swap_roles)
CHANGES = {"entailment": KEEPING, "contradiction": CONTRADICTING, "neutral": OPEN}


def apply_one(clause: Clause, changes: Sequence[Change], rng: random.Random) -> Clause:
    """The clause after one of the changes, drawn among those it can undergo; the clause itself if there is none."""
    outcomes = [changed for change in changes if (changed := change(clause, rng)) is not None]
    return rng.choice(outcomes) if outcomes else clause


def draw_hypothesis(premise: Clause, wanted: str, rng: random.Random) -> Clause:
    """A clause that stands in the wanted relation to the premise: up to two true changes, then one of the wanted sort.

    Changes can undo each other, so the outcome is checked with `relation` and drawn again until it is right.
    """
    while True:
        hypothesis = premise
        for _ in range(rng.choice((0, 1, 2))):
            hypothesis = apply_one(hypothesis, KEEPING, rng)
        hypothesis = apply_one(hypothesis, CHANGES[wanted], rng)
        if relation(premise, hypothesis) == wanted:
            return hypothesis


def relation(premise: Clause, hypothesis: Clause) -> str:
    """What the premise says of the hypothesis: entailment, contradiction or neutral."""
    world = premise.world
    about_same = (
        is_a(world.actors, premise.actor, hypothesis.actor)
        and is_a(premise.targets, premise.target, hypothesis.target)
        and (hypothesis.place is None or is_a(world.places, premise.place, hypothesis.place))
    )
    if not about_same:
        return "neutral"
    verb = world.verb(premise.verb)
    if hypothesis.verb in (verb.word, verb.synonym):
        return "entailment" if premise.negated == hypothesis.negated else "contradiction"
    opposed = hypothesis.verb == verb.opposite and not premise.negated and not hypothesis.negated
    return "contradiction" if opposed else "neutral"


def is_a(kinds: Kinds, noun: str | None, other: str) -> bool:
    """Whether whatever is the noun is also the other: the same word, or its kind."""
    return noun is not None and other in (noun, kind_of(kinds, noun))


def similarity_score(first: Clause, second: Clause) -> float:
    """How much of the meaning two clauses share, 0 to 5: 1.5 for each of actor, verb, target, 0.5 for the place.

    A noun of the same kind counts half; sentences of which one denies the other score two fifths.
    """
    world = first.world
    verb = world.verb(first.verb)
    opposite = second.verb == verb.opposite  # `first` is drawn: its own verb is never the opposite of an entry
    score = 1.5 * noun_overlap(world.actors, first.actor, second.actor)
    score += 1.5 * noun_overlap(first.targets, first.target, second.target)
    score += 1.5 * (opposite or second.verb in (verb.word, verb.synonym))
    score += 0.5 * (first.place == second.place)
    return score * (0.4 if opposite or first.negated != second.negated else 1.0)


def noun_overlap(kinds: Kinds, noun: str, other: str) -> float:
    if noun == other:
        return 1.0
    return 0.5 if (kind_of(kinds, noun) or noun) == (kind_of(kinds, other) or other) else 0.0


# -- tasks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One example without noise; `wrong` are the labels noise may give it, empty for a number."""

    label: str | float
    texts: tuple[str, ...]
    wrong: tuple[str, ...] = ()


def sentiment(rng: random.Random) -> Example:
    """Praise or blame for one thing: after `but` only the second half counts, `never` turns an adjective round."""
    label = rng.choice(("negative", "positive"))
    text = opinion(label == "positive", rng)
    if rng.random() < 0.4:
        text = f"{opinion(label != 'positive', rng)} but {text}"
    return Example(label, (text,), others(label, ("negative", "positive")))


def opinion(positive: bool, rng: random.Random) -> str:
    noun = draw_noun(rng.choice((EVERYDAY.things, EVERYDAY.places)), rng)
    negated = rng.random() < 0.35
    adjective = rng.choice(PRAISE if positive != negated else BLAME)
    return f"the {noun} is {'never' if negated else rng.choice(DEGREES)} {adjective}"


def nli(rng: random.Random) -> Example:
    """An everyday premise, and a hypothesis in a relation drawn evenly from the three."""
    label = rng.choice(tuple(CHANGES))
    premise = draw_clause(EVERYDAY, rng)
    return Example(label, (str(premise), str(draw_hypothesis(premise, label, rng))), others(label, tuple(CHANGES)))


def similarity(rng: random.Random) -> Example:
    """Two clauses of either world, the second up to four changes away from the first, or drawn on its own."""
    first = draw_clause(rng.choice((EVERYDAY, SCIENCE)), rng)
    second = first
    for _ in range(rng.randrange(5)):
        second = apply_one(second, rng.choice(tuple(CHANGES.values())), rng)
    return Example(similarity_score(first, second), (str(first), str(second)))


def target(rng: random.Random) -> Example:
    """A science premise, and a hypothesis that follows from it or does not, evenly."""
    label = rng.choice(("neutral", "entails"))
    premise = draw_clause(SCIENCE, rng)
    wanted = "entailment" if label == "entails" else rng.choice(("contradiction", "neutral"))
    hypothesis = draw_hypothesis(premise, wanted, rng)
    return Example(label, (str(premise), str(hypothesis)), others(label, ("neutral", "entails")))


def others(label: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(other for other in labels if other != label)


TASKS: dict[str, Callable[[random.Random], Example]] = {
    "demo_sentiment": sentiment,
    "demo_nli": nli,
    "demo_similarity": similarity,
    "demo_target": target,
}


# -- files ----------------------------------------------------------------------------------------------------------


def write_demo(out: Path, seed: int = 0) -> list[Report]:
    """Write all splits of the four tasks to `<out>/<task>/<split>.tsv`: the same bytes for the same seed."""
    reports = []
    for task, sizes in SIZES.items():
        rng = random.Random(derive_seed(seed, "demo", task))
        seen: set[tuple[str, ...]] = set()
        for split, size in sizes.items():
            rows = draw_rows(task, split, size, rng=rng, seen=seen)
            reports.append(write_rows(out / task / f"{split}.tsv", rows))
    return reports


def draw_rows(task: str, split: str, size: int, *, rng: random.Random, seen: set[tuple[str, ...]]) -> Iterator[Row]:
    """Rows with texts not seen before, in this split or in an earlier one; labels of `train` carry noise."""
    number = 0
    while number < size:
        example = TASKS[task](rng)
        if example.texts in seen:
            continue
        seen.add(example.texts)
        label = noisy_label(example, rng) if split == "train" else example.label
        yield Row(f"{split}-{number}", label if isinstance(label, str) else f"{label:.2f}", example.texts)
        number += 1


def noisy_label(example: Example, rng: random.Random) -> str | float:
    if isinstance(example.label, float):
        return min(5.0, max(0.0, example.label + rng.gauss(0, SCORE_NOISE_STD)))
    return rng.choice(example.wrong) if rng.random() < LABEL_NOISE else example.label


def write_demo_encoder(folder: Path, texts: Iterable[str], seed: int = 0) -> None:
    """Write a small BERT with random weights, and a WordPiece vocabulary of the texts, as a Hugging Face folder.

    `AutoModel` and `AutoTokenizer` load it without a network; the same bytes for the same texts and seed.
    """
    from transformers import BertConfig, BertModel

    from mtdnn.networks.pretrained import no_bars_for_folders

    tokenizer = train_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        initializer_range=0.08,  # at BERT's 0.02 so narrow a network hardly starts to learn
    )
    with preserved_default_generators():
        seed_default_generators(seed, "demo", "encoder")
        model = BertModel(config)
    folder.mkdir(parents=True, exist_ok=True)
    with no_bars_for_folders(str(folder)):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """An uncased BERT tokenizer whose WordPiece vocabulary was trained on the texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizer

    texts = [text.lower() for text in texts]
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    # The trainer numbers letters within words in the order of a hash table, which differs from process to process and
    # decides ties later; named beforehand they have fixed numbers.
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"##{letter}" for letter in letters)]
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=first, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    return BertTokenizer(vocab=dict(vocabulary), model_max_length=64)


def read_texts(folder: Path) -> list[str]:
    """All training texts of a demo folder, task by task."""
    texts = []
    for task in SIZES:
        with (folder / task / "train.tsv").open(encoding="utf-8") as file:
            texts += [text for line in file for text in line.rstrip("\n").split("\t")[2:]]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=write_demo.__doc__)
    parser.add_argument("--out", type=path_of, default=Path("demo/data"), help="folder for <task>/<split>.tsv")
    parser.add_argument("--encoder", type=path_of, help="also write a small random BERT for these texts to this folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for report in write_demo(arguments.out, arguments.seed):
        print(report)
    if arguments.encoder:
        write_demo_encoder(arguments.encoder, read_texts(arguments.out), arguments.seed)
        print(f"{arguments.encoder}: encoder written")


if __name__ == "__main__":
    main()
