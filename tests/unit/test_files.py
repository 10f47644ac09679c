"""Files and folders are whole or not there, and what killed processes leave goes with the next writer."""

import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from mtdnn import files
from mtdnn.errors import DataError
from mtdnn.files import (
    exclusive,
    flush_folder,
    named_file,
    remove_folder,
    remove_leftovers,
    sole_writer,
    temporary_path,
    whole_file,
    write_text,
)


def left_by(process, path, *, start=None):
    """What a process with that number, of this host, would have left half-written."""
    left, own = temporary_path(path), f"-{os.getpid()}-{files._start_of(os.getpid())}"
    assert left.name.endswith(own)
    return left.with_name(
        f"{left.name.removesuffix(own)}-{process}-{files._start_of(process) if start is None else start}"
    )


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "first")
    with pytest.raises(RuntimeError), whole_file(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert (path.read_text(), os.listdir(tmp_path)) == ("first", ["a.txt"])


def test_the_next_writer_of_a_file_removes_what_a_killed_one_left_and_nothing_else(tmp_path, ended):
    path = tmp_path / "a.txt"
    mine, others = left_by(ended, path), left_by(os.getppid(), path)
    for each in (mine, others, left_by(ended, tmp_path / "b.txt"), tmp_path / ".a.txt.notes"):
        each.write_text("half")
    write_text(path, "whole")
    names = {"a.txt", others.name, left_by(ended, tmp_path / "b.txt").name, ".a.txt.notes"}
    assert set(os.listdir(tmp_path)) == names
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == {"a.txt", others.name, ".a.txt.notes"}


def test_a_process_that_only_has_the_number_of_a_killed_one_does_not_keep_what_that_left(tmp_path):
    """As in a container that is started again, where the same program gets the same number."""
    mine, before = left_by(os.getpid(), tmp_path / "a.txt"), left_by(os.getpid(), tmp_path / "b.txt", start=5)
    for each in (mine, before):
        each.write_text("half")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [mine.name]


def test_names_of_the_first_versions_are_known(tmp_path):
    left = temporary_path(tmp_path / "best")
    old = left.with_name(left.name.rpartition("-")[0])
    old.mkdir()
    remove_leftovers(tmp_path)
    assert old.exists()  # its process is this one
    old.rename(old.with_name(old.name.replace(f"-{os.getpid()}", "-4000000")))
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_gets_its_name_by_a_rename_is_on_the_disk_before(tmp_path, monkeypatch):
    """Otherwise a loss of power may leave a name without its content."""
    synced, sync, replace = [], os.fsync, os.replace

    def note_sync(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def checked_replace(source, target, **keywords):
        assert Path(source).name in synced
        replace(source, target, **keywords)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", checked_replace)
    write_text(tmp_path / "a.txt", "whole")
    assert len(synced) == 1
    (tmp_path / "store" / "inner").mkdir(parents=True)
    (tmp_path / "store" / "inner" / "rows").write_text("rows")
    synced.clear()
    flush_folder(tmp_path / "store")
    assert synced == ["inner", "rows", "store"]


def test_what_another_host_left_goes_after_a_day(tmp_path):
    left = tmp_path / ".a.txt.012345-1"
    left.write_text("half")
    remove_leftovers(tmp_path)
    assert left.exists()
    os.utime(left, (0, 0))
    remove_leftovers(tmp_path)
    assert not left.exists()


def test_links_are_followed_and_stay_links(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    with named_file(null) as place:
        place.write_text("gone")
    assert null.is_char_device() and os.listdir(tmp_path) == ["null"]


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    write_text(pipe, "through\n")
    assert reader.communicate(timeout=120)[0] == "through\n" and pipe.is_fifo()


def test_a_folder_is_removed_as_a_whole_and_a_link_alone(tmp_path):
    folder, link = tmp_path / "step-3", tmp_path / "step-6"
    (folder / "inner").mkdir(parents=True)
    link.symlink_to(folder)
    remove_folder(link)
    assert os.listdir(tmp_path) == ["step-3"]
    remove_folder(folder)
    remove_folder(folder)
    assert os.listdir(tmp_path) == []


def test_a_folder_has_one_writer_and_the_lock_of_an_ended_one_is_free(tmp_path, ended):
    left_by(ended, tmp_path / "best").mkdir()
    with sole_writer(tmp_path, command="mtdnn train"):
        assert os.listdir(tmp_path) == [".lock"]
        code = (
            "import sys; from pathlib import Path; from mtdnn.files import sole_writer\n"
            "with sole_writer(Path(sys.argv[1]), command='mtdnn train'): pass"
        )
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert f"{tmp_path}: another mtdnn train is writing here. Wait until it is done" in other.stderr
    with sole_writer(tmp_path, command="mtdnn train"), exclusive(tmp_path / "lock", wait=True) as ours:
        assert ours


def test_a_new_folder_is_removed_again_if_nothing_was_written_before_an_error(tmp_path):
    for kept in ("old/run", "new/run/best"):
        with pytest.raises(KeyError), sole_writer(tmp_path / "new" / "run", command="mtdnn train"):
            raise KeyError
        assert not (tmp_path / "new").exists()
        (tmp_path / kept).mkdir(parents=True)
    for name in ("old", "new"):
        with pytest.raises(KeyError), sole_writer(tmp_path / name / "run", command="mtdnn train"):
            raise KeyError
        assert (tmp_path / name / "run" / ".lock").exists()
    with pytest.raises(KeyError), sole_writer(tmp_path / "run", command="mtdnn train"):
        (tmp_path / "run" / "run.yml").touch()
        raise KeyError
    assert (tmp_path / "run" / "run.yml").exists()
    with sole_writer(tmp_path / "ended", command="mtdnn train"):
        pass
    assert os.listdir(tmp_path / "ended") == [".lock"]


def test_a_lock_that_is_removed_while_a_process_waits_for_it_is_not_its_own(tmp_path, monkeypatch):
    class Removed(filelock.FileLock):
        def acquire(self, *args, **keywords):
            found = super().acquire(*args, **keywords)
            Path(self.lock_file).unlink()
            return found

    monkeypatch.setattr(filelock, "FileLock", Removed)
    reported = pytest.raises(DataError, match="another mtdnn train is writing here")
    with reported, sole_writer(tmp_path / "run", command="mtdnn train"):
        pass


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written: File exists"), named_file(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(DataError, match="cannot be written"), sole_writer(tmp_path / "file" / "run", command="x"):
        pass
