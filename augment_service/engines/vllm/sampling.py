"""Seeded sampling and forced tokens, per request, by a logits processor.

Sampling is greedy decoding over logits with Gumbel noise that the prompt's seed decides: a row's text depends neither
on its batch nor on the engine's state. Forcing leaves only the next token of a given path finite. Touches no files.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from data.seeds import derive_seed

NOISE_CELLS = 2**22  # rows x vocabulary of noise made at once: bounds the memory at large vocabularies
Progress = tuple[dict[str, Any], int]  # what a request asks for, and how many tokens are written


def _int64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


# splitmix64's constants, as the signed integers that torch knows
_STEP, _MIX_A, _MIX_B = _int64(0x9E3779B97F4A7C15), _int64(0xBF58476D1CE4E5B9), _int64(0x94D049BB133111EB)


def gumbel_noise(keys: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Standard Gumbel noise of shape (len(keys), num_columns), float64, decided by the int64 keys alone.

    A counter-based hash (splitmix64 of key and column) in place of a generator: no state, one pass for all rows.
    """
    columns = torch.arange(1, num_columns + 1, device=keys.device, dtype=torch.int64)
    bits = keys[:, None] + columns * _STEP
    for shift, factor in ((30, _MIX_A), (27, _MIX_B)):
        bits ^= _shift_right(bits, shift)
        bits *= factor
    bits ^= _shift_right(bits, 31)
    noise = _shift_right(bits, 11).double()
    noise += 0.5
    noise *= -(2.0**-53)  # now uniform, negative; in place, as this is done for every token that is sampled
    return noise.log1p_().neg_().log_().neg_()


def _shift_right(bits: torch.Tensor, by: int) -> torch.Tensor:
    # torch's shift of int64 keeps the sign; the mask makes it the logical shift that the hash needs
    shifted = bits >> by
    shifted &= (1 << (64 - by)) - 1
    return shifted


class RowProcessor(AdapterLogitsProcessor):  # type: ignore[misc]
    """Per request, by `extra_args`: force the next tokens ("forced"), or add seeded noise ("noise": temperature, seed).

    After the forced tokens the choice is free. Only the number of tokens written so far is read, never their values:
    with asynchronous scheduling the values of the last step are not known yet.
    """

    def is_argmax_invariant(self) -> bool:
        """No: a forced or noisy row picks another token than the bare logits would."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Callable[[list[int]], Progress] | None:
        """Binds what the request asks for; `apply` calls it with the tokens written so far already bound."""
        return partial(_progress, params.extra_args) if params.extra_args else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Changes `logits` (requests x vocabulary) in place, all noisy rows of a step together."""
        noisy: list[tuple[int, float, int]] = []
        forced: list[tuple[int, int]] = []
        for row, request in self.req_info.items():
            extra, num_written = request()
            if "noise" in extra:
                temperature, seed = extra["noise"]
                noisy.append((row, temperature, derive_seed(seed, "token", num_written)))
            elif num_written < len(extra.get("forced", ())):
                forced.append((row, extra["forced"][num_written]))
        if forced:
            rows, tokens = torch.tensor(forced, device=logits.device).T
            logits[rows] = float("-inf")
            logits[rows, tokens] = 0.0
        noisy.sort()  # vLLM moves rows about
        num_rows = max(1, NOISE_CELLS // logits.shape[1])
        for start in range(0, len(noisy), num_rows):
            _add_noise(logits, noisy[start : start + num_rows])
        return logits


def _progress(extra: dict[str, Any], written: list[int]) -> Progress:
    return extra, len(written)


def _add_noise(logits: torch.Tensor, noisy: list[tuple[int, float, int]]) -> None:
    rows, temperatures, keys = zip(*noisy, strict=True)
    noise = gumbel_noise(torch.tensor(keys, device=logits.device), logits.shape[1])
    scale = torch.tensor(temperatures, device=logits.device, dtype=torch.float64)[:, None]
    together = rows[-1] - rows[0] + 1 == len(rows)  # the rule; then nothing need be gathered
    where = slice(rows[0], rows[-1] + 1) if together else torch.tensor(rows, device=logits.device)
    noise += logits[where].double() / scale
    logits[where] = noise.to(logits.dtype)
