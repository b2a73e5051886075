"""The HTTP service over a real socket, with the fake engine behind it: OpenAI's forms, refusals, batches, metrics."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from openai import OpenAI
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from augment_service.engines.endpoint.engine import EndpointEngine
from augment_service.engines.protocol import EngineSpec
from augment_service.engines.start import start_engine
from augment_service.http import middleware, server
from augment_service.http import service as service_module
from augment_service.http.app import build_app
from augment_service.http.requests import DEFAULT_ANSWER, Completion, EngineDeathError
from augment_service.http.server import server_config
from augment_service.http.service import Service
from augment_service.http.tokenization import ModelTokenizer
from augment_service.tokens import ItemTokens, TextReader
from data.errors import InputError, ResumableError
from data.records import Prompt, Score, ScoreItem

KEY = "a-key-of-the-test"
DEADLINE = 60.0
WINDOW = 64
TINY = Path(__file__).parent.parent / "models" / "tiny"
TEXTS = ["the cat sat on the mat", "wörter über größe", "日本語の本", "to be, or not to be: that is the question"]
CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"


class LocalRouter:
    """Two engines' worth of one fake engine; `trouble` is raised by the next call, `gate` holds calls back."""

    width = 2
    ready = True

    def __init__(self) -> None:
        self.engine: Any = start_engine(EngineSpec(kind="fake", model="none", window=WINDOW))
        self.calls: list[tuple[str, list[Any]]] = []
        self.trouble: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.num_sent = self.num_closed = 0

    async def ask(self, method: str, rows: list[Any]) -> list[Any]:
        self.calls.append((method, rows))
        if self.trouble:
            raise self.trouble.pop()
        await asyncio.to_thread(self.gate.wait, 30)
        return self.engine.echo(rows) if method == "echo" else self.engine.generate(rows)

    async def stream(self, method: str, prompt: Prompt) -> AsyncIterator[Any]:
        self.calls.append((method, [prompt]))
        try:
            for item in self.engine.stream(prompt):
                if self.trouble:
                    raise self.trouble.pop()
                yield item
                self.num_sent += 1
                await asyncio.to_thread(self.gate.wait, 30)
        finally:
            self.num_closed += 1

    def describe(self) -> list[dict[str, Any]]:
        stats = self.engine.stats()
        return [
            {"name": f"e{at}", "pid": at, "alive": at == 0, "ready": self.ready, "restarts": 3, "stats": stats}
            for at in range(2)
        ]


def make_bpe(folder: Path) -> Path:
    """A byte-level BPE with a start token and a chat template: pieces of characters, merges over word boundaries."""
    bytes_ = Tokenizer(models.BPE())
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    bytes_.train_from_iterator(TEXTS, trainer)
    bytes_.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=bytes_, bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bpe(tmp_path_factory.mktemp("bpe"))


tokenizer_of = cache(ModelTokenizer)


def serve(
    router: LocalRouter, folder: Path, *, window: int | None = WINDOW, deadline_seconds: float = DEADLINE
) -> Iterator[str]:
    service = Service(router, tokenizer_of(folder), model="m", weights="f00d", window=window)
    app = build_app(service, router, key=KEY, deadline_seconds=deadline_seconds)
    running = uvicorn.Server(server_config(app))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join()


@pytest.fixture
def router() -> LocalRouter:
    return LocalRouter()


@pytest.fixture
def url(router: LocalRouter, bpe: Path) -> Iterator[str]:
    yield from serve(router, bpe)


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


@pytest.fixture
def openai(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def complete(http: httpx.Client, timeout: float = 60, **changes: Any) -> httpx.Response:
    return http.post("/v1/completions", json={"model": "m", "prompt": "the cat sat", **changes}, timeout=timeout)


def choices_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["choices"]
    return found


def test_a_text_goes_to_the_engine_with_all_its_settings(http: httpx.Client, router: LocalRouter) -> None:
    response = complete(http, max_tokens=5, temperature=0.5, seed=7, stop=["mat"])
    ((method, rows),) = router.calls
    assert (method, rows) == (
        "answer",
        [Prompt("0", "http", "", "", "", 5, 0.5, 7, "mat", before="the cat sat")],
    )
    (wanted,) = router.engine.generate(rows)
    (choice,) = choices_of(response)
    assert (choice["text"], choice["finish_reason"]) == (wanted.text, wanted.finish_reason)
    content = response.json()
    assert content["usage"]["completion_tokens"] == wanted.num_tokens
    assert (content["object"], content["model"], content["system_fingerprint"]) == ("text_completion", "m", "f00d")


def test_without_a_seed_every_request_has_its_own(http: httpx.Client, router: LocalRouter) -> None:
    for _ in range(2):
        complete(http)
    first, second = (rows[0].seed for _, rows in router.calls)
    assert first != second


def test_lists_and_token_ids_are_prompts_too(http: httpx.Client, router: LocalRouter, bpe: Path) -> None:
    ids = [ModelTokenizer(bpe).read(text) for text in TEXTS]
    by_text = choices_of(complete(http, prompt=TEXTS, seed=1))
    by_ids = choices_of(complete(http, prompt=ids, seed=1))
    assert [choice["index"] for choice in by_text] == [0, 1, 2, 3]
    assert by_text == by_ids
    assert choices_of(complete(http, prompt=ids[0], seed=1)) == by_text[:1]


def test_equal_prompts_of_a_request_have_texts_of_their_own(http: httpx.Client) -> None:
    prompts = ["the cat sat on the mat"] * 8
    texts = [choice["text"] for choice in choices_of(complete(http, prompt=prompts, seed=5, temperature=1.0))]
    assert len(set(texts)) > 1
    assert [choice["text"] for choice in choices_of(complete(http, prompt=prompts, seed=5, temperature=1.0))] == texts


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
def test_no_spelling_of_a_header_passes_the_size_limit(url: str, monkeypatch: pytest.MonkeyPatch, coding: str) -> None:
    monkeypatch.setattr(middleware, "MAX_BYTES", 1000)
    body = json.dumps({"model": "m", "prompt": "the cat " * 500}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nTransfer-Encoding: {coding}\r\n\r\n"
    with connect(url) as door:
        door.sendall(head.encode() + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert int(door.recv(4096).split()[1]) in (411, 413)


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)


def test_a_body_that_does_not_come_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n"
    with connect(url) as door:
        door.sendall(head.encode() + b"{")
        answer = door.recv(4096)
        assert int(answer.split()[1]) == 408 and b"connection: close" in answer.lower()


@pytest.mark.parametrize("begin", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
def test_a_connection_without_a_request_is_closed(router: LocalRouter, bpe: Path, begin: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "HEAD_SECONDS", 0.2)
        for url in serve(router, bpe):
            with connect(url) as door:
                door.sendall(begin)
                assert door.recv(4096) == b""
            with httpx.Client(base_url=url) as client:  # while one that works is kept, longer than this
                client.get("/health")
                stream = client.get("/health").extensions["network_stream"].get_extra_info("socket")
                port = stream.getsockname()[1]
                router.gate.clear()
                threading.Timer(1.0, router.gate.set).start()
                headers = {"Authorization": f"Bearer {KEY}"}
                answer = client.post("/v1/completions", json={"model": "m", "prompt": "the"}, headers=headers)
                assert answer.status_code == 200
                assert answer.extensions["network_stream"].get_extra_info("socket").getsockname()[1] == port


def test_a_head_is_bounded(url: str) -> None:
    with connect(url) as door:
        try:
            door.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 4 * server.MAX_HEAD_BYTES)
            assert door.recv(4096).split()[1] == b"400"
        except ConnectionError:
            pass  # closed with bytes unread


def test_connections_beyond_the_limit_are_closed_at_once(
    router: LocalRouter, bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    for url in serve(router, bpe):
        with connect(url), connect(url), connect(url) as third:
            assert third.recv(4096) == b""
        wait_until(lambda url=url: httpx.get(f"{url}/health").status_code == 200)


def test_no_websocket_passes_without_a_key(url: str) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = httpx.get(f"{url}/v1/completions", headers={**upgrade, "Sec-WebSocket-Key": "MTIzNDU2Nzg5MDEyMzQ1Ng=="})
    assert answer.status_code == 401


def test_bytes_are_counted_whatever_the_headers_say(
    router: LocalRouter, bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "MAX_BYTES", 1000)
    service = Service(router, tokenizer_of(bpe), model="m", weights="f00d", window=WINDOW)
    app = build_app(service, router, key=KEY, deadline_seconds=DEADLINE)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "", "raw_path": b""}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413


def test_health_waits_for_an_engine_that_is_ready(url: str, router: LocalRouter) -> None:
    router.ready = False
    assert httpx.get(f"{url}/health").status_code == 503


def test_the_openai_client_is_understood(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == ["m"]
    written = openai.completions.create(model="m", prompt="the cat", max_tokens=4, seed=3, echo=True)
    assert written.choices[0].text.startswith("the cat")
    stream = list(openai.completions.create(model="m", prompt="the cat", max_tokens=4, seed=3, stream=True))
    assert "".join(chunk.choices[0].text for chunk in stream) == written.choices[0].text.removeprefix("the cat")
    assert len(stream) > 2 and stream[-1].choices[0].finish_reason == written.choices[0].finish_reason


def test_a_conversation_uses_the_chat_template(openai: OpenAI, router: LocalRouter) -> None:
    asked: list[Any] = [{"role": "user", "content": "the mat"}]
    answer = openai.chat.completions.create(model="m", messages=asked, seed=3)
    (row,) = router.calls[0][1]
    assert row.before == "[user] the mat\n[assistant]"  # the start token is the engine's to set
    assert row.max_tokens == WINDOW - answer.usage.prompt_tokens  # type: ignore[union-attr]
    options: Any = {"include_usage": True}
    chunks = list(
        openai.chat.completions.create(model="m", messages=asked, seed=3, stream=True, stream_options=options)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage and len({chunk.id for chunk in chunks}) == 1


def test_a_model_without_a_chat_template_says_so(router: LocalRouter) -> None:
    for url in serve(router, TINY):
        content = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=content, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "/v1/chat/completions"


@pytest.mark.parametrize("folder", ["bpe", "tiny"])
def test_an_endpoint_counts_the_same_tokens_as_an_engine(folder: str, bpe: Path, router: LocalRouter) -> None:
    texts = TEXTS if folder == "bpe" else ["jeex are more curious than hoosk .", "jeex", "\n hoosk \n"]
    items = [
        ScoreItem(f"{a}/{b}", texts[a], texts[b][:cut], (texts[a], texts[b][cut:].strip() + " ", " " + texts[b]))
        for a in range(len(texts))
        for b in range(len(texts))
        for cut in ([0, 3] if folder == "bpe" else [0])
    ]
    where = bpe if folder == "bpe" else TINY
    wanted = TextReader(AutoTokenizer.from_pretrained(where)).items(items)
    router.engine = start_engine(EngineSpec(kind="fake", model="none"))
    for url in serve(router, where):
        endpoint = EndpointEngine(EngineSpec(kind="endpoint", model="m", url=f"{url}/v1", key_variable="PORT_KEY"))
        scores = endpoint.score(items)
        for score, tokens in zip(scores, wanted, strict=True):
            assert isinstance(score, Score) and isinstance(tokens, ItemTokens), score
            assert score.num_tokens == tuple(len(pair.continuation) for pair in tokens.pairs)
        endpoint.close()


@pytest.fixture(autouse=True)
def key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT_KEY", KEY)


def test_an_echo_has_the_log_probability_of_each_token(http: httpx.Client, router: LocalRouter, bpe: Path) -> None:
    text = "日本 the mat"
    (choice,) = choices_of(complete(http, prompt=text, echo=True, max_tokens=0, logprobs=1))
    tokenized = ModelTokenizer(bpe).tokenize(text)
    (echo,) = router.engine.echo([tokenized.ids])
    found = choice["logprobs"]
    assert choice["text"] == text == "".join(found["tokens"][1:])
    assert found["token_logprobs"] == [None, *echo.log_likelihoods]
    assert found["text_offset"][0] == 0 and found["tokens"][0] == "<s>"
    tops = zip(found["top_logprobs"][1:], echo.best_log_likelihoods, strict=False)
    assert all(max(top.values()) == most for top, most in tops)
    assert {len(top) for top in found["top_logprobs"][1:]} == {1, 2}  # the best one beside it where it is not the best


def test_one_greedy_token_may_follow_an_echo(http: httpx.Client, router: LocalRouter) -> None:
    ids = [1, 299, 5, 299]
    settings: dict[str, Any] = {"prompt": ids, "echo": True, "logprobs": 1, "temperature": 0}
    (bare,) = choices_of(complete(http, max_tokens=0, **settings))
    (longer,) = choices_of(complete(http, max_tokens=1, **settings))
    (echo,) = router.engine.echo([ids])
    assert longer["logprobs"]["token_logprobs"] == [*bare["logprobs"]["token_logprobs"], echo.best_log_likelihoods[-1]]
    assert longer["text"].startswith(bare["text"])
    assert len({len(column) for column in longer["logprobs"].values()}) == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/metrics", "/status", "/nowhere"])
def test_nothing_is_answered_without_the_key(url: str, path: str, router: LocalRouter) -> None:
    method = "POST" if path.endswith("completions") else "GET"
    for key in ("", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ключ"):
        answer = httpx.request(method, f"{url}{path}", headers={"Authorization": key.encode()}, content=b"{not json")
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert router.calls == []


def test_health_needs_no_key_and_says_nothing_else(url: str) -> None:
    answer = httpx.get(f"{url}/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_nobody_without_a_key_can_send_a_body(url: str) -> None:
    assert httpx.request("GET", f"{url}/health", content=b"x").status_code == 413
    assert httpx.request("GET", f"{url}/health", content=iter([b"x"])).status_code == 411


@pytest.mark.parametrize(
    ("status", "param", "changes"),
    [
        (404, "model", {"model": "other"}),
        (400, "prompt", {"prompt": "the cat " * 60}),
        (400, "prompt", {"prompt": []}),
        (400, "prompt", {"prompt": [-1]}),
        (400, "prompt", {"prompt": [10**9]}),
        (400, "prompt", {"prompt": [104, 101]}),  # no start token: an engine would see other ids
        (400, "prompt", {"prompt": [True]}),
        (400, "prompt", {"prompt": None}),
        (400, "max_tokens", {"max_tokens": -1}),
        (400, "max_tokens", {"max_tokens": 0}),
        (400, "temperature", {"temperature": -0.1}),
        (400, "n", {"n": 2}),
        (400, "top_p", {"top_p": 0.9}),
        (400, "logit_bias", {"logit_bias": {"5": 1}}),
        (400, "stop", {"stop": ["a", "b"]}),
        (400, "logprobs", {"logprobs": 1}),
        (400, "logprobs", {"logprobs": 5, "echo": True, "max_tokens": 0}),
        (400, "logprobs", {"logprobs": 1, "echo": True, "max_tokens": 2}),
        (400, "logprobs", {"logprobs": 1, "echo": True, "max_tokens": 1, "temperature": 1.0}),
        (400, "min_p", {"min_p": 0.1}),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(
    http: httpx.Client, status: int, param: str, changes: dict[str, Any]
) -> None:
    answer = complete(http, **changes)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["message"] and error["type"] == "invalid_request_error"


def test_values_without_effect_are_accepted(http: httpx.Client) -> None:
    idle = {"n": 1, "top_p": 1, "presence_penalty": 0.0, "logit_bias": {}, "stop": None, "user": "me", "best_of": 1}
    assert complete(http, **idle).status_code == 200


def test_too_long_has_openais_code(http: httpx.Client) -> None:
    assert complete(http, prompt="the cat " * 60).json()["error"]["code"] == "context_length_exceeded"
    echo = complete(http, prompt="the cat " * 60, echo=True, max_tokens=0, logprobs=1)
    assert (echo.status_code, echo.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_broken_bodies_are_refused(http: httpx.Client) -> None:
    for content in (b"{", b"[]", b"\xff"):
        answer = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and "error" in answer.json()
    assert http.get("/v1/completions").status_code == 405
    assert http.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    chunked = http.post("/v1/completions", content=iter([b"{}"]))
    assert chunked.status_code == 411


def test_what_no_window_holds_is_refused_before_it_is_tokenized(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenizing megabytes takes seconds, in which all others would wait."""
    read: list[str] = []
    monkeypatch.setattr(ModelTokenizer, "read", lambda self, text: read.append(text) or [1])
    monkeypatch.setattr(ModelTokenizer, "_decode", lambda self, ids: read.append("") or "")
    far = "x" * 10 * 2**20
    for prompt in (far, ["the cat", far], [5] * (WINDOW + 1), [[5], [5] * (WINDOW + 1)]):
        for more in ({}, {"echo": True, "logprobs": 1, "max_tokens": 0}):
            answer = complete(http, prompt=prompt, **more)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    talk = {"model": "m", "messages": [{"role": "user", "content": far}]}
    answer = http.post("/v1/chat/completions", json=talk)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert read == []


def test_a_list_of_wrong_values_makes_one_error_of_each_form() -> None:
    with pytest.raises(ValidationError) as raised:
        Completion.model_validate({"model": "m", "prompt": [[-1] * 1000] * 1000})
    assert len(raised.value.errors()) <= 4


@pytest.mark.parametrize("window", [10**6, None])
def test_a_conversation_without_a_length_has_a_bounded_answer(
    router: LocalRouter, bpe: Path, window: int | None
) -> None:
    router.engine = start_engine(EngineSpec(kind="fake", model="none"))
    for url in serve(router, bpe, window=window):
        talk = {"model": "m", "messages": [{"role": "user", "content": "the mat"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=talk, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200
    assert router.calls[0][1][0].max_tokens == DEFAULT_ANSWER


def test_a_request_has_a_deadline(router: LocalRouter, bpe: Path) -> None:
    for url in serve(router, bpe, deadline_seconds=0.5):
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as client:
            router.gate.clear()
            for _ in range(router.width + 1):  # calls that hang take no engine's place for ever
                answer = complete(client)
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
                assert answer.headers["x-should-retry"] == "false"
            assert len(router.calls) == router.width + 1 and waiting_rows(client) == 0
            router.gate.set()
            assert complete(client).status_code == 200


def test_who_hangs_up_is_not_worked_for(http: httpx.Client, router: LocalRouter) -> None:
    router.gate.clear()
    with pytest.raises(httpx.ReadTimeout):
        complete(http, timeout=0.3)
    wait_until(lambda: waiting_rows(http) == 0)
    with http.stream(
        "POST", "/v1/completions", json={"model": "m", "prompt": ["the cat", "mat"], "stream": True}
    ) as events:
        first = next(events.iter_lines())
        assert json.loads(first.removeprefix("data: "))["choices"][0]["text"]
    wait_until(lambda: waiting_rows(http) == 0)
    assert router.num_closed == 2 and router.num_sent <= 2
    router.gate.set()
    assert complete(http).status_code == 200


def test_a_stream_that_breaks_says_why(http: httpx.Client, router: LocalRouter) -> None:
    with http.stream("POST", "/v1/completions", json={"model": "m", "prompt": "the cat sat", "stream": True}) as events:
        lines = events.iter_lines()
        next(lines)
        router.trouble.append(EngineDeathError())
        rest = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert rest[-1]["error"]["code"] == "engine_died"


def test_a_request_that_kills_an_engine_is_not_sent_to_another(http: httpx.Client, router: LocalRouter) -> None:
    router.trouble.append(EngineDeathError())
    answer = complete(http, prompt="poison")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_died")
    assert answer.headers["x-should-retry"] == "false"  # or the client of openai would kill the next one
    assert len(router.calls) == 1
    assert complete(http).status_code == 200


def test_errors_of_the_engines_have_their_status(http: httpx.Client, router: LocalRouter) -> None:
    troubles = [ResumableError("an engine died"), InputError("bad row", where="row", hint="fix it"), RuntimeError("!")]
    for trouble, status in zip(troubles, (503, 400, 500), strict=True):
        router.trouble.append(trouble)
        answer = complete(http)
        assert answer.status_code == status
        assert ("Retry-After" in answer.headers) == (status == 503)
        assert answer.json()["error"]["type"] == ("invalid_request_error" if status == 400 else "server_error")
    assert complete(http).status_code == 200


def test_a_refused_row_refuses_its_request_alone(http: httpx.Client, router: LocalRouter) -> None:
    router.gate.clear()
    with ThreadPoolExecutor(3) as threads:
        bad = threads.submit(complete, http, prompt=["the cat", "a " * 60])
        good = [threads.submit(complete, http, prompt="the mat", seed=at) for at in range(2)]
        wait_until(lambda: waiting_rows(http) == 4)
        router.gate.set()
    assert bad.result().status_code == 400 and "prompt 1" in bad.result().json()["error"]["message"]
    assert [answer.result().status_code for answer in good] == [200, 200]


def waiting_rows(http: httpx.Client) -> int:
    count: int = http.get("/status").json()["waiting_rows"]
    return count


def wait_until(done: Any) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_when_too_many_rows_wait_requests_are_refused(
    http: httpx.Client, router: LocalRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_WAITING", 4)
    router.gate.clear()
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(complete, http, prompt=["the cat"] * 2, seed=at) for at in range(2)]
        wait_until(lambda: waiting_rows(http) == 4)
        late = complete(http)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "overloaded")
        assert int(late.headers["Retry-After"]) > 0
        assert complete(http, stream=True).status_code == 503
        router.gate.set()
        assert {answer.result().status_code for answer in running} == {200}
    assert complete(http).status_code == 200


def test_metrics_cover_requests_and_engines(http: httpx.Client) -> None:
    complete(http, max_tokens=3)
    complete(http, model="other")
    http.get("/secret/path")
    lines = http.get("/metrics").text.splitlines()
    assert 'entail_http_requests_total{path="/v1/completions",status="200"} 1.0' in lines
    assert 'entail_http_requests_total{path="/v1/completions",status="404"} 1.0' in lines
    assert 'entail_http_requests_total{path="other",status="404"} 1.0' in lines
    assert 'entail_engine_restarts{engine="e1"} 3.0' in lines
    assert 'entail_engine_alive{engine="e0"} 1.0' in lines
    generated = [line for line in lines if line.startswith('entail_engine_generated_tokens{engine="e0"}')]
    assert float(generated[0].split()[-1]) > 0


def test_the_key_is_in_no_log(http: httpx.Client, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    complete(http)
    http.get("/v1/models", headers={"Authorization": "Bearer wrong-key"})
    assert KEY not in caplog.text + "".join(capfd.readouterr()) and "wrong-key" not in caplog.text


def test_a_large_request_is_shared_among_engines(http: httpx.Client, router: LocalRouter) -> None:
    prompts = [f"the cat {at}" for at in range(40)]
    choices = choices_of(complete(http, prompt=prompts, seed=1))
    assert [len(rows) for _, rows in router.calls] == [20, 20]
    assert [choice["text"] for choice in choices] == [
        row.text for _, rows in router.calls for row in router.engine.generate(rows)
    ]


def test_streams_are_events(http: httpx.Client) -> None:
    answer = complete(http, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, last, usage, done = [event.removeprefix("data: ") for event in answer.text.strip().split("\n\n")]
    assert parts and json.loads(last)["choices"][0]["finish_reason"]
    assert json.loads(usage)["usage"]["prompt_tokens"] > 0 and done == "[DONE]"
    refused = complete(http, stream=True, model="other")
    assert refused.status_code == 404
