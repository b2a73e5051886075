"""The DeepSpeed configuration as a pure function. Reads and writes nothing."""


def zero_config(stage: int, micro_batch_size: int, clip: float, *, bf16: bool) -> dict[str, object]:
    """The configuration of one engine: ZeRO `stage` 0-3, fp32 or bf16, gradients clipped at norm `clip` (0: never).

    It names no optimizer: a torch AdamW handed to the engine needs no C++ build. `micro_batch_size` counts texts
    on one rank.
    """
    config: dict[str, object] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_optimization": {"stage": stage, "overlap_comm": False} if stage else {"stage": 0},
        # The loop keeps the log: printing and timing inside the engine would cost time in every step.
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if bf16:
        config["bf16"] = {"enabled": True}
    return config
