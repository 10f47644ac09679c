"""A run behind a real server (uvicorn) on this machine: predictions, limits, errors as JSON."""

import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import mtdnn
from mtdnn.cli.main import main
from mtdnn.publishing.serve import Limits, app_of

PAIRS = [["the doctor finds the book", "the doctor never finds the book"], ["the doctor finds the book", "rain"]]


@pytest.fixture(scope="module")
def server(demo_run):
    """The address of a server of the demo's run, with limits of 4 rows and 2000 bytes."""
    import uvicorn

    app = app_of(mtdnn.open_run(demo_run), Limits(rows=4, bytes=2000))
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()


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
        assert [each["id"] for each in found] == ["0", "1"]
        assert [each["prediction"] for each in found] == pytest.approx([each["prediction"] for each in records])


def test_one_pass_serves_all_heads(demo_run, monkeypatch):
    """The encoder runs once for a request whose tasks have the same encoding."""
    from mtdnn.publishing.serve import Request, predictions_of

    run, calls = mtdnn.open_run(demo_run), []
    hidden = run.model.hidden
    monkeypatch.setattr(run.model, "hidden", lambda *given, **named: calls.append(1) or hidden(*given, **named))
    found = predictions_of(run, Request(rows=PAIRS, tasks=["demo_nli", "demo_target"]))
    assert set(found) == {"demo_nli", "demo_target"} and len(calls) == 1


def test_rows_may_name_their_columns(server):
    rows = [{"premise": first, "hypothesis": second} for first, second in PAIRS]
    listed = ask(f"{server}/predict", {"rows": PAIRS, "tasks": ["demo_nli"]})
    assert ask(f"{server}/predict", {"rows": rows, "tasks": ["demo_nli"]}) == listed


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
        ({"rows": [[1, 2]]}, 400, "valid string"),
        ({"rows": PAIRS * 3}, 413, "6 rows, more than 4"),
        ({"rows": [["a" * 3000, "b"]]}, 413, "more than 2000 bytes"),
        ({"rows": PAIRS, "tasks": ["demo_nil"]}, 400, "unknown task 'demo_nil'"),
        ({"rows": PAIRS, "tasks": ["demo_sentiment"]}, 400, "is not a sequence of texts of this task"),
        ({"rows": [["a", "b", "c"]]}, 400, "no task reads such rows"),
        ({"rows": [PAIRS[0], {"premise": "a"}]}, 400, "lists and objects"),
    ],
)
def test_what_cannot_be_answered_is_an_error_in_json(server, body, status, found):
    got, answer = ask(f"{server}/predict", body)
    assert got == status and found in " ".join(each["found"] for each in answer["errors"])
    assert set(answer["errors"][0]) == {"place", "file", "line", "key", "found", "fix"}


def test_an_unknown_place_is_json_as_well(server):
    assert ask(f"{server}/admin")[0] == 404


def test_requests_at_the_same_time_are_answered_each(server):
    bodies = [{"rows": [pair], "tasks": ["demo_nli"]} for pair in PAIRS * 4]
    alone = [ask(f"{server}/predict", body) for body in bodies]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda body: ask(f"{server}/predict", body), bodies)) == alone


def test_limits_below_1_are_refused(demo_run, capsys):
    assert main(["serve", str(demo_run), "--max_rows", "0"]) == 2
    assert "--max_rows: 0. Give at least 1." in capsys.readouterr().err
