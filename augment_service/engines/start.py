"""Starts the engine that a spec names; each kind is imported only if it is asked for."""

from augment_service.engines.protocol import Engine, EngineSpec


def start_engine(spec: EngineSpec) -> Engine:
    """The engine of that kind, ready to work. vLLM is imported only if it is asked for."""
    if spec.kind == "fake":
        from augment_service.engines.fake import FakeEngine

        return FakeEngine(spec)
    if spec.kind == "endpoint":
        from augment_service.engines.endpoint.engine import EndpointEngine

        return EndpointEngine(spec)
    from augment_service.engines.vllm import VllmEngine

    return VllmEngine(spec)
