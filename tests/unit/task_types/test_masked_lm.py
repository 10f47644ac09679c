"""Hidden words: how they are drawn, what stands in for them, and the tied output layer."""

import copy

import numpy as np
import pytest
import torch

from mtdnn.batch import IGNORED
from mtdnn.errors import ConfigError

BLOCK = {"task_type": "masked_lm", "max_length": 64}
SENTENCE = "an unbelievably long ferry crossing over quiet waters and under passing clouds ended before anybody noticed"
ROWS = [(str(number), f"{SENTENCE} {number}") for number in range(8)]


def hidden_of(batch):
    """[N, T] bool, True = a token to predict."""
    hidden = torch.zeros(batch.mask.numel(), dtype=torch.bool)
    hidden[batch.extras["places"]] = True
    return hidden.view(batch.mask.shape)


def test_the_same_seed_hides_the_same_words_and_another_seed_others(make):
    made = make(BLOCK, ROWS)
    first, again, other = made.batch(seed=1), made.batch(seed=1), made.batch(seed=2)
    assert torch.equal(first.inputs["input_ids"], again.inputs["input_ids"])
    assert not torch.equal(hidden_of(first), hidden_of(other))


def test_draws_do_not_depend_on_the_other_rows_of_the_batch(make):
    made = make(BLOCK, ROWS)
    alone, among = made.batch([3], seed=5), made.batch([7, 3, 0], seed=5)
    assert alone.inputs["input_ids"][0].tolist() == among.inputs["input_ids"][1][: alone.mask.shape[1]].tolist()


def test_the_stored_tokens_are_the_labels_and_stay_as_they_were(make):
    made = make(BLOCK, ROWS)
    before = made.columns["input_ids"].values.copy()
    batch = made.batch(seed=3)
    restored = torch.where(hidden_of(batch), batch.labels, batch.inputs["input_ids"])
    assert restored[batch.mask].tolist() == before.tolist() == made.columns["input_ids"].values.tolist()
    assert bool((batch.labels[~hidden_of(batch)] == IGNORED).all())


def test_special_tokens_and_padding_are_never_hidden(make):
    made = make(BLOCK, [*ROWS, ("short", "Rain.")])
    special = set(made.tokenizer.all_special_ids)
    for seed in range(20):
        batch = made.batch(seed=seed)
        assert not special & set(batch.labels[hidden_of(batch)].tolist())
        assert hidden_of(batch).any(dim=1).all()  # at least one word of each row, however short


def test_the_shares_are_those_asked_for(make):
    made = make(BLOCK, ROWS)
    tokens = [int(count) - 2 for count in made.batch().mask.sum(dim=1)]
    masked = random = same = 0
    for seed in range(200):
        batch = made.batch(seed=seed)
        assert hidden_of(batch).sum(dim=1).tolist() == [round(0.15 * count) for count in tokens]
        now, was = batch.inputs["input_ids"][hidden_of(batch)], batch.labels[hidden_of(batch)]
        masked += int((now == made.tokenizer.mask_token_id).sum())
        same += int((now == was).sum())
        random += int(((now != was) & (now != made.tokenizer.mask_token_id)).sum())
    total = masked + random + same
    # three standard deviations of a share p of `total` draws
    for found, share in ((masked, 0.8), (random, 0.1), (same, 0.1)):
        assert found / total == pytest.approx(share, abs=3 * (share * (1 - share) / total) ** 0.5)


def test_whole_words_are_hidden_with_all_their_sub_words(make):
    letters = "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7"
    made = make({**BLOCK, "max_length": 200, "whole_words": True, "hidden_share": 0.3}, ROWS, known=[letters])
    pieces = made.columns["words"]
    assert len(set(pieces.row(0).tolist())) < len(pieces.row(0)) - 1  # some word has several
    for seed in range(10):
        batch = made.batch(seed=seed)
        words = torch.from_numpy(pieces.padded(-1).astype(np.int64))
        for row in range(len(batch)):
            chosen = set(words[row][hidden_of(batch)[row]].tolist())
            assert set(words[row][~hidden_of(batch)[row]].tolist()) & chosen == set()


def test_a_text_longer_than_max_length_is_read_in_pieces_and_none_is_lost(make):
    whole = make(BLOCK, ROWS[:1]).columns["input_ids"].values[1:-1].tolist()
    made = make({**BLOCK, "max_length": 7}, ROWS[:1])
    batch = made.batch(seed=1)
    assert batch.extras["sequences"].tolist() == [len(batch.mask)] and len(batch.mask) > 3
    restored = torch.where(hidden_of(batch), batch.labels, batch.inputs["input_ids"])
    pieces = [[each for each in row.tolist() if each not in made.tokenizer.all_special_ids] for row in restored]
    assert [each for piece in pieces for each in piece] == whole


def test_a_text_with_the_mask_token_is_filled_in_there(make):
    made = make(BLOCK, [("1", "an [MASK] long ferry"), ("2", "quiet waters")])
    batch = made.batch(seed=1)
    assert made.tokenizer.mask_token_id == batch.inputs["input_ids"][0][hidden_of(batch)[0]].item()
    logits = torch.zeros(int(hidden_of(batch).sum()), len(made.tokenizer))
    logits[0, made.tokenizer.convert_tokens_to_ids("ferry")] = 9
    first, second = made.type.predict(logits, batch)
    assert first == {"id": "1", "prediction": ["ferry"], "label": None, "scores": {"nll": 0.0, "tokens": 0}}
    assert len(second["label"]) == second["scores"]["tokens"] == 1
    assert second["scores"]["nll"] == pytest.approx(np.log(len(made.tokenizer)))


def test_the_output_layer_is_the_word_embeddings_and_stays_so_in_a_copy(make):
    made = make(BLOCK, ROWS)
    embeddings = torch.nn.Embedding(len(made.tokenizer), 6)
    head = made.type.build_head(4, family={"activation": "tanh"}, word_embeddings=embeddings)
    assert sum(parameter.numel() for parameter in head.parameters()) == 4 * 6 + 6 + 2 * 6 + len(made.tokenizer)
    model = torch.nn.ModuleDict({"embeddings": embeddings, "head": head})
    twin = copy.deepcopy(model)
    hidden = torch.randn(3, 4)
    before = twin["head"](hidden, None)
    with torch.no_grad():
        embeddings.weight.zero_()
    assert torch.equal(twin["head"](hidden, None), before)
    assert float(head(hidden, None).detach().abs().max()) == 0
    head(hidden, None).sum().backward()
    assert embeddings.weight.grad is not None


def test_an_encoder_without_mask_token_is_refused(make):
    made = make(BLOCK, ROWS)
    made.tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="has no mask token"):
        made.type.bind(made.tokenizer)


def test_shares_of_more_than_all_are_refused(make):
    from mtdnn.config.tasks import task_def_from
    from mtdnn.task_types.masked_lm import MaskedLM

    task = task_def_from("task", {**BLOCK, "mask_share": 0.9, "random_share": 0.2})
    assert ["more than 1" in str(line) for line in MaskedLM.faults(task)] == [True]
