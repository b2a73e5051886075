"""Answers of a GGUF model, by llama.cpp in a process of its own: `python -m pipeline.ask_gguf MODEL.gguf`.

Reads requests, one JSON object a line: prompt, max_tokens. Writes the greedy answers in their order, one JSON
string a line, and llama.cpp's log to stderr.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any


def answers(model: str, requests: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What llama.cpp writes, greedily. Raises ModuleNotFoundError without the package xllamacpp."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 4096
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(params)
    for request in requests:
        done = server.handle_completions({**request, "temperature": 0.0})
        yield done["choices"][0]["text"]


if __name__ == "__main__":
    for text in answers(sys.argv[1], map(json.loads, sys.stdin)):
        print(json.dumps(text), flush=True)
