"""A run behind HTTP: rows in, predictions of all heads out, as JSON. Nothing in a request is run.

`GET /health` and `GET /tasks`; `POST /predict` with `{"rows": […], "tasks": […]}`. Errors are `{"errors": [{place, key,
found, fix}]}` with a status of 4xx.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mtdnn.errors import ConfigError, MtdnnError, fault
from mtdnn.runs.opened import Run

if TYPE_CHECKING:
    from fastapi import FastAPI

TOO_LARGE, BAD_REQUEST = 413, 400


class Request(BaseModel):
    """The body of `POST /predict`."""

    model_config = ConfigDict(extra="forbid")

    rows: list[dict[str, str | list[str]] | list[str]] = Field(
        min_length=1, description="Texts of each row: in the order of the task's inputs, or by their names."
    )
    tasks: list[str] | None = Field(None, min_length=1, description="Default: every task that reads such rows.")


@dataclass(frozen=True)
class Limits:
    """Sizes above which a request is refused.

    Attributes:
        rows: of one request.
        bytes: of its body.
    """

    rows: int = 256
    bytes: int = 1_000_000

    def __post_init__(self) -> None:
        for key, value in (("max_rows", self.rows), ("max_bytes", self.bytes)):
            if value < 1:
                raise ConfigError(fault("", key, f"{value}", "Give at least 1."))


def require_fastapi() -> None:
    """ConfigError if the packages of the server are not installed."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        fix = "Install it: pip install 'mtdnn[serve]'."
        raise ConfigError(fault("", "mtdnn serve", f"needs the package {', '.join(missing)}", fix))


def app_of(run: Run, limits: Limits) -> FastAPI:
    """The application that serves a run.

    Args:
        run: opened; one request at a time uses it.
        limits: sizes above which a request is refused.
    """
    require_fastapi()
    from fastapi import FastAPI, Response
    from fastapi import Request as HttpRequest
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    app, lock = FastAPI(title=run.folder.path.name, docs_url=None, redoc_url=None), threading.Lock()

    def refusal(status: int, errors: Sequence[dict[str, Any]]) -> JSONResponse:
        return JSONResponse({"errors": list(errors)}, status)

    @app.middleware("http")
    async def refuse_large(request: HttpRequest, proceed: Callable[[HttpRequest], Awaitable[Response]]) -> Response:
        parts: list[bytes] = []
        async for part in request.stream():  # a body may come without a length
            parts.append(part)
            if sum(map(len, parts)) > limits.bytes:
                return refusal(TOO_LARGE, [_error("body", f"more than {limits.bytes} bytes", "Send fewer rows.")])
        request._body = b"".join(parts)  # which Starlette gives to the application
        return await proceed(request)

    @app.exception_handler(RequestValidationError)
    async def not_a_request(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        places = [(".".join(map(str, each["loc"])), str(each["msg"])) for each in error.errors()]
        return refusal(BAD_REQUEST, [_error(place, found, "See GET /tasks.") for place, found in places])

    @app.exception_handler(MtdnnError)
    async def not_possible(_: HttpRequest, error: MtdnnError) -> JSONResponse:
        return refusal(BAD_REQUEST, [each.as_dict() for each in error.faults])

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "step": run.step, "checkpoint": run.checkpoint, "tasks": list(run.tasks)}

    @app.get("/tasks")
    def tasks() -> dict[str, Any]:
        keys = ("task_type", "inputs", "labels", "max_length")
        return {name: {key: getattr(task, key) for key in keys} for name, task in run.tasks.items()}

    @app.post("/predict", response_model=None)
    def predict(request: Request) -> dict[str, Any] | JSONResponse:
        if len(request.rows) > limits.rows:
            found = f"{len(request.rows)} rows, more than {limits.rows}"
            return refusal(TOO_LARGE, [_error("rows", found, "Send them in several requests.")])
        with lock:
            return {"predictions": predictions_of(run, request)}

    return app


def _error(place: str, found: str, fix: str) -> dict[str, Any]:
    return fault(place, "", found, fix).as_dict()


def predictions_of(run: Run, request: Request) -> dict[str, list[dict[str, Any]]]:
    """Task → prediction records of the rows, in their order; tasks with the same encoding share a pass.

    Args:
        run: opened.
        request: rows, and the tasks, or None for all that read such rows.
    Raises:
        ConfigError, DataError: as `Run.predict`; no task reads such rows; or rows are of both kinds.
    """
    named = [row for row in request.rows if isinstance(row, dict)]
    if named and len(named) < len(request.rows):
        raise ConfigError(fault("rows", "", "lists and objects", "Give one kind."))
    tasks = request.tasks or _tasks_for(run, request.rows[0])
    rows = [{"id": str(number), **row} for number, row in enumerate(named)] if named else request.rows
    return run.predict(tasks, rows)  # type: ignore[arg-type]


def _tasks_for(run: Run, row: dict[str, str | list[str]] | list[str]) -> list[str]:
    """The tasks that read rows with these columns, or with so many texts."""
    if isinstance(row, dict):
        names = [name for name, task in run.tasks.items() if set(task.inputs) <= set(row)]
    else:
        names = [name for name, task in run.tasks.items() if len(task.inputs) == len(row)]
    if not names:
        known = "; ".join(f"{name}: {', '.join(task.inputs)}" for name, task in run.tasks.items())
        raise ConfigError(fault("rows", "", "no task reads such rows", f"Inputs of the tasks: {known}."))
    first = run.model.task_types[names[0]]
    return [name for name in names if name == names[0] or first.predicts_with(run.model.task_types[name])]


def serve(run: Run, *, host: str, port: int, limits: Limits) -> None:
    """Serve a run until the process is stopped.

    Args:
        run: opened.
        host, port: the address; 127.0.0.1 is seen by this machine alone.
        limits: sizes above which a request is refused.
    Raises:
        ConfigError: the packages are missing.
    """
    app = app_of(run, limits)
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning")
