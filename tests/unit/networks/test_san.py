"""The stochastic answer network against its equations, written out row by row and turn by turn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.batch import Batch
from mtdnn.cli.main import main
from mtdnn.config.tasks import load_task_defs, task_def_from
from mtdnn.data.jobs import block_faults
from mtdnn.networks.san import SanHead, averaged_turns

H = 6
ROWS = ((3, 2), (1, 4))  # tokens of the first and of the second text


def made(num_outputs: int = 3, **options: Any) -> SanHead:
    torch.manual_seed(0)
    return SanHead(H, num_outputs, dropout=0.0, activation="tanh", initializer_std=0.7, **options).double().eval()


def batch_of(rows: tuple[tuple[int, int], ...] = ROWS, *, padding: int = 0, name: str = "token_type_ids") -> Batch:
    """Rows that are a mask and segments, nothing else."""
    width = max(map(sum, rows)) + padding
    places = torch.arange(width)
    first = torch.tensor([row[0] for row in rows])[:, None]
    whole = torch.tensor([sum(row) for row in rows])[:, None]
    segments = ((places >= first) & (places < whole)).long()
    inputs, extras = {"mask": places < whole}, {}
    (inputs if name == "token_type_ids" else extras)[name] = segments
    return Batch("t", inputs, None, [str(number) for number in range(len(rows))], extras)


def hidden_of(batch: Batch, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*batch.mask.shape, H, generator=generator, dtype=torch.float64)


def by_the_equations(head: SanHead, premise: Tensor, hypothesis: Tensor) -> list[Tensor]:
    """The output of each turn before the softmax, for one row: sums over tokens, gates of the GRU written out."""
    w1, w2, w3 = head.summary.weight[0], head.attention.weight, head.output.weight
    alpha = torch.stack([torch.exp(w1 @ h) for h in hypothesis])
    s = sum(a * h for a, h in zip(alpha / alpha.sum(), hypothesis, strict=True))
    outputs = []
    for _ in range(head.turns):
        beta = torch.stack([torch.exp((w2 @ s) @ m) for m in premise])
        x = sum(b * m for b, m in zip(beta / beta.sum(), premise, strict=True))
        outputs.append(w3 @ torch.cat([s, x, abs(s - x), s * x]) + head.output.bias)
        gates_x = (head.gru.weight_ih @ x + head.gru.bias_ih).split(H)
        gates_s = (head.gru.weight_hh @ s + head.gru.bias_hh).split(H)
        reset, update = (torch.sigmoid(gates_x[gate] + gates_s[gate]) for gate in (0, 1))
        new = torch.tanh(gates_x[2] + reset * gates_s[2])
        s = (1 - update) * new + update * s  # Cho et al. 2014, as PyTorch has it
    return outputs


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_the_output_is_the_log_of_the_mean_prediction_of_the_turns(turns: int) -> None:
    head, batch = made(turns=turns), batch_of()
    hidden = hidden_of(batch)
    found = head(hidden, batch)
    for row, (first, second) in enumerate(ROWS):
        outputs = by_the_equations(head, hidden[row, :first], hidden[row, first : first + second])
        expected = torch.stack([output.softmax(-1) for output in outputs]).mean(0)
        torch.testing.assert_close(found[row].exp(), expected, rtol=0, atol=1e-12)  # float64
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, dtype=torch.float64))


def test_a_single_number_is_the_mean_of_the_numbers_of_the_turns() -> None:
    head, batch = made(1, turns=3), batch_of()
    hidden = hidden_of(batch)
    for row, (first, second) in enumerate(ROWS):
        outputs = by_the_equations(head, hidden[row, :first], hidden[row, first : first + second])
        torch.testing.assert_close(head(hidden, batch)[row], torch.stack(outputs).mean(0), rtol=0, atol=1e-12)


def test_the_mean_of_two_predictions_by_hand() -> None:
    # probabilities (1/2, 1/2) and (3/4, 1/4): their mean is (5/8, 3/8); the first alone where the second is left out
    turns = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]]).expand(2, 2, 2)
    found = averaged_turns(turns, torch.tensor([[True, True], [True, False]])).exp()
    torch.testing.assert_close(found, torch.tensor([[5 / 8, 3 / 8], [1 / 2, 1 / 2]]))


def test_neither_padding_nor_the_order_of_tokens_nor_other_rows_matter() -> None:
    head, batch = made(), batch_of()
    hidden = hidden_of(batch)
    expected = head(hidden, batch)
    wide = batch_of(padding=3)
    padded = torch.cat([hidden, torch.full((2, 3, H), torch.nan, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(head(padded, wide), expected)
    order = [2, 0, 1, 4, 3]  # of the first row's tokens, within each text
    torch.testing.assert_close(head(hidden[:1, order], batch_of(ROWS[:1])), expected[:1])
    torch.testing.assert_close(head(hidden[1:], batch_of(ROWS[1:])), expected[1:])


def test_premise_and_hypothesis_are_distinguished_by_segments_where_the_encoder_has_none() -> None:
    head, batch = made(), batch_of()
    hidden = hidden_of(batch)
    assert torch.equal(head(hidden, batch_of(name="segments")), head(hidden, batch))
    swapped = hidden[:1, [3, 4, 0, 1, 2]]
    assert not torch.allclose(head(swapped, batch_of(((2, 3),))), head(hidden[:1], batch_of(ROWS[:1])))


def test_turns_are_dropped_in_training_only_and_never_all_of_a_row() -> None:
    rows = ROWS * 400
    batch = batch_of(rows)
    hidden = hidden_of(batch_of()).repeat(400, 1, 1)
    head = made(turns=3, prediction_dropout=0.5)
    assert torch.equal(head(hidden, batch)[:2], head(hidden, batch)[2:4])
    outputs = torch.stack(by_the_equations(head, hidden[0, :3], hidden[0, 3:5])).softmax(-1)
    head.train()
    found = head(hidden, batch)[::2].exp()
    subsets = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    means = torch.stack([outputs[subset].mean(0) for subset in subsets])
    distances, which = (found.detach().unsqueeze(1) - means.detach()).abs().amax(-1).min(1)
    assert float(distances.max()) < 1e-12
    # one turn always stays, the others with probability 1/2: all three 1/4, two 1/2, one 1/4
    shares = torch.tensor([len(subsets[number]) for number in which.tolist()]).bincount(minlength=4)[1:] / 400
    assert shares.tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.1)  # four standard deviations
    torch.manual_seed(3)
    first = head(hidden, batch)
    torch.manual_seed(3)
    assert torch.equal(head(hidden, batch), first)
    head.prediction_dropout = 0.0
    assert torch.equal(head(hidden, batch)[0], head.eval()(hidden, batch)[0])


def test_autocast_leaves_it_in_float32() -> None:
    head, batch = made().float(), batch_of()
    hidden = hidden_of(batch).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(hidden, batch), head(hidden, batch).float())
        assert torch.equal(head(hidden.bfloat16(), batch), head(hidden.bfloat16().float(), batch))


BLOCK = {"task_type": "classification", "inputs": ["premise", "hypothesis"], "labels": ["a", "b"]}


@pytest.mark.parametrize(
    ("head", "reported"),
    [
        ({"name": "san", "turns": 0}, "t.head.turns: 0: input should be greater than or equal to 1"),
        ({"name": "san", "prediction_dropout": 1}, "t.head.prediction_dropout: 1: input should be less than 1"),
        ({"name": "san", "turn": 3}, "t.head.turn: unknown key 'turn'"),
        ({"name": "sann"}, "t.head: unknown head 'sann'; known: pooled, san."),
        ({"name": "pooled", "activation": "sine"}, "t.head.activation: 'sine': input should be 'tanh'"),
    ],
)
def test_bad_options_are_refused(head: dict[str, Any], reported: str) -> None:
    (found,) = map(str, block_faults(task_def_from("t", {**BLOCK, "head": head})))
    assert reported in found


def test_a_task_of_single_texts_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tasks.yml"
    path.write_text("t:\n  task_type: classification\n  labels: [a, b]\n  head: {name: san, turns: 5}\n")
    line = (
        f"{path}:4: t.head: 'san' needs pairs of texts, and the rows have 1 text (text). "
        "Name a second column in `inputs`, or use head: pooled."
    )
    assert list(map(str, block_faults(load_task_defs(path)["t"]))) == [line]
    assert main(["check", str(path)]) == 2
    assert line in capsys.readouterr().err


def test_token_tasks_have_no_san_head() -> None:
    block = {"task_type": "sequence_labeling", "inputs": ["tokens"], "labels": ["O", "B-X"], "head": "san"}
    assert list(map(str, block_faults(task_def_from("t", block)))) == [
        "t: t.head: unknown head 'san'; known: token, crf."
    ]
