"""The DeepSpeed configuration as a pure function. Reads and writes nothing."""

STAGES = (0, 1, 2, 3)


def zero_config(
    stage: int,
    micro_batch_size: int,
    max_grad_norm: float,
    *,
    bf16: bool,
    on_gpu: bool,
    accumulation: int = 1,
    offload: str = "none",
    offload_folder: str = "",
) -> dict[str, object]:
    """The configuration of one engine: ZeRO `stage` 0-3, fp32 or bf16, gradients clipped to a norm (0: never).

    It names no optimizer: a torch AdamW passed to the engine needs no C++ build. `micro_batch_size` counts texts on one
    rank in each of the `accumulation` micro-batches of a step. `offload` moves the optimizer's state, and at stage 3
    the weights too, to the memory of the host ("cpu") or below `offload_folder` ("nvme"). In bf16, gradients are
    accumulated and reduced in fp32, and stage 0 is computed as stage 1, since DeepSpeed's own cannot do that.
    """
    stage = stage_of(stage, bf16=bf16)
    zero: dict[str, object] = {"stage": stage}
    if stage:
        # On a GPU, communication has a stream of its own; on a CPU it would compete with the arithmetic.
        zero["overlap_comm"] = on_gpu
    if offload != "none":
        target: dict[str, object] = {"device": offload}
        target |= {"nvme_path": offload_folder} if offload == "nvme" else {}
        # Pinned memory makes copies to a GPU asynchronous; without a GPU nothing is copied.
        target |= {"pin_memory": True} if on_gpu else {}
        zero["offload_optimizer"] = target
        if stage == 3:
            zero["offload_param"] = target
    config: dict[str, object] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        # At stage 0 in fp32 the engine is torch's own optimizer, and the caller clips.
        "gradient_clipping": max_grad_norm if stage else 0.0,
        "zero_optimization": zero,
        # The loop writes the log: printing and timing inside the engine would cost time in every step.
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if offload != "none":
        config["zero_force_ds_cpu_optimizer"] = False  # torch's fused AdamW works on host memory without a C++ build
    if bf16:
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        config["communication_data_type"] = "fp32"
    return config


def stage_of(stage: int, *, bf16: bool) -> int:
    """The stage at which a run computes: 0 needs fp32."""
    return max(stage, 1) if bf16 else stage
