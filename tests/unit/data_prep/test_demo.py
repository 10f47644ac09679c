"""The demo corpora: reproducible, with the labels that their sentences call for, and an encoder that loads."""

import random
from collections import Counter
from pathlib import Path

import pytest

from data_prep import demo
from data_prep.demo_words import EVERYDAY, SCIENCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    demo.write_demo(out, seed=0)
    return out


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def clause(text: str, world=EVERYDAY) -> demo.Clause:
    """`boy never lifts apple` or `boy lifts apple kitchen` as a Clause."""
    words = [word for word in text.split() if word != "never"]
    targets = world.things if demo.kind_of(world.things, words[2]) or words[2] in world.things else world.actors
    place = words[3] if len(words) > 3 else None
    return demo.Clause(world, words[0], words[1], words[2], targets, place, "never" in text.split())


def test_same_seed_writes_the_same_bytes_and_another_seed_other_ones(folder, tmp_path):
    demo.write_demo(tmp_path / "again", seed=0)
    demo.write_demo(tmp_path / "other", seed=1)
    for task in demo.SIZES:
        first = (folder / task / "train.tsv").read_bytes()
        assert (tmp_path / "again" / task / "train.tsv").read_bytes() == first
        assert (tmp_path / "other" / task / "train.tsv").read_bytes() != first


@pytest.mark.parametrize("task", demo.SIZES)
def test_splits_have_their_sizes_unique_ids_and_no_text_in_common(folder, task):
    splits = {split: rows(folder / task / f"{split}.tsv") for split in demo.SIZES[task]}
    columns = 3 if task == "demo_sentiment" else 4
    for split, size in demo.SIZES[task].items():
        assert len(splits[split]) == size == len({row[0] for row in splits[split]})
        assert {len(row) for row in splits[split]} == {columns}
    texts = Counter(tuple(row[2:]) for split in splits.values() for row in split)
    assert max(texts.values()) == 1


def test_labels_are_balanced(folder):
    for task, count in {"demo_sentiment": 2, "demo_nli": 3, "demo_target": 2}.items():
        labels = Counter(row[1] for row in rows(folder / task / "train.tsv"))
        assert len(labels) == count
        # Drawn evenly: 3.5 standard deviations of a binomial at these sizes stay within a tenth of the size.
        assert all(abs(n - labels.total() / count) < 0.1 * labels.total() for n in labels.values())


def test_scores_stay_between_zero_and_five(folder):
    scores = [float(row[1]) for row in rows(folder / "demo_similarity" / "train.tsv")]
    assert min(scores) >= 0 and max(scores) <= 5


def test_about_one_training_label_in_twenty_is_wrong():
    rng = random.Random(0)
    example = demo.Example("neutral", ("a", "b"), ("entails",))
    wrong = sum(demo.noisy_label(example, rng) != "neutral" for _ in range(10_000))
    assert 400 < wrong < 600  # 500 expected, standard deviation 22


@pytest.mark.parametrize(
    ("premise", "hypothesis", "expected"),
    [
        ("boy lifts apple", "boy lifts apple", "entailment"),
        ("boy lifts apple kitchen", "child raises fruit", "entailment"),
        ("boy lifts apple kitchen", "boy lifts apple room", "entailment"),
        ("boy never lifts apple", "child never raises fruit", "entailment"),
        ("boy lifts apple kitchen", "child never raises fruit", "contradiction"),
        ("boy lifts apple", "child drops fruit", "contradiction"),
        ("boy never lifts apple", "boy drops apple", "neutral"),
        ("child lifts fruit", "boy lifts fruit", "neutral"),
        ("boy lifts apple", "boy lifts apple kitchen", "neutral"),
        ("boy lifts apple", "girl never lifts apple", "neutral"),
        ("dog follows cat", "cat follows dog", "neutral"),
        ("dog follows cat", "animal trails animal", "entailment"),
    ],
)
def test_relation_follows_the_meaning(premise, hypothesis, expected):
    assert demo.relation(clause(premise), clause(hypothesis)) == expected


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [
        ("boy lifts apple", "boy raises apple", 5.0),
        ("boy lifts apple kitchen", "boy raises apple", 4.5),
        ("boy lifts apple", "girl lifts fruit", 3.5),
        ("boy lifts apple", "boy never lifts apple", 2.0),
        ("boy lifts apple", "boy drops apple", 2.0),
        ("boy lifts apple kitchen", "dog buys ball", 0.0),
    ],
)
def test_similarity_score_counts_what_is_shared(first, second, score):
    assert demo.similarity_score(clause(first), clause(second)) == pytest.approx(score)


@pytest.mark.parametrize("world", [EVERYDAY, SCIENCE])
@pytest.mark.parametrize("wanted", demo.CHANGES)
def test_a_hypothesis_is_in_the_wanted_relation(world, wanted):
    rng = random.Random(1)
    for _ in range(200):
        premise = demo.draw_clause(world, rng)
        assert demo.relation(premise, demo.draw_hypothesis(premise, wanted, rng)) == wanted


def test_no_word_belongs_to_two_entries_of_a_world():
    for world in (EVERYDAY, SCIENCE):
        verbs = [w for v in (*world.verbs_on_actors, *world.verbs_on_things) for w in (v.word, v.synonym, v.opposite)]
        groups = (world.actors, world.things, world.places)
        nouns = [word for kinds in groups for kind, members in kinds.items() for word in (kind, *members)]
        assert len(verbs) == len(set(verbs)) and len(nouns) == len(set(nouns))


def test_demo_encoder_loads_offline_and_knows_every_word(folder, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    texts = demo.read_texts(folder)
    demo.write_demo_encoder(tmp_path / "encoder", texts, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    model = AutoModel.from_pretrained(tmp_path / "encoder")
    encoded = tokenizer("the beetle absorbs copper", "the ant", return_tensors="pt")
    assert encoded["token_type_ids"].tolist() == [[0] * 6 + [1] * 3]  # [CLS] 4 words [SEP] | 2 words [SEP]
    assert model(**encoded).last_hidden_state.shape == (1, 9, model.config.hidden_size)
    words = sorted({word for text in texts for word in text.split()})
    assert [tokenizer.tokenize(word) for word in words] == [[word] for word in words]


def test_demo_encoder_is_the_same_for_the_same_seed(folder, tmp_path):
    texts = demo.read_texts(folder)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        demo.write_demo_encoder(tmp_path / name, texts, seed=seed)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "three")}
    assert weights["one"] == weights["two"] != weights["three"]
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (tmp_path / "two/tokenizer.json").read_bytes()
