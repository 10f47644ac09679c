"""Kills, Ctrl-C, full disks, read-only folders, no more file descriptors: nothing is lost, the same command carries on.

`file_events.py` carries the commands out. By default a few points of each; all of them with `-m slow`.
"""

import contextlib
import shutil
from dataclasses import dataclass

import pytest

from tests.end_to_end.file_events import carry_out_plans
from tests.reference.small_world import PREPRO, make_world, succeed

ALL = 100_000
KILLED = -9
INTERRUPTED = 130
SIZES = [0, 1, 100, 300, 1000, 3000, 10_000, 30_000]
FULL = ("no space left", "No space left", "File too large")
SAID = {
    "kill": (),
    "interrupt": ("interrupted", "stopped by SIGINT after step"),
    "full": FULL,
    "largest": FULL,
    "read_only": ("Read-only file system", "read-only"),
    "files": ("Too many open files", "no file descriptors left"),
}
"""Kind of trial → what a command says in its last line, if it does not succeed all the same."""
ENDS = {"kill": (KILLED,), "interrupt": (INTERRUPTED,)}
"""Kind of trial → the exit status of the command; of the others 0 or 2."""
DONE = "SIGINT: stopping after this step"
"""What `train` says at once. After its last step there is nothing to resume, and it ends as if nothing happened."""


@dataclass(frozen=True)
class Scenario:
    """A command and the one that carries on after it was stopped.

    Attributes:
        trained: whether its world has a run.
        few: how many of its file events the default tests kill it at; 0 leaves it to the slow ones.
    """

    command: str
    again: str = ""
    trained: bool = True
    few: int = 0


SCENARIOS = {
    "prepro": Scenario(PREPRO.replace("prepared", "again"), trained=False),
    "prepro over another": Scenario(f"{PREPRO} --tasks like", trained=False, few=3),
    "train": Scenario("train run.yml", "train run.yml --resume", trained=False, few=5),
    "evaluate": Scenario("evaluate run --split test", few=2),
    "predict": Scenario("predict run --task nli --input data/nli/dev.tsv --output out.jsonl"),
    "embed": Scenario("embed run --input data/like/dev.tsv --task like --output out.parquet"),
    "export": Scenario("export run --task nli --output model"),
    "report": Scenario("report run"),
    "subset": Scenario("subset data/nli/train.tsv --out part.tsv --count 2", trained=False),
}
"""What a study does is in test_study_killed.py."""
PAIRS = [
    ("train", "train run.yml"),
    ("train", "train run.yml --resume"),
    ("train", "evaluate run --split dev"),
    ("evaluate", "evaluate run --split dev"),
    ("prepro over another", PREPRO),
]
"""Commands, and those of another process that come at the same time."""
REFUSALS = [
    "is writing here. Wait until it is done",
    "already contains a run",
    "there is no run.yml",
    "there is no such checkpoint",
]
"""What the second of two commands at once may be refused with, by the first one or as its result is not there yet."""
FEW = [name for name, each in SCENARIOS.items() if each.few]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The world with and without a run in it; in both, rows of `like` have changed since they were prepared."""
    prepared = make_world(tmp_path_factory.mktemp("prepared") / "world")
    trained = shutil.copytree(prepared, tmp_path_factory.mktemp("trained") / "world")
    with contextlib.chdir(trained):
        succeed("train run.yml")
    for world in (prepared, trained):
        with (world / "data/like/train.tsv").open("a") as rows:
            rows.write("l3\t1.5\tA goat.\n")
    return {False: prepared, True: trained}


def trials(worlds, scratch, wanted):
    """What came of the trials, a list for each plan; see `file_events.py`.

    Args:
        worlds: as the fixture gives them.
        scratch: an empty folder.
        wanted: (scenario, its kinds of trials and their points, the command of another process) of each plan.
    """
    plans = []
    for name, kinds, other in wanted:
        each = SCENARIOS[name]
        commands = {"command": each.command, "again": each.again or each.command, "meanwhile": other}
        plans.append({"world": str(worlds[each.trained]), "kinds": kinds, **commands})
    return carry_out_plans(plans, scratch)


def all_trials(worlds, scratch, stops, points):
    """(scenario, command of another process or "") → what came of its trials.

    Args:
        stops: scenario → kinds of trials that stop it.
        points: of the trials with another process.
    """
    wanted = [(name, kinds, "") for name, kinds in stops.items()]
    wanted += [(name, [("meanwhile", points)], other) for name, other in PAIRS]
    return dict(zip([(name, other) for name, _, other in wanted], trials(worlds, scratch, wanted), strict=True))


@pytest.fixture(scope="module")
def few(worlds, tmp_path_factory):
    """Trials at some of the events of some scenarios, and with some limits."""
    others = [("interrupt", [4]), ("full", [5]), ("read_only", [3]), ("largest", [100]), ("files", [0])]
    stops = {name: [("kill", SCENARIOS[name].few), *others] for name in FEW}
    return all_trials(worlds, tmp_path_factory.mktemp("few"), stops, [6])


@pytest.fixture(scope="module")
def every(worlds, tmp_path_factory):
    """(scenario, kind, command of another process) → its trials at all events, or with all limits.

    They are carried out when they are asked for, so that a part of the slow tests takes a part of their time.
    """
    points = {**dict.fromkeys(SAID, ALL), "meanwhile": ALL, "largest": SIZES, "files": list(range(12))}

    def found(name, kind, other=""):
        scratch = tmp_path_factory.mktemp("every")
        return trials(worlds, scratch, [(name, [(kind, points[kind])], other)])[0]

    return found


def assert_sound(found):
    """Nothing is lost; the same command again ends as one that nothing stopped, with these files and no more."""
    assert found
    for trial in found:
        assert not trial["lost"], trial
        assert "Traceback" not in trial["said"], trial
        assert trial["status"] in ENDS.get(trial["kind"], (0, 2)) or is_done(trial), trial
        if trial["status"] > 0:
            assert any(word in trial["said"].splitlines()[-1] for word in SAID[trial["kind"]]), trial
            assert not trial["left"] or trial["kind"] == "read_only", trial  # there nothing can be removed either
        assert trial["again"] == 0 or is_exported(trial), trial
        assert not trial["different"], trial


def is_done(trial):
    """Whether Ctrl-C came while `train` wrote what its last step has led to."""
    return (trial["kind"], trial["status"]) == ("interrupt", 0) and DONE in trial["said"]


def is_exported(trial):
    """Whether the folder of an export, which is never written over, got its name before the stop."""
    return trial["again"] == 2 and "'model' exists" in trial["said_again"]


def of_kind(found, kind):
    return [trial for trial in found if trial["kind"] == kind]


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("name", FEW)
def test_a_command_that_is_stopped_loses_nothing_and_leaves_nothing(few, name, kind):
    assert_sound(of_kind(few[name, ""], kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_stopped_anywhere_loses_nothing_and_leaves_nothing(every, name, kind):
    assert_sound(every(name, kind))


def assert_undisturbed(found):
    """One of the two succeeds, the other one does too or says why not; all ends as if the first had been alone."""
    assert found
    for trial in found:
        ends = [(trial["status"], trial["said"]), (trial["other"], trial["said_by_other"])]
        for status, said in ends:
            last = said.strip().splitlines()[-1]
            assert status == 0 or (status == 2 and any(words in last for words in REFUSALS)), trial
            assert "Traceback" not in said, trial
        assert 0 in (trial["status"], trial["other"]), trial
        assert trial["again"] == 0, trial
        assert not trial["different"], trial


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_two_commands_at_once_do_not_disturb_each_other(few, name, other):
    assert_undisturbed(few[name, other])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_a_second_command_at_any_moment_does_not_disturb_the_first(every, name, other):
    assert_undisturbed(every(name, "meanwhile", other))
