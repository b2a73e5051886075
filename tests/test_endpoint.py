"""The endpoint engine against a small real HTTP server that misbehaves on request."""

import http.server
import json
import pickle
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from augment_service.engines.endpoint.client import EndpointError, RetryPolicy
from augment_service.engines.endpoint.engine import EndpointEngine
from augment_service.engines.protocol import EngineSpec
from augment_service.engines.start import start_engine
from data.errors import InputError
from data.records import CheckpointRef, Generation, Prompt, Refusal, Score, ScoreItem
from pipeline.cli import main
from pipeline.models import find_model
from pipeline.recipe import RECIPES, parse_section
from pipeline.sections import Engine

KEY = "sk-never-to-be-seen"
FAST_RETRY = RetryPolicy(
    answer=0.5, connect=2.0, first_pause=0.01, max_pause=0.05, max_wait=2.5, max_failures=4, max_tries=30
)
PROMPT = Prompt("p0", "local", "d0", "one two .", " three", 7, 0.5, 11, "\n")
ITEM = ScoreItem("i0", "one two .", " who", ("me", "you all"), unconditional="so")
Fault = Callable[["Handler", dict[str, Any]], None]


@dataclass
class Script:
    """What the server does next, and what it was asked. Faults go first; when there are none, it answers well."""

    faults: deque[Fault] = field(default_factory=deque)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(http.server.BaseHTTPRequestHandler):
    """Words stand for tokens, `-len(word)` for their log-probabilities; words with an "e" are never the best ones."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        self.script.keys.append(self.headers.get("Authorization"))
        self.reply(200, {"data": [{"id": "words"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script = self.script
        with script.lock:
            script.bodies.append(body)
            script.paths.append(self.path)
            script.times.append(time.monotonic())
            script.busy += 1
            script.busiest = max(script.busiest, script.busy)
            fault = script.faults.popleft() if script.faults else None
        try:
            if fault:
                fault(self, body)
            else:
                self.reply(200, answer(body))
        finally:
            with script.lock:
                script.busy -= 1

    def reply(self, status: int, content: object, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """A sound completion of OpenAI's form; an echo has a start token, whose length shifts the offsets as in vLLM."""
    if "messages" in body:
        message = {"role": "assistant", "content": "a b c"}
        usage = {"prompt_tokens": 9, "completion_tokens": 3}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    words = body["prompt"].split(" ")
    usage = {"prompt_tokens": len(words), "completion_tokens": 0 if body.get("echo") else 3}
    if not body.get("echo"):
        return {"choices": [{"text": "a b c", "finish_reason": "length"}], "usage": usage}
    tokens = ["<s>", words[0], *(f" {word}" for word in words[1:])]
    offsets = [sum(map(len, tokens[:at])) for at in range(len(tokens))]
    values = [None, *(-float(len(token)) for token in tokens[1:])]
    tops = [None, *({" the": -1.0 if "e" in token else -50.0, token: -float(len(token))} for token in tokens[1:])]
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
    return {"choices": [{"text": body["prompt"], "logprobs": logprobs, "finish_reason": "length"}], "usage": usage}


def status(code: int, message: str = "no", **headers: str) -> Fault:
    return lambda handler, body: handler.reply(code, {"error": {"message": message}}, **headers)


def spoiled(spoil: Callable[[dict[str, Any]], object]) -> Fault:
    """A sound answer that `spoil` changes in place."""

    def fault(handler: Handler, body: dict[str, Any]) -> None:
        content = answer(body)
        spoil(content)
        handler.reply(200, json.dumps(content).encode())

    return fault


def raw(data: bytes) -> Fault:
    return lambda handler, body: handler.reply(200, data)


def hang_up(handler: Handler, body: dict[str, Any]) -> None:
    handler.close_connection = True


def dawdle(handler: Handler, body: dict[str, Any]) -> None:
    time.sleep(2 * FAST_RETRY.answer)
    handler.close_connection = True


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setenv("ENDPOINT_TEST_KEY", KEY)
    Handler.script = Script()
    return Handler.script


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def spec_of(url: str, **changes: Any) -> EngineSpec:
    given = {"kind": "endpoint", "model": "words", "url": url, "key_variable": "ENDPOINT_TEST_KEY", "connections": 3}
    return EngineSpec(**(given | changes))


@pytest.fixture
def engine(url: str) -> Iterator[EndpointEngine]:
    engine = EndpointEngine(spec_of(url), FAST_RETRY)
    yield engine
    engine.close()


def test_a_text_is_asked_for_with_all_its_settings(engine: EndpointEngine, script: Script) -> None:
    assert engine.generate([PROMPT]) == [Generation("p0", "a b c", "length", 3)]
    (body,) = script.bodies
    assert body == {
        "model": "words",
        "prompt": "one two . three",
        "max_tokens": 7,
        "temperature": 0.5,
        "seed": 11,
        "stop": ["\n"],
    }
    assert script.keys == [f"Bearer {KEY}"]
    assert engine.stats()["generated_tokens"] == 3


def test_a_chat_gets_context_and_prompt_as_one_message(url: str, script: Script) -> None:
    with closing(EndpointEngine(spec_of(url, endpoint_api="chat"), FAST_RETRY)) as engine:
        assert engine.generate([PROMPT]) == [Generation("p0", "a b c", "stop", 3)]
        (body,) = script.bodies
        assert script.paths == ["/v1/chat/completions"]
        assert body["messages"] == [{"role": "user", "content": "one two . three"}] and "prompt" not in body
        assert (body["max_tokens"], body["temperature"], body["seed"], body["stop"]) == (7, 0.5, 11, ["\n"])
        script.faults.extend([spoiled(lambda content: content["choices"][0]["message"].update(content=None))] * 2)
        (refused,) = engine.generate([PROMPT])
        assert isinstance(refused, Refusal) and refused.kind == "endpoint"


def test_a_chat_does_not_score(url: str, script: Script) -> None:
    with closing(EndpointEngine(spec_of(url, endpoint_api="chat"), FAST_RETRY)) as engine:
        with pytest.raises(InputError) as raised:
            engine.score([ITEM])
        assert raised.value.where == "engine setting endpoint_api" and script.bodies == []


def test_scoring_by_a_chat_is_refused_before_anything_starts(url: str, script: Script, tmp_path: Path) -> None:
    suite = tmp_path / "questions.jsonl"
    suite.write_text(json.dumps({"prompt": "one", "options": ["a", "b"], "answer": 0}) + "\n")
    words = ["evaluate", "--suite", str(suite), "--url", url, "--model", "words", "--endpoint-api", "chat"]
    assert main([*words, "--out", str(tmp_path / "scored")]) == 2
    study = ["run", str(RECIPES / "demo.toml"), "--engine.url", url, "--engine.endpoint-api", "chat"]
    assert main([*study, "--out", str(tmp_path / "study")]) == 2
    assert script.keys == [] and [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_framed_item_is_sent_as_the_template_renders_it(engine: EndpointEngine, script: Script) -> None:
    (plain,) = engine.score([ITEM])
    script.bodies.clear()
    (score,) = engine.score([replace(ITEM, before="[ ", after=" ]")])
    asked = {body["prompt"] for body in script.bodies}
    assert asked == {"[ one two . who ] me", "[ one two . who ] you all", "[ so ] me", "[ so ] you all"}
    assert isinstance(plain, Score) and isinstance(score, Score) and score.num_tokens == plain.num_tokens


def test_an_interface_is_a_setting_of_endpoints_alone_and_part_of_what_answers() -> None:
    with pytest.raises(InputError):
        parse_section(Engine, "engine", {("engine", "endpoint_api"): ("--endpoint-api", "chat")}, command="augment")
    engines = [Engine(url="http://127.0.0.1:9/v1", endpoint_api=api) for api in ("completions", "chat")]
    assert len({find_model("words", engine).fingerprint for engine in engines}) == 2


def test_only_the_continuations_tokens_count_and_each_pair_is_asked_about_once(
    engine: EndpointEngine, script: Script
) -> None:
    again = ScoreItem("i1", "one two .", " who", ("you all",))
    first, second = engine.score([ITEM, again])
    assert first == Score("i0", (-3.0, -8.0), (1, 2), (False, True), (-3.0, -4.0, -4.0), (-3.0, -8.0))
    assert second == Score("i1", (-8.0,), (2,), (True,), (-4.0, -4.0))
    asked = Counter(body["prompt"] for body in script.bodies)
    assert asked == Counter(["one two . who me", "one two . who you all", "so me", "so you all"])
    assert {(body["echo"], body["max_tokens"], body["logprobs"]) for body in script.bodies} == {(True, 0, 1)}
    assert engine.stats()["scored_tokens"] == 6


def test_a_token_over_the_seam_counts_as_the_continuations(engine: EndpointEngine, script: Script) -> None:
    def merge(content: dict[str, Any]) -> None:
        logprobs = content["choices"][0]["logprobs"]
        *_, before, last = logprobs["tokens"]
        logprobs["tokens"][-2:] = [before[:2], before[2:] + last]  # " w" and "ho me" for " who" and " me"
        logprobs["text_offset"][-1] -= len(before) - 2

    script.faults.append(spoiled(merge))
    (score,) = engine.score([ScoreItem("i0", "one", " who", ("me",))])
    assert isinstance(score, Score)
    assert (score.num_tokens, score.token_log_likelihoods) == ((1,), (-3.0,))


def test_requests_are_bounded_and_answers_keep_their_order(engine: EndpointEngine, script: Script) -> None:
    script.faults.extend([lambda handler, body: (time.sleep(0.05), handler.reply(200, answer(body)))[1]] * 12)
    prompts = [Prompt(f"p{at}", "m", "d", "", "x " * (at + 1), 3, 0.0, 0, "") for at in range(12)]
    rows = engine.generate(prompts)
    assert [row.prompt_id for row in rows if isinstance(row, Generation)] == [prompt.prompt_id for prompt in prompts]
    assert 1 < script.busiest <= 3


@pytest.mark.parametrize(
    "fault", [status(500), status(503), status(408), hang_up, dawdle], ids=["500", "503", "408", "hang up", "dawdle"]
)
def test_transient_failures_are_retried(engine: EndpointEngine, script: Script, fault: Fault) -> None:
    script.faults.extend([fault] * (FAST_RETRY.max_failures - 1))
    assert engine.generate([PROMPT]) == [Generation("p0", "a b c", "length", 3)]
    assert engine.stats()["retries"] == FAST_RETRY.max_failures - 1


@pytest.mark.parametrize("fault", [status(500, "all is lost"), hang_up, dawdle], ids=["500", "hang up", "dawdle"])
def test_lasting_failures_are_errors_of_the_endpoint(engine: EndpointEngine, script: Script, fault: Fault) -> None:
    script.faults.extend([fault] * 99)
    with pytest.raises(EndpointError) as raised:
        engine.score([ITEM])
    error = pickle.loads(pickle.dumps(raised.value))  # it crosses from an actor to the driver
    assert error.item_id == "i0" and error.url.endswith("/v1/completions")
    assert "i0" in str(error) and error.url in str(error) and KEY not in str(error)


def test_an_endpoint_that_is_down_is_resumable(url: str, script: Script) -> None:
    with pytest.raises(EndpointError, match="ConnectError"):
        EndpointEngine(spec_of("http://127.0.0.1:9/v1"), FAST_RETRY)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(engine: EndpointEngine, script: Script, form: str) -> None:
    # a date has whole seconds: two ahead is at least one
    wait = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    script.faults.append(status(429, Retry_After=wait))
    engine.generate([PROMPT])
    first, second = script.times
    assert second - first >= 0.9  # far more than the retry's own waits
    assert engine.stats()["rate_limited"] == 1


def test_a_rate_limit_is_no_failure_but_its_waits_are_bounded(engine: EndpointEngine, script: Script) -> None:
    script.faults.extend([status(429, Retry_After="0")] * 3 * FAST_RETRY.max_failures)
    assert isinstance(engine.generate([PROMPT])[0], Generation)
    script.faults.append(status(429, "come back in an hour", Retry_After="3600"))
    with pytest.raises(EndpointError, match=r"come back in an hour.*3600"):
        engine.generate([PROMPT])


@pytest.mark.parametrize("when", ["0", "Thu, 01 Jan 2015 00:00:00 GMT", "soon", "-5"])
def test_a_storm_of_rate_limits_ends_and_is_no_hot_loop(engine: EndpointEngine, script: Script, when: str) -> None:
    script.faults.extend([status(429, Retry_After=when)] * 10_000)
    with pytest.raises(EndpointError):
        engine.generate([PROMPT])
    assert len(script.bodies) <= FAST_RETRY.max_tries
    pauses = [later - earlier for earlier, later in pairwise(script.times)]
    assert min(pauses) >= FAST_RETRY.first_pause * 0.4


def test_tries_are_bounded_whatever_the_waits_are(url: str, script: Script) -> None:
    script.faults.extend([status(429)] * 10_000)
    engine = EndpointEngine(spec_of(url), replace(FAST_RETRY, max_wait=1e9, max_tries=7))
    with pytest.raises(EndpointError, match="7 tries"):
        engine.generate([PROMPT])
    assert len(script.bodies) == 7


def test_no_key_is_sent_unless_its_variable_is_named(url: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    EndpointEngine(spec_of(url, key_variable=""), FAST_RETRY).close()
    assert script.keys == [None]


def test_no_proxy_sees_what_is_sent_to_this_machine(url: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    EndpointEngine(spec_of(url), FAST_RETRY).close()
    assert script.keys == [f"Bearer {KEY}"]


def test_a_server_that_asks_for_no_other_try_gets_none(engine: EndpointEngine, script: Script) -> None:
    script.faults.append(status(500, "an engine died", X_Should_Retry="false"))
    first, second = engine.generate([PROMPT, PROMPT])
    assert sorted(type(row).__name__ for row in (first, second)) == ["Generation", "Refusal"]
    assert len(script.bodies) == 2


def test_a_key_goes_over_no_network_in_plain_text(script: Script) -> None:
    with pytest.raises(InputError) as raised:
        start_engine(spec_of("http://example.com/v1"))
    assert raised.value.where == "engine setting url" and KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(400, "This model's maximum context length is 8 tokens"), "window"),
        (status(413), "window"),
        (status(400, "what a prompt"), "endpoint"),
        (status(422), "endpoint"),
        (spoiled(lambda content: content["choices"][0].update(finish_reason="content_filter")), "endpoint"),
    ],
    ids=["too long", "413", "400", "422", "filtered"],
)
def test_what_is_wrong_with_one_row_is_refused_alone(
    engine: EndpointEngine, script: Script, fault: Fault, kind: str
) -> None:
    script.faults.append(fault)
    rows = engine.generate([PROMPT] * 3)
    refused = [row for row in rows if isinstance(row, Refusal)]
    assert [(row.item_id, row.kind) for row in refused] == [("p0", kind)]
    assert len(script.bodies) == 3  # and is not asked about again


def test_rows_without_text_are_refused_without_a_question(engine: EndpointEngine, script: Script) -> None:
    blank = Prompt("p1", "m", "d", "", "", 3, 0.0, 0, "")
    hollow = [ScoreItem("i1", "", "a", ("b", " ")), ScoreItem("i2", "", "a", ())]
    rows = [*engine.generate([blank]), *engine.score(hollow)]
    assert [(row.item_id, row.kind) for row in rows if isinstance(row, Refusal)] == [
        ("p1", "empty"),
        ("i1", "empty"),
        ("i2", "empty"),
    ]
    assert script.bodies == []


@pytest.mark.parametrize("code", [401, 403, 404, 405, 302])
def test_what_only_the_user_can_fix_is_reported_at_once(engine: EndpointEngine, script: Script, code: int) -> None:
    script.faults.append(status(code, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(InputError) as raised:
        engine.generate([PROMPT])
    assert KEY not in str(raised.value) and KEY not in repr(raised.value.args)
    assert ("ENDPOINT_TEST_KEY" in raised.value.hint) == (code in (401, 403))
    assert len(script.bodies) == 1


def first_logprobs(content: dict[str, Any]) -> dict[str, Any]:
    logprobs: dict[str, Any] = content["choices"][0]["logprobs"]
    return logprobs


def put_last(column: str, value: object) -> Fault:
    return spoiled(lambda content: first_logprobs(content)[column].__setitem__(-1, value))


GARBAGE: dict[str, Fault] = {
    "no json": raw(b"<html>busy</html>"),
    "half a json": raw(b'{"choices": ['),
    "another json": raw(b"[1, 2]"),
    "not even text": raw(b"\xff\xfe\x00"),
    "no choices": spoiled(lambda content: content.pop("choices")),
    "two choices": spoiled(lambda content: content["choices"].append({})),
    "no usage": spoiled(lambda content: content.pop("usage")),
    "no logprobs": spoiled(lambda content: content["choices"][0].update(logprobs=None)),
    "a column missing": spoiled(lambda content: first_logprobs(content).pop("top_logprobs")),
    "one logprob too few": spoiled(lambda content: first_logprobs(content)["token_logprobs"].pop()),
    "no tokens": spoiled(lambda content: [column.clear() for column in first_logprobs(content).values()]),
    "null": put_last("token_logprobs", None),
    "a text": put_last("token_logprobs", "-1"),
    "nan": put_last("token_logprobs", float("nan")),
    "minus infinity": put_last("token_logprobs", float("-inf")),
    "positive": put_last("token_logprobs", 0.5),
    "nan on top": put_last("top_logprobs", {"x": float("nan")}),
    "nothing on top": put_last("top_logprobs", {}),
    "other tokens": put_last("tokens", " us"),
    "offsets that are none": put_last("text_offset", -1),
    "offsets in disorder": put_last("text_offset", 1),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_malformed_answers_are_refused_after_one_retry_and_never_a_score(
    engine: EndpointEngine, script: Script, name: str
) -> None:
    item = ScoreItem("i0", "one two .", " who", ("me",))
    script.faults.append(GARBAGE[name])
    assert engine.score([item]) == [Score("i0", (-3.0,), (1,), (False,), (-3.0,))]
    assert engine.stats()["malformed_answers"] == 1
    script.faults.extend([GARBAGE[name]] * 2)
    (refused,) = engine.score([item])
    assert isinstance(refused, Refusal) and (refused.item_id, refused.kind) == ("i0", "endpoint")
    assert engine.stats()["malformed_answers"] == 3


def test_one_bad_pair_refuses_its_item_alone(engine: EndpointEngine, script: Script) -> None:
    def fault(handler: Handler, body: dict[str, Any]) -> None:
        bad = body["prompt"].endswith("you all")
        handler.reply(200, b"?") if bad else handler.reply(200, answer(body))

    script.faults.extend([fault] * 20)
    rows = engine.score([ITEM, ScoreItem("i1", "one two .", " who", ("me",))])
    assert isinstance(rows[0], Refusal) and rows[0].item_id == "i0"
    assert isinstance(rows[1], Score)


def test_a_continuation_with_nothing_before_it_is_refused(engine: EndpointEngine, script: Script) -> None:
    def without_start(content: dict[str, Any]) -> None:
        logprobs = first_logprobs(content)
        for column in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            del logprobs[column][0]
        logprobs.update(tokens=[" me"], token_logprobs=[None], top_logprobs=[None], text_offset=[0])

    script.faults.append(spoiled(without_start))
    (row,) = engine.score([ScoreItem("i0", "", "", ("me",))])
    assert isinstance(row, Refusal) and row.kind == "empty"


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "host:80", "http://", "file:///etc/passwd", "http://me:pass@host/v1", "http://host/?a=1"]
)
def test_only_plain_http_urls_are_taken(url: str) -> None:
    with pytest.raises(InputError) as raised:
        start_engine(spec_of(url))
    assert "me:pass" not in str(raised.value)


def test_a_key_that_no_header_can_carry_is_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_TEST_KEY", "sk-half\nsk-other")
    with pytest.raises(InputError) as raised:
        EndpointEngine(spec_of(url), FAST_RETRY)
    assert "sk-" not in str(raised.value)


def test_a_model_that_is_not_served_is_refused_with_those_that_are(url: str) -> None:
    with pytest.raises(InputError, match=r'"other" but words'):
        EndpointEngine(spec_of(url, model="other"), FAST_RETRY)


def test_weights_cannot_be_replaced(engine: EndpointEngine) -> None:
    engine.load_weights(CheckpointRef("base", "words", "", "", 0))
    with pytest.raises(InputError, match="cannot be replaced"):
        engine.load_weights(CheckpointRef("tuned", "/checkpoints/tuned", "f00d", "words", 9))
