"""The commands that bring a run to others: `mtdnn push`."""

from __future__ import annotations

from pathlib import Path

from mtdnn.errors import ConfigError, fault


def push(
    run: str,
    repo: str,
    *,
    task: str | None = None,
    checkpoint: str = "best",
    license: str | None = None,
    private: bool = False,
    out: str | None = None,
) -> str:
    """Upload a run, or one task of it as a model of transformers, to the Hugging Face hub, with a model card.

    Args:
        run: Folder of the run.
        repo: Name of the repository on the hub, user/name; it is created if there is none.
        task: Only this task, as a model of transformers. Default: the whole run, which open_run reads.
        checkpoint: best, last or step-N.
        license: For the model card, an identifier of the hub such as mit or apache-2.0. Default: not stated.
        private: Create a repository that only you can see.
        out: A new folder: write everything there, to look at, and upload nothing.
    """
    from mtdnn.publishing.push import Upload, write_repository
    from mtdnn.publishing.push import push as push_run

    upload = Upload(repo, task=task, checkpoint=checkpoint, license=license, private=private)
    if out is None:
        address, files = push_run(run, upload)
        return "\n".join([*files, f"\nuploaded: {address}"])
    if Path(out).exists():
        raise ConfigError(fault("--out", "", f"'{out}' exists", "Name a new folder."))
    write_repository(run, upload, Path(out))
    return f"not uploaded: {out}"
