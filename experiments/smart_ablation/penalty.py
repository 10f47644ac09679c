"""How large SMART's penalty is, by the size of the perturbation and by what dropout does between its two passes.

    python -m experiments.smart_ablation.penalty RUN --data PREPARED [--task scitail] [--rows 96]

Prints R_s of the first dev rows, in float32 and in batches of 16, with the weights the run ended with, and with those
it began with: a pretrained encoder and a new head.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from mtdnn.columns import table
from mtdnn.data.collate import collate
from mtdnn.data.store import open_store
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.smart import Smart
from mtdnn.runs.encoders import build_encoder
from mtdnn.runs.opened import open_run
from mtdnn.training.objective import Objective

SIZES = ((1e-5, 1e-3), (1e-4, 1e-3), (1e-3, 1e-3), (3e-3, 3e-3), (1e-2, 1e-2))
COLUMNS = (("new", "off"), ("fitted", "off"), ("fitted", "same"), ("fitted", "independent"))
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run that keeps its weights")
    parser.add_argument("--data", required=True, help="folder made by mtdnn prepro")
    parser.add_argument("--task", default="scitail")
    parser.add_argument("--rows", type=int, default=96)
    given = parser.parse_args()
    run = open_run(given.run)
    store = open_store(given.data, run.tasks[given.task], "dev", tokenizer=run.tokenizer)
    pad, task_type = run.tokenizer.pad_token_id, run.model.task_types[given.task]
    rows = min(given.rows, len(store))
    numbers = np.array_split(np.arange(rows), max(1, rows // BATCH))
    batches = [collate(store.take(part), task_type, pad_token_id=pad) for part in numbers]
    new = MultiTaskModel(build_encoder(run.config), run.model.task_types)
    models = {"fitted": run.model.float().train(), "new": new.float().train()}

    def mean_penalty(model: MultiTaskModel, method: Smart) -> float:
        objective = Objective(model, {given.task: method}, seed=1)
        values = [float(part.named["smart"]) for batch in batches for part in objective.parts(batch, step=0)]
        return statistics.mean(values)

    lines = [["ε, η", *(f"{model}, {dropout}" for model, dropout in COLUMNS)]]
    for epsilon, eta in SIZES:
        values = [
            mean_penalty(models[model], Smart(epsilon=epsilon, eta=eta, dropout=dropout)) for model, dropout in COLUMNS
        ]
        lines.append([f"{epsilon:.0e}, {eta:.0e}", *(f"{value:.1e}" for value in values)])
    print(table(lines))


if __name__ == "__main__":
    main()
