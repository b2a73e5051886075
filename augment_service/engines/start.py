"""Starts the engine that a spec describes; the package of a kind is imported only if that kind is wanted."""

from augment_service.engines.protocol import Engine, EngineSpec


def start_engine(spec: EngineSpec) -> Engine:
    """The engine of that kind, ready for requests. Raises what its constructor raises."""
    if spec.kind == "fake":
        from augment_service.engines.fake import FakeEngine

        return FakeEngine(spec)
    if spec.kind == "endpoint":
        from augment_service.engines.endpoint.engine import EndpointEngine

        return EndpointEngine(spec)
    from augment_service.engines.vllm import VllmEngine

    return VllmEngine(spec)
