"""The terms for other people's loops equal ours, on models of transformers with their own heads."""

from functools import partial

import pytest
import torch
from torch.amp import GradScaler
from torch.nn import functional as F
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    RobertaConfig,
    T5Config,
)

from mtdnn.errors import ConfigError
from mtdnn.integrations.functional import Terms
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.runs.export import classifier
from mtdnn.training.objective import Objective
from tests.reference.tiny import make_batch, make_model

WORKABLE = [name for name in REGULARIZERS if not REGULARIZERS.get(name).moves_within_step]
ONE_LOSS = [name for name in WORKABLE if name != "free_lb"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BERT = {**SIZES, "vocab_size": 40, "max_position_embeddings": 32}
IDS = torch.tensor([[2, 9, 11, 30, 3], [2, 7, 3, 0, 0]])


def options(name, **more):
    """As strong as shows in float64 on a random encoder."""
    sizes = {"epsilon", "eta", "noise", "step_size"} & set(REGULARIZERS.get(name).Options.model_fields)
    return {"name": name, **dict.fromkeys(sizes, 0.05), **more}


def inputs_of(batch):
    return {
        "input_ids": batch.inputs["input_ids"],
        "attention_mask": batch.mask.long(),
        "token_type_ids": batch.inputs["token_type_ids"],
        "labels": batch.labels,
        "row_ids": batch.row_ids,
    }


def gradients(model, losses):
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("task", ["nli", "similarity"])
@pytest.mark.parametrize("name", ONE_LOSS)
def test_loss_and_gradients_are_those_of_our_model(name, task):
    """`classifier` gives the same network with the head of transformers; its float64 logits are the same."""
    if REGULARIZERS.get(name).logits_of is not None and task == "similarity":
        pytest.skip("not for numbers")
    ours = make_model()
    theirs = classifier(ours, task).double().train()
    batch = make_batch(task)
    method = REGULARIZERS.get(name)(**{key: value for key, value in options(name).items() if key != "name"})
    objective = Objective(ours, {task: method}, seed=3)
    terms = Terms(theirs, options(name), seed=3)
    our_losses = [part.loss for part in objective.parts(batch, step=0)]
    their_losses = list(terms.losses(inputs_of(batch)))
    torch.testing.assert_close(their_losses, our_losses, rtol=1e-9, atol=1e-12)
    word = "embeddings.word_embeddings.weight"
    our_gradient = gradients(ours, our_losses)[f"encoder.backbone.{word}"]
    their_gradient = gradients(theirs, their_losses)[f"bert.{word}"]
    torch.testing.assert_close(their_gradient, our_gradient, rtol=1e-9, atol=1e-12)


def test_free_lb_sends_each_loss_backward_in_turn():
    ours = make_model()
    theirs = classifier(ours, "nli").double().train()
    batch = make_batch()
    method = REGULARIZERS.get("free_lb")()
    objective = Objective(ours, {"nli": method}, seed=3)
    found = gradients(ours, (part.loss for part in objective.parts(batch, step=0)))
    other = gradients(theirs, Terms(theirs, "free_lb", seed=3).losses(inputs_of(batch)))
    torch.testing.assert_close(
        other["bert.embeddings.word_embeddings.weight"],
        found["encoder.backbone.embeddings.word_embeddings.weight"],
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_teacher_follows_as_ours_does():
    ours = make_model()
    theirs = classifier(ours, "nli").double().train()
    batch = make_batch()
    proximal = PROXIMAL.get("momentum")(ours, total_steps=4, mu=2.0, beta=0.9)
    objective = Objective(ours, {}, proximal, seed=3)
    terms = Terms(theirs, None, {"name": "momentum", "mu": 2.0, "beta": 0.9}, total_steps=4, seed=3)
    our_steps, their_steps = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (ours, theirs))
    for step in range(3):
        (our_part,) = objective.parts(batch, step=step)
        (their_loss,) = terms.losses(inputs_of(batch))
        torch.testing.assert_close(their_loss, our_part.loss, rtol=1e-9, atol=1e-12)
        for loss, optimizer, moved in (
            (our_part.loss, our_steps, objective), (their_loss, their_steps, terms)
        ):  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            moved.after_step()
    assert our_part.named["proximal"] > 0
    state = terms.state_dict()
    assert state["step"] == 3 and state["proximal"]["steps_done"] == 3


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**BERT, num_labels=3),
        RobertaConfig(**BERT, num_labels=3, pad_token_id=0),
        DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=40, num_labels=3),
    ],
    ids=lambda config: config.model_type,
)
def test_a_penalty_does_not_depend_on_padding(config):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    terms = Terms(model, {"name": "smart", "epsilon": 0.05, "eta": 0.05, "noise": 0.05})
    mask = (IDS != 0).long()
    labels = torch.tensor([0, 2])
    short = terms.penalty({"input_ids": IDS, "attention_mask": mask, "labels": labels})
    wide = {"input_ids": F.pad(IDS, (0, 3)), "attention_mask": F.pad(mask, (0, 3)), "labels": labels}
    assert short > 0
    torch.testing.assert_close(terms.penalty(wide), short, rtol=1e-4, atol=1e-9)


def test_tokens_count_where_they_have_a_label_and_each_row_alike():
    model = AutoModelForTokenClassification.from_config(BertConfig(**BERT, num_labels=4)).double()
    answers = Terms(model, "smart").answers
    terms = Terms(model, "smart")
    inputs = {
        "input_ids": IDS,
        "attention_mask": (IDS != 0).long(),
        "labels": torch.tensor([[-100, 1, -100, 2, -100], [-100, 0, -100, -100, -100]]),
    }
    batch = terms.batch_of(inputs)
    p, q = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    per_token = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)  # KL(p‖q) + KL(q‖p), written out
    by_hand = torch.stack([(per_token[0, 1] + per_token[0, 3]) / 2, per_token[1, 1]])
    torch.testing.assert_close(answers.divergence(p, q, batch), by_hand)


def test_a_span_is_compared_by_first_and_last_token_without_padding():
    model = AutoModelForQuestionAnswering.from_config(BertConfig(**BERT)).double()
    terms = Terms(model, "smart")
    inputs = {
        "input_ids": IDS,
        "attention_mask": (IDS != 0).long(),
        "start_positions": torch.tensor([1, 0]),
        "end_positions": torch.tensor([2, 0]),
    }
    p, q = torch.randn(2, 2, 2, 5, dtype=torch.float64)
    found = terms.answers.divergence(p, q, terms.batch_of(inputs))
    expected = []
    for row, tokens in enumerate((5, 3)):
        log_p, log_q = p[row, :, :tokens].log_softmax(-1), q[row, :, :tokens].log_softmax(-1)
        expected.append(((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum())
    torch.testing.assert_close(found, torch.stack(expected))
    (loss,) = Terms(model.eval()).losses(inputs)
    torch.testing.assert_close(loss, model(**inputs).loss)


def test_each_of_several_labels_is_compared_as_one_of_two():
    config = BertConfig(**BERT, num_labels=3, problem_type="multi_label_classification")
    model = AutoModelForSequenceClassification.from_config(config).double()
    terms = Terms(model, "smart")
    batch = terms.batch_of({"input_ids": IDS, "attention_mask": (IDS != 0).long(), "labels": torch.zeros(2, 3)})
    p, q = torch.randn(2, 2, 3, dtype=torch.float64)
    by_hand = ((p.sigmoid() - q.sigmoid()) * (p - q)).mean(-1)  # the symmetric KL of two Bernoulli variables
    torch.testing.assert_close(terms.answers.divergence(p, q, batch), by_hand)


def test_without_terms_the_loss_is_the_models_own_and_random_states_stay():
    model = AutoModelForSequenceClassification.from_config(BertConfig(**BERT, num_labels=3)).eval()
    inputs = {"input_ids": IDS, "attention_mask": (IDS != 0).long(), "labels": torch.tensor([0, 2])}
    before = torch.random.get_rng_state()
    (loss,) = Terms(model).losses(inputs)
    torch.testing.assert_close(loss, model(**inputs).loss)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_decoder_that_looks_for_the_last_token_in_the_ids_is_refused():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, num_labels=3, pad_token_id=0)
    model = AutoModelForSequenceClassification.from_config(config)
    inputs = {"input_ids": IDS, "attention_mask": (IDS != 0).long(), "labels": torch.tensor([0, 2])}
    with pytest.raises(ConfigError, match=r"returns other logits .* for word embeddings than for their ids"):
        list(Terms(model, "smart").losses(inputs))


def test_such_a_decoder_is_refused_at_the_first_batch_with_padding():
    """Rows of one length show nothing: the last token is where the head looks without ids, too."""
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, num_labels=3, pad_token_id=0)
    model = AutoModelForSequenceClassification.from_config(config)
    whole = IDS.masked_fill(IDS == 0, 5)
    terms, labels = Terms(model, "smart"), torch.tensor([0, 2])
    list(terms.losses({"input_ids": whole, "attention_mask": torch.ones_like(whole), "labels": labels}))
    with pytest.raises(ConfigError, match=r"returns other logits .* for word embeddings than for their ids"):
        list(terms.losses({"input_ids": IDS, "attention_mask": (IDS != 0).long(), "labels": labels}))


def test_what_cannot_work_is_refused_with_a_reason():
    model = AutoModelForSequenceClassification.from_config(BertConfig(**BERT))
    with pytest.raises(ConfigError, match="free_at moves the optimizer within a step"):
        Terms(model, "free_at")
    with pytest.raises(ConfigError, match=r"unknown regularizer 'smrt'.*Did you mean 'smart'"):
        Terms(model, "smrt")
    with pytest.raises(ConfigError, match="epsilo"):
        Terms(model, {"name": "smart", "epsilo": 1})
    with pytest.raises(ConfigError, match="total_steps: missing"):
        Terms(model, None, "momentum")
    with pytest.raises(ConfigError, match="given in addition to tasks"):
        Terms(model, "smart", tasks={"a": "smart"})
    with pytest.raises(ConfigError, match="does not name one of several"):
        list(Terms(model, tasks={"a": "smart", "b": None}).losses({"input_ids": IDS}))
    with pytest.raises(ConfigError, match="unknown task 'c'"):
        list(Terms(model, tasks={"a": "smart", "b": None}).losses({"input_ids": IDS}, task="c"))
    with pytest.raises(ConfigError, match="input_ids: missing"):
        list(Terms(model).losses({"labels": IDS}))
    with pytest.raises(ConfigError, match="labels: missing"):
        list(Terms(model).losses({"input_ids": IDS}))
    with pytest.raises(ConfigError, match="whose loss is"):
        Terms(model.bert)


def test_encoder_decoders_that_take_no_embeddings_are_refused():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(**sizes, vocab_size=40, num_labels=3, decoder_start_token_id=0, eos_token_id=3)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ConfigError, match="takes no word embeddings"):
        list(Terms(model, "smart").losses({"input_ids": IDS, "labels": torch.tensor([0, 2])}))


@pytest.mark.parametrize("scaled", [False, True])
def test_in_fp16_the_ascent_has_a_direction_if_the_scaler_is_known(scaled):
    """Gradients of a loss of 1e-7 are 0 in fp16, whose smallest number is 6e-8; times 2^16 they are not."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(**BERT, num_labels=3)).train()
    inputs = {"input_ids": IDS, "attention_mask": (IDS != 0).long(), "labels": torch.tensor([0, 2])}
    adversarial = {"name": "adversarial", "start": 0, "eta": 0.1, "epsilon": None, "precision": "run"}
    autocast = partial(torch.autocast, "cpu", dtype=torch.float16)

    def loss_of(regularizer, scaler=None):
        terms = Terms(model, regularizer, autocast=autocast, scaler=scaler)
        small = terms.parts(inputs, loss_of=lambda logits, batch: terms.answers.own_loss(logits, batch) * 1e-7)
        return next(small).loss.item()

    moved = loss_of(adversarial, GradScaler("cpu", init_scale=2.0**16) if scaled else None) - loss_of(None)
    assert moved > 1e-9 if scaled else moved == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_refused_where_passes_need_float32(dtype):
    """As a folder saved in bf16 is loaded: the log spoke of float32, and R_s was 0 or rounding noise."""
    network = AutoModelForSequenceClassification.from_config(BertConfig(**BERT, num_labels=3)).to(dtype)
    with pytest.raises(ConfigError, match=r"but the passes of smart need float32. Load it with dtype=torch.float32"):
        Terms(network, "smart")
    Terms(network, {"name": "r_drop", "weight": 4})


def test_a_regularizer_for_other_logits_is_refused():
    """Odds of labels that do not exclude each other, and of tokens."""
    several = BertConfig(**BERT, num_labels=3, problem_type="multi_label_classification")
    with pytest.raises(ConfigError, match=r"smart-mtdnn-release is for logits of .* are of labels"):
        Terms(AutoModelForSequenceClassification.from_config(several), "smart-mtdnn-release")
    with pytest.raises(ConfigError, match=r"tasks\.a: smart-mtdnn-release is for .* are of parts"):
        tokens = AutoModelForTokenClassification.from_config(BertConfig(**BERT, num_labels=3))
        Terms(tokens, tasks={"a": "smart-mtdnn-release", "b": "smart"})


def test_a_compiled_model_is_refused():
    network = AutoModelForSequenceClassification.from_config(BertConfig(**BERT, num_labels=3))
    with pytest.raises(ConfigError, match="model: compiled"):
        Terms(torch.compile(network, backend="eager"), "smart")
