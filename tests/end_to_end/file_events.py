"""Stops commands at file events, and says what came of each trial of a plan.

A file event is what a process does to files of its world: opening for writing, making, renaming or removing. An audit
hook counts them before they happen. At a trial's event the process is killed (`kill`) or gets the signal of Ctrl-C
(`interrupt`), or every event from it on fails as on a full disk (`full`) or in a folder that may only be read
(`read_only`). Other trials limit what the system gives:
the size of a file (`largest`, bytes) or the number of open files (`files`, more than at the start); or another process
carries out a second command while the first waits at the event (`meanwhile`). Then the command that carries on follows,
without any of this, and the world is compared with that of a command nothing stopped.

A plan: `world`, a folder that each trial gets a copy of; `command`, `again` and `meanwhile`; `kinds`, a list of [kind,
points], where points are numbers, or how many to spread over all events. Commands are carried out in forks of this
process, which has imported everything; each uses one thread, as threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from mtdnn.files import LEFTOVER

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
NEEDS_ROOM = {"open", "os.mkdir", "os.link", "os.symlink"}
SECONDS = 120
WAIT_SECONDS = 5
TRACEBACK = 70

TIMES = re.compile(r"(^|/)(tensorboard|timing\.jsonl|attempts\.jsonl|output\.txt|\.lock|lock|\.results\.lock)(/|$)")
"""What holds times or is of no content: two commands that nothing stops differ in it too."""


def is_change(event: str, args: tuple[Any, ...]) -> bool:
    """Whether an audit event changes files; of those that open one, the modes and flags say it."""
    if event != "open":
        return event in EVENTS
    _, mode, flags = args
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def watch(world: Path, act: Callable[[int, str, str], None], happened: list[str]) -> None:
    """Call a function with number, name and path of each file event in the world, before it happens, and list them."""
    root = f"{world}/"

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in EVENTS and isinstance(args[0], (str, bytes, os.PathLike)) and is_change(event, args):
            path = os.path.abspath(os.fsdecode(args[0]))
            if path.startswith(root):
                happened.append(f"{event} {path.removeprefix(root)}")
                act(len(happened), event, path)

    sys.addaudithook(hook)


def stop(kind: str, point: int, other: Other) -> Callable[[int, str, str], None]:
    """What is to happen at each file event of a trial; limits of the system are set at once."""
    process = os.getpid()

    def act(number: int, event: str, path: str) -> None:
        if number < point or os.getpid() != process:
            return
        if kind == "meanwhile" and number == point:
            other.begin()
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "interrupt" and number == point:
            signal.raise_signal(signal.SIGINT)
        if kind == "full" and event in NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if kind == "read_only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    limits = {"largest": resource.RLIMIT_FSIZE, "files": resource.RLIMIT_NOFILE}
    if kind in limits:
        free = os.dup(0)  # the lowest number that is not in use
        os.close(free)
        most = point + (free if kind == "files" else 0)
        resource.setrlimit(limits[kind], (most, resource.getrlimit(limits[kind])[1]))
    return act


def in_fork(
    command: str, write: int, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> int:
    """Carry out a command in a fork of this process, printing to a descriptor; the number of the fork.

    Args:
        before, after: called in the fork first and last.
    """
    child = os.fork()
    if child:
        return child
    status = TRACEBACK
    try:
        torch.set_num_threads(1)
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout = sys.stderr = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
        signal.alarm(SECONDS)
        before()
        status = run(command)
        sys.stdout.flush()
        after()
    finally:
        os._exit(status)


def carry_out(world: Path, command: str, kind: str = "", point: int = 0, other: str = "") -> tuple[int, str, list[str]]:
    """Exit status of a command, what it printed, and its file events if nothing stopped it.

    A status below 0 is the signal that ended it; one that hangs is ended by SIGALRM.
    """
    read, write = os.pipe()
    log, second = world.with_suffix(".events"), Other(other, world.with_suffix(".other"))
    events: list[str] = []

    def before() -> None:
        os.chdir(world)
        watch(world, stop(kind, point, second), events)

    def after() -> None:
        second.end()
        if not kind:
            log.write_text(json.dumps(events))

    child = in_fork(command, write, before, after)
    os.close(write)
    with os.fdopen(read, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, said, [] if kind else json.loads(log.read_text())


@dataclass
class Other:
    """A command that another process carries out, once."""

    command: str
    log: Path
    process: int = 0

    def begin(self) -> None:
        """Start it, and wait until it is done, or for a while: it may itself wait for a lock."""
        with self.log.open("wb") as file:
            self.process = in_fork(self.command, file.fileno())
        for _ in range(WAIT_SECONDS * 100):
            if os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.01)

    def end(self) -> None:
        """Wait for its end, if it was started, and write its status and what it printed to the log."""
        if self.process:
            status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            self.log.write_text(json.dumps([status, self.log.read_text(errors="replace")]))


def run(command: str) -> int:
    from mtdnn.cli.main import main

    try:
        return main(command.split())
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return TRACEBACK


def contents(world: Path) -> dict[str, str]:
    """Path → what of a file has to be the same; optimizer states are compared as values, outcomes without seconds."""
    found = {}
    for path in sorted(world.rglob("*")):
        name = str(path.relative_to(world))
        if path.is_file() and not TIMES.search(name):
            found[name] = content_of(path)
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found


def content_of(path: Path) -> str:
    """What of a file has to be the same; all of its bytes where a kill has left it half-written."""
    try:
        return comparable(path)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError):
        return path.read_bytes().decode("latin-1")


def comparable(path: Path) -> str:
    if path.name == "training.pt":
        return repr(plain(torch.load(path, weights_only=True)))
    if path.name in ("checksums.json", "outcome.json"):
        values = json.loads(path.read_text())
        return json.dumps({key: value for key, value in values.items() if key not in ("training.pt", "seconds")})
    return path.read_bytes().decode("latin-1")


def plain(value: Any) -> Any:
    """Nested values with lists in place of tensors."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def points_of(wanted: int | list[int], num_events: int) -> list[int]:
    """The points of the trials of a kind: as given, or so many of all events, evenly from the first to the last."""
    if isinstance(wanted, list):
        return wanted
    count = min(wanted, num_events)
    return sorted({1 + round(number * (num_events - 1) / max(1, count - 1)) for number in range(count)})


def carry_out_plan(plan: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
    """The trials of a plan, in folders made in `scratch`."""
    pristine = Path(plan["world"])
    whole = shutil.copytree(pristine, scratch / "whole")
    status, said, events = carry_out(whole, plan["command"])
    assert status == 0, said
    before, after = contents(pristine), contents(whole)
    trials = []
    for kind, wanted in plan["kinds"]:
        for point in points_of(wanted, len(events)):
            world = shutil.copytree(pristine, scratch / "trial")
            trial = {"kind": kind, "point": point, "event": events[point - 1] if 0 < point <= len(events) else ""}
            trial["status"], trial["said"], _ = carry_out(world, plan["command"], kind, point, plan["meanwhile"])
            kept = contents(world)
            left = [name for name in kept if LEFTOVER.fullmatch(Path(name).name)]
            somewhere = {*kept.values()}  # a folder that is replaced steps aside first
            lost = [name for name in before if kept.get(name) != after.get(name) and before[name] not in somewhere]
            if kind == "meanwhile":
                trial["other"], trial["said_by_other"] = json.loads(world.with_suffix(".other").read_text())
            trial["again"], trial["said_again"], _ = carry_out(world, plan["again"])
            end = contents(world)
            different = [name for name in sorted({*after, *end}) if after.get(name) != end.get(name)]
            trials.append({**trial, "lost": lost, "left": left, "different": different})
            shutil.rmtree(world)
    shutil.rmtree(whole)
    return trials


def carry_out_plans(plans: list[dict[str, Any]], scratch: Path) -> list[list[dict[str, Any]]]:
    """The trials of each plan, in folders made in `scratch`.

    Each command is first carried out in this process, so that its forks find imported what it needs.
    """
    for number, plan in enumerate({plan["command"]: plan for plan in plans}.values()):
        world = shutil.copytree(plan["world"], scratch / f"warm-{number}")
        with contextlib.chdir(world), contextlib.redirect_stdout(io.StringIO()):
            assert run(plan["command"]) == 0
        shutil.rmtree(world)
    return [carry_out_plan(plan, scratch) for plan in plans]
