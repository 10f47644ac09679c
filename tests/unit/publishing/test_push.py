"""What is uploaded is written whole or not at all, and what the hub refuses is one line."""

import errno
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from mtdnn.config.run import EncoderSource
from mtdnn.errors import ConfigError, DataError
from mtdnn.publishing import push
from mtdnn.runs.encoders import Base, EncoderParts


@pytest.fixture
def uploading(monkeypatch):
    """Pushes of a repository of one file, without a run."""

    def write(run, upload, folder):
        folder.mkdir()
        (folder / "README.md").write_text("card", encoding="utf-8")

    monkeypatch.setattr(push, "write_repository", write)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    return monkeypatch


def test_a_hub_that_cannot_be_reached_is_one_line(uploading):
    """The client's own error, which is no OSError, was a traceback. Nothing listens at port 9."""
    uploading.setattr(huggingface_hub.HfApi, "create_repo", lambda api, name, **_: _ask("http://127.0.0.1:9"))
    with pytest.raises(DataError, match=r"^me/x: not uploaded: .*check the name and the connection\.$"):
        push.push("runs/x", push.Upload("me/x"))


def _ask(address):
    return huggingface_hub.utils.get_session().get(address)


def test_a_card_that_the_hub_refuses_is_one_line_with_its_reason(uploading):
    """The hub's library raises a ValueError of two lines."""

    def refuse(api, **_):
        raise ValueError('Invalid metadata in README.md.\n- "license" must be one of [apache-2.0, mit]')

    uploading.setattr(huggingface_hub.HfApi, "create_repo", lambda api, name, **_: name)
    uploading.setattr(huggingface_hub.HfApi, "upload_folder", refuse)
    with pytest.raises(DataError) as found:
        push.push("runs/x", push.Upload("me/x", license="MIT"))
    assert found.value.lines == (
        'me/x: not uploaded: Invalid metadata in README.md. - "license" must be one of [apache-2.0, mit]. '
        "Check --repo and --license.",
    )


def test_a_name_that_the_hub_s_library_refuses_is_one_line(uploading):
    with pytest.raises(DataError, match=r"me/a--b: not uploaded: .*Check --repo and --license\."):
        push.push("runs/x", push.Upload("me/a--b"))


def test_a_folder_to_look_at_is_whole_or_not_there(monkeypatch, tmp_path):
    """A full disk left half of it, which the next call refused to overwrite."""

    def fill(opened, upload, folder):
        (folder / "run.yml").write_text("seed: 1", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    opened = SimpleNamespace(folder=None, checkpoint="best", step=1)
    monkeypatch.setattr(push, "open_run", lambda run, checkpoint: opened)
    monkeypatch.setattr(push, "model_card", lambda folder, **_: "card")
    monkeypatch.setattr(push, "_write_run", fill)
    with pytest.raises(DataError, match="look: cannot be written: No space left on device"):
        push.write_repository("runs/x", push.Upload("me/x"), tmp_path / "look")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("encoder", "is_known"),
    [
        ("bert-base-uncased", True),
        ("me/x", True),
        ("/home/me/x", False),
        (EncoderSource(run="me/x@v1"), True),
        (EncoderSource(run="/home/me/x"), False),
    ],
    ids=str,
)
def test_an_adapter_over_an_encoder_of_the_hub_is_uploaded(encoder, is_known, monkeypatch, tmp_path):
    """A name without a user, such as that of the encoder of `mtdnn init`, counted as a folder."""
    parts = EncoderParts(base=Base(encoder=encoder, sha256="0"))
    monkeypatch.setattr(push, "read_parts", lambda checkpoint: parts)
    if is_known:
        push._require_whole(tmp_path)
    else:
        with pytest.raises(ConfigError, match="its adapter is over weights at '/home/me/x', which others do not have"):
            push._require_whole(tmp_path)
