"""The embedded model's tokenizer: one token a word, closed vocabulary, line ends are tokens."""

from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from data.sets.language import PHRASINGS, QUANTIFIERS
from data.sets.lexicon import (
    ARROW,
    CONCLUSION,
    END_OF_LINE,
    FEATURES,
    NOTHING,
    NOUNS,
    PREAMBLES,
    PUNCTUATION,
    ROLES,
    SEPARATOR,
    TASKS,
    THEREFORE,
)

BOS, EOS, UNK = "<s>", "</s>", "<unk>"


@cache
def vocabulary() -> dict[str, int]:
    """Every word of the embedded model's vocabulary, with its id; nouns last."""
    phrasings = [phrasing for group in PHRASINGS.values() for phrasing in group]
    words = " ".join(
        [*phrasings, *PREAMBLES, CONCLUSION, *TASKS, *QUANTIFIERS, NOTHING, THEREFORE, SEPARATOR, ARROW, *PUNCTUATION]
    ).split()
    function_words = [word for word in dict.fromkeys(words) if not word.startswith("{")]
    ordered = [UNK, BOS, EOS, END_OF_LINE, *function_words, *FEATURES, *ROLES, *NOUNS]
    return {word: index for index, word in enumerate(ordered)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts <s> before every text and joins words by spaces."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    marks = "".join(f"\\{mark}" for mark in PUNCTUATION)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), behavior="removed"),
            pre_tokenizers.Split(Regex(f"\n|[{marks}]"), behavior="isolated"),
        ]
    )
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path, max_length: int) -> None:
    """Write the tokenizer files; `max_length` is the model's window in tokens."""
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
