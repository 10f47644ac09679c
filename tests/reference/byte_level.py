"""A byte-level tokenizer with special tokens as RoBERTa has them, behind any pre-tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=True)
LATE = {
    "robbert": [pre_tokenizers.Whitespace(), BYTES, pre_tokenizers.Punctuation()],
    "words, then bytes": [pre_tokenizers.WhitespaceSplit(), BYTES],
    "punctuation, then bytes": [pre_tokenizers.Punctuation(), BYTES],
    "digits, then bytes": [pre_tokenizers.Digits(individual_digits=True), BYTES],
    "scripts, then bytes": [pre_tokenizers.UnicodeScripts(), BYTES],
}
"""Pre-tokenizers that put a space of their own before words, which trimming takes the first character for."""


def byte_level(
    steps: Sequence[pre_tokenizers.PreTokenizer] = (BYTES,), *, trim: bool = True, texts: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer of the frequent words of some texts, by bytes where it knows none.

    Args:
        steps: pre-tokenizers, one after another.
        trim: whether spaces are left out of the characters that a token stands for.
        texts: what the merges are learnt from.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    backend.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(SPECIAL.values()))
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    ends = ("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>"))
    backend.post_processor = processors.RobertaProcessing(*ends, trim_offsets=trim, add_prefix_space=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **SPECIAL
    )
