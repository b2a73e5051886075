"""Counts and times of requests, and the engines' own counts, as Prometheus text. No files."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "entail"


class ServiceMetrics:
    """Requests since the start of the service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter(f"{PREFIX}_http_requests", "Requests answered.", labels, registry=self._registry)
        self.seconds = Histogram(f"{PREFIX}_http_seconds", "Time to an answer.", ("path",), registry=self._registry)
        self.waiting = Gauge(f"{PREFIX}_http_waiting_rows", "Rows that no engine has yet.", registry=self._registry)

    def text(self, engines: Sequence[Mapping[str, object]]) -> bytes:
        """All metrics, with those of every engine (`stats`, `alive`, `restarts`) under its name."""
        registry = CollectorRegistry()
        registry.register(_EngineNumbers(engines))
        return generate_latest(self._registry) + generate_latest(registry)


class _EngineNumbers(Collector):
    def __init__(self, engines: Sequence[Mapping[str, object]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """One gauge per number: a restarted engine begins at zero, which a counter may not."""
        families: dict[str, GaugeMetricFamily] = {}
        for engine in self._engines:
            stats = engine.get("stats")
            numbers = {**engine, **(stats if isinstance(stats, Mapping) else {})}
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    family = families.setdefault(
                        name, GaugeMetricFamily(f"{PREFIX}_engine_{name}", f"Engine: {name}.", labels=["engine"])
                    )
                    family.add_metric([str(engine.get("name", ""))], float(value))
        yield from families.values()
