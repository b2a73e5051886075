"""The command line: verbs and their flags. Everything heavy is imported inside the verb that needs it.

Exit codes: 0 done; 2 the user's input is wrong; 3 something failed on the cluster, the same command resumes.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import InputError, ResumableError
from pipeline.data_verbs import add_data_verbs
from pipeline.planning import add_plan_flags

DESCRIPTION = """\
Give it documents: a language model writes down, in context, what follows from them, is finetuned on documents +
inferences, and a report shows what was gained."""


def main(words: Sequence[str]) -> int:
    """Run one verb; returns the exit code."""
    parser = build_parser()
    flags, rest = parser.parse_known_args(words)
    if rest and not getattr(flags, "takes_overrides", False):
        parser.error(f"unknown words: {' '.join(rest)}")
    _quieten()
    try:
        run: Callable[[argparse.Namespace, list[str]], None] = flags.run
        run(flags, rest)
    except InputError as error:
        print(f"entail: {error}", file=sys.stderr)
        return 2
    except ResumableError as error:
        print(f"entail: {error}\n  the same command goes on where this one stopped", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("\nentail: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All verbs; building it imports nothing heavy."""
    parser = argparse.ArgumentParser(prog="entail", description=DESCRIPTION)
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="the whole study on the embedded model, in minutes, without a GPU")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="the study's folder (default: runs/demo)")
    demo.set_defaults(run=_demo, takes_overrides=True)

    run = verbs.add_parser("run", help="a study from a recipe; --section.key VALUE overrides a key")
    run.add_argument("recipe", type=Path, help="a TOML recipe")
    run.add_argument("--out", type=Path, help="the study's folder (default: runs/STUDY)")
    run.set_defaults(run=_run, takes_overrides=True)

    add_data_verbs(verbs)
    _add_stages(verbs)
    _add_service(verbs)
    pretrain = verbs.add_parser("pretrain", help="make the embedded model from scratch, and measure it")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument("--out", type=Path, default=Path("models/tiny"))
    pretrain.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds otherwise")
    pretrain.add_argument("--measure-only", action="store_true", help="only measure the model in --out")
    pretrain.set_defaults(run=_pretrain)

    report = verbs.add_parser("report", help="print the table of finished studies")
    report.add_argument("runs", type=Path, nargs="+", help="folders of studies")
    report.set_defaults(run=_report)

    doctor = verbs.add_parser("doctor", help="check this machine: packages, versions, GPUs, names that collide")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_stages(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The stages as verbs of their own, for documents and models of the user's."""
    augment = verbs.add_parser("augment", help="let a model write down, in context, what follows from documents")
    augment.add_argument("--documents", type=Path, required=True, help="a made set, or a folder of documents")
    augment.add_argument("--model", required=True, help="a folder or a hub model")
    augment.add_argument("--methods", default="local,global", help="by family or name, e.g. local/reverse,global")
    augment.add_argument("--samples", type=int, default=2, help="generations of each sentence and method")
    augment.add_argument("--temperature", type=float, default=0.7)
    augment.add_argument(
        "--teacher-top", type=int, default=0, metavar="K", help="for `train --teacher`: store the K likeliest tokens"
    )
    augment.set_defaults(run=_augment)

    train = verbs.add_parser("train", help="finetune a model on documents, and on augmentations where given")
    train.add_argument("--model", required=True, help="a folder or a hub model")
    train.add_argument("--documents", type=Path, required=True, help="a made set, or a folder of documents")
    train.add_argument("--augmentations", type=Path, help="what `augment` wrote")
    _add_texts(train)
    train.add_argument("--batch-size", type=int, default=32, help="texts a step, over all ranks")
    train.add_argument("--learning-rate", type=float, default=3e-3, help="peak; 3e-3 suits the embedded model")
    _add_engine_flags(train)
    add_plan_flags(train)
    train.set_defaults(run=_train)

    evaluate = verbs.add_parser("evaluate", help="score a suite of questions by a model or by checkpoints")
    evaluate.add_argument("--suite", type=Path, required=True, help="a made set, or questions of your own: a .jsonl")
    which = evaluate.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="a folder or a hub model")
    which.add_argument("--checkpoints", nargs="+", metavar="GLOB", help="folders that `train` made")
    evaluate.add_argument("--documents", type=Path, help="documents for the context (default: the suite's)")
    evaluate.add_argument("--conditions", default="finetuned", help="of pretrained, finetuned (no context), icl")
    evaluate.set_defaults(run=_evaluate)

    for verb in (augment, train, evaluate):
        verb.add_argument("--out", type=Path, required=True)
    for verb in (augment, evaluate):
        where = verb.add_mutually_exclusive_group()
        where.add_argument("--address", help="a running Ray cluster (default: this machine)")
        where.add_argument("--service", metavar="NAME", help="work on the engines of `entail serve up --name NAME`")
        verb.add_argument("--metrics-port", type=int, metavar="PORT", help="Prometheus, on loopback (0: any free port)")
    train.add_argument("--address", help="a running Ray cluster (default: this machine)")
    for verb in (augment, train):
        verb.add_argument("--seed", type=int, default=0)


def _add_texts(train: argparse.ArgumentParser) -> None:
    """What `train` learns, how much of it, and how it is laid out."""
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="the budget in steps (default: 240)")
    budget.add_argument("--tokens", type=int, help="the budget in tokens that are learned")
    budget.add_argument("--epochs", type=float, help="the budget in rounds over all texts")
    train.add_argument("--replay", type=Path, help="general text beside the documents: a folder of documents")
    train.add_argument("--teacher", type=Path, help="distributions of a teacher in context, to learn instead of tokens")
    train.add_argument("--mix", metavar="WEIGHTS", help="shares of tokens, e.g. documents=0.5,augmentations=0.5")
    train.add_argument("--text-column", default="text", help="of the documents (default: text)")
    train.add_argument("--prompt-column", default="", help="of the documents: read before each text, not learned")
    train.add_argument("--batch-tokens", type=int, default=0, help="bounds the tokens of a batch instead of its texts")
    train.add_argument("--layout", choices=("auto", "packed", "padded"), default="auto", help="how texts share rows")


def _add_service(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Engines that stay up between commands."""
    actions = verbs.add_parser("serve", help="engines that stay up, behind an OpenAI-compatible HTTP port")
    serve = actions.add_subparsers(required=True, metavar="ACTION")
    up = serve.add_parser("up", help="start a service; returns when it answers")
    up.add_argument("--model", required=True, help="a folder or a hub model")
    up.add_argument("--engines", type=int, help="how many at most (default: as many as fit)")
    up.add_argument("--address", help="a running Ray cluster (default: this machine)")
    up.add_argument("--tensor-parallel", type=int, metavar="N", help="GPUs that share each layer of an engine (1)")
    up.add_argument("--pipeline-parallel", type=int, metavar="N", help="groups of layers of an engine (1)")
    up.add_argument("--kv-cache-gib", type=float, metavar="GIB", help="of an engine on CPU (0.5)")
    up.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: any that is free)")
    up.add_argument("--foreground", action="store_true", help="stay in this terminal; Ctrl-C ends the service")
    up.add_argument(
        "--engine", choices=("vllm", "fake"), default="vllm", help="fake: a dry run, its answers mean nothing"
    )
    status = serve.add_parser("status", help="what is up, its engines and what they have done")
    down = serve.add_parser("down", help="end a service and everything that it started")
    for action, name in ((up, _serve_up), (status, _serve_status), (down, _serve_down)):
        default = None if action is status else "default"
        action.add_argument("--name", default=default, help=f"of the service (default: {default or 'all'})")
        action.set_defaults(run=name)


def _serve_up(flags: argparse.Namespace, _: list[str]) -> None:
    from augment_service.engines.protocol import EngineSpec
    from pipeline.recipe import local_model
    from pipeline.serve.commands import up

    spec = EngineSpec(
        kind=flags.engine,
        model=local_model(flags.model),
        kv_cache_gib=flags.kv_cache_gib,
        tensor_parallel=flags.tensor_parallel or 1,
        pipeline_parallel=flags.pipeline_parallel or 1,
    )
    up(
        flags.name,
        flags.model,
        spec,
        address=flags.address,
        engines=flags.engines,
        port=flags.port,
        foreground=flags.foreground,
    )


def _serve_status(flags: argparse.Namespace, _: list[str]) -> None:
    from pipeline.serve.commands import status

    status(flags.name)


def _add_engine_flags(train: argparse.ArgumentParser) -> None:
    """How a run is computed, and what is saved on the way."""
    train.add_argument("--lora-rank", type=int, default=0, help="train adapters of this rank, then merge (default: no)")
    train.add_argument(
        "--accumulation", type=int, default=1, help="parts in which a rank goes over its texts of a step"
    )
    train.add_argument("--activation-checkpointing", action="store_true", help="less memory, more computing")
    train.add_argument("--offload", default="none", choices=("none", "cpu", "nvme"), help="where optimizer state lies")
    train.add_argument("--offload-folder", default="", help="a folder on a fast disk, for --offload nvme")
    train.add_argument("--checkpoint-every", type=int, default=200, help="steps between training states (0: none)")


def _serve_down(flags: argparse.Namespace, _: list[str]) -> None:
    from pipeline.serve.commands import down

    down(flags.name)


def _augment(flags: argparse.Namespace, _: list[str]) -> None:
    from pipeline.verbs import augment_documents

    augment_documents(flags)


def _train(flags: argparse.Namespace, _: list[str]) -> None:
    from pipeline.verbs import train_model

    train_model(flags)


def _evaluate(flags: argparse.Namespace, _: list[str]) -> None:
    from pipeline.verbs import evaluate_suite

    evaluate_suite(flags)


def _demo(flags: argparse.Namespace, overrides: list[str]) -> None:
    from pipeline.recipe import RECIPES

    _study(RECIPES / "demo.toml", flags.out, overrides)


def _run(flags: argparse.Namespace, overrides: list[str]) -> None:
    _study(flags.recipe, flags.out, overrides)


def _study(path: Path, out: Path | None, overrides: list[str]) -> None:
    from rich.console import Console

    from pipeline.recipe import load_recipe, local_model

    recipe = load_recipe(path, overrides)
    local_model(recipe.model)  # a missing model is told before the heavy imports, not after
    console = Console()
    console.print(f"[bold]entail {recipe.study}[/bold]  {path}", highlight=False)
    started = time.monotonic()
    with console.status("importing ray, torch, deepspeed"):
        from pipeline.study import run_study
    seconds = time.monotonic() - started
    run_study(recipe, out or Path("runs") / recipe.study, console, import_seconds=seconds)


def _pretrain(flags: argparse.Namespace, _: list[str]) -> None:
    from pipeline.pretraining import make_model, measure_model

    if not flags.measure_only:
        make_model(flags.out, flags.seed, flags.threads)
    measure_model(flags.out, flags.threads)


def _report(flags: argparse.Namespace, _: list[str]) -> None:
    import json

    from rich.console import Console

    from evaluate.report.table import print_report

    for folder in flags.runs:
        path = folder / "report" / "report.json"
        if not path.exists():
            raise InputError("no finished study here", where=str(folder), hint="run it to its end first")
        print_report(json.loads(path.read_text()), Console())


def _doctor(_: argparse.Namespace, __: list[str]) -> None:
    from rich.console import Console

    from cluster.probe import check_environment

    check_environment(Console())


def _quieten() -> None:
    """Libraries speak only when something is wrong; their progress bars would break ours."""
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_DEDUP_LOGS": "0",
        "PYTHONWARNINGS": "ignore",
        "DS_LOG_LEVEL": "error",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
