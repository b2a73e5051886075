"""Requests to an OpenAI-compatible server: retried where that may help, failures sorted by their cause.

A server that is down, late or overloaded for too long is an `EndpointError`; what is wrong with one row, its answer
included, is a `RowError`; a wrong key, URL or model is an InputError. A server that asks not to be asked again
(`X-Should-Retry: false`) is not. No message contains the key. No files.
"""

import email.utils
import ipaddress
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

MAX_SHOWN = 300  # characters of a server's message
MAX_MALFORMED = 2  # answers to one request that make no sense; the last one is the row's
RETRIED_STATUS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
ROW_STATUS = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
KEY_STATUS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
TOO_LONG = ("context length", "context_length", "context window", "maximum length", "max_model_len", "too long")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Time limits of a request, in seconds. Producer: `EndpointEngine`. Consumer: `EndpointClient`.

    It may fail `max_failures` times; a 429 does not count as a failure, but all tries together are at most `max_tries`.
    `max_wait` bounds the sum of the pauses between tries.
    """

    answer: float = 300.0
    connect: float = 10.0
    first_pause: float = 0.5
    max_pause: float = 30.0
    max_wait: float = 180.0
    max_failures: int = 5
    max_tries: int = 50


class EndpointError(ResumableError):
    """The endpoint gave no answer after all retries. `item_id` is the row of the request."""

    def __init__(self, what: str, url: str, item_id: str) -> None:
        super().__init__(what, url, item_id)
        self.what, self.url, self.item_id = what, url, item_id

    def __str__(self) -> str:
        return f"the endpoint {self.url} gave no answer for {self.item_id}: {self.what}"


class RowError(Exception):
    """The server rejects this row, or its answer is malformed; `kind` as in `data.records.Refusal`."""

    def __init__(self, what: str, kind: Literal["window", "empty", "endpoint"] = "endpoint") -> None:
        super().__init__(what, kind)
        self.what, self.kind = what, kind


class MalformedAnswerError(Exception):
    """An answer that cannot belong to the request. Producer: its reader. Consumer: `EndpointClient.ask`."""


class EndpointClient:
    """One server, for many threads. `counts`: requests, retries, rate_limited, malformed_answers, what `count` adds."""

    def __init__(self, url: str, *, key_variable: str, connections: int, retry: RetryPolicy) -> None:
        """Raises InputError for a URL that is not plain http(s), and for a key that cannot or must not be sent."""
        self.url = _checked(url)
        self.counts: Counter[str] = Counter()
        self._key_variable, self._key = key_variable, _read_key(key_variable, self.url)
        self._retry = retry
        self._lock = threading.Lock()
        self._http = httpx.Client(
            trust_env=not _is_loopback(urlsplit(self.url).hostname or ""),  # else a proxy would see key and texts
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(retry.answer, connect=retry.connect),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def count(self, name: str, more: int = 1) -> None:
        """Add to `counts`, from any thread."""
        with self._lock:
            self.counts[name] += more

    def ask(
        self, path: str, body: dict[str, Any] | None, item_id: str, read: Callable[[dict[str, Any]], Answer]
    ) -> Answer:
        """`read` of the JSON that answers a POST of `body`, or a GET if that is None.

        `read` may raise MalformedAnswerError. Raises EndpointError, RowError and InputError, see the module.
        """
        failures, malformed, waited = 0, 0, 0.0
        for tries in itertools.count(1):
            response, trouble = self._send(f"{self.url}{path}", body)
            if response is not None and response.is_success:
                try:
                    return read(_object(response))
                except MalformedAnswerError as error:
                    malformed += 1
                    self.count("malformed_answers")
                    if malformed == MAX_MALFORMED:
                        raise RowError(f"the answer is malformed, {malformed} times: {error}") from error
                    continue
            limited = response is not None and response.status_code == HTTPStatus.TOO_MANY_REQUESTS
            failures += not limited
            pause = self._pause(response, tries)
            is_last = failures == self._retry.max_failures or tries == self._retry.max_tries
            if is_last or waited + pause > self._retry.max_wait:
                what = f"{trouble}; {tries} tries, waited {waited:.1f} s, the next pause would be {pause:.1f} s"
                raise EndpointError(what, self.url + path, item_id)
            self.count("rate_limited" if limited else "retries")
            time.sleep(pause)
            waited += pause
        raise AssertionError

    def _send(self, url: str, body: dict[str, Any] | None) -> tuple[httpx.Response | None, str]:
        """The response, if one came, and its problem; raises where a retry would not help."""
        self.count("requests")
        try:
            response = self._http.request("GET" if body is None else "POST", url, json=body)
        except httpx.RequestError as error:
            return None, self._clean(f"{type(error).__name__} {error}")
        if response.is_success:
            return response, ""
        trouble = f"status {response.status_code}: {self._message(response)}"
        if response.headers.get("X-Should-Retry") == "false" and response.is_server_error:
            raise RowError(trouble)
        if response.status_code not in RETRIED_STATUS and not response.is_server_error:
            self._refuse(response, url, trouble)
        return response, trouble

    def _refuse(self, response: httpx.Response, url: str, trouble: str) -> NoReturn:
        status = response.status_code
        if status in ROW_STATUS:
            said = response.text.lower()
            too_long = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or any(sign in said for sign in TOO_LONG)
            raise RowError(trouble, "window" if too_long else "endpoint")
        hint = "check the URL (most end with /v1) and the model's name"
        if status in KEY_STATUS and self._key:
            hint = f"put a valid key into the environment variable {self._key_variable}"
        elif status in KEY_STATUS:
            name = self._key_variable or "key_variable (an engine setting)"
            hint = f"name the environment variable that holds the key, and set it: {name}"
        raise InputError(f"the endpoint refuses: {trouble}", where=url, hint=hint)

    def _pause(self, response: httpx.Response | None, tries: int) -> float:
        """Seconds before the next try: exponential backoff with jitter, or Retry-After if that is longer."""
        asked = 0.0 if response is None else _retry_after(response.headers.get("Retry-After", ""))
        longest = min(self._retry.first_pause * 2.0 ** min(tries - 1, 32), self._retry.max_pause)
        return max(asked, longest * random.uniform(0.5, 1.0))

    def _message(self, response: httpx.Response) -> str:
        try:
            error = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            return self._clean(response.text)
        return self._clean(str(error.get("message", error) if isinstance(error, dict) else error))

    def _clean(self, text: str) -> str:
        # some servers repeat the key in their messages
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:MAX_SHOWN]


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        trouble = "the URL holds a user or a password"
    elif parts.scheme not in {"http", "https"} or not parts.hostname:
        trouble = f'"{url}" is not an http or https URL'
    elif parts.query or parts.fragment:
        trouble = f'"{url}" has a query or a fragment'
    else:
        return url.rstrip("/")
    raise InputError(trouble, where="engine setting url", hint="write it like http://127.0.0.1:8000/v1")


def _read_key(variable: str, url: str) -> str:
    """The key; "" without a variable. It goes to the named host alone, and never over a network in plain text."""
    key = os.environ.get(variable, "").strip() if variable else ""
    parts = urlsplit(url)
    if key and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise InputError(
            f"the key would be sent unencrypted to {parts.hostname}",
            where="engine setting url",
            hint="use https, or leave key_variable out",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            "this key has characters that cannot be sent in a header",
            where=f"environment variable {variable}",
            hint="set it again",
        )
    return key


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswerError(f"no JSON ({error})") from error
    if not isinstance(content, dict):
        raise MalformedAnswerError("no JSON object")
    return content


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(value: str) -> float:
    """Seconds from now, from either form of the header; 0 if it is missing or malformed."""
    if value.strip().isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
