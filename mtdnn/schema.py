"""JSON Schemas of task definitions and of runs, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from mtdnn.run_config import RunConfig
from mtdnn.task_def import TaskDef
from mtdnn.task_types.base import TASK_TYPES

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_schema() -> dict[str, Any]:
    """JSON Schema of a run's YAML."""
    return {"$schema": DIALECT, **RunConfig.model_json_schema(by_alias=True)}


def task_schema() -> dict[str, Any]:
    """JSON Schema of a file of task definitions: names → blocks, with the options of every task type beside the keys
    that all tasks have."""
    block = TaskDef.model_json_schema(by_alias=True)
    definitions = block.pop("$defs", {})
    for key in ("name", "options"):
        block["properties"].pop(key)
    block["required"] = [key for key in block["required"] if key != "name"]
    block["properties"]["task_type"]["anyOf"] = [{"enum": TASK_TYPES.names()}, {"pattern": r"\."}]
    for name in TASK_TYPES.names():
        options = TASK_TYPES.get(name).Options.model_json_schema(by_alias=True)
        definitions.update(options.pop("$defs", {}))
        block["properties"].update(options.get("properties", {}))
    return {
        "$schema": DIALECT,
        "title": "Task definitions",
        "type": "object",
        "patternProperties": {"^[A-Za-z0-9_-]+$": block},
        "additionalProperties": False,
        "$defs": definitions,
    }
