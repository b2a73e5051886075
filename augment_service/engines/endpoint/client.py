"""Requests to an OpenAI-compatible server: tried again where that may help, sorted by whose fault a failure is.

What the server cannot do (down, late, 5xx, 429 for too long) is an `EndpointError`; what is wrong with one row, its
answer included, is `RowError`; a wrong key, URL or model is an InputError. The key stands in none of them. No files.
"""

import email.utils
import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

import httpx

from data.errors import InputError, ResumableError

MOST_SHOWN = 300  # characters of a server's message
MOST_GARBLED = 2  # answers to one request that make no sense; the last one is the row's
TRIED_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
OF_THE_ROW = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
OF_THE_KEY = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
TOO_LONG = ("context length", "context_length", "context window", "maximum length", "max_model_len", "too long")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an endpoint is waited for, in seconds. Producer: who starts the engine. Consumer: `EndpointClient`.

    A request may fail `most_tries` times; a 429 is no failure. `most_wait` bounds the sum of the waits between tries.
    """

    answer: float = 300.0
    connect: float = 10.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    most_wait: float = 180.0
    most_tries: int = 5


class EndpointError(ResumableError):
    """The endpoint gave no answer, however often it was asked. `item_id` is the row that it was asked about."""

    def __init__(self, what: str, url: str, item_id: str) -> None:
        super().__init__(what, url, item_id)
        self.what, self.url, self.item_id = what, url, item_id

    def __str__(self) -> str:
        return f"the endpoint {self.url} gave no answer for {self.item_id}: {self.what}"


class RowError(Exception):
    """The server will not have this row, or answers it with nonsense; `kind` as in `data.records.Refusal`."""

    def __init__(self, what: str, kind: Literal["window", "empty", "endpoint"] = "endpoint") -> None:
        super().__init__(what, kind)
        self.what, self.kind = what, kind


class GarbledError(Exception):
    """An answer that cannot be what was asked for. Producer: who reads it. Consumer: `EndpointClient.ask`."""


class EndpointClient:
    """One server, asked from many threads. `counts`: requests, retries, rate_limited, garbled_answers."""

    def __init__(self, url: str, *, key_variable: str, connections: int, patience: Patience) -> None:
        """Raises InputError unless `url` is a plain http(s) address, and for a key that no header can carry."""
        self.url = _checked(url)
        self.counts: Counter[str] = Counter()
        self._key_variable, self._key = key_variable, _read_key(key_variable)
        self._patience = patience
        self._lock = threading.Lock()
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(patience.answer, connect=patience.connect),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def ask(
        self, path: str, body: dict[str, Any] | None, item_id: str, read: Callable[[dict[str, Any]], Answer]
    ) -> Answer:
        """What `read` makes of the JSON that answers a POST of `body`, or a GET where that is None.

        `read` may raise GarbledError. Raises EndpointError, RowError and InputError as the module says.
        """
        failures, garbled, waited = 0, 0, 0.0
        for tries in itertools.count():
            response, trouble = self._send(f"{self.url}{path}", body)
            if response is not None and response.is_success:
                try:
                    return read(_object(response))
                except GarbledError as error:
                    garbled += 1
                    self._count("garbled_answers")
                    if garbled == MOST_GARBLED:
                        raise RowError(f"the answer makes no sense, asked {garbled} times: {error}") from error
                    continue
            limited = response is not None and response.status_code == HTTPStatus.TOO_MANY_REQUESTS
            failures += not limited
            pause = self._pause(response, tries)
            if failures == self._patience.most_tries or waited + pause > self._patience.most_wait:
                asked = f"{trouble}; failed {failures} times, waited {waited:.1f} s, the next wait is {pause:.1f} s"
                raise EndpointError(asked, self.url + path, item_id)
            self._count("rate_limited" if limited else "retries")
            time.sleep(pause)
            waited += pause
        raise AssertionError

    def _send(self, url: str, body: dict[str, Any] | None) -> tuple[httpx.Response | None, str]:
        """The response, if one came, and what the trouble is; raises where another try would not help."""
        self._count("requests")
        try:
            response = self._http.request("GET" if body is None else "POST", url, json=body)
        except httpx.RequestError as error:
            return None, self._clean(f"{type(error).__name__} {error}")
        if response.is_success:
            return response, ""
        trouble = f"status {response.status_code}: {self._message(response)}"
        if response.status_code not in TRIED_AGAIN and not response.is_server_error:
            self._refuse(response, url, trouble)
        return response, trouble

    def _refuse(self, response: httpx.Response, url: str, trouble: str) -> NoReturn:
        status = response.status_code
        if status in OF_THE_ROW:
            said = response.text.lower()
            too_long = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or any(sign in said for sign in TOO_LONG)
            raise RowError(trouble, "window" if too_long else "endpoint")
        hint = "check the URL (most end with /v1) and the model's name"
        if status in OF_THE_KEY:
            state = "holds a key that it does not accept" if self._key else "is not set"
            hint = f"put the endpoint's key into the environment variable {self._key_variable}, which {state}"
        raise InputError(f"the endpoint refuses: {trouble}", where=url, hint=hint)

    def _pause(self, response: httpx.Response | None, tries: int) -> float:
        """Seconds before the next try: what Retry-After says, otherwise exponential backoff with jitter."""
        asked = None if response is None else _retry_after(response.headers.get("Retry-After", ""))
        if asked is not None:
            return asked
        longest = self._patience.first_wait * 2.0**tries
        return min(longest, self._patience.longest_wait) * random.uniform(0.5, 1.0)

    def _message(self, response: httpx.Response) -> str:
        try:
            error = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            return self._clean(response.text)
        return self._clean(str(error.get("message", error) if isinstance(error, dict) else error))

    def _clean(self, text: str) -> str:
        # servers do repeat the key that they were given
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:MOST_SHOWN]

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        trouble = "the URL holds a user or a password"
    elif parts.scheme not in {"http", "https"} or not parts.hostname:
        trouble = f'"{url}" is no http or https URL'
    elif parts.query or parts.fragment:
        trouble = f'"{url}" has a query or a fragment'
    else:
        return url.rstrip("/")
    raise InputError(trouble, where="the endpoint's URL", hint="write it like http://127.0.0.1:8000/v1")


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            "this key has characters that no header can carry",
            where=f"environment variable {variable}",
            hint="set it again",
        )
    return key


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GarbledError(f"no JSON ({error})") from error
    if not isinstance(content, dict):
        raise GarbledError("no JSON object")
    return content


def _retry_after(value: str) -> float | None:
    """Seconds from now, from either form of the header; None if it says nothing that can be understood."""
    if value.strip().isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
