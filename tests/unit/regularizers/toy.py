"""A model one can work through by hand: a row is one token with two coordinates, its output w·x."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.regularizers.base import Regularizer
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.objective import Objective

W = (3.0, 4.0)  # ‖w‖₂ = 5, ‖w‖∞ = 4


class ToyEncoder(nn.Module):
    """The one word is at (1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.ones(1, 2, dtype=torch.float64), freeze=False)
        self.embedding_size = self.table.embedding_dim

    @property
    def backbone(self) -> ToyEncoder:
        return self

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def embed(self, input_ids: Tensor) -> Tensor:
        embeddings: Tensor = self.table(input_ids)
        return embeddings

    def embedding_rms(self) -> float:
        return 1.0


class ToyModel(nn.Module):
    """f(x) = 3 x₁ + 4 x₂ of the first token, regression; f(1, 1) = 7."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ToyEncoder()
        self.w = nn.Parameter(torch.tensor(W, dtype=torch.float64))
        task = task_def_from("toy", {"task_type": "regression", "dropout": 0.0})
        self.task_types = {"toy": TASK_TYPES.get("regression")(task)}

    def forward(self, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        if embeddings is None:
            embeddings = self.encoder.embed(batch.inputs["input_ids"])
        return embeddings[:, 0] @ self.w[:, None]


def toy_batch(label: float = 5.0) -> Batch:
    """One row with a label 2 below the output, so that the loss is 4."""
    inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long), "mask": torch.ones(1, 1, dtype=torch.bool)}
    return Batch("toy", inputs, torch.tensor([label], dtype=torch.float64), ["a"])


def toy_pass() -> ForwardPass:
    return ForwardPass(ToyModel(), toy_batch(), seed=1, step=0)


def losses_of(method: Regularizer, model: ToyModel | None = None) -> list[dict[str, float]]:
    """Named values of the parts of one step, each sent backward."""
    objective, named = Objective(model or ToyModel(), {"toy": method}, seed=1), []
    for part in objective.parts(toy_batch(), step=0):
        part.loss.backward()
        named.append({"loss": float(part.loss.detach()), **{name: float(value) for name, value in part.named.items()}})
    return named
