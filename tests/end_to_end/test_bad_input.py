"""Bad inputs: exit status 2, the cause in one line with its place and remedy, no traceback, nothing lost.

Each case spoils one thing in a small world of rows, an encoder, prepared rows and a finished run, gives one command,
and compares every file there before and after.
"""

import resource
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from data_prep.demo import train_tokenizer
from mtdnn.cli.main import main
from mtdnn.regularizers.base import Regularizer

pytestmark = pytest.mark.usefixtures("files_may_name_code")

TASKS = """\
pairs:
  task_type: classification
  inputs: [premise, hypothesis]
  labels: [yes_it_is, no_it_is_not]
  metrics: [accuracy]
  max_length: 32
scores:
  task_type: regression
  inputs: [text]
  metrics: [pearson]
  max_length: 32
"""

RUN = """\
tasks: tasks.yml
data: prepared
encoder: encoder
output: runs/first
max_steps: 2
batch_size: 4
optimizer: {lr: 1e-3}
"""

PAIRS = [("yes_it_is", "the red kite flies", "a kite flies"), ("no_it_is_not", "rain falls on the barn", "it is dry")]
SCORES = [("4.5", "a goat eats grass"), ("0", "the lamp is off"), ("2.25", "she paints a lamp")]

CHECK = "check tasks.yml --data data"
CHECK_RUN = "check tasks.yml --data data --run run.yml"
PREPRO = "prepro tasks.yml --data data --encoder encoder --out prepared --workers 1"
TRAIN = "train run.yml --output runs/second"


def rows_of(kinds, count):
    rows = ["\t".join((str(number), *kinds[number % len(kinds)])) for number in range(count)]
    return "\n".join(rows) + "\n"


def write_encoder(folder, texts):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def sound_world(tmp_path_factory):
    """Rows, encoder, prepared rows and a finished run; every case works on a copy."""
    world = tmp_path_factory.mktemp("world")
    (world / "tasks.yml").write_text(TASKS)
    (world / "run.yml").write_text(RUN)
    for task, kinds in (("pairs", PAIRS), ("scores", SCORES)):
        (world / "data" / task).mkdir(parents=True)
        for split, count in (("train", 12), ("dev", 6)):
            (world / "data" / task / f"{split}.tsv").write_text(rows_of(kinds, count))
    write_encoder(world / "encoder", [text for row in (*PAIRS, *SCORES) for text in row[1:]])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        assert main(PREPRO.split()) == 0
        assert main(["train", "run.yml"]) == 0
    return world


@pytest.fixture
def world(sound_world, tmp_path, monkeypatch):
    copy = tmp_path / "world"
    shutil.copytree(sound_world, copy)
    monkeypatch.chdir(copy)
    return copy


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: what is bad.
        spoil: makes it so, in the world that is the current folder.
        command: words after `mtdnn`, in one text or, where one holds a space, in a list.
        reported: what must be among the lines reported.
    """

    name: str
    spoil: object
    command: str | list[str]
    reported: str


class ForPairs(Regularizer):
    """A plug-in for types that have classes."""

    name = "for_pairs"
    logits_of = ("classes",)

    def penalty(self, forward_pass):
        return forward_pass.logits.square().mean()


def nothing():
    """The command itself is what is bad."""


def replace(path, before, after):
    def spoil():
        text = Path(path).read_text()
        assert before in text
        Path(path).write_text(text.replace(before, after, 1))

    return spoil


def append(path, text):
    def spoil():
        with Path(path).open("a") as file:
            file.write(text)

    return spoil


def write(path, content):
    return lambda: Path(path).write_bytes(content)


def remove(path):
    return lambda: Path(path).unlink()


def cut_short(path):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-7])


def other_bytes(path):
    return lambda: Path(path).write_bytes(b"x" * Path(path).stat().st_size)


def other_tokenizer():
    shutil.rmtree("encoder")
    write_encoder(Path("encoder"), ["quite other words stand here", "zebras zoom by"])


def header_alone():
    Path("data/pairs/dev.tsv").unlink()
    Path("data/pairs/dev.csv").write_text("id,label,premise,hypothesis\n")


def blank_text():
    with Path("tasks.yml").open("a") as file:
        file.write("novel: {task_type: masked_lm, max_length: 32, splits: {dev: dev}}\n")
    Path("data/novel").mkdir()
    Path("data/novel/dev.txt").write_text("\n \n\n")


TRAIN_ROWS = "data/pairs/train.tsv"
DEFINITIONS = [
    Case(
        "a misspelt key",
        replace("tasks.yml", "metrics: [acc", "metrisc: [acc"),
        CHECK,
        "tasks.yml:5: pairs.metrisc: unknown key 'metrisc'; known: task_type, inputs, labels, metrics, ",
    ),
    Case(
        "a name within a task",
        append("tasks.yml", "  name: other\n"),
        CHECK,
        "tasks.yml:12: scores.name: unknown key 'name'; known: task_type, inputs, ",
    ),
    Case(
        "an alias of what it lies in",
        append("tasks.yml", "  head: &head\n    name: *head\n"),
        CHECK,
        "tasks.yml:13: scores.head.name: an alias of the enclosing value at line 12. Write the value out.",
    ),
    Case(
        "a merge of what is no mapping",
        append("tasks.yml", "  <<: 3\n"),
        CHECK,
        "tasks.yml:12: not valid YAML: expected a mapping or list of mappings for merging, but found scalar. Check the "
        "indentation, colons, brackets and quotes of this line and the one before.",
    ),
    Case(
        "values within values without end",
        append("tasks.yml", "deep: " + "[" * 3000 + "]" * 3000 + "\n"),
        CHECK,
        "tasks.yml: values are nested too deeply. Flatten them.",
    ),
    Case(
        "an unknown task type",
        replace("tasks.yml", ": classification", ": clasification"),
        CHECK,
        "tasks.yml:2: pairs.task_type: unknown task type 'clasification'; known: classification, ",
    ),
    Case(
        "an unknown metric",
        replace("tasks.yml", "[accuracy]", "[acuracy]"),
        CHECK,
        "tasks.yml:5: pairs.metrics: unknown metric 'acuracy'; known: accuracy, f1, ",
    ),
    Case(
        "a loss of another task type",
        append("tasks.yml", "  loss: cross_entropy\n"),
        CHECK,
        "tasks.yml:12: scores.loss: unknown loss 'cross_entropy'; known: mse.",
    ),
    Case(
        "two tasks of one name",
        append("tasks.yml", "pairs: {task_type: regression}\n"),
        CHECK,
        "tasks.yml:12: pairs: given twice, first at line 1. Remove or rename one.",
    ),
    Case(
        "a label given twice",
        replace("tasks.yml", "no_it_is_not]", "yes_it_is]"),
        CHECK,
        "tasks.yml:4: pairs.labels: ['yes_it_is', 'yes_it_is']: 'yes_it_is' is given twice",
    ),
    Case(
        "labels that YAML reads as booleans",
        replace("tasks.yml", "yes_it_is, no_it_is_not", "yes, no"),
        CHECK,
        "tasks.yml:4: pairs.labels: [True, False]: YAML reads yes/no/on/off/true/false without quotes as booleans; "
        "put the word in quotes",
    ),
    Case(
        "a single label",
        replace("tasks.yml", "yes_it_is, no_it_is_not", "yes_it_is"),
        CHECK,
        "tasks.yml:4: pairs.labels: 1 labels. Classification needs at least two.",
    ),
    Case(
        "a dropout of 1",
        append("tasks.yml", "  dropout: 1\n"),
        CHECK,
        "tasks.yml:12: scores.dropout: 1: input should be less than 1",
    ),
    Case(
        "an empty file of definitions",
        write("tasks.yml", b""),
        CHECK,
        "tasks.yml: the file is empty. A mapping of keys to values is expected.",
    ),
    Case(
        "definitions that are no YAML",
        append("tasks.yml", "other: [1, 2\n"),
        CHECK,
        "tasks.yml:13: not valid YAML: expected ',' or ']', but got '<stream end>'. Check the indentation, colons, "
        "brackets and quotes of this line and the one before.",
    ),
    Case(
        "no such file of definitions",
        nothing,
        "check taks.yml",
        "taks.yml: cannot be read: No such file or directory. Check the path.",
    ),
]
ROWS = [
    Case(
        "too few columns",
        append(TRAIN_ROWS, "99\tyes_it_is\tonly one text\n"),
        PREPRO,
        "data/pairs/train.tsv:13: 3 columns; 4 expected: id, label, premise, hypothesis. Columns are separated by "
        "one tab; a text has none.",
    ),
    Case(
        "a label that is none of the task's",
        append(TRAIN_ROWS, "99\tyes_it_iss\ta\tb\n"),
        PREPRO,
        "data/pairs/train.tsv:13: label: 'yes_it_iss' is not in pairs.labels (tasks.yml:4): yes_it_is, no_it_is_not. "
        "Did you mean 'yes_it_is'? Fix the row, or add the label.",
    ),
    Case(
        "a label that is no number",
        append("data/scores/train.tsv", "99\tmuch\ta\n"),
        PREPRO,
        "data/scores/train.tsv:13: label: 'much' is not a number. Give a number such as 2.5.",
    ),
    Case(
        "a label that is not finite",
        append("data/scores/train.tsv", "99\tnan\ta\n"),
        PREPRO,
        "data/scores/train.tsv:13: label: 'nan' is not a finite number. Give a number, or leave it empty.",
    ),
    Case(
        "an empty text",
        append(TRAIN_ROWS, "99\tyes_it_is\t \tb\n"),
        PREPRO,
        "data/pairs/train.tsv:13: premise: empty text. Give the text, or remove the row.",
    ),
    Case(
        "an empty line",
        append(TRAIN_ROWS, "\n99\tyes_it_is\ta\tb\n"),
        PREPRO,
        "data/pairs/train.tsv:13: an empty line. Remove it.",
    ),
    Case(
        "an id that came before",
        append(TRAIN_ROWS, "3\tyes_it_is\ta\tb\n"),
        PREPRO,
        "data/pairs/train.tsv:13: id: '3' is also the id of data/pairs/train.tsv:4. Rename one of them.",
    ),
    Case(
        "a train row without a label",
        append(TRAIN_ROWS, "99\t-\ta\tb\n"),
        PREPRO,
        "data/pairs/train.tsv:13: label: none, in a train split. Give a label, or remove the row.",
    ),
    Case(
        "a file that is not UTF-8",
        write(TRAIN_ROWS, "1\tyes_it_is\tcafé\tb\n".encode("latin-1")),
        PREPRO,
        "data/pairs/train.tsv:1: not UTF-8: byte 0xe9 at position 16 of the line. Save the file as UTF-8.",
    ),
    Case(
        "a file in UTF-16",
        write(TRAIN_ROWS, "1\tyes_it_is\ta\tb\n".encode("utf-16")),
        PREPRO,
        "data/pairs/train.tsv:1: not UTF-8 but UTF-16 (byte order mark). Save the file as UTF-8.",
    ),
    Case(
        "an empty file of rows",
        write(TRAIN_ROWS, b""),
        PREPRO,
        "data/pairs/train.tsv: the file is empty. Add rows, or remove the split.",
    ),
    Case(
        "a table that is a header alone",
        header_alone,
        PREPRO,
        "data/pairs/dev.csv: no rows. Add rows, or remove the split.",
    ),
    Case(
        "running text of blank lines alone",
        blank_text,
        PREPRO,
        "data/novel/dev.txt: no rows. Add rows, or remove the split.",
    ),
    Case(
        "a checked table that is a header alone",
        header_alone,
        CHECK,
        "data/pairs/dev.csv: no rows. Add rows, or remove the split.",
    ),
    Case(
        "a missing split",
        remove("data/pairs/dev.tsv"),
        PREPRO,
        "data/pairs/dev: no rows for this split; looked for data/pairs/dev.tsv, data/pairs_dev.tsv",
    ),
    Case(
        "a folder of rows that is not there",
        nothing,
        PREPRO.replace("data data", "data daat"),
        "looked for daat/pairs/train.tsv, daat/pairs_train.tsv (or .jsonl, .csv, .parquet, .txt). There is no folder "
        "daat. Check the path.",
    ),
    Case(
        "an encoder that is not there",
        nothing,
        PREPRO.replace("encoder encoder", "encoder ./encodr"),
        "encoder: there is no folder './encodr'. Check the path, or give a Hugging Face hub name.",
    ),
    Case(
        "more tokens than the encoder can take",
        replace("tasks.yml", "max_length: 32", "max_length: 65"),
        PREPRO,
        "tasks.yml:6: pairs.max_length: 65 tokens; encoder takes at most 64. Set max_length to 64 or less.",
    ),
    Case(
        "a task that is not among the definitions",
        nothing,
        PREPRO + " --tasks pair",
        "--tasks: unknown task 'pair'; known: pairs, scores. Did you mean 'pairs'?",
    ),
]
RUNS = [
    Case(
        "rows that are not prepared",
        lambda: shutil.rmtree("prepared/pairs/dev"),
        TRAIN,
        "prepared/pairs/dev: this split is not prepared. Run: mtdnn prepro tasks.yml --data DATA --encoder encoder "
        "--out prepared --tasks pairs",
    ),
    Case(
        "rows that are not prepared, in a folder whose name holds a space",
        lambda: Path("all rows").mkdir(),
        [*TRAIN.split(), "--data", "all rows"],
        "all rows/pairs/train: this split is not prepared. Run: mtdnn prepro tasks.yml --data DATA --encoder encoder "
        "--out 'all rows' --tasks pairs",
    ),
    Case(
        "rows prepared for another tokenizer",
        other_tokenizer,
        TRAIN,
        "prepared/pairs/train: the prepared rows do not match: it was made with the tokenizer of encoder, which is not "
        "that of encoder. Run: mtdnn prepro tasks.yml --data data --encoder encoder --out prepared --tasks pairs",
    ),
    Case(
        "rows prepared for another definition",
        replace("tasks.yml", "max_length: 32", "max_length: 31"),
        TRAIN,
        "prepared/pairs/train: the prepared rows do not match: its max_length was 32, now 31. Run: mtdnn prepro "
        "tasks.yml --data data --encoder encoder --out prepared --tasks pairs",
    ),
    Case(
        "prepared rows cut short",
        cut_short("prepared/pairs/train/data-00000-of-00001.arrow"),
        TRAIN,
        "prepared/pairs/train/data-00000-of-00001.arrow: damaged: 2193 bytes; 2200 bytes were written. Run: mtdnn "
        "prepro tasks.yml --data data --encoder encoder --out prepared --tasks pairs",
    ),
    Case(
        "prepared rows with other bytes in them",
        other_bytes("prepared/pairs/train/data-00000-of-00001.arrow"),
        TRAIN,
        "prepared/pairs/train/data-00000-of-00001.arrow: damaged: its content differs from what was written. Run: "
        "mtdnn prepro tasks.yml --data data --encoder encoder --out prepared --tasks pairs",
    ),
    Case(
        "an encoder without weights",
        remove("encoder/model.safetensors"),
        TRAIN,
        "run.yml:3: encoder: encoder: weights cannot be loaded (Error no file named model.safetensors",
    ),
    Case(
        "encoder weights cut short",
        cut_short("encoder/model.safetensors"),
        TRAIN,
        "run.yml:3: encoder: encoder: weights cannot be loaded (",
    ),
    Case(
        "a misspelt key of a run",
        append("run.yml", "epocs: 3\n"),
        TRAIN,
        "run.yml:8: epocs: unknown key 'epocs'; known: tasks, data, output, encoder, ",
    ),
    Case(
        "a flag that is no number",
        nothing,
        TRAIN + " --optimizer.lr fast",
        "--optimizer.lr: 'fast': expected a number",
    ),
    Case(
        "a task that a run trains and nobody defines",
        append("run.yml", "train: [pair, scores]\n"),
        "check tasks.yml --run run.yml",
        "run.yml:8: train: unknown task 'pair'; known: pairs, scores. Did you mean 'pairs'?",
    ),
    Case(
        "a negative radius",
        append("run.yml", "regularizer: {name: smart, epsilon: -1e-5}\n"),
        CHECK_RUN,
        "run.yml:8: regularizer.epsilon: -1e-05: expected a number ≥ 0, or {relative: number}",
    ),
    Case(
        "a negative radius within a flag",
        append("run.yml", "regularizer: smart\n"),
        [*TRAIN.split(), "--regularizer.epsilon.relative", "-1"],
        "--regularizer.epsilon.relative: regularizer.epsilon: {'relative': -1}: expected a number ≥ 0, or {relative: ",
    ),
    Case(
        "a flag below a key that there is not",
        append("run.yml", "regularizer: smart\n"),
        TRAIN + " --regularizer.a.b.c 3",
        "--regularizer.a.b.c: regularizer.a: unknown key 'a'; known: weight, every, ",
    ),
    Case(
        "a flag for a regularizer that there is not",
        nothing,
        TRAIN + " --regularizer.weight 3",
        "--regularizer.weight: regularizer.name: is missing. Add it.",
    ),
    Case(
        "an unknown norm on a task",
        append("tasks.yml", "  regularizer: {name: smart, norm: l3}\n"),
        CHECK_RUN,
        "tasks.yml:12: scores.regularizer.norm: 'l3': input should be 'inf' or 'l2'",
    ),
    Case(
        "a teacher that forgets more than all",
        append("run.yml", "proximal: {name: momentum, beta: 1.0}\n"),
        CHECK_RUN,
        "run.yml:8: proximal.beta: 1.0",
    ),
    Case(
        "a regularizer of another task type",
        append("tasks.yml", f"  regularizer: {{name: {__name__}.ForPairs}}\n"),
        CHECK_RUN,
        "tasks.yml:12: scores.regularizer: for_pairs is for logits of classes; those of Regression are of number. "
        "Use another regularizer, or `none`, for this task.",
    ),
    Case(
        "a radius that bf16 cannot hold, when training",
        append("run.yml", "precision: bf16\nregularizer: {name: smart, epsilon: 1e-6, precision: run}\n"),
        TRAIN,
        "run.yml:9: regularizer.precision: run: moves of 1e-06 are below the resolution of bf16 around word embeddings",
    ),
    Case(
        "a radius that bf16 cannot hold, in the run's precision",
        append("run.yml", "precision: bf16\nregularizer: {name: smart, epsilon: 1e-6, precision: run}\n"),
        CHECK_RUN,
        "run.yml:9: regularizer.precision: run: moves of 1e-06 are below the resolution of bf16 around word embeddings",
    ),
    Case(
        "an unknown regularizer",
        append("run.yml", "regularizer: smrt\n"),
        TRAIN,
        "run.yml:8: regularizer: unknown regularizer 'smrt'; known: ",
    ),
    *(
        Case(
            f"{path} in place of a regularizer",
            append("run.yml", f"regularizer: {{name: {path}, weight: 3}}\n"),
            TRAIN,
            f"run.yml:8: regularizer: {found}",
        )
        for path, found in {
            "os.path.join": "'os.path.join' is a function; expected a class derived from mtdnn.regularizers.base.Regu",
            "torch.nn.Dropout": "'torch.nn.Dropout' is a class derived from torch.nn.modules.dropout._DropoutNd; exp",
            "mtdnn.regularizers.smart.SmartOptions": "'mtdnn.regularizers.smart.SmartOptions' is a class derived from ",
            "mtdnn.regularizers.base.Regularizer": "'mtdnn.regularizers.base.Regularizer' does not define name, penal",
            ".Smart": "cannot import regularizer '.Smart': a name before or after a dot is missing; expected package.",
        }.items()
    ),
    Case(
        "a regularizer in place of a proximal term",
        append("run.yml", "proximal: mtdnn.regularizers.smart.Smart\n"),
        TRAIN,
        "; expected a class derived from mtdnn.regularizers.proximal.Proximal. Known by name: momentum, vanilla.",
    ),
    Case(
        "the base of all proximal terms",
        append("run.yml", "proximal: mtdnn.regularizers.proximal.Proximal\n"),
        CHECK_RUN,
        "run.yml:8: proximal: 'mtdnn.regularizers.proximal.Proximal' does not define beta or after_step; every ",
    ),
    Case(
        "a task type that is none",
        replace("tasks.yml", ": classification", ": mtdnn.config.options.NoOptions"),
        CHECK,
        "tasks.yml:2: pairs.task_type: 'mtdnn.config.options.NoOptions' is a class derived from mtdnn.config.optio",
    ),
    Case(
        "a mixing that lacks its turns",
        nothing,
        TRAIN + " --mixing mtdnn.data.samplers.Sampler",
        "--mixing: 'mtdnn.data.samplers.Sampler' does not define turns; every mixing has to.",
    ),
    Case(
        "a layer in place of a head",
        append("tasks.yml", "  head: torch.nn.Linear\n"),
        CHECK,
        "tasks.yml:12: scores.head: 'torch.nn.Linear' is a class derived from torch.nn.modules.module.Module; exp",
    ),
    Case(
        "an unknown option of a head named by its path",
        append("tasks.yml", "  head: {name: mtdnn.networks.heads.PooledHead, depth: 2}\n"),
        CHECK,
        "tasks.yml:12: scores.head.depth: unknown key 'depth'; known: ",
    ),
    Case(
        "a class in place of a loss",
        append("tasks.yml", "  loss: torch.nn.MSELoss\n"),
        CHECK,
        "tasks.yml:12: scores.loss: 'torch.nn.MSELoss' is a class derived from torch.nn.modules.loss._Loss; exp",
    ),
    Case(
        "a key of another optimizer",
        nothing,
        TRAIN + " --optimizer.momentum 0.9",
        "--optimizer.momentum: unknown key 'momentum'; known: name, lr, head_lr, weight_decay, layer_decay, betas, ",
    ),
    Case(
        "a key of another schedule",
        append("run.yml", "schedule: {name: linear, ratio: 5}\n"),
        CHECK_RUN,
        "run.yml:8: schedule.ratio: unknown key 'ratio'; known: name, warmup. It is an option of slanted_triangular.",
    ),
    Case(
        "an unknown schedule",
        nothing,
        TRAIN + " --schedule.name cosin",
        "--schedule.name: schedule: unknown schedule 'cosin'; known: constant, cosine, linear, polynomial, slanted_tri",
    ),
    Case(
        "a layer in place of an optimizer",
        nothing,
        TRAIN + " --optimizer torch.nn.Linear",
        "--optimizer: 'torch.nn.Linear' is a class derived from torch.nn.modules.module.Module; expected a function of",
    ),
    Case(
        "an unknown option of a regularizer",
        append("run.yml", "regularizer: {name: smart, wait: 3}\n"),
        TRAIN,
        "run.yml:8: regularizer.wait: unknown key 'wait'; known: weight, every, ",
    ),
    Case(
        "epochs without end",
        append("run.yml", "epochs: .inf\n"),
        CHECK_RUN,
        "run.yml:8: epochs: inf: input should be a finite number",
    ),
    Case(
        "an unknown mixing",
        nothing,
        TRAIN + " --mixing round_robbin",
        "--mixing: unknown mixing 'round_robbin'; known: ",
    ),
    Case(
        "an option of mixing out of range",
        nothing,
        TRAIN + " --mixing temperature --mixing.tau 0",
        "--mixing.tau: 0: input should be greater than 0",
    ),
    Case(
        "a task that cannot be trained",
        nothing,
        TRAIN + " --train pair",
        "--train: unknown task 'pair'; known: pairs, scores. Did you mean 'pairs'?",
    ),
    Case(
        "a folder that already contains a run",
        nothing,
        "train run.yml",
        "runs/first: output: already contains a run. Give --resume to continue it, or another --output.",
    ),
    Case(
        "a resumed run that is another one",
        nothing,
        "train run.yml --resume --optimizer.lr 1",
        "runs/first/run.yml: optimizer.lr: the run started with 0.001, now it is 1.0\nruns/first: output: a resumed",
    ),
    Case(
        "a run that starts from no run",
        nothing,
        TRAIN + " --encoder.run runs/none",
        "--encoder.run: runs/none/best: there is no such checkpoint. Train first.",
    ),
    Case(
        "a checkpoint to start from that no run has",
        nothing,
        TRAIN + " --encoder.run runs/first --encoder.checkpoint newest",
        "--encoder.checkpoint: unknown checkpoint 'newest'; known: best, last, step-N.",
    ),
    Case(
        "a run whose file names no run to start from",
        replace("run.yml", "encoder: encoder", "encoder: {run: runs/none}"),
        TRAIN,
        "run.yml:3: encoder.run: runs/none/best: there is no such checkpoint. Train first.",
    ),
    Case(
        "no run at all",
        nothing,
        "train",
        "command line: tasks: is missing. Add it.",
    ),
]
RESULTS = [
    Case(
        "a folder without a run",
        nothing,
        "evaluate data",
        "data: contains no run (there is no run.yml). Give the `output` folder of `mtdnn train`.",
    ),
    Case(
        "a checkpoint cut short",
        cut_short("runs/first/best/model.safetensors"),
        "evaluate runs/first",
        "runs/first/best: model.safetensors does not match its checksum. Checkpoints found: best, last, step-2.",
    ),
    Case(
        "a checkpoint that is not there",
        nothing,
        "evaluate runs/first --checkpoint step-9",
        "runs/first/checkpoints/step-9: there is no such checkpoint. Checkpoints found: best, last, step-2.",
    ),
    *(
        Case(
            f"damaged results, found by {command}",
            write("runs/first/results.json", b'{"pairs": '),
            f"{command} runs/first",
            "runs/first/results.json: not JSON: Expecting value: line 1 column 11 (char 10). Remove it and run: mtdnn "
            "evaluate runs/first",
        )
        for command in ("evaluate", "report")
    ),
    Case(
        "results that are none",
        write("runs/first/results.json", b'{"pairs": 3}'),
        "report runs/first",
        "runs/first/results.json: pairs: damaged: expected a mapping of keys to values. Remove it and run: mtdnn",
    ),
    Case(
        "a checkpoint of another run by its path",
        nothing,
        "predict runs/first --checkpoint ../first/best --task pairs --input data/pairs/dev.tsv --output o.jsonl",
        "--checkpoint: unknown checkpoint '../first/best'; known: best, last, step-N.",
    ),
    Case(
        "prepared rows that are elsewhere",
        replace("runs/first/run.yml", "data: prepared", "data: elsewhere"),
        "evaluate runs/first",
        "runs/first/run.yml: data: there is no folder 'elsewhere'; looked for /",
    ),
    Case(
        "a folder of prepared rows that is not there",
        nothing,
        "evaluate runs/first --data elsewhere",
        "/elsewhere. Give --data the folder that mtdnn prepro wrote.",
    ),
    Case(
        "a split that is not there",
        nothing,
        "evaluate runs/first --split trian",
        "--split: of pairs, scores: unknown split 'trian'; known: dev, train. Did you mean 'train'?",
    ),
    Case(
        "a role that no task has a split for",
        nothing,
        "evaluate runs/first --split test",
        "--split: of pairs, scores: unknown split 'test'; known: dev, train.",
    ),
    Case(
        "a task the run does not know",
        nothing,
        "evaluate runs/first --tasks pair",
        "--tasks: unknown task 'pair'; known: pairs, scores. Did you mean 'pairs'?",
    ),
    Case(
        "rows with other columns",
        nothing,
        "predict runs/first --task pairs --input data/scores/dev.tsv --output o.jsonl",
        "data/scores/dev.tsv:1: 3 columns; 4 expected: id, label, premise, hypothesis. Columns are separated by one "
        "tab; a text has none.",
    ),
    Case(
        "an input that is not there",
        nothing,
        "predict runs/first --task pairs --input none.tsv --output o.jsonl",
        "none.tsv: no such file. Check the path.",
    ),
    Case(
        "an output in no folder",
        nothing,
        "predict runs/first --task pairs --input data/pairs/dev.tsv --output a/o.jsonl",
        "--output: 'a/o.jsonl' cannot be written: there is no writable folder 'a'. Choose another place.",
    ),
    Case(
        "tasks of different inputs",
        nothing,
        "predict runs/first --task pairs,scores --input data/pairs/dev.tsv --output o.jsonl",
        "--task: 'scores' has 1 texts as regression, 'pairs' has others. Predict only tasks with the same inputs",
    ),
    Case(
        "predictions written over their rows",
        lambda: Path("in.jsonl").symlink_to("data/pairs/dev.tsv"),
        "predict runs/first --task pairs --input data/pairs/dev.tsv --output in.jsonl",
        "--output: 'in.jsonl' is the input, 'data/pairs/dev.tsv'. Choose another place.",
    ),
    Case(
        "predictions of one of several tasks written over their rows",
        lambda: Path("in.pairs.jsonl").symlink_to("data/pairs/dev.tsv"),
        "predict runs/first --task pairs,scores --input data/pairs/dev.tsv --output in.jsonl",
        "--output: 'in.pairs.jsonl' is the input, 'data/pairs/dev.tsv'. Choose another place.",
    ),
    Case(
        "vectors written over their rows",
        nothing,
        "embed runs/first --input prepared/in.parquet --output ./prepared/../prepared/in.parquet",
        "--output: './prepared/../prepared/in.parquet' is the input, 'prepared/in.parquet'. Choose another place.",
    ),
    Case(
        "vectors where nothing can be written",
        nothing,
        "embed runs/first --input data/pairs/dev.tsv --output /proc/v.parquet",
        "/proc/v.parquet",
    ),
    Case(
        "an export to where nothing can be written",
        nothing,
        "export runs/first --task pairs --output /proc/model",
        "/proc/model: cannot be written: ",
    ),
    Case(
        "an export to a folder that exists",
        nothing,
        "export runs/first --task pairs --output data",
        "--output: 'data' exists. Name a new folder.",
    ),
    Case(
        "predictions that are no JSON",
        write("o.jsonl", b'{"id": 1\n'),
        "score o.jsonl",
        'o.jsonl:1: not a prediction record. Expected {"id": …, "prediction": …, "label": …}.',
    ),
    Case(
        "predictions without labels",
        write("o.jsonl", b'{"id": "1", "prediction": "a", "label": null}\n'),
        "score o.jsonl",
        "o.jsonl: none of the 1 predictions has a label. Predict rows with labels.",
    ),
    Case(
        "a named metric of predictions without labels",
        write("o.jsonl", b'{"id": "1", "prediction": "a", "label": null}\n'),
        "score o.jsonl --metrics accuracy",
        "o.jsonl: none of the 1 predictions has a label. Predict rows with labels.",
    ),
    Case(
        "a list of metrics without one",
        nothing,
        "score runs/first/predictions/pairs.dev.jsonl --metrics ,",
        "--metrics: names no metric. Leave it out for all that can be computed.",
    ),
    Case(
        "a list of runs alone without one",
        nothing,
        "report runs/first --alone ,",
        "--alone: names no run. Give folders of runs, or leave it out.",
    ),
    Case(
        "a misspelt metric of predictions without labels",
        write("o.jsonl", b'{"id": "1", "prediction": "a", "label": null}\n'),
        "score o.jsonl --metrics acuracy",
        "metrics: unknown metric 'acuracy'; known: ",
    ),
    Case(
        "labels that fit no metric",
        write("o.jsonl", b'{"id": "1", "prediction": 1.0, "label": "a"}\n'),
        "score o.jsonl",
        "o.jsonl:1: prediction: 1.0, where the label is a text. Give a text.",
    ),
    Case(
        "a metric that does not fit",
        nothing,
        "score runs/first/predictions/pairs.dev.jsonl --metrics pearson",
        "runs/first/predictions/pairs.dev.jsonl: pearson: row '0': prediction ",
    ),
    Case(
        "a metric that is not known",
        nothing,
        "score runs/first/predictions/pairs.dev.jsonl --metrics all",
        "--metrics: unknown metric 'all'; known: accuracy, ",
    ),
    Case(
        "a number of rows below 0",
        nothing,
        "report runs/first --worst -1",
        "--worst: -1 rows. Give 0 or more.",
    ),
    Case(
        "no process to prepare rows",
        nothing,
        PREPRO.replace("--workers 1", "--workers 0"),
        "--workers: 0 processes. Give 1 or more.",
    ),
]
CASES = [*DEFINITIONS, *ROWS, *RUNS, *RESULTS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input_is_reported_and_nothing_is_lost(case, world, capsys):
    case.spoil()
    before = files_below(world)
    words = case.command.split() if isinstance(case.command, str) else case.command
    assert main(words) == 2
    reported = capsys.readouterr().err
    assert case.reported in reported
    assert "Traceback" not in reported
    assert files_below(world) == before


def test_the_table_is_as_long_as_promised():
    assert len({case.name for case in CASES}) == len(CASES) >= 25


@contextmanager
def files_no_larger_than(size):
    """Writes beyond `size` bytes fail, as on a full disk: what a test can do to itself without a disk of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("command", "size", "place"),
    [
        (PREPRO.replace("prepared", "again"), 1500, "again"),
        (TRAIN, 1500, "runs/second"),
        (TRAIN, 12_000, "runs/second"),
        ("predict runs/first --task pairs --input data/pairs/dev.tsv --output o.jsonl", 100, ""),
        ("export runs/first --task pairs --output model", 3000, "model"),
        ("embed runs/first --input data/pairs/dev.tsv --output v.parquet", 300, ""),
    ],
)
def test_a_full_disk_is_reported_and_the_same_command_works_once_there_is_room(world, capsys, command, size, place):
    before = files_below(world)
    with files_no_larger_than(size):
        status = main(command.split())
    reported = capsys.readouterr().err
    assert status == 2, reported
    assert place in reported.splitlines()[-1] and "Traceback" not in reported
    assert before.items() <= files_below(world).items()
    again = " --resume" if command.startswith("train") else ""
    assert main((command + again).split()) == 0


@pytest.mark.parametrize("spoil", [lambda rows: b"\xef\xbb\xbf" + rows, lambda rows: rows.replace(b"\n", b"\r\n")])
def test_a_byte_order_mark_or_windows_line_ends_change_nothing(world, spoil):
    rows = Path(TRAIN_ROWS).read_bytes()
    Path(TRAIN_ROWS).write_bytes(spoil(rows))
    assert main(PREPRO.replace("prepared", "again").split()) == 0
    arrow = "pairs/train/data-00000-of-00001.arrow"
    assert (world / "again" / arrow).read_bytes() == (world / "prepared" / arrow).read_bytes()


@pytest.mark.parametrize("command", [CHECK, PREPRO, PREPRO + " --tasks pairs,other"])
def test_faults_of_definitions_and_rows_come_in_one_report(world, capsys, command):
    Path("tasks.yml").write_text(TASKS.replace("pearson", "pearsn") + "other: {task_type: regression, dropout: 2}\n")
    append(TRAIN_ROWS, "99\tmaybe\ta\tb\n98\tyes_it_is\t\tb\n")()
    before = files_below(world)
    assert main(command.split()) == 2
    reported = capsys.readouterr().err.splitlines()
    places = [line.split(": ")[0] for line in reported if line.startswith(("tasks.yml", "data"))]
    of_scores = [] if "--tasks" in command else ["tasks.yml:10"]
    assert places == ["tasks.yml:12", *of_scores, f"{TRAIN_ROWS}:13", f"{TRAIN_ROWS}:14"]
    assert files_below(world) == before


def test_a_fault_in_the_rows_of_one_task_leaves_the_other_unwritten(world, capsys):
    append("data/scores/dev.tsv", "99\tmuch\ta\n")()
    assert main(PREPRO.replace("prepared", "again").split()) == 2
    assert "data/scores/dev.tsv:7: label: 'much' is not a number" in capsys.readouterr().err
    assert not (world / "again").exists()
