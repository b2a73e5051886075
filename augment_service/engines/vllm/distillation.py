"""The likeliest tokens of a model at every position of a given text, after a context.

A strategy that makes an engine write given tokens computes a shared context once; the reference strategy reads context
and text as one prompt. Touches no files.
"""

from collections.abc import Sequence
from typing import Any

from vllm import RequestOutput

from augment_service.engines.vllm.llm import Request
from augment_service.engines.vllm.strategies import Strategy, check_cache, exact_params
from augment_service.tokens import ExampleTokens
from data.errors import ResumableError
from data.records import DistillationExample, Distribution

Query = tuple[int, ExampleTokens]  # the example's index
_ZERO = -1e4  # nats; the probability is 0 in float32, and a product with it is no NaN


def distillation_request(strategy: Strategy, query: Query, num_top: int) -> Request[Query]:
    """The request that finds the `num_top` likeliest tokens at each position of an example's path."""
    tokens = query[1]
    options = strategy.follow(tokens.path)
    if options is None:
        params = exact_params(max_tokens=1, prompt_logprobs=num_top)
        return Request([*tokens.prefix, *tokens.path], params, query)
    return Request(tokens.prefix, exact_params(max_tokens=len(tokens.path), logprobs=num_top, **options), query)


def read_distribution(
    example: DistillationExample, vocabulary: str, request: Request[Query], output: RequestOutput
) -> Distribution:
    """The distributions of a example, laid out for a student that reads the text without its context."""
    tokens, num_top = request.tag[1], example.num_top
    check_cache(output, len(tokens.prefix))
    written = len(request.prompt) == len(tokens.prefix)
    values: Any = output.outputs[0].logprobs if written else output.prompt_logprobs
    first = 0 if written else len(tokens.prefix)
    top_ids: list[int] = []
    top_log_probs: list[float] = []
    for token, at in zip(tokens.path, values.start_indices[first:], strict=True):
        if values.token_ids[at] != token:  # the text's own token comes before the likeliest ones
            raise ResumableError(f"token {token} was requested, vLLM returned {values.token_ids[at]}")
        top_ids += values.token_ids[at + 1 : at + 1 + num_top]
        top_log_probs += values.logprobs[at + 1 : at + 1 + num_top]
    for end in tokens.row[len(tokens.path) + 1 :]:
        top_ids += _with_others(end, num_top)
        top_log_probs += [0.0] + [_ZERO] * (num_top - 1)
    return Distribution(
        example.text_id, example.text, tuple(tokens.row), tuple(top_ids), tuple(top_log_probs), num_top, vocabulary
    )


def _with_others(token: int, num_top: int) -> Sequence[int]:
    """The token, then other ids: the tokens of one position are distinct."""
    return [token, *(other for other in range(num_top) if other != token)][:num_top]
