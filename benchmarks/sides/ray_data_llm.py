"""`ray.data.llm`, from a file of prompts to a folder of texts, as its documentation shows it.

Reads a Parquet file with the columns `text`, `num_tokens`, `temperature`; writes a folder of Parquet files.
"""

from importlib.metadata import version
from typing import Any

from benchmarks.side import serve

# Up to 8 batches of 64 rows are in its engine at a time: more than vLLM runs at once, so it never waits for rows.
BATCH_SIZE, CONCURRENT_BATCHES = 64, 8


class RayDataSide:
    """One run of the whole: Ray, the engine, all prompts, the end of Ray."""

    def run(self, model: str, settings: dict[str, Any], source: str, target: str, num_gpus: int = 0) -> dict[str, Any]:
        """Generate for every row; `settings` are arguments of the engine."""
        import ray
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        config = vLLMEngineProcessorConfig(
            model_source=model,
            engine_kwargs=settings,
            batch_size=BATCH_SIZE,
            concurrency=1,
            max_concurrent_batches=CONCURRENT_BATCHES,
            placement_group_config={"bundles": [{"GPU": num_gpus} if num_gpus else {"CPU": 1}]},
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            log_engine_metrics=False,
        )
        processor = build_processor(config, preprocess=_request, postprocess=_answer)
        processor(ray.data.read_parquet(source)).write_parquet(target)
        ray.shutdown()
        return {"versions": {"ray": version("ray")}}


def _request(row: dict[str, Any]) -> dict[str, Any]:
    params = {
        "max_tokens": row["num_tokens"],
        "min_tokens": row["num_tokens"],
        "ignore_eos": True,
        "temperature": row["temperature"],
    }
    return {"prompt": row["text"], "sampling_params": params, "number": row["number"]}


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "text": row["generated_text"], "num_tokens": row["num_generated_tokens"]}


if __name__ == "__main__":
    serve(RayDataSide())
