"""A run behind HTTP: rows in, predictions of all heads out, as JSON. Nothing in a request is run.

`GET /health` and `GET /tasks`; `POST /predict` with `{"rows": […], "tasks": […]}`. Errors are `{"errors": [{place, key,
found, fix}]}` with a status of 4xx. Requests that wait at the same time are computed together; see `batching.py`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from mtdnn.config.task import TaskDef
from mtdnn.config.tasks import chosen_tasks
from mtdnn.errors import ConfigError, Fault, MtdnnError, fault, first_of, system_fault
from mtdnn.metrics.base import Record
from mtdnn.publishing.batching import Batcher, Question
from mtdnn.runs.opened import Run
from mtdnn.tokens.ragged import Ragged

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

TOO_LARGE, BAD_REQUEST, FAILED = 413, 400, 500

LONGEST_WAIT_MS = 60_000

MAX_ERRORS = 20
"""Errors of a request that its answer lists; a request of 1 MB can have 400,000."""

WAYS = "Send POST /predict, GET /tasks or GET /health."
BODY = 'Send {"rows": […]} as JSON in UTF-8, with the header Content-Type: application/json.'

Answer = dict[str, list[Record]]
"""Task → prediction records of the rows, in their order."""


def _row(value: Any, checked: ValidatorFunctionWrapHandler) -> Any:
    """A row; a plain text is a row of that one text. One error for a row of another kind, at the row's place."""
    try:
        return checked([value] if isinstance(value, str) else value)
    except ValidationError as error:
        if broken := [each for each in error.errors() if each["type"] == "surrogate"]:
            raise PydanticCustomError("surrogate", broken[0]["msg"]) from error  # type: ignore[arg-type]
        found = "not a text, a list of texts, or an object of texts by their names"
        raise PydanticCustomError("row", found) from error


def _encodable(text: str) -> str:
    """The text, unless UTF-8 cannot encode it: an escape in JSON may be half of a pair of surrogates."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("surrogate", "an unpaired surrogate (\\ud8… alone)")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Row = Annotated[dict[Text, Text | list[Text]] | list[Text], WrapValidator(_row)]


class Request(BaseModel):
    """The body of `POST /predict`."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Row] = Field(
        min_length=1,
        description="Texts of each row: in order, or by the names of inputs; or a single text.",
    )
    tasks: list[Text] | None = Field(None, min_length=1, description="Default: every task that reads such rows.")


@dataclass(frozen=True)
class Limits:
    """Sizes above which a request is refused, and those of the batches that requests are computed in.

    Attributes:
        rows: of one request.
        bytes: of its body.
        batch_tokens: of the texts of requests that are computed together.
        wait_ms: milliseconds that a request waits for others when none is being computed; 0: not at all.
    """

    rows: int = 256
    bytes: int = 1_000_000
    batch_tokens: int = 4096
    wait_ms: float = 2.0

    def __post_init__(self) -> None:
        sizes = {"max_rows": self.rows, "max_bytes": self.bytes, "max_batch_tokens": self.batch_tokens}
        faults = [fault("", key, f"{value}", "Give at least 1.") for key, value in sizes.items() if value < 1]
        if not 0 <= self.wait_ms <= LONGEST_WAIT_MS:
            faults.append(fault("", "max_wait_ms", f"{self.wait_ms}", f"Give 0 to {LONGEST_WAIT_MS:,}."))
        if faults:
            raise ConfigError(faults)


def require_fastapi() -> None:
    """ConfigError if the packages of the server are not installed."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        fix = "Install it: pip install 'mtdnn[serve]'."
        raise ConfigError(fault("", "mtdnn serve", f"needs the package {', '.join(missing)}", fix))


def app_of(run: Run, limits: Limits) -> FastAPI:
    """The application that serves a run.

    Args:
        run: opened; one batch of requests at a time uses it.
        limits: of requests and of batches.
    """
    require_fastapi()
    from fastapi import FastAPI

    app, batcher = FastAPI(title=run.folder.path.name, docs_url=None, redoc_url=None), batcher_of(run, limits)
    _refuse_large(app, limits.bytes)
    _report_errors(app)

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
            return _refusal(TOO_LARGE, [fault("rows", "", found, "Send them in several requests.")])
        return {"predictions": batcher.answer(question_of(run, request))}

    return app


def _refuse_large(app: FastAPI, most: int) -> None:
    """Refuse bodies of more than `most` bytes as soon as so many have arrived; a body may come without a length."""
    from fastapi import Request as HttpRequest
    from fastapi import Response
    from starlette.requests import ClientDisconnect

    @app.middleware("http")
    async def refuse_large(request: HttpRequest, proceed: Callable[[HttpRequest], Awaitable[Response]]) -> Response:
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > most:
                    return _refusal(TOO_LARGE, [fault("body", "", f"more than {most} bytes", "Send fewer rows.")])
        except ClientDisconnect:  # nobody reads this answer; as an error it would fill the log
            return _refusal(BAD_REQUEST, [fault("body", "", "ended before all of it had arrived", BODY)])
        request._body = bytes(body)  # which Starlette gives to the application
        return await proceed(request)


def _report_errors(app: FastAPI) -> None:
    """Answer every error of a request by records: its own, those of its rows, those of HTTP, and ours."""
    from fastapi import Request as HttpRequest
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    @app.exception_handler(RequestValidationError)
    async def not_a_request(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        details = error.errors()
        faults = [_body_fault(tuple(each["loc"]), each["type"], each["msg"]) for each in details[:MAX_ERRORS]]
        return _refusal(BAD_REQUEST, first_of(faults, len(details), "body", MAX_ERRORS))

    @app.exception_handler(MtdnnError)
    async def not_possible(_: HttpRequest, error: MtdnnError) -> JSONResponse:
        return _refusal(BAD_REQUEST, first_of(error.faults, len(error.faults), "body", MAX_ERRORS))

    @app.exception_handler(HTTPException)
    async def not_served(request: HttpRequest, error: HTTPException) -> JSONResponse:
        if error.status_code == BAD_REQUEST:  # FastAPI could not read the body, whose errors are of many kinds
            found = "cannot be read: not UTF-8, nested too deeply, or with a number of too many digits"
            return _refusal(BAD_REQUEST, [fault("body", "", found, BODY)])
        found = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
        answer = _refusal(error.status_code, [fault("", "request", found, WAYS)])
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def failed(_: HttpRequest, error: Exception) -> JSONResponse:  # Starlette raises it again, for the log
        found = f"the server failed: {type(error).__name__}"
        own = fault("", "request", found, "Its log has the cause.")
        return _refusal(FAILED, [system_fault(error, "request") or own])


def _body_fault(keys: tuple[int | str, ...], kind: str, message: str) -> Fault:
    """The record of an error in the body of a request.

    Args:
        keys: from "body" on.
        kind: pydantic's type of the error.
        message: what was found.
    """
    if keys == ("body",):
        return fault("body", "", "not a JSON object", BODY)
    fix = {"json_invalid": BODY, "surrogate": "Escape both halves of the pair."}.get(kind, "See GET /tasks.")
    return fault(".".join(map(str, keys)), "", message, fix)


def _refusal(status: int, faults: Sequence[Fault]) -> JSONResponse:
    """The answer to a request that is refused."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"errors": [each.as_dict() for each in faults]}, status)


def batcher_of(run: Run, limits: Limits) -> Batcher[Answer]:
    """What answers the requests to a run.

    Args:
        run: opened.
        limits: sizes of batches, and how long a request waits for others.
    """
    return Batcher(
        lambda questions: answers_of(run, questions),
        lambda question: _num_tokens(run, question),
        wait_seconds=limits.wait_ms / 1000,
        max_tokens=limits.batch_tokens,
    )


def question_of(run: Run, request: Request) -> Question[Answer]:
    """What a request asks of a run.

    Args:
        run: opened.
        request: rows, and the tasks, or None for all that read such rows.
    Raises:
        ConfigError: a task is unknown, no task reads such rows, or rows are of both kinds.
    """
    named = sum(isinstance(row, dict) for row in request.rows)
    if named and named < len(request.rows):
        raise ConfigError(fault("rows", "", "lists and objects", "Give one kind."))
    asked = list(chosen_tasks(run.tasks, request.tasks, key="tasks")) if request.tasks else None
    tasks = tuple(asked or _tasks_for(run, request.rows[0]))
    return Question(tasks, request.rows, _form_of(tasks, request.rows))


def _form_of(tasks: tuple[str, ...], rows: Sequence[Any]) -> Hashable | None:
    """The tasks with the number or the names of a row's texts; None for rows that differ, or bring ids of their own."""
    shapes = {frozenset(row) if isinstance(row, dict) else len(row) for row in rows}
    own_ids = any(isinstance(row, dict) and "id" in row for row in rows)
    return None if len(shapes) > 1 or own_ids else (tasks, *shapes)


def _num_tokens(run: Run, question: Question[Answer]) -> int:
    """Tokens of all texts of a question, each cut at the largest length of its tasks."""
    values = [value for row in question.rows for value in (row.values() if isinstance(row, dict) else row)]
    texts = [(value if isinstance(value, str) else " ".join(value),) for value in values]
    longest = max((run.tasks[name].max_length for name in question.tasks if name in run.tasks), default=1)
    ids = cast(Ragged, run.tokenizer.cutting_at(longest)(texts)["input_ids"])
    return len(ids.values)


def answers_of(run: Run, questions: Sequence[Question[Answer]]) -> list[Answer]:
    """The answer to each of several questions of one form; tasks with the same encoding share a pass.

    Args:
        run: opened.
        questions: one, or several of the same form.
    Raises:
        ConfigError, DataError: as `Run.predict`.
    """
    rows: list[Any] = [row for each in questions for row in each.rows]
    if isinstance(rows[0], dict):
        task = run.tasks[questions[0].tasks[0]]
        rows = [{"id": str(number), **_as_in_files(task, row)} for number, row in enumerate(rows, 1)]
    found = run.predict(list(questions[0].tasks), rows)
    if len(questions) == 1:
        return [found]
    counts = [len(each.rows) for each in questions]
    return [_part(found, sum(counts[:number]), count) for number, count in enumerate(counts)]


def _part(found: Mapping[str, list[Record]], start: int, count: int) -> Answer:
    """The records of the rows from `start` on, with ids from 1 on."""
    return {
        task: [{**record, "id": str(number)} for number, record in enumerate(records[start : start + count], 1)]
        for task, records in found.items()
    }


def _tasks_for(run: Run, row: dict[str, str | list[str]] | list[str]) -> list[str]:
    """The tasks that read rows with these columns, or with so many texts."""
    if isinstance(row, dict):
        names = [name for name, task in run.tasks.items() if _files_names(task) <= set(_as_in_files(task, row))]
    else:
        names = [name for name, task in run.tasks.items() if len(task.inputs) == len(row)]
    if not names:
        known = "; ".join(f"{name}: {', '.join(task.inputs)}" for name, task in run.tasks.items())
        raise ConfigError(fault("rows", "", "no task reads such rows", f"Inputs of the tasks: {known}."))
    first = run.model.task_types[names[0]]
    return [name for name in names if name == names[0] or first.predicts_with(run.model.task_types[name])]


def _files_names(task: TaskDef) -> set[str]:
    """The names of a task's inputs in the files of its rows."""
    return {task.columns.get(name, name) for name in task.inputs}


def _as_in_files(task: TaskDef, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row under the names that its columns have in the task's files; it may have those already."""
    theirs = {ours: name for ours, name in task.columns.items() if ours in task.inputs and name not in row}
    return {theirs.get(name, name): value for name, value in row.items()}


def require_free(host: str, port: int) -> None:
    """Raise ConfigError if no server can listen at an address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        found = f"cannot listen at {host}:{port}: {getattr(error, 'strerror', None) or error}"
        of_port = isinstance(error, OverflowError) or error.errno in (errno.EADDRINUSE, errno.EACCES)
        flag = "--port" if of_port else "--host"
        raise ConfigError(fault(flag, "", found, f"Give another {flag}.")) from error


def serve(run: Run, *, host: str, port: int, limits: Limits) -> None:
    """Serve a run until the process is stopped.

    Args:
        run: opened.
        host, port: the address; 127.0.0.1 is seen by this machine alone.
        limits: of requests and of batches.
    Raises:
        ConfigError: the packages are missing.
    """
    app = app_of(run, limits)
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning")
