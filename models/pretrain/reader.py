"""Many short prompts after one context, by plain transformers forward passes of a small model."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from data.sets.lexicon import END_OF_LINE

LINE_TOKENS = 24  # of the longest generated line


class Reader:
    """A model that answers prompts after a context, which is computed once."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def read(self, context: str) -> DynamicCache:
        """Keys and values of a context, <s> included."""
        ids = torch.tensor([self.tokenizer(context)["input_ids"]])
        cache = DynamicCache(config=self.model.config)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    @torch.no_grad()
    def write(self, context: str, prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        """One line for each prompt, sampled (temperature 0: greedy)."""
        generator = torch.Generator().manual_seed(seed)
        texts = [""] * len(prompts)
        for rows in self._by_length(prompts):
            found, _, cache = self._extend(context, [prompts[row] for row in rows])
            logits, start = found[:, -1], cache.get_seq_length()
            for step in range(LINE_TOKENS):
                if temperature:
                    noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator) + 1e-20) + 1e-20)
                    logits = logits / temperature + noise
                tokens = logits.argmax(-1)
                for row, word in zip(rows, self.tokenizer.convert_ids_to_tokens(tokens.tolist()), strict=True):
                    if not texts[row].endswith(END_OF_LINE):
                        texts[row] += END_OF_LINE if word == END_OF_LINE else word + " "
                if all(texts[row].endswith(END_OF_LINE) for row in rows):
                    break
                position = torch.full((len(rows), 1), start + step)
                output = self.model(input_ids=tokens[:, None], past_key_values=cache, position_ids=position)
                logits = output.logits[:, -1]
        return [text.strip() for text in texts]

    def choose(self, context: str, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> list[int]:
        """The index of the most likely one-word option after each prompt."""
        chosen = [0] * len(prompts)
        for rows in self._by_length(prompts):
            logits, _, _ = self._extend(context, [prompts[row] for row in rows])
            for row, line in zip(rows, logits[:, -1], strict=True):
                ids = self.tokenizer.convert_tokens_to_ids(list(options[row]))
                chosen[row] = int(line[ids].argmax())
        return chosen

    @torch.no_grad()
    def choose_texts(self, context: str, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> list[int]:
        """The index of the most likely option after each prompt; a prompt's options have equal numbers of words."""
        chosen = [0] * len(prompts)
        lengths = [len(self.tokenizer.tokenize(texts[0])) for texts in options]
        for rows in self._by_length([f"{prompt} {texts[0]}" for prompt, texts in zip(prompts, options, strict=True)]):
            candidates = [(row, text) for row in rows for text in options[row]]
            logits, ids, _ = self._extend(
                context, [f"{prompts[row]} {text}" for row, text in candidates], all_logits=True
            )
            # The logits before position i predict its token.
            found = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            values = [float(line[-lengths[row] :].sum()) for (row, _), line in zip(candidates, found, strict=True)]
            for row in rows:
                mine = [value for (other, _), value in zip(candidates, values, strict=True) if other == row]
                chosen[row] = mine.index(max(mine))
        return chosen

    @torch.no_grad()
    def _extend(
        self, context: str, texts: list[str], *, all_logits: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """Logits [texts, length or 1, words] at the tokens of texts of one length, the tokens, and the longer cache."""
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
        cache = self.read(context)
        cache.batch_repeat_interleave(len(texts))
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=int(not all_logits))
        return output.logits, ids, cache

    def _by_length(self, prompts: Sequence[str]) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(len(self.tokenizer.tokenize(prompt)), []).append(row)
        return list(groups.values())
