"""Figure 1 of the SMART paper remade: a decision boundary in the plane, learnt without and with the regularizer.

A point is a "row" of one "token" whose word embedding is its two coordinates, so that the code at work is the one that
fine-tunes encoders: `mtdnn.training.objective.Objective` with `mtdnn.regularizers.smart.Smart`.

    python experiments/smart_toy/boundary.py --output experiments/smart_toy/boundary.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.smart import Smart
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.objective import Objective

POINTS, SPREAD = 80, 0.3
STEPS, LEARNING_RATE, WIDTH = 1500, 1e-2, 64
SMART = {"norm": "l2", "epsilon": 0.25, "eta": 0.25, "noise": 1e-3, "steps": 1}
PROBE = {**SMART, "steps": 5, "eta": 0.1}  # the same ball searched harder, to measure both models alike
COLOURS = ("#2166ac", "#b2182b")


class Plane(nn.Module):
    """Points in place of word embeddings."""

    embedding_size = 2

    def __init__(self, points: np.ndarray) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.from_numpy(points).float(), freeze=True)

    @property
    def backbone(self) -> Plane:
        return self

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)

    def embedding_rms(self) -> float:
        return float(self.table.weight.square().mean().sqrt())


class Classifier(nn.Module):
    """A point → two logits, by a network large enough to learn every point by heart."""

    def __init__(self, points: np.ndarray) -> None:
        super().__init__()
        self.encoder = Plane(points)
        task = task_def_from("moons", {"task_type": "classification", "labels": ["lower", "upper"], "dropout": 0.0})
        self.task_types = {"moons": TASK_TYPES.get("classification")(task)}
        self.network = nn.Sequential(
            nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2)
        )

    def forward(self, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        points = self.encoder.embed(batch.inputs["input_ids"]) if embeddings is None else embeddings
        return self.network(points[:, 0])


def as_model(classifier: Classifier) -> MultiTaskModel:
    """The classifier, which has all that an objective asks of a model, as what the objective takes."""
    return cast("MultiTaskModel", classifier)


def batch_of(labels: np.ndarray) -> Batch:
    """All points at once."""
    ids = torch.arange(len(labels))[:, None]
    inputs = {"input_ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}
    return Batch("moons", inputs, torch.from_numpy(labels), [str(each) for each in range(len(labels))])


def train(points: np.ndarray, labels: np.ndarray, *, weight: float, seed: int) -> Classifier:
    """A classifier of the points; weight 0 is training without the regularizer."""
    torch.manual_seed(seed)
    model = Classifier(points).train()
    objective = Objective(as_model(model), {"moons": Smart(**SMART, weight=weight)}, seed=seed)
    optimizer = torch.optim.Adam(model.network.parameters(), lr=LEARNING_RATE)
    batch = batch_of(labels)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in objective.parts(batch, step=step):
            part.loss.backward()
        optimizer.step()
        objective.after_step()
    return model.eval()


def smoothness(model: Classifier, labels: np.ndarray) -> float:
    """R_s at the training points."""
    return Smart(**PROBE).penalty(ForwardPass(as_model(model), batch_of(labels), seed=0, step=0)).item()


@torch.no_grad()
def accuracy(model: Classifier, points: np.ndarray, labels: np.ndarray) -> float:
    """Share of points on the right side."""
    logits = model.network(torch.from_numpy(points).float())
    return float((logits.argmax(1).numpy() == labels).mean())


@torch.no_grad()
def draw(axis: plt.Axes, model: Classifier, points: np.ndarray, labels: np.ndarray, title: str) -> None:
    """Probability of "upper" over the plane, its ½ line, and the training points."""
    x, y = np.meshgrid(np.linspace(-2, 3, 400), np.linspace(-1.6, 2.1, 300))
    grid = torch.from_numpy(np.stack([x, y], axis=-1)).float()
    probability = model.network(grid.view(-1, 2)).softmax(1)[:, 1].view(x.shape).numpy()
    axis.contourf(x, y, probability, levels=np.linspace(0, 1, 21), cmap="RdBu_r", alpha=0.5)
    axis.contour(x, y, probability, levels=[0.5], colors="black", linewidths=1.5)
    for label, marker in enumerate("os"):
        chosen = points[labels == label]
        axis.scatter(*chosen.T, marker=marker, s=22, color=COLOURS[label], edgecolor="white", linewidth=0.5)
    axis.set(title=title, xticks=[], yticks=[], aspect="equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("boundary.png"))
    parser.add_argument("--weight", type=float, default=1.0, help="λ_s of the right picture")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    points, labels = make_moons(POINTS, noise=SPREAD, random_state=arguments.seed)
    unseen = make_moons(20_000, noise=SPREAD, random_state=arguments.seed + 1)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, weight in zip(axes, (0.0, arguments.weight), strict=True):
        model = train(points, labels, weight=weight, seed=arguments.seed)
        name = f"with smoothness, λ = {weight:g}" if weight else "without"
        scores = accuracy(model, points, labels), accuracy(model, *unseen), smoothness(model, labels)
        print("{}: accuracy on its {} points {:.3f}, on 20,000 others {:.3f}, R_s {:.3g}".format(name, POINTS, *scores))
        draw(axis, model, points, labels, f"{name}: R_s = {scores[2]:.2g}")
    figure.savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
