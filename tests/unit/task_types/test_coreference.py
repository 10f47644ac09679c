"""The hybrid of a language model and a similarity: places, sequences, the loss by hand, thresholds, bad rows."""

import math
from contextlib import nullcontext

import pytest
import torch
from transformers import BertConfig, BertModel

from mtdnn.config.tasks import task_def_from
from mtdnn.errors import ConfigError
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.losses import hybrid
from mtdnn.rows.example import RowError
from mtdnn.runs.export import export_task
from mtdnn.runs.initialisation import init_head_from
from mtdnn.task_types.coreference import Coreference
from mtdnn.tokens.candidates import CANDIDATE, PRONOUN
from mtdnn.training.objective import Objective

CHOICE = {"task_type": "coreference", "inputs": ["text", "candidate"]}
JUDGED = {**CHOICE, "labels": ["no", "yes"]}
ROW = ["1", "1", "Mia thanked Ida because *she* had waited.", "Mia", "Ida Birch"]


def model_of(made, **task):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(made.tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return MultiTaskModel(Encoder(BertModel(config)), {"task": made.type}).eval()


def words_of(made, ids):
    return [made.tokenizer.convert_ids_to_tokens(each) for each in ids]


def targets_of(batch):
    """For each sequence with masks, the position of each mask and the id of the token under it."""
    found = [{} for _ in range(len(batch.mask) // 2)]
    for place, token in zip(batch.extras["places"].tolist(), batch.extras["targets"].tolist(), strict=True):
        found[place // batch.mask.shape[1]][place % batch.mask.shape[1]] = token
    return found


def test_masks_replace_the_pronoun_one_for_each_token_of_the_candidate(make):
    made = make(CHOICE, [ROW], known=[ROW[2].replace("*", ""), "Mia Ida Birch"])
    batch = made.batch()
    assert batch.labels.tolist() == [[0.0, 1.0]]
    assert len(batch.mask) == 4 and batch.extras["sequences"].tolist() == [4]
    masked, paired = batch.inputs["input_ids"][2::2], batch.inputs["input_ids"][3::2]
    assert "[CLS] mia thanked ida because [MASK] [MASK] had waited" in " ".join(words_of(made, masked[0].tolist()))
    second = targets_of(batch)[1]
    assert words_of(made, second.values()) == ["ida", "birch"]
    assert [masked[0].tolist()[place] for place in second] == [made.tokenizer.mask_token_id] * 2
    assert bool((batch.extras["roles"][0::2] == 0).all())
    roles = batch.extras["roles"][3]
    assert words_of(made, paired[0][roles == PRONOUN].tolist()) == ["she"]
    assert words_of(made, paired[0][roles == CANDIDATE].tolist()) == ["ida", "birch"]


def test_a_long_text_is_cut_around_the_pronoun(make):
    text = "The old drawer stuck and stuck , so Ola oiled *it* twice before the long winter came ."
    made = make({**CHOICE, "max_length": 12}, [["1", "0", text, "The old drawer", "Ola"]], known=[text])
    batch = made.batch()
    assert batch.inputs["input_ids"].shape[1] <= 12 and bool(made.columns["truncated"][0])
    assert bool((batch.extras["roles"][1::2] == PRONOUN).any(dim=1).all())
    assert [len(each) for each in targets_of(batch)] == [3, 1]


def test_the_loss_by_hand():
    """P = ½ and ¼, similarities 0: scores ½ and ⅜; the margin 0.1 shrinks the lead of ⅛ to 0.025, times γ = 2."""
    logits = torch.tensor([[[math.log(0.5), 0.0], [math.log(0.25), 0.0]]])
    together = math.log(1 + math.exp(-0.05))
    found = hybrid(logits, torch.tensor([[1.0, 0.0]]), gamma=2.0, margin=0.1)
    assert float(found) == pytest.approx(math.log(2) + math.log(2) + together)
    alone = hybrid(logits[:, :1], torch.tensor([[0.0]]))
    assert float(alone) == pytest.approx(math.log(2) / 2)  # the similarity of a wrong candidate, nothing else
    three = hybrid(torch.zeros(1, 3, 2), torch.tensor([[0.0, 1.0, 1.0]]), gamma=1.0, margin=0.0)
    assert float(three) == pytest.approx(math.log(2) / 2 + math.log(3 / 2))  # two of three are possible
    assert float(hybrid(logits, torch.tensor([[-1.0, -1.0]]))) == 0


def test_a_candidate_is_scored_by_the_geometric_mean_of_its_tokens(make):
    made = make(CHOICE, [ROW], known=[ROW[2].replace("*", ""), "Mia Ida Birch"])
    model, batch = model_of(made), made.batch()
    with torch.no_grad():
        hidden = model.hidden(batch)
        vocabulary = model.head_of("task").words(hidden[2]).log_softmax(-1)
        targets = targets_of(batch)[1]
        by_hand = sum(vocabulary[place, token] for place, token in targets.items()) / 2
        assert torch.allclose(model(batch)[0, 1, 0], by_hand, atol=1e-5)


def test_with_labels_the_first_candidate_is_judged_against_its_rivals_or_the_threshold(make):
    rows = [["1", "no", *ROW[2:]], ["2", "yes", *ROW[2:4]], ["3", "", *ROW[2:4]]]
    made = make(JUDGED, rows)
    batch = made.batch()
    assert batch.labels.tolist() == [[0.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]
    logits = torch.tensor([[[-9.0, 0.0], [-9.0, 2.0]], [[-9.0, 3.0], [0, 0]], [[-9.0, -3.0], [0, 0]]])
    records = made.type.predict(logits, batch)
    assert [each["prediction"] for each in records] == ["no", "yes", "no"]
    assert [each["label"] for each in records] == ["no", "yes", None]
    assert records[1]["candidates"][0] == {
        "text": "Mia",
        "language_model": pytest.approx(math.exp(-9)),
        "similarity": pytest.approx(1 / (1 + math.exp(-3))),
    }
    head = model_of(made).head_of("task")
    head.threshold.fill_(0.49)  # above ½ (P + σ(3)) = 0.476
    assert [each["prediction"] for each in made.type.settle(records, head, tune=False)] == ["no", "no", "no"]


def test_the_threshold_is_tuned_on_request_and_stored_in_the_head(make):
    made = make({**JUDGED, "tune_threshold": True}, [["1", "no", *ROW[2:4]], ["2", "yes", *ROW[2:4]]])
    records = made.type.predict(torch.tensor([[[-9.0, 1.0]], [[-9.0, 2.0]]]), made.batch())
    head = model_of(made).head_of("task")
    settled = made.type.settle(records, head, tune=True)
    assert [each["prediction"] for each in settled] == ["no", "yes"]
    assert float(head.threshold) == pytest.approx((torch.sigmoid(torch.tensor([1.0, 2.0])).mean() / 2).item(), abs=1e-3)


def test_without_a_row_of_one_candidate_the_threshold_stays_that_of_the_options(make):
    made = make({**JUDGED, "tune_threshold": True, "threshold": 0.3}, [["1", "no", *ROW[2:]]])
    head = model_of(made).head_of("task")
    made.type.settle(made.type.predict(torch.zeros(1, 2, 2), made.batch()), head, tune=True)
    assert float(head.threshold) == pytest.approx(0.3)


def test_a_candidate_that_is_null_is_not_the_text_none(make):
    with pytest.raises(RowError, match="candidate: empty text"):
        make(CHOICE, [ROW]).type.read({"id": "1", "label": "0", "text": "He said *it*.", "candidate": ["It", None]})


def test_it_learns_which_candidate_is_meant_by_each_part(make):
    """Three schemas are learnt by heart within 40 steps, also with SMART and the proximal term."""
    from mtdnn.regularizers.base import REGULARIZERS
    from mtdnn.regularizers.proximal import PROXIMAL

    rows = [ROW, ["2", "0", "The drawer stuck , so Ola oiled *it* .", "The drawer", "Ola"]]
    rows.append(["3", "1", "The ball hit the vase and *it* broke .", "The ball", "the vase"])
    made = make(CHOICE, rows)
    model, batch = model_of(made).train(), made.batch()
    proximal = PROXIMAL.get("momentum")(model, total_steps=40)
    objective = Objective(model, {"task": REGULARIZERS.get("smart")()}, proximal, seed=1, autocast=nullcontext)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(40):
        optimizer.zero_grad()
        for part in objective.parts(batch, step=step):
            part.loss.backward()
        optimizer.step()
        objective.after_step()
    records = model.eval().predict(batch, ["task"])["task"]
    assert [each["prediction"] for each in records] == [each["label"] for each in records]
    for part in ("language_model", "similarity"):
        for record, flags in zip(records, batch.labels.tolist(), strict=True):
            values = [each[part] for each in record["candidates"]]
            assert values.index(max(values)) == flags.index(1.0)


def test_the_language_model_starts_from_that_of_a_masked_lm_task(make, tmp_path):
    from safetensors.torch import save_file

    made = make({**CHOICE, "init_head": {"from": "lm"}}, [ROW])
    model = model_of(made)
    head = model.head_of("task")
    theirs = {f"heads.lm.{name}": torch.full_like(value, 0.5) for name, value in head.state_dict().items()}
    kept = {name: value for name, value in theirs.items() if "dense" in name or "norm" in name or "bias" in name}
    save_file(kept, str(tmp_path / "model.safetensors"))
    before = head.query.weight.clone()
    known = {"lm": task_def_from("lm", {"task_type": "masked_lm"})}
    init_head_from(model, made.type.task, known, tmp_path)
    assert bool((head.dense.weight == 0.5).all()) and bool((head.bias == 0.5).all())
    assert torch.equal(head.query.weight, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text": "Nobody is marked."},
            r"text: '\*' comes 0 times. Put the pronoun, and nothing else, between two: \*it\*.",
        ),
        ({"text": "One * only."}, r"text: '\*' comes 1 times."),
        ({"text": "None ** there."}, r"text: nothing between two '\*'."),
        ({"candidate": []}, "candidate: no candidates."),
        ({"candidate": ["Mia", " "]}, "candidate: empty text."),
        ({"candidate": ["Mia"]}, r'candidate: one candidate to choose from. Give two or more; or set labels: \["no"'),
        ({"label": "2"}, "label: '2' is not the number of one of the 2 candidates. Give 0 to 1."),
        ({"label": "Mia"}, "label: 'Mia' is not the number"),
    ],
)
def test_bad_rows_are_refused(make, changes, message):
    good = {"id": "1", "label": "1", "text": ROW[2], "candidate": ROW[3:]}
    with pytest.raises(RowError, match=message):
        make(CHOICE, [good]).type.read({**good, **changes})


def test_a_label_that_is_not_declared_is_refused(make):
    with pytest.raises(RowError, match=r"label: 'maybe' is not in task\.labels"):
        make(JUDGED, [["1", "no", *ROW[2:]]]).type.read(
            {"id": "1", "label": "maybe", "text": ROW[2], "candidate": ["Mia"]}
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": ["a", "b", "c"]}, "task.labels: 3 labels. Give two"),
        ({"metrics": ["f1"]}, "task.metrics: f1 without labels."),
        ({"tune_threshold": True}, "task.tune_threshold: no threshold without labels"),
        ({"inputs": ["a", "b", "c"]}, "task.inputs: 3 text columns. Coreference needs 2"),
        ({"marker": ""}, "task.marker: "),
        ({"loss": {"name": "hybrid", "gamma": 0}}, "task.loss.gamma: "),
        ({"treshold": 0.5}, "task.treshold: unknown key.*Did you mean 'threshold'"),
    ],
)
def test_bad_options_are_refused(more, message):
    import re

    (fault,) = Coreference.faults(task_def_from("task", {**CHOICE, **more}))
    assert re.search(message, str(fault)), fault


def test_an_encoder_without_mask_token_is_refused(make):
    made = make(CHOICE, [ROW])
    made.tokenizer.mask_token = None
    with pytest.raises(
        ConfigError, match=r"task_type: .* has no mask token\. Choose an encoder trained with a mask token"
    ):
        made.type.bind(made.tokenizer)


def test_export_is_refused_as_transformers_has_no_such_model(make, tmp_path):
    with pytest.raises(ConfigError, match="a HybridHead has no counterpart in transformers"):
        export_task(model_of(make(CHOICE, [ROW])), "task", tmp_path / "out", save_tokenizer=lambda *_, **__: None)
