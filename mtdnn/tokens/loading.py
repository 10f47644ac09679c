"""An encoder's name or folder → its tokenizer; no weights are read, and PyTorch is imported only where needed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import TypedDict

from mtdnn.config.json_source import checked
from mtdnn.deferred import imported_later
from mtdnn.errors import ConfigError, DataError, Fault, Place, fault
from mtdnn.tokens.families import Family, decoder_fault, family_of, unsupported_family, vocab_size_of
from mtdnn.tokens.hub import hub_error, refuse_missing_folder
from mtdnn.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "spm.model",
    "sentencepiece.bpe.model", "sentencepiece.model", "bpe.codes",
)  # fmt: skip

LARGEST_ID = 10_000_000
"""Of a token. Vocabularies have up to a million; tokenizers copies and writes them by way of all ids up to the last."""


def load_tokenizer(encoder: str | Path) -> Tokenizer:
    """The tokenizer of an encoder by hub name or folder; no weights are read.

    Raises:
        ConfigError: there is no tokenizer, or the encoder is a decoder or cannot take word embeddings as input.
        DataError: a setting of the tokenizer has another type, or a token an absurd id or no word embedding.
    """
    encoder = str(encoder)
    refuse_missing_folder(encoder)
    if Path(encoder).is_dir() and not _has_tokenizer_files(Path(encoder)):
        raise ConfigError(_missing_tokenizer(Path(encoder)))
    hf, config = _read(encoder)
    _require_usable(hf, encoder)
    family = Family(None, decodes=True) if config is None else family_of(config)
    if config is not None and (decoder := decoder_fault(config, encoder)) is not None:
        raise ConfigError(decoder)
    if config is not None and family.obstacle is not None:
        raise ConfigError(unsupported_family(encoder, config, family.obstacle))
    embeddings = None if config is None else vocab_size_of(config)
    tokenizer = Tokenizer(encoder, hf, family.max_tokens, family.decodes, embeddings)
    added_later = (hf.pad_token_id, hf.mask_token_id)  # other tokens are in the rows when they are tokenized
    tokenizer.require_embeddings([each for each in added_later if each is not None])
    return tokenizer


def _read(encoder: str) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig | None]:
    """Tokenizer and configuration; ConfigError if there is no tokenizer."""
    try:
        return _without_torch(encoder)
    except DataError:
        raise
    except Exception as error:  # OSError, ValueError, KeyError, or a missing library's ImportError, by kind
        fix = "Give a name on the hub (and a network, the first time) or a folder with a tokenizer."
        found = f"no tokenizer for '{encoder}': {hub_error(encoder, error)}"
        raise ConfigError(fault("", "encoder", found, fix)) from error


def _require_usable(hf: PreTrainedTokenizerBase, encoder: str) -> None:
    """Raise DataError for wrong settings or an absurd id, and ConfigError for a tokenizer without a vocabulary."""
    _require_settings(hf, encoder)
    _require_possible(max(hf.get_vocab().values(), default=0), encoder)
    if hf.is_fast and hf.vocab_size <= len(hf.all_special_tokens):  # transformers makes an empty one of no vocabulary
        raise ConfigError(_missing_tokenizer(Path(encoder)))


def _require_possible(largest: int, encoder: str) -> None:
    if largest > LARGEST_ID:
        found, fix = f"a token has the id {largest}", f"Save the tokenizer again; ids are at most {LARGEST_ID:,}."
        raise DataError(fault(encoder, "", found, fix))


def _largest_id_in_files(encoder: str) -> int:
    """The largest id in `tokenizer.json` and `vocab.json`; what is wrong with a file, loading says."""
    from transformers.utils import cached_file

    largest = 0
    for name in ("tokenizer.json", "vocab.json"):
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            content = json.loads(Path(cached_file(encoder, name)).read_bytes())
            vocab = content["model"]["vocab"] if name == "tokenizer.json" else content
            if isinstance(vocab, dict):  # of a list, as Unigram has it, the ids are the places
                largest = max(largest, *vocab.values())
    return largest


class Settings(TypedDict):
    """The settings of a tokenizer that are used; transformers accepts any value for them."""

    model_max_length: float
    model_input_names: list[str]
    padding_side: Literal["left", "right"]
    truncation_side: Literal["left", "right"]


def _require_settings(hf: PreTrainedTokenizerBase, encoder: str) -> None:
    """Raise DataError for a setting of the wrong type, as in a damaged `tokenizer_config.json`."""
    values = {name: getattr(hf, name, None) for name in Settings.__annotations__}
    checked(values, Settings, Place(encoder), "Save the tokenizer again, or correct its tokenizer_config.json.")


def _without_torch(encoder: str) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig | None]:
    """Tokenizer and configuration, without importing PyTorch (200 MB) where transformers allows it."""
    try:
        with imported_later("torch"):
            return _tokenizer_and_config(encoder)
    except ModuleNotFoundError:  # transformers up to 5.20, and perhaps later, imports parts of torch directly
        return _tokenizer_and_config(encoder)


def _tokenizer_and_config(encoder: str) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig | None]:
    from transformers import AutoConfig, AutoTokenizer

    config: PreTrainedConfig | None
    try:
        of_torch = {"dtype": None, "torch_dtype": None}  # a dtype would need PyTorch
        with _without_note_on_dtype():
            config = AutoConfig.from_pretrained(encoder, trust_remote_code=False, **of_torch)
    except (OSError, ValueError):
        config = None
    if config is not None or Path(encoder).is_dir():
        _require_possible(_largest_id_in_files(encoder), encoder)
    return AutoTokenizer.from_pretrained(encoder, config=config, trust_remote_code=False), config


@contextmanager
def _without_note_on_dtype() -> Iterator[None]:
    """A context without transformers' warning that `torch_dtype` is deprecated, a key of ours."""
    logger = logging.getLogger("transformers.configuration_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("`torch_dtype` is deprecated")

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _has_tokenizer_files(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*TOKENIZER_FILES, "tokenizer_config.json"))


def _missing_tokenizer(folder: Path) -> Fault:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    there = f"; there: {', '.join(names[:10])}" if names else ""
    found = f"'{folder}' has no tokenizer, none of {', '.join(TOKENIZER_FILES[:4])}, …{there}"
    return fault("", "encoder", found, "Save it there: AutoTokenizer.from_pretrained(…).save_pretrained(folder).")
