"""An installed package adds plug-ins of every kind by an entry point; a broken one is an error that names it."""

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.reference.forks import finished
from tests.reference.project import Project

ENCODER = REPOSITORY / "tests" / "data" / "dc63209" / "encoder"

MODULE = '''\
"""One plug-in of each kind."""

import torch
from pydantic import Field

from mtdnn.config.options import Options, takes_options
from mtdnn.data.samplers import SAMPLERS, Sequential
from mtdnn.metrics.base import metric
from mtdnn.metrics.labels import NAMES
from mtdnn.networks.heads import HEADS, PooledHead
from mtdnn.networks.losses import LOSSES, cross_entropy
from mtdnn.regularizers.base import REGULARIZERS, Regularizer
from mtdnn.regularizers.proximal import PROXIMAL, Momentum
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.task_types.classification import Classification
from mtdnn.training.optim import OPTIMIZERS, SCHEDULES


@TASK_TYPES.register("p_type")
class Type(Classification):
    """Classification under another name."""

    losses = ("p_loss",)
    default_loss = "p_loss"
    heads = ("p_head",)
    metrics = ("p_metric",)
    default_metrics = ("p_metric",)


@HEADS.register("p_head")
class Head(PooledHead):
    """A pooled head."""


@LOSSES.register("p_loss")
def loss(logits, labels):
    """Twice the cross entropy."""
    return 2 * cross_entropy(logits, labels)


@metric("p_metric", NAMES)
def always_one(records, labels):
    """1, whatever the records."""
    return 1.0


@REGULARIZERS.register("p_regularizer")
class SmallLogits(Regularizer):
    """Mean squared logit."""

    name = "p_regularizer"

    def penalty(self, forward_pass):
        return (forward_pass.logits.float() ** 2).mean()


@PROXIMAL.register("p_proximal")
class Slow(Momentum):
    """Momentum."""


@SAMPLERS.register("p_mixing")
class Backwards(Sequential):
    """Task after task, the last one first."""

    def turns(self, epoch):
        return super().turns(epoch)[::-1].copy()


class RateOptions(Options):
    """Options of `p_optimizer`."""

    factor: float = Field(1.0, gt=0, description="Of the learning rate.")


@OPTIMIZERS.register("p_optimizer")
@takes_options(RateOptions)
def optimizer(groups, *, lr, factor):
    """Plain steps."""
    return torch.optim.SGD([{**group, "lr": group["lr"] * factor} for group in groups], lr=lr)


@SCHEDULES.register("p_schedule")
def schedule(optimizer, *, num_steps, floor: float = 0.5):
    """Down to a floor in the last step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(floor, 1 - step / num_steps))
'''

TASKS = """\
a: {task_type: p_type, labels: [yes_, no_], inputs: [premise, hypothesis], max_length: 16, splits: {train: train}}
b: {task_type: regression, max_length: 12, splits: {train: train}}
"""

RUN = """\
tasks: tasks.yml
data: prepared
encoder: encoder
output: run
max_steps: 4
batch_size: 2
log_every: 1
evaluate_every: never
mixing: p_mixing
optimizer: {name: p_optimizer, lr: 0.01, factor: 2}
schedule: {name: p_schedule, floor: 0.25}
regularizer: p_regularizer
proximal: p_proximal
"""


def install(folder: Path, module: str, code: str, *, package: str) -> None:
    """What an installer leaves of a package: its module, and a .dist-info with its entry points."""
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mtdnn.plugins]\nplug_ins = {module}\n")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def python(site: Path, *words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a process that finds the packages of `site`, in the folder above it."""
    return finished(*words, folder=site.parent, site=site)


def test_a_package_adds_plug_ins_of_every_kind_when_a_registry_is_first_asked(site, tmp_path):
    install(site, "plug_ins_of_test", MODULE, package="plug-ins-of-test")
    code = (
        "import sys, mtdnn.registry\n"
        "before = mtdnn.registry._PACKAGES._started\n"  # after the imports of a command that trains
        "from mtdnn.data.samplers import SAMPLERS\n"
        "names = SAMPLERS.names()\n"
        "print(before, 'plug_ins_of_test' in sys.modules, 'p_mixing' in names)\n"
        "from mtdnn.metrics.base import METRICS\n"
        "from mtdnn.networks.heads import HEADS\n"
        "from mtdnn.networks.losses import LOSSES\n"
        "from mtdnn.regularizers.base import REGULARIZERS\n"
        "from mtdnn.regularizers.proximal import PROXIMAL\n"
        "from mtdnn.task_types.base import TASK_TYPES\n"
        "from mtdnn.training.optim import OPTIMIZERS, SCHEDULES\n"
        "kinds = (TASK_TYPES, HEADS, REGULARIZERS, PROXIMAL, SAMPLERS, OPTIMIZERS, SCHEDULES, LOSSES, METRICS)\n"
        "print([name for kind in kinds for name in kind if name.startswith('p_')])\n"
    )
    (tmp_path / "script.py").write_text(code)
    _, output, errors = python(site, str(tmp_path / "script.py"))
    kinds = ("type", "head", "regularizer", "proximal", "mixing", "optimizer", "schedule", "loss", "metric")
    assert output.splitlines() == ["False True True", str([f"p_{kind}" for kind in kinds])], errors


def test_a_run_uses_all_of_them(site, tmp_path, project):
    install(site, "plug_ins_of_test", MODULE, package="plug-ins-of-test")
    for name, rows in {"a": "nli", "b": "like"}.items():
        (project.data / rows).rename(project.data / name)
    (tmp_path / "tasks.yml").write_text(TASKS)
    (tmp_path / "run.yml").write_text(RUN.replace("encoder: encoder", f"encoder: {ENCODER}"))
    words = ("--data", str(project.data))
    checked = python(site, "-m", "mtdnn", "check", "tasks.yml", *words, "--run", "run.yml")
    assert checked[0] == 0, checked[2]
    words = (*words, "--encoder", str(ENCODER), "--out", "prepared")
    prepared = python(site, "-m", "mtdnn", "prepro", "tasks.yml", *words)
    assert prepared[0] == 0, prepared[2]
    trained = python(site, "-m", "mtdnn", "train", "run.yml")
    assert trained[0] == 0, trained[2]
    lines = [line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if '"train"' in line]
    assert ['"b"' in line for line in lines] == [True, False, False, True]  # b has one batch, a two, b again
    assert '"p_regularizer"' in lines[0] and '"proximal"' in lines[0]


def test_its_options_are_checked_as_ours_are(site, tmp_path, project):
    install(site, "plug_ins_of_test", MODULE, package="plug-ins-of-test")
    text = RUN.replace("factor", "facto").replace("floor", "flor").replace("encoder: encoder", "encoder: {run: x}")
    (tmp_path / "run.yml").write_text(text)
    status, _, errors = python(site, "-m", "mtdnn", "check", str(project.definitions), "--run", "run.yml")
    assert status == 2
    assert errors.splitlines() == [
        "run.yml:3: encoder.run: x/best: there is no such checkpoint. Train first.",
        "run.yml:10: optimizer.facto: unknown key 'facto'; known: name, lr, head_lr, weight_decay, layer_decay, factor."
        " Did you mean 'factor'?",
        "run.yml:11: schedule.flor: unknown key 'flor'; known: name, floor. Did you mean 'floor'?",
    ]


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        ("one = 1\nraise RuntimeError('no luck')\n", "{file}:2: RuntimeError: no luck"),
        (
            "import no_such_module_anywhere\n",
            "{file}:1: ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        ),
        ("def wrong(:\n", "{file}:1: SyntaxError: invalid syntax (broken_of_test.py, line 1)"),
        ("import sys\nsys.exit(3)\n", "{file}:2: SystemExit: 3"),
        (
            "from mtdnn.data.samplers import SAMPLERS\nSAMPLERS.register('uniform')(1)\n",
            "{file}:2: ValueError: mixing 'uniform' is registered twice: <class 'mtdnn.data.samplers.Uniform'> and 1",
        ),
    ],
)
def test_a_broken_package_is_an_error_of_ours_that_names_it(site, project, code, reported):
    install(site, "broken_of_test", code, package="Broken.Plug-ins")
    status, _, errors = python(site, "-m", "mtdnn", "check", str(project.definitions))
    file = site / "broken_of_test.py"
    assert (status, errors) == (
        2,
        f"package Broken.Plug-ins: its entry point 'plug_ins = broken_of_test' cannot be imported: "
        f"{reported.format(file=file)}. Update the package, or uninstall it.\n",
    )
    assert python(site, "-m", "mtdnn", "--help")[0] == 0


def test_an_entry_point_that_leads_nowhere_is_reported(site, project):
    install(site, "gone_of_test", "", package="gone")
    (site / "gone_of_test.py").unlink()
    status, _, errors = python(site, "-m", "mtdnn", "check", str(project.definitions))
    found = "its entry point 'plug_ins = gone_of_test' cannot be imported: ModuleNotFoundError: No module named"
    assert (status, errors.startswith(f"package gone: {found} 'gone_of_test'. ")) == (2, True)
