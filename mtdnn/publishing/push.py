"""A run, or one task of it, → a repository on the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mtdnn.config.run import EncoderSource, RunConfig
from mtdnn.config.tasks import chosen_tasks
from mtdnn.config.yaml_source import dump_yaml, read_yaml
from mtdnn.errors import MAX_LINE, ConfigError, DataError, fault, shortened
from mtdnn.files import write_text
from mtdnn.publishing.card import model_card, without_places_of_teachers
from mtdnn.runs.encoders import read_parts
from mtdnn.runs.export import export_task
from mtdnn.runs.hub import HUB_NAME, hub_name, on_hub
from mtdnn.runs.opened import Run, open_run
from mtdnn.tokens.hub import hub_error
from mtdnn.training.checkpoint import TRAINING, atomic_folder

RECORDS = ("results.json", "log.jsonl")
"""Files of a run that are published as they are; predictions and prepared rows, which contain texts, are not."""


@dataclass(frozen=True)
class Upload:
    """What a push does.

    Attributes:
        repo: `user/name`.
        task: the only task to publish, as a model of transformers; None: the whole run.
        checkpoint: best, last or step-N.
        license: an identifier of the hub; None: not stated.
        private: whether only the user sees a repository that is created.
    """

    repo: str
    task: str | None = None
    checkpoint: str = "best"
    license: str | None = None
    private: bool = False

    def __post_init__(self) -> None:
        if HUB_NAME.fullmatch(self.repo) is None or "@" in self.repo:
            raise ConfigError(fault("", "repo", f"'{self.repo}' is not user/name", "Give both parts."))


def write_repository(run: str | Path, upload: Upload, folder: Path) -> None:
    """Write what would be uploaded, to a new folder; whole or not at all.

    Args:
        run: its folder.
        upload: what is published.
        folder: a new one.
    Raises:
        ConfigError, DataError: as `open_run` and `export_task`; it has no results; or its adapter is over weights that
            are only on this machine.
    """
    opened = open_run(run, checkpoint=upload.checkpoint)
    if upload.task is not None:
        chosen_tasks(opened.tasks, [upload.task], key="task")
    card = model_card(
        opened.folder,
        checkpoint=opened.checkpoint,
        step=opened.step,
        name=upload.repo,
        license=upload.license,
        task=upload.task,
    )
    if upload.task is not None:
        tokenizer = opened.tokenizer
        pad = tokenizer.pads_with_id
        export_task(opened.model, upload.task, folder, save_tokenizer=tokenizer.save, pad_token_id=pad, card=card)
        return
    with atomic_folder(folder) as partial:
        _write_run(opened, upload, partial)
        write_text(partial / "README.md", card)


def _write_run(opened: Run, upload: Upload, folder: Path) -> None:
    """The run's files, and its encoder at the top, where `encoder: user/name` and transformers look for it."""
    source = opened.folder
    checkpoint = source.checkpoint(upload.checkpoint)
    _require_whole(checkpoint)
    for name in RECORDS:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    write_text(folder / "tasks.yml", dump_yaml(without_places_of_tasks(source.path / "tasks.yml")))
    write_text(folder / "run.yml", _without_places(opened.config, upload.repo).to_yaml())
    shutil.copytree(checkpoint, folder / "best", ignore=shutil.ignore_patterns(TRAINING))
    if not opened.model.has_adapters_by_task:
        _write_encoder(opened, folder)


def _require_whole(checkpoint: Path) -> None:
    """ConfigError if others could not open the checkpoint: its adapter is over weights of this machine."""
    base = read_parts(checkpoint).base
    if base is None:
        return
    if isinstance(base.encoder, EncoderSource):
        place, known = base.encoder.run, hub_name(base.encoder.run) is not None
    else:
        place, known = base.encoder, on_hub(base.encoder)
    if not known:
        found = f"its adapter is over weights at '{place}', which others do not have"
        raise ConfigError(fault(str(checkpoint), "", found, "Push its tasks one by one with --task: they are merged."))


def _write_encoder(opened: Run, folder: Path) -> None:
    """The fine-tuned encoder, an adapter merged, as `AutoModel.from_pretrained` reads it."""
    from safetensors.torch import save_file

    first = next(iter(opened.tasks))
    merged = opened.model.merged_weights(first).items()
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in merged}
    opened.model.encoder.config.save_pretrained(folder)
    opened.tokenizer.hf.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _without_places(config: RunConfig, repo: str) -> RunConfig:
    """The run without the folders of this machine."""
    encoder = config.encoder
    if isinstance(encoder, EncoderSource):
        encoder = encoder if hub_name(encoder.run) else encoder.model_copy(update={"run": Path(encoder.run).name})
    elif not hub_name(encoder):
        encoder = Path(encoder).name
    update = {"tasks": "tasks.yml", "data": "prepared", "output": repo, "encoder": encoder}
    return config.model_copy(update={**update, "distill": without_places_of_teachers(config.distill)})


def without_places_of_tasks(file: Path) -> dict[str, Any]:
    """The blocks of a run's tasks.yml, with teachers' files and local data sets by their names alone."""
    blocks = read_yaml(file).value
    for block in blocks.values():
        if isinstance(distill := block.get("distill"), dict) and (given := distill.get("from")):
            distill["from"] = [Path(each).name for each in ([given] if isinstance(given, str) else given)]
        if isinstance(source := block.get("source"), dict) and not hub_name(str(source.get("path", ""))):
            source["path"] = Path(str(source["path"])).name
    return dict(blocks)


def push(run: str | Path, upload: Upload) -> tuple[str, list[str]]:
    """Upload a run or one of its tasks; the address of the repository, and the files sent.

    Args:
        run: its folder.
        upload: what is published.
    Raises:
        ConfigError, DataError: as `write_repository`; or the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    no_answer = cast(type[Exception], HfHubHTTPError.__bases__[0])  # of the client of HTTP that the library uses

    with tempfile.TemporaryDirectory(prefix="mtdnn-push-") as temporary:
        folder = Path(temporary) / "repository"
        write_repository(run, upload, folder)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        try:
            api = HfApi()
            address = api.create_repo(upload.repo, private=upload.private, exist_ok=True)
            what = upload.task or "run"
            api.upload_folder(repo_id=upload.repo, folder_path=folder, commit_message=f"Upload {what} by mtdnn")
        except (no_answer, OSError, ValueError) as error:
            why, fix = hub_error("", error), "Log in with `hf auth login`, and check the name and the connection."
            if isinstance(error, OfflineModeIsEnabled):
                fix = f"Unset HF_HUB_OFFLINE. {fix}"
            elif isinstance(error, ValueError) and not isinstance(error, OSError):  # of the name, or of the card
                fix = "Check --repo and --license."
                why = shortened(" ".join(str(error).split()), MAX_LINE)
            raise DataError(fault(upload.repo, "", f"not uploaded: {why}", fix)) from error
    return str(address), files
