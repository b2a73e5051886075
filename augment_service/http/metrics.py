"""Counts and times of requests, and the engines' own counts, as Prometheus text. No files."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        """All metrics, with those of every engine (`stats`, `alive`, `restarts`) under its name.

        An engine's numbers are gauges: a restarted engine begins at zero, which a counter may not.
        """
        registry = CollectorRegistry()
        gauges: dict[str, Gauge] = {}
        for engine in engines:
            stats = engine.get("stats")
            for name, value in {**engine, **(stats if isinstance(stats, Mapping) else {})}.items():
                if isinstance(value, int | float):
                    if name not in gauges:
                        full = f"{PREFIX}_engine_{name}"
                        gauges[name] = Gauge(full, f"Engine: {name}.", ("engine",), registry=registry)
                    gauges[name].labels(str(engine.get("name", ""))).set(value)
        return generate_latest(self._registry) + generate_latest(registry)
