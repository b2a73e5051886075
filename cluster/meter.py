"""Progress of running work: counts, rates, time left; as a line of text, and as Prometheus metrics on loopback."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from data.errors import InputError
from data.records import ShardReceipt

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the work. Producer: `Meter`. Consumers: the progress line, the run summary, `export`.

    `items` are rows of finished units that were answered or refused, of `total`; `partial` are answered rows of units
    that are not finished. Of the `prompt_tokens`, `cached_tokens` were not computed; `answer_tokens` were written or
    scored. `seconds` is the time since the meter began.
    """

    total: int
    items: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    restarts: int = 0
    in_flight: int = 0
    seconds: float = 0.0
    partial: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that were computed: read or written."""
        return self.prompt_tokens - self.cached_tokens + self.answer_tokens

    @property
    def answered(self) -> int:
        """All rows that are answered or refused."""
        return self.items + self.partial

    @property
    def eta_seconds(self) -> float | None:
        """The time left at the mean rate; None before the first row."""
        return max(self.total - self.answered, 0) * self.seconds / self.answered if self.answered else None

    @property
    def items_per_second(self) -> float:
        """Since the meter began."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens that were computed, since the meter began."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that came from the prefix cache; 0 if none were read."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def rates(self) -> str:
        """Rates and failures, without those that are zero."""
        parts = [f"{self.items_per_second:.1f} items/s"]
        if self.tokens:
            parts += [f"{self.tokens_per_second:,.0f} tokens/s", f"cache {self.hit_rate:.0%}"]
        if self.eta_seconds:
            parts.append(f"ETA {format_seconds(self.eta_seconds)}")
        if self.restarts:
            parts.append(f"{self.restarts} restart{'s' if self.restarts > 1 else ''}")
        if self.refused:
            parts.append(f"{self.refused} refused")
        return "  ".join(parts)


class Meter:
    """Adds up receipts. Fed by one thread, read by any: the snapshot is replaced as a whole.

    `on_change` is called when rows were answered.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`total` is the number of items (rows); the time runs from now."""
        self._now, self._clock, self._began = Snapshot(total), clock, clock()
        self.on_change: Callable[[], None] = lambda: None

    def receipt(self, receipt: ShardReceipt, partial: int = 0) -> None:
        """A whole unit is done; `partial` are the answered rows of the units that are not, from now on."""
        self._now = replace(self._now, partial=partial)
        self._add(receipt, receipt.num_rows + receipt.num_refused, receipt.num_refused)

    def piece(self, receipt: ShardReceipt) -> None:
        """Some rows of a divided unit are done: its tokens count now, its items with the whole unit's receipt."""
        self._add(receipt, 0, 0)

    def restart(self) -> None:
        """An actor was lost."""
        self._now = replace(self._now, restarts=self._now.restarts + 1)

    def set_partial(self, partial: int) -> None:
        """The number of answered rows in units that are not finished."""
        if partial != self._now.partial:
            self._now = replace(self._now, partial=partial)
            self.on_change()

    def set_in_flight(self, in_flight: int) -> None:
        """The number of units in flight."""
        self._now = replace(self._now, in_flight=in_flight)

    def snapshot(self) -> Snapshot:
        """The present state."""
        return replace(self._now, seconds=self._clock() - self._began)

    def _add(self, receipt: ShardReceipt, items: int, refused: int) -> None:
        self._now = replace(
            self._now,
            items=self._now.items + items,
            refused=self._now.refused + refused,
            prompt_tokens=self._now.prompt_tokens + receipt.prompt_tokens,
            cached_tokens=self._now.cached_tokens + receipt.cached_tokens,
            answer_tokens=self._now.answer_tokens + receipt.answer_tokens,
        )
        self.on_change()


def format_seconds(seconds: float) -> str:
    """A duration for people: 42 s, 3 min, 2 h 05 min."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


class _Metrics(Collector):
    """Reads a snapshot whenever Prometheus asks."""

    def __init__(self, read: Callable[[], Snapshot]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        now = self._read()
        left = float("nan") if now.eta_seconds is None else now.eta_seconds
        for kind, name, value, words in (
            (CounterMetricFamily, "items", now.items, "rows answered or refused"),
            (CounterMetricFamily, "refused", now.refused, "rows refused"),
            (CounterMetricFamily, "prompt_tokens", now.prompt_tokens, "tokens of prompts"),
            (CounterMetricFamily, "cached_tokens", now.cached_tokens, "tokens of prompts found in the prefix cache"),
            (CounterMetricFamily, "computed_tokens", now.tokens, "tokens computed, read or written"),
            (CounterMetricFamily, "restarts", now.restarts, "actors lost and started again"),
            (GaugeMetricFamily, "wanted_items", now.total, "rows to answer in all"),
            (GaugeMetricFamily, "units_in_flight", now.in_flight, "units running or queued at an actor"),
            (GaugeMetricFamily, "items_per_second", now.items_per_second, "mean rate"),
            (GaugeMetricFamily, "tokens_per_second", now.tokens_per_second, "mean rate of computed tokens"),
            (
                GaugeMetricFamily,
                "prefix_cache_hit_rate",
                now.hit_rate,
                "share of prompt tokens found in the prefix cache",
            ),
            (GaugeMetricFamily, "eta_seconds", left, "time left at the mean rate"),
        ):
            yield kind(f"entail_{name}", words, value=value)


@contextmanager
def export(read: Callable[[], Snapshot], port: int = 0) -> Iterator[int]:
    """Serve what `read` returns (e.g. `meter.snapshot`) to Prometheus, on loopback; yields the port (0: any free one).

    Raises InputError if the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(_Metrics(read))
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise InputError(
            f"cannot serve metrics: {error}", where=f"port {port}", hint="choose a free port, or 0"
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
