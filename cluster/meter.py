"""Progress of running work: counts, rates, time left; as a line of text, and as Prometheus metrics on loopback."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from data.errors import InputError
from data.records import ShardReceipt

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the work. Producer: `Meter`. Consumers: the progress line, the run summary, `export`.

    `items` are rows that were answered or refused, of `total`. `tokens` were computed: read (without the
    `cached_tokens` of `prompt_tokens`) or written. `eta_seconds` is None before the first receipt.
    """

    total: int
    items: int
    refused: int
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    restarts: int
    in_flight: int
    seconds: float
    eta_seconds: float | None

    @property
    def items_per_second(self) -> float:
        """Since the meter began."""
        return self.items / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens that were computed, since the meter began."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that came from the prefix cache; 0 if none were read."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def line(self) -> str:
        """All of it in one short line."""
        return f"{self.items}/{self.total}  {self.rates()}"

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
    """Adds up receipts. Fed by one thread, read by any."""

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`total` is the number of items (rows); the time runs from now."""
        self._total, self._clock, self._began = total, clock, clock()
        self._lock = threading.Lock()
        self._items = self._refused = self._restarts = self._in_flight = 0
        self._prompt_tokens = self._cached_tokens = self._answer_tokens = 0

    def receipt(self, receipt: ShardReceipt) -> None:
        """A whole unit is done."""
        with self._lock:
            self._items += receipt.num_rows + receipt.num_refused
            self._refused += receipt.num_refused
            self._add_tokens(receipt)

    def piece(self, receipt: ShardReceipt) -> None:
        """Some rows of a divided unit are done: its tokens count now, its items with the whole unit's receipt."""
        with self._lock:
            self._add_tokens(receipt)

    def restart(self) -> None:
        """An actor was lost."""
        with self._lock:
            self._restarts += 1

    def set_in_flight(self, in_flight: int) -> None:
        """The number of units in flight."""
        self._in_flight = in_flight

    def snapshot(self) -> Snapshot:
        """The present state."""
        with self._lock:
            seconds = self._clock() - self._began
            left = max(self._total - self._items, 0)
            return Snapshot(
                total=self._total,
                items=self._items,
                refused=self._refused,
                tokens=self._prompt_tokens - self._cached_tokens + self._answer_tokens,
                prompt_tokens=self._prompt_tokens,
                cached_tokens=self._cached_tokens,
                restarts=self._restarts,
                in_flight=self._in_flight,
                seconds=seconds,
                eta_seconds=left * seconds / self._items if self._items else None,
            )

    def line(self) -> str:
        """The snapshot in one short line."""
        return self.snapshot().line()

    def _add_tokens(self, receipt: ShardReceipt) -> None:
        self._prompt_tokens += receipt.prompt_tokens
        self._cached_tokens += receipt.cached_tokens
        self._answer_tokens += receipt.answer_tokens


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
        counters: dict[str, tuple[int, str]] = {
            "items": (now.items, "rows answered or refused"),
            "refused": (now.refused, "rows refused"),
            "prompt_tokens": (now.prompt_tokens, "tokens of prompts"),
            "cached_tokens": (now.cached_tokens, "tokens of prompts found in the prefix cache"),
            "computed_tokens": (now.tokens, "tokens computed, read or written"),
            "restarts": (now.restarts, "actors lost and started again"),
        }
        gauges: dict[str, tuple[float, str]] = {
            "wanted_items": (now.total, "rows to answer in all"),
            "units_in_flight": (now.in_flight, "units running or queued at an actor"),
            "items_per_second": (now.items_per_second, "mean rate"),
            "tokens_per_second": (now.tokens_per_second, "mean rate of computed tokens"),
            "prefix_cache_hit_rate": (now.hit_rate, "share of prompt tokens found in the prefix cache"),
            "eta_seconds": (float("nan") if now.eta_seconds is None else now.eta_seconds, "time left at the mean rate"),
        }
        for name, (count, words) in counters.items():
            yield CounterMetricFamily(f"entail_{name}", words, value=count)
        for name, (value, words) in gauges.items():
            yield GaugeMetricFamily(f"entail_{name}", words, value=value)


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
