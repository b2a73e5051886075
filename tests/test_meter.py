"""The meter: plain arithmetic on receipts, with a clock of our own; and what Prometheus reads."""

import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.meter import Meter, export, format_seconds
from data.errors import InputError
from data.records import ShardReceipt


class Clock:
    """A clock that is set by the test."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def receipt(num_rows: int, num_refused: int = 0, prompt: int = 0, cached: int = 0, answer: int = 0) -> ShardReceipt:
    return ShardReceipt("unit", "path", num_rows, 1.0, "node", num_refused, prompt, cached, answer)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> Meter:
    """After 10 s: a quarter of the items, 2 of them refused, one piece of a divided unit, one restart."""
    meter = Meter(100, clock=clock)
    meter.receipt(receipt(15, num_refused=2, prompt=1000, cached=600, answer=100))
    meter.receipt(receipt(8))
    meter.piece(receipt(4, prompt=200, cached=0, answer=20))
    meter.restart()
    meter.set_in_flight(3)
    clock.now += 10.0
    return meter


def test_what_was_done_is_added_up(meter: Meter) -> None:
    now = meter.snapshot()
    assert (now.total, now.items, now.refused, now.restarts, now.in_flight) == (100, 25, 2, 1, 3)
    assert (now.prompt_tokens, now.cached_tokens, now.tokens) == (1200, 600, 720)
    assert now.hit_rate == 0.5
    assert (now.seconds, now.items_per_second, now.tokens_per_second) == (10.0, 2.5, 72.0)
    assert now.eta_seconds == 30.0


def test_all_of_it_is_in_one_line(meter: Meter) -> None:
    assert meter.snapshot().rates() == "2.5 items/s  72 tokens/s  cache 50%  ETA 30 s  1 restart  2 refused"


def test_a_meter_that_has_seen_nothing_divides_by_nothing(clock: Clock) -> None:
    meter = Meter(5, clock=clock)
    now = meter.snapshot()
    assert (now.items_per_second, now.tokens_per_second, now.hit_rate, now.eta_seconds) == (0.0, 0.0, 0.0, None)
    assert now.rates() == "0.0 items/s"


def test_rows_of_unfinished_units_count_until_they_are_finished(clock: Clock) -> None:
    meter, seen = Meter(10, clock=clock), list[int]()
    meter.on_change = lambda: seen.append(meter.snapshot().answered)
    clock.now += 2.0
    meter.set_partial(4)
    meter.set_partial(4)
    assert (meter.snapshot().eta_seconds, meter.snapshot().items_per_second) == (3.0, 2.0)
    meter.receipt(receipt(5), partial=1)
    meter.receipt(receipt(3))
    assert seen == [4, 6, 8] and meter.snapshot().items == 8


def test_work_that_is_done_has_no_time_left(clock: Clock) -> None:
    meter = Meter(3, clock=clock)
    clock.now += 2.0
    meter.receipt(receipt(4))  # more than was announced
    assert meter.snapshot().eta_seconds == 0.0
    assert meter.snapshot().rates() == "2.0 items/s"


@given(st.floats(0, 10**6))
def test_times_are_said_shortly_and_never_as_sixty(seconds: float) -> None:
    said = format_seconds(seconds)
    assert len(said) <= 12
    assert "60" not in said.replace(" h", "h").split("h")[-1]


def test_times_as_people_say_them() -> None:
    assert [format_seconds(s) for s in (0.4, 59.4, 59.9, 61, 3599, 3600, 7500)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 min",
        "1 h 00 min",
        "1 h 00 min",
        "2 h 05 min",
    ]


@pytest.fixture
def page(meter: Meter) -> Iterator[str]:
    with (
        export(meter.snapshot) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        yield answer.read().decode()


def test_prometheus_reads_the_same_on_loopback(page: str) -> None:
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert {name: float(value) for name, value in values.items()} == {
        "entail_items_total": 25,
        "entail_refused_total": 2,
        "entail_prompt_tokens_total": 1200,
        "entail_cached_tokens_total": 600,
        "entail_computed_tokens_total": 720,
        "entail_restarts_total": 1,
        "entail_wanted_items": 100,
        "entail_units_in_flight": 3,
        "entail_items_per_second": 2.5,
        "entail_tokens_per_second": 72,
        "entail_prefix_cache_hit_rate": 0.5,
        "entail_eta_seconds": 30,
    }
    assert "# TYPE entail_items_total counter" in page
    assert "# TYPE entail_units_in_flight gauge" in page


def test_nobody_else_can_read_it(meter: Meter) -> None:
    with export(meter.snapshot) as port:
        listening = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == port]
    assert set(listening) == {"127.0.0.1"}


def test_the_exporter_ends_with_its_block_and_refuses_a_taken_port(meter: Meter) -> None:
    with (
        export(meter.snapshot) as port,
        pytest.raises(InputError, match="port"),
        export(meter.snapshot, port),
    ):
        raise AssertionError("two servers share a port")
    with export(meter.snapshot, port) as again:
        assert again == port
