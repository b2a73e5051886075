"""The flags of `train` that plan instead of training. Reads and writes nothing."""

import argparse

from train.engine.zero_config import STAGES
from train.plan.fit import AUTO


def add_plan_flags(train: argparse.ArgumentParser) -> None:
    """The flags of `train` that plan instead of training."""
    train.add_argument("--stage", type=_stage, default=1, metavar="{0,1,2,3,auto}", help="ZeRO stage; auto: see --plan")
    train.add_argument("--no-memory-check", action="store_true", help="start even if the plan says that it cannot fit")
    train.add_argument("--trackers", default="", metavar="NAMES", help="beside the log: tensorboard, wandb, mlflow")
    planned = train.add_argument_group("planning", "what each ZeRO stage would need; nothing is trained or written")
    planned.add_argument("--plan", action="store_true", help="print memory a rank by part, and communication; then end")
    planned.add_argument("--ranks", type=int, help="plan for so many ranks (default: as many as this machine carries)")
    planned.add_argument("--gpu-gib", type=float, help="plan for GPUs of that memory (default: this machine's)")
    planned.add_argument("--row-tokens", type=int, help="plan for texts of that length (default: the texts')")


def _stage(word: str) -> int | str:
    if word == AUTO:
        return word
    if word not in {str(stage) for stage in STAGES}:
        raise argparse.ArgumentTypeError(f"{word} is none of 0, 1, 2, 3, auto")
    return int(word)
