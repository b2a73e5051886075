"""The DeepSpeed engine of a run: the process group, one step, and the full tensors of its training state.

Reads and writes no files. At any stage, the state is three fp32 tensors for each trained parameter, under the
parameter's name, so that it fits every other stage and number of ranks.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from data.errors import InputError, ResumableError
from train.engine.zero_config import zero_config
from train.model.objective import model_inputs, targets_of
from train.run.finetune_run import FinetuneRun
from train.texts.batches import Batch, micro_batches

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)
# The fp32 numbers [start, stop) of a flattened tensor of a state, by the parameter's name and the kind.
ReadState = Callable[[str, str, int, int], torch.Tensor]
Result = TypeVar("Result")


def join_group() -> None:
    """Join the process group of Ray Train or torchrun, or make one of a single process; once per process."""
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    backend = "nccl" if on_gpu else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group(backend, **alone)
    if not deepspeed.comm.is_initialized():
        # No C++ operators: training uses none, and building one takes a minute.
        deepspeed.ops.__compatible_ops__ = {}
        deepspeed.init_distributed(dist_backend=backend, verbose=False)


def split_group(ranks: int, host: str) -> int:
    """Replace the process group by groups of `ranks` consecutive ranks; returns the number of this rank's group.

    Every rank of the old group calls it, before `join_group`. `host` is this rank's address for the others.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if ranks == world_size:
        return 0
    new_rank = rank % ranks
    # Port 0 is any free port; each group's leader sends its own to all ranks.
    store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False) if new_rank == 0 else None
    addresses: list[tuple[str, int] | None] = [None] * world_size
    dist.all_gather_object(addresses, (host, store.port) if store else None)
    backend = dist.get_backend()
    dist.destroy_process_group()
    if store is None:
        leader = addresses[rank - new_rank]
        assert leader is not None, "every leader sent its address"
        store = dist.TCPStore(*leader, is_master=False)
    dist.init_process_group(backend, store=store, rank=new_rank, world_size=ranks)
    return rank // ranks


def check_offload(run: FinetuneRun) -> None:
    """Refuse an offload to disk where DeepSpeed cannot build its asynchronous I/O."""
    if run.offload != "nvme":
        return
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise InputError(
            "offload to nvme needs libaio, which is not installed",
            where=f"train.offload of run {run.name}",
            hint="install libaio-dev (libaio-devel) on every node, or use offload cpu",
        )


def agree(prepare: Callable[[], Result]) -> Result:
    """Prepare on every rank; if one raises, all do, so that none waits for it: wrong input, or a full disk."""
    return _all_or_none(prepare, InputError, ResumableError)


def write_together(write: Callable[[], Result]) -> Result:
    """Write on every rank; if one cannot (a full disk), all of them raise ResumableError with its reason."""
    return _all_or_none(write, OSError, SafetensorError, InputError)


def _all_or_none(act: Callable[[], Result], *kinds: type[Exception]) -> Result:
    results: list[Result] = []
    errors: list[InputError | ResumableError | None] = [None] * dist.get_world_size()
    own: InputError | ResumableError | None = None
    try:
        results.append(act())
    except kinds as error:
        own = error if isinstance(error, InputError | ResumableError) else ResumableError(f"writing failed: {error}")
    dist.all_gather_object(errors, own)
    for raised in errors:
        if raised is not None:
            raise raised
    return results[0]


def dtype_of(run: FinetuneRun) -> torch.dtype:
    """The precision of a run's weights: as it says, or bf16 on a GPU that has it, else fp32.

    bf16 is far slower on CPUs.
    """
    if run.precision != "auto":
        return torch.bfloat16 if run.precision == "bfloat16" else torch.float32
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float32


def config_of(run: FinetuneRun) -> dict[str, object]:
    """DeepSpeed's configuration of a run."""
    return zero_config(
        run.stage,
        -(-run.batch_size // (dist.get_world_size() * run.accumulation)),
        run.max_grad_norm,
        bf16=dtype_of(run) == torch.bfloat16,
        on_gpu=torch.cuda.is_available(),
        accumulation=run.accumulation,
        offload=run.offload,
        offload_folder=run.offload_folder,
    )


@contextmanager
def partitioned(config: Mapping[str, object]) -> Iterator[None]:
    """Parameters of modules that are made here are partitioned at once, with contents that mean nothing (stage 3)."""
    import deepspeed

    # No tensor overrides: the one for the dtype would round buffers, too.
    init: Any = deepspeed.zero.Init(config_dict_or_path=dict(config), tensor_overrides=())

    def partition(parameter: Any) -> None:
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()

    # DeepSpeed's own method also broadcasts the whole parameter, which has no content yet.
    init._zero_init_param = partition
    with init:
        yield


def start_engine(run: FinetuneRun, model: PreTrainedModel) -> Any:
    """An engine around `model`, whose forward call returns a loss, that trains what requires a gradient."""
    import deepspeed

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run.learning_rate, weight_decay=run.weight_decay, fused=True)
    if run.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    engine, *_ = deepspeed.initialize(
        model=model.train(), optimizer=optimizer, config=config_of(run), dist_init_required=False
    )
    return engine


def take_step(engine: Any, batch: Batch, rate: float, max_grad_norm: float = 0.0) -> torch.Tensor:
    """One optimizer step over the micro-batches of a batch; returns two numbers [2] on this rank's device.

    They are the rank's share of the loss, which is the mean over the labels of the global batch in nats, and the norm
    of the whole gradient before it is clipped to `max_grad_norm` (0: never). Of a gradient that is not finite the norm
    is not either, and no step is taken.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    shares = []
    for micro_batch in micro_batches(batch, engine.gradient_accumulation_steps()):
        inputs = model_inputs(micro_batch, engine.device)
        share = engine(**inputs, targets=targets_of(micro_batch, engine.device)) / micro_batch.global_labels
        # The engine averages gradients over the ranks, but shares are summed over ranks and micro-batches.
        engine.backward(share * dist.get_world_size(), scale_wrt_gas=False)
        shares.append(share.detach())
        if len(shares) < engine.gradient_accumulation_steps():
            engine.step()
    if engine.zero_optimization_stage():
        engine.step()
        norm = engine.get_global_grad_norm()
    else:
        norm = torch.nn.utils.clip_grad_norm_(engine.module.parameters(), max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            engine.zero_grad()  # AdamW passes over parameters without a gradient
        engine.step()
    total = torch.stack(shares).sum().float()
    norm = torch.nan if norm is None or engine.skipped_steps else norm
    return torch.stack([total, torch.as_tensor(norm, dtype=torch.float32, device=total.device)])


def trained_parameters(module: torch.nn.Module) -> dict[str, Parameter]:
    """The parameters that are trained, in the module's order; a tied one occurs once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def full_tensors(engine: Any, kinds: tuple[str, ...] = KINDS) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Name, kind and full fp32 tensor of the trained parameters; all ranks must go through all of them together.

    Kinds are the weight and, after the first step, AdamW's two moments.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    masters, state = _masters(engine), _torch_optimizer(engine).state
    for name, parameter in trained_parameters(engine.module).items():
        for kind in kinds:
            if masters is not None:
                master = masters[parameter]
                tensor = master.detach() if kind == WEIGHT else state[master][kind]
            elif kind == WEIGHT:
                tensor = safe_get_full_fp32_param(parameter)
            else:
                tensor = safe_get_full_optimizer_state(parameter, kind)
            yield name, kind, tensor


def gathered_weights(engine: Any) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Name and tensor of all weights and stored buffers at stage 3, one gathered after another; all ranks go through.

    A tied weight occurs once. Tensors are on rank 0 alone, on its host.
    """
    import deepspeed

    first = dist.get_rank() == 0
    names = {name for name, _ in engine.module.named_parameters(remove_duplicate=False)}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.detach().to("cpu", copy=True) if first else None
    for name in engine.module.state_dict().keys() - names:
        yield name, engine.module.get_buffer(name).to("cpu", copy=True) if first else None


def optimizer_steps(engine: Any) -> int:
    """The number of steps that AdamW has counted, for the bias correction of its moments."""
    return int(next(iter(_torch_optimizer(engine).state.values()))["step"])


def restore(engine: Any, steps: int, read: ReadState) -> None:
    """Put an engine that has not stepped yet into the saved state in which AdamW had counted `steps`.

    Every rank reads the parts of tensors that it keeps.
    """
    optimizer = _torch_optimizer(engine)
    for flat in _flat_tensors(engine):
        # AdamW would create its state in its first step.
        moments = {kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS}
        device = flat.device if optimizer.defaults["fused"] else torch.device("cpu")
        optimizer.state[flat] = {"step": torch.tensor(float(steps), device=device), **moments}
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    masters = _masters(engine)
    with torch.no_grad():
        for name, parameter in trained_parameters(engine.module).items():
            for kind in KINDS:
                if masters is not None:
                    master = masters[parameter]
                    whole = read(name, kind, 0, parameter.numel()).view_as(parameter)
                    (master if kind == WEIGHT else optimizer.state[master][kind]).copy_(whole)
                elif hasattr(parameter, "ds_id"):
                    _set_part(parameter, name, kind, read)
                elif (mapping := parameter._hp_mapping) is not None:  # None: other ranks keep all of it
                    address = mapping.lp_fragment_address
                    value = read(name, kind, address.start, address.start + address.numel)
                    mapping.get_hp_fragment(None if kind == WEIGHT else kind).copy_(value)


def _set_part(parameter: Any, name: str, kind: str, read: ReadState) -> None:
    """Store this rank's part of a tensor at stage 3; the last rank's may extend beyond the tensor's end."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = parameter.ds_tensor.numel()
    start = min(size * dist.get_rank(), parameter.ds_numel)
    stop = min(start + size, parameter.ds_numel)
    value = torch.zeros(size, device=parameter.ds_tensor.device)
    value[: stop - start] = read(name, kind, start, stop)
    if kind == WEIGHT:
        safe_set_local_fp32_param(parameter, value)
    else:
        safe_set_local_optimizer_state(parameter, value, kind)


def _torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The AdamW inside DeepSpeed's wrapper; stage 0 has none."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _masters(engine: Any) -> dict[Parameter, torch.Tensor] | None:
    """Each parameter's whole fp32 tensor at stage 0, itself; None above, where tensors are in shards."""
    wrapper = engine.optimizer
    if hasattr(wrapper, "optimizer"):
        return None
    return {parameter: parameter for group in wrapper.param_groups for parameter in group["params"]}


def _flat_tensors(engine: Any) -> list[torch.Tensor]:
    """The keys of the torch optimizer's state: whole parameters at stage 0, a rank's flat shards above."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(engine.optimizer, name):
            return list(getattr(engine.optimizer, name))
    return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
