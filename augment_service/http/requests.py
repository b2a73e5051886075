"""The requests of the HTTP service, in OpenAI's terms, and its refusals.

Closed: a parameter that the engines do not support is refused by name, unless its value has no effect.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

Count = Annotated[int, Field(ge=0, strict=True)]
# Without fail_fast a list of a million wrong values makes as many errors, and everybody waits for them.
TokenIds = Annotated[list[Count], Field(fail_fast=True, min_length=1, max_length=2**20)]
Nothing = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
MAX_PROMPTS = 1024  # in one request
RETRY_SECONDS = 2  # Retry-After when the service is busy or an engine restarts
DEFAULT_ANSWER = 2048  # tokens of a chat answer without an explicit length


class RequestError(Exception):
    """A request that is refused: the HTTP status and the fields of OpenAI's error.

    With `wait`, the client may retry after that many seconds. With `is_final`, it is told not to retry.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        wait: int = 0,
        is_final: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.wait, self.is_final = wait, is_final

    def content(self) -> dict[str, str | None]:
        """OpenAI's error."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    def response(self) -> JSONResponse:
        """The answer, with the headers of that status."""
        headers = {"Retry-After": str(self.wait)} if self.wait else {}
        if self.is_final:
            headers["X-Should-Retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is not read
        return JSONResponse({"error": self.content()}, self.status, headers)


class EngineDeathError(RequestError):
    """An engine died while it worked on this request. Another try could cost another engine, so there is none."""

    def __init__(self) -> None:
        what = "an engine died while it worked on this request, so it is not tried again; see the server's log"
        super().__init__(500, what, code="engine_died", is_final=True)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(_Body):
    """Options of a stream."""

    include_usage: bool = False


class Request(_Body):
    """What both kinds of completion share. `stop` is one text, as in the engines' rows."""

    model: str
    temperature: float = Field(1.0, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str = ""
    n: Literal[1] = 1
    top_p: One | None = None
    presence_penalty: Nothing | None = None
    frequency_penalty: Nothing | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def stop_text(self) -> str:
        """The stop of a row; "" is none."""
        return (self.stop if isinstance(self.stop, str) else "".join(self.stop or [])) or ""


class Completion(Request):
    """`/v1/completions`. With `echo` and `logprobs` it scores the prompt; then it writes at most one greedy token."""

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Count = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        """One entry for each choice of the answer."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]


class TextPart(_Body):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn of a conversation."""

    role: str
    content: str | list[TextPart]
    name: str = ""

    def text(self) -> str:
        """The whole content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Chat(Request):
    """`/v1/chat/completions`. Without a length the answer has at most `DEFAULT_ANSWER` tokens."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] | None = None
