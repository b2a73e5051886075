"""What a model expects in place of each token of a given text: its likeliest tokens, after a context.

By the ways that make an engine write given tokens the context is computed once for all lessons that share it; the slow
twin reads context and text as one prompt. Touches no files.
"""

from collections.abc import Sequence
from typing import Any

from vllm import RequestOutput

from augment_service.engines.vllm.llm import Request
from augment_service.engines.vllm.ways import Way, check_cache, exact_params
from augment_service.tokens import LessonTokens
from data.errors import ResumableError
from data.records import Distribution, Lesson

Asked = tuple[int, LessonTokens]  # the lesson's place in its list
_NOTHING = -1e4  # nats; the probability is 0 in float32, and a product with it is no NaN


def lesson_request(way: Way, asked: Asked, num_top: int) -> Request[Asked]:
    """The request that finds the `num_top` likeliest tokens in place of each token of a lesson's path."""
    tokens = asked[1]
    options = way.follow(tokens.path)
    if options is None:
        params = exact_params(max_tokens=1, prompt_logprobs=num_top)
        return Request(tokens.prefix + tokens.path, params, asked)
    return Request(tokens.prefix, exact_params(max_tokens=len(tokens.path), logprobs=num_top, **options), asked)


def read_lesson(lesson: Lesson, vocabulary: str, request: Request[Asked], output: RequestOutput) -> Distribution:
    """The distributions of a lesson, laid out for a student that reads the text without its context."""
    tokens, num_top = request.about[1], lesson.num_top
    check_cache(output, len(tokens.prefix))
    written = len(request.prompt) == len(tokens.prefix)
    values: Any = output.outputs[0].logprobs if written else output.prompt_logprobs
    first = 0 if written else len(tokens.prefix)
    top_ids: list[int] = []
    top_log_probs: list[float] = []
    for token, at in zip(tokens.path, values.start_indices[first:], strict=True):
        if values.token_ids[at] != token:  # it stands before the likeliest ones
            raise ResumableError(f"token {token} was asked about, {values.token_ids[at]} came back")
        top_ids += values.token_ids[at + 1 : at + 1 + num_top]
        top_log_probs += values.logprobs[at + 1 : at + 1 + num_top]
    for end in tokens.row[len(tokens.path) + 1 :]:
        top_ids += _with_others(end, num_top)
        top_log_probs += [0.0] + [_NOTHING] * (num_top - 1)
    return Distribution(
        lesson.text_id, lesson.text, tuple(tokens.row), tuple(top_ids), tuple(top_log_probs), num_top, vocabulary
    )


def _with_others(token: int, num_top: int) -> Sequence[int]:
    """The token, and the first others: the tokens of a place are distinct."""
    return [token, *(other for other in range(num_top) if other != token)][:num_top]
