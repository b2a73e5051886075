"""What is trained on: texts of random words as long as the paper's, or English ones.

Writes model folders and Arrow folders of documents. A round has texts of its own; all sides get the same ones.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from data.records import Document
from data.seeds import stream
from data.store import write_folder

EOS, PAD = "<eos>", "<pad>"
WORDS_OF_SENTENCE, SENTENCES = (5, 30), (4, 20)
NUM_WORDS = 10_000
# Of English, about 1.5 tokens of SmolLM2 each.
PASSAGE_WORDS = {"sentences": (90, 180), "documents": (320, 350), "corpus": (100, 100)}


@dataclass(frozen=True)
class Load:
    """Some texts and a batch of them: what is trained in one round."""

    kind: str  # "sentences" or "documents"; of English also "corpus"
    batch_size: int  # texts
    num_steps: int

    @property
    def num_texts(self) -> int:
        """One epoch, so that every side trains on every text once."""
        return self.batch_size * self.num_steps


def make_texts(load: Load, name: str, words: Sequence[str]) -> list[str]:
    """Sentences of 5 to 30 words, or documents of 4 to 20 such sentences; `name` decides the words."""
    rng = stream(0, "benchmarks", load.kind, name)

    def sentence() -> str:
        return " ".join(rng.choices(words, k=rng.randint(*WORDS_OF_SENTENCE)))

    if load.kind == "sentences":
        return [sentence() for _ in range(load.num_texts)]
    return [" ".join(sentence() for _ in range(rng.randint(*SENTENCES))) for _ in range(load.num_texts)]


def make_passages(load: Load, name: str) -> list[str]:
    """Passages of the language reference that Python itself ships.

    They have 90 to 180 words ("sentences"), about 512 tokens of SmolLM2 ("documents"), or 100 words ("corpus"). `name`
    decides where they begin.
    """
    rng = stream(0, "benchmarks", "passages", load.kind, name)
    words = " ".join(topics.values()).split()

    def passage() -> str:
        length = rng.randint(*PASSAGE_WORDS[load.kind])
        start = rng.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    return [passage() for _ in range(load.num_texts)]


def write_texts(texts: Sequence[str], folder: Path) -> None:
    """As an Arrow folder of documents for us, and as `texts.json` beside it for the peers."""
    write_folder(folder / "documents", Document, [Document(str(at), text, "w") for at, text in enumerate(texts)])
    (folder / "texts.json").write_text(json.dumps(texts))


def make_model(folder: Path, dtype: str = "float32", /, *, words: int = NUM_WORDS, **sizes: Any) -> Path:
    """A Llama with random weights and a token for each of the words w0, w1, ...; 25 million parameters by default."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {PAD: 0, EOS: 1} | {f"w{number}": number + 2 for number in range(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token=EOS, pad_token=PAD).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8,
        "max_position_embeddings": 1024, "tie_word_embeddings": True,
    }  # fmt: skip
    config = LlamaConfig(vocab_size=len(vocabulary), bos_token_id=None, eos_token_id=1, pad_token_id=0, **shape | sizes)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def words_of(model: Path) -> list[str]:
    """The words that a model has a token for."""
    vocabulary: dict[str, int] = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(word for word in vocabulary if word.isalnum())
