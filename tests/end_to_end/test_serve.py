"""A run behind a real server (uvicorn) on this machine: predictions, limits, errors as JSON."""

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import mtdnn
from mtdnn.cli.main import main
from mtdnn.publishing.serve import Limits, Request, answers_of, app_of, question_of

PAIRS = [["the doctor finds the book", "the doctor never finds the book"], ["the doctor finds the book", "rain"]]


@contextlib.contextmanager
def serving(run, limits):
    """A context with the address of a server of a run."""
    import uvicorn

    app = app_of(run, limits)
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(demo_run):
    """The address of a server of the demo's run, with limits of 4 rows and 2000 bytes."""
    with serving(mtdnn.open_run(demo_run), Limits(rows=4, bytes=2000)) as address:
        yield address


def ask(address, body=None):
    """(status, answer) of a request; a body is sent as it is, or as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_all_heads_answer_from_one_request_as_the_run_predicts(server, demo_run):
    status, answer = ask(f"{server}/predict", {"rows": PAIRS})
    expected = mtdnn.open_run(demo_run).predict(list(answer["predictions"]), PAIRS)
    assert status == 200 and {"demo_nli", "demo_similarity", "demo_target"} <= set(answer["predictions"])
    for name, records in expected.items():
        found = answer["predictions"][name]
        assert [each["id"] for each in found] == ["1", "2"]
        assert [each["prediction"] for each in found] == pytest.approx([each["prediction"] for each in records])


def test_one_pass_serves_all_heads(demo_run, monkeypatch):
    """The encoder runs once for a request whose tasks have the same encoding."""
    run, calls = mtdnn.open_run(demo_run), []
    hidden = run.model.hidden
    monkeypatch.setattr(run.model, "hidden", lambda *given, **named: calls.append(1) or hidden(*given, **named))
    (found,) = answers_of(run, [question_of(run, Request(rows=PAIRS, tasks=["demo_nli", "demo_target"]))])
    assert set(found) == {"demo_nli", "demo_target"} and len(calls) == 1


def test_rows_may_name_their_columns(server):
    rows = [{"premise": first, "hypothesis": second} for first, second in PAIRS]
    listed = ask(f"{server}/predict", {"rows": PAIRS, "tasks": ["demo_nli"]})
    assert ask(f"{server}/predict", {"rows": rows, "tasks": ["demo_nli"]}) == listed


def test_rows_may_have_our_names_or_those_of_the_tasks_files(demo_run):
    run = mtdnn.open_run(demo_run)
    task = run.tasks["demo_nli"]
    run.tasks["demo_nli"] = task.model_copy(update={"columns": {task.inputs[0]: "body"}})
    run.tasks = {"demo_nli": run.tasks["demo_nli"]}
    theirs = {"body": PAIRS[0][0], task.inputs[1]: PAIRS[0][1]}
    ours = dict(zip(task.inputs, PAIRS[0], strict=True))
    first, second = (answers_of(run, [question_of(run, Request(rows=[row]))])[0]["demo_nli"] for row in (theirs, ours))
    assert first == second


def test_a_row_of_one_text_may_be_that_text(server):
    listed = ask(f"{server}/predict", {"rows": [["a fine day"]], "tasks": ["demo_sentiment"]})
    assert ask(f"{server}/predict", {"rows": ["a fine day"], "tasks": ["demo_sentiment"]}) == listed
    assert listed[0] == 200


def test_a_row_of_another_kind_is_one_error_at_its_place(server):
    status, answer = ask(f"{server}/predict", {"rows": [["a", "b"], 3]})
    assert status == 400 and [each["place"] for each in answer["errors"]] == ["body.rows.1"]


def test_health_and_tasks(server, demo_run):
    status, answer = ask(f"{server}/health")
    assert (status, answer["status"], answer["step"]) == (200, "ok", mtdnn.open_run(demo_run).step)
    status, answer = ask(f"{server}/tasks")
    assert answer["demo_nli"]["inputs"] == ["premise", "hypothesis"] and len(answer) == 4


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        (b"no json", 400, "JSON decode error"),
        ({"rows": []}, 400, "at least 1 item"),
        ({"rows": PAIRS, "code": "os.system"}, 400, "Extra inputs are not permitted"),
        ({"rows": [[1, 2]]}, 400, "not a text, a list of texts, or an object of texts by their names"),
        ({"rows": PAIRS * 3}, 413, "6 rows, more than 4"),
        ({"rows": [["a" * 3000, "b"]]}, 413, "more than 2000 bytes"),
        ({"rows": PAIRS, "tasks": ["demo_nil"]}, 400, "unknown task 'demo_nil'"),
        ({"rows": [{"premise": "a", "hypothesis": "b"}], "tasks": ["demo_nil"]}, 400, "unknown task 'demo_nil'"),
        ({"rows": PAIRS, "tasks": ["demo_sentiment"]}, 400, "is not a sequence of texts of this task"),
        ({"rows": [["a", "b", "c"]]}, 400, "no task reads such rows"),
        ({"rows": [PAIRS[0], {"premise": "a"}]}, 400, "lists and objects"),
    ],
)
def test_what_cannot_be_answered_is_an_error_in_json(server, body, status, found):
    got, answer = ask(f"{server}/predict", body)
    assert got == status and found in " ".join(each["found"] for each in answer["errors"])
    assert set(answer["errors"][0]) == {"place", "file", "line", "key", "found", "fix"}


def test_an_error_of_http_is_answered_in_the_same_form(server):
    status, answer = ask(f"{server}/admin")
    assert status == 404 and answer["errors"][0]["found"] == "GET /admin: not found"
    status, answer = ask(f"{server}/predict")
    assert status == 405 and "POST /predict" in answer["errors"][0]["fix"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"rows": ' + b"[" * 900 + b"]" * 900 + b"}", "no"),  # valid JSON, nested 900 deep
        ('{"rows": ["\xe9"]}'.encode("latin-1"), "not UTF-8"),
        (b'{"rows": [NaN]}', "not a text"),
        (b'{"rows": ["\\ud800 fine"]}', "an unpaired surrogate"),
        (b'{"rows": ["fine"], "tasks": ["\\ud800"]}', "an unpaired surrogate"),
        (b'{"rows": [{"text": ["\\udfff"]}]}', "an unpaired surrogate"),
    ],
)
def test_a_hostile_body_is_refused_by_a_record(server, body, found):
    status, answer = ask(f"{server}/predict", body)
    assert status == 400 and found in answer["errors"][0]["found"] and answer["errors"][0]["fix"]


@pytest.mark.parametrize(
    ("error", "place", "found"),
    [
        (ZeroDivisionError("ours"), "", "the server failed: ZeroDivisionError"),
        (RuntimeError("CUDA out of memory."), "request", "memory ran out"),
    ],
)
def test_an_error_of_the_server_is_answered_in_the_same_form(demo_run, monkeypatch, error, place, found):
    """It was the plain text `Internal Server Error`."""
    run = mtdnn.open_run(demo_run)

    def fail(tasks, rows):
        raise error

    monkeypatch.setattr(run, "predict", fail)
    with serving(run, Limits()) as address:
        status, answer = ask(f"{address}/predict", {"rows": PAIRS})
    (reported,) = answer["errors"]
    assert (status, reported["place"], reported["found"]) == (500, place, found) and reported["fix"]


def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_error_of_the_server(demo_run):
    app, sent = app_of(mtdnn.open_run(demo_run), Limits()), []
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400 and b"ended before all of it had arrived" in sent[1]["body"]


def test_the_answer_to_many_errors_is_short(server):
    """Five hundred rows that are numbers; each error would take some 170 bytes of the answer."""
    status, answer = ask(f"{server}/predict", {"rows": [1] * 500})
    assert status == 400 and len(answer["errors"]) == 21 and "480 more errors" in answer["errors"][-1]["found"]


BODIES = [
    *({"rows": [pair], "tasks": ["demo_nli"]} for pair in PAIRS * 2),
    {"rows": [PAIRS[1], ["the doctor", "the doctor"]], "tasks": ["demo_nli"]},
    {"rows": [["a", "b", "c"]], "tasks": ["demo_nli"]},
    {"rows": [{"premise": "the doctor", "hypothesis": "rain"}], "tasks": ["demo_nli"]},
    {"rows": [{"id": "mine", "premise": "the doctor", "hypothesis": "rain"}], "tasks": ["demo_nli"]},
    {"rows": [["rain"]], "tasks": ["demo_sentiment"]},
]
"""Seven requests of four forms, one of them with a bad row."""


def test_requests_at_the_same_time_share_passes_and_are_answered_as_alone(demo_run):
    """Other rows in a batch change the order of sums in float32: 1e-5. The first request waits until all are here."""
    run, sizes = mtdnn.open_run(demo_run), []
    predict = run.predict
    run.predict = lambda tasks, rows: sizes.append(len(rows)) or predict(tasks, rows)
    with serving(run, Limits(wait_ms=0)) as address:
        alone = [ask(f"{address}/predict", body) for body in BODIES]
    assert sizes == [len(body["rows"]) for body in BODIES]
    sizes.clear()
    with serving(run, Limits(wait_ms=1000)) as address, ThreadPoolExecutor(len(BODIES)) as pool:
        together = list(pool.map(lambda body: ask(f"{address}/predict", body), BODIES))
    assert max(sizes) == 6 and len(sizes) == 5  # those of the same form; each of the others
    assert [status for status, _ in together] == [200] * 5 + [400] + [200] * 3
    for (status, answer), (_, expected) in zip(together, alone, strict=True):
        if status != 200:
            assert answer == expected and '"place": "rows:1"' in json.dumps(answer)
            continue
        for task, records in expected["predictions"].items():
            for one, other in zip(records, answer["predictions"][task], strict=True):
                assert one["id"] == other["id"] and one["prediction"] == other["prediction"]
                assert other["scores"] == pytest.approx(one["scores"], abs=1e-5)


def test_limits_below_1_and_negative_times_are_refused(demo_run, capsys):
    words = ["--max_rows", "0", "--max_batch_tokens", "0", "--max_wait_ms", "-1"]
    assert main(["serve", str(demo_run), *words]) == 2
    errors = capsys.readouterr().err
    assert "--max_rows: 0. Give at least 1." in errors and "--max_batch_tokens: 0. Give at least 1." in errors
    assert "--max_wait_ms: -1.0. Give 0 to 60,000." in errors
