"""JSON Schemas and the documentation's tables tell the keys there really are."""

import importlib.util
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from mtdnn.cli.schema import fields_of, key_table, option_keys, run_schema, task_schema
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.data.samplers import SAMPLERS
from mtdnn.networks.heads import HEADS
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.task_types.base import TASK_TYPES

DOCS = Path(__file__).parents[3] / "docs"


def tables():
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_the_tables_of_the_documentation_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert tables().refreshed(text) == text, "run `python docs/tables.py`"


def test_the_pages_hold_every_table():
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert all(f"<!-- table: {name} -->" in text for name in tables().TABLES)


def test_every_field_has_a_description():
    for model in (TaskDef, RunConfig, *(TASK_TYPES.get(name).Options for name in TASK_TYPES)):
        assert [key for key, field in fields_of(model) if not field.description] == []


def test_a_table_reports_key_values_default_and_meaning():
    class Inner(BaseModel):
        rate: float = Field(0.5, description="Of change.")

    class Outer(BaseModel):
        mode: Literal["a", "b"] = Field(description="a | b.")
        inner: Inner = Field(Inner(), description="More.")
        limit: int | None = Field(None, description="Default: off.")
        parts: dict[str, Inner] = Field({}, description="By name.")

    assert key_table(Outer).split("\n")[2:] == [
        r"| `mode` | `a`, `b` | required | a \| b. |",
        "| `inner` | mapping | | More. |",
        "| `inner.rate` | number | `0.5` | Of change. |",
        "| `limit` | whole number | | Default: off. |",
        "| `parts` | mapping of words to mapping | | By name. |",
        "| `parts.<task>.rate` | number | `0.5` | Of change. |",
    ]


def test_the_schema_of_runs_knows_every_key():
    assert set(run_schema()["properties"]) == set(RunConfig.model_fields)


def test_the_schema_of_tasks_knows_the_keys_of_all_tasks_and_of_every_type():
    (block,) = task_schema()["patternProperties"].values()
    options = {key for name in TASK_TYPES for key in TASK_TYPES.get(name).Options.model_fields}
    assert set(block["properties"]) == (set(TaskDef.model_fields) - {"name", "options"}) | options
    assert block["required"] == ["task_type"]
    assert block["properties"]["task_type"]["anyOf"][0] == {"enum": TASK_TYPES.names()}


def test_the_schema_takes_a_bare_word_where_yaml_does():
    (block,) = task_schema()["patternProperties"].values()
    assert {"type": "string"} in block["properties"]["labels"]["anyOf"]
    assert {"enum": HEADS.names()} in block["properties"]["head"]["anyOf"]
    words = run_schema()["properties"]
    assert words["mixing"]["anyOf"][0] == {"enum": SAMPLERS.names()}
    assert words["regularizer"]["anyOf"][:2] == [
        {"enum": [*REGULARIZERS.names(), "none"]},
        {"type": "string", "pattern": r"\."},
    ]


def test_the_schema_lists_the_options_of_each_plug_in_and_no_others():
    def keys_of(schema, key):
        blocks = [each for each in schema["properties"][key]["anyOf"] if "properties" in each]
        closed = [each for each in blocks if each.get("additionalProperties") is False]
        assert len(blocks) == len(closed) + 1  # one more for a dotted path
        return {each["properties"]["name"]["const"]: set(each["properties"]) for each in closed}

    common = {"name", "lr", "head_lr", "weight_decay", "layer_decay"}
    adam = common | {"betas", "eps"}
    assert keys_of(run_schema(), "optimizer") == {
        "adamax": adam, "adamw": adam, "radam": adam, "sgd": common | {"momentum"},
    }  # fmt: skip
    assert keys_of(run_schema(), "schedule")["slanted_triangular"] == {"name", "cut_fraction", "ratio"}
    assert keys_of(run_schema(), "mixing")["uniform"] == {"name"}
    (block,) = task_schema()["patternProperties"].values()
    assert keys_of(block, "head")["san"] == {"name", "initializer_std", "turns", "prediction_dropout"}
    assert keys_of(block, "regularizer")["r_drop"] == {"name", "weight", "every"}


def test_a_block_without_a_name_has_the_options_of_the_default():
    for key, name in {"mixing": "round_robin", "balance": "fixed", "optimizer": "adamw", "schedule": "linear"}.items():
        blocks = [each for each in run_schema()["properties"][key]["anyOf"] if "properties" in each]
        (free,) = [each["properties"]["name"]["const"] for each in blocks if "required" not in each]
        assert free == name


def test_the_help_says_whose_an_option_is():
    reported = {key: text for key, text, _ in option_keys(["optimizer", "schedule"])}
    assert reported["optimizer.betas"] == "adamax, adamw, radam: Decay of the two moments. [[0.9, 0.999]]"
    assert reported["optimizer.momentum"].startswith("sgd: ")
    assert set(reported) == {
        *("optimizer.betas", "optimizer.eps", "optimizer.momentum"),
        *("schedule.warmup", "schedule.power", "schedule.cut_fraction", "schedule.ratio"),
    }
