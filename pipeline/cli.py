"""The command line: commands and their flags. Everything heavy is imported inside the command that needs it.

Exit codes: 0 done; 2 the input is wrong (one message: what, where, hint); 3 something failed on the cluster and the
same command resumes.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from data.errors import InputError, ResumableError
from pipeline.data_section import SETS, OwnCorpus
from pipeline.flags import Parser, add_field, add_section, ambiguous
from pipeline.recipe import RECIPES, Recipe
from pipeline.sections import (
    Augment,
    AugmentCommand,
    Cluster,
    Engine,
    EvaluateStudy,
    EvaluateSuite,
    Section,
    Train,
    TrainRun,
)

DESCRIPTION = """\
Give it documents: a language model writes down, in context, what follows from them, is finetuned on documents +
inferences, and a report shows what was gained."""
STUDY: dict[str, type[Section]] = {
    "engine": Engine,
    "augment": Augment,
    "train": Train,
    "evaluate": EvaluateStudy,
    "cluster": Cluster,
}
Commands = Any  # argparse's action that holds the commands; its class is private


def main(words: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    _quieten()
    try:
        flags = build_parser().parse_args(words)
        flags.command = shlex.join(["entail", *words])
        module, name = flags.run
        run: Callable[[argparse.Namespace], object] = getattr(import_module(module), name)
        run(flags)
    except InputError as error:
        print(f"entail: {error}", file=sys.stderr)
        return 2
    except ResumableError as error:
        print(f"entail: {error}\n  re-run the same command to resume", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("\nentail: interrupted; re-run the same command to resume", file=sys.stderr)
        return 130
    return 0


def build_parser() -> Parser:
    """All commands; building it imports nothing heavy."""
    parser = Parser(prog="entail", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_studies(commands)
    _add_data(commands)
    _add_augment(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_service(commands)
    pretrain = _command(
        commands, "pretrain", "models.pretrain.commands:run", "make the embedded model from scratch, and measure it"
    )
    pretrain.add_argument("--seed", type=int, default=0, help="of the weights and the documents (default: 0)")
    pretrain.add_argument("--out", type=Path, default=Path("models/tiny"), help="model folder (default: models/tiny)")
    pretrain.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; weights are bit-identical only for the same number (default: 1)",
    )
    pretrain.add_argument("--measure-only", action="store_true", help="only measure the model in --out")
    report = _command(commands, "report", "pipeline.commands:show_reports", "print the table of finished studies")
    report.add_argument("runs", type=Path, nargs="+", help="folders of studies or evaluations")
    _command(commands, "doctor", "pipeline.commands:check_machine", "check this machine: packages, versions, GPUs")
    return parser


def _command(commands: Commands, name: str, run: str, help: str, **options: Any) -> Parser:
    module, _, function = run.partition(":")
    parser: Parser = commands.add_parser(name, help=help, description=help, **options)
    parser.set_defaults(run=(module, function))
    return parser


def _add_sections(
    parser: Parser, sections: dict[str, type[Section]], exclude: dict[str, tuple[str, ...]] | None = None
) -> None:
    taken = ambiguous(sections)
    for name, model in sections.items():
        add_section(parser, name, model, taken=taken, exclude=(exclude or {}).get(name, ()))


def _add_studies(commands: Commands) -> None:
    """`demo` and `run`: every key of a recipe is a flag."""
    usage = "entail {} [--out DIR] [--section.key VALUE ...]"
    demo = _command(
        commands, "demo", "pipeline.commands:demo", "the whole study on the embedded model, in minutes, without a GPU",
        usage=usage.format("demo"),
    )  # fmt: skip
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="the study's folder (default: runs/demo)")
    demo.set_defaults(recipe=RECIPES / "demo.toml")
    run = _command(
        commands, "run", "pipeline.commands:run_recipe", "a study from a recipe", usage=usage.format("run RECIPE")
    )
    run.add_argument("recipe", type=Path, help=f"a TOML recipe; bundled ones are in {RECIPES}")
    run.add_argument("--out", type=Path, help="the study's folder (default: runs/STUDY)")
    for parser in (demo, run):
        for name in ("study", "seed", "model"):
            add_field(parser, f"--{name}", (name,), Recipe.model_fields[name])
        _add_sections(parser, STUDY)
        for name, model in SETS.items():
            _add_long(parser, f"data.{name}", ("data", name), model)
        _add_long(parser, "data.NAME", None, OwnCorpus)
        parser.tables = [("data",), ("train", "arms"), ("train", "mix")]


def _add_long(parser: Parser, title: str, path: tuple[str, ...] | None, model: type[Section]) -> None:
    """A section whose flags have the long spelling alone; without a path, its flags are shown in the help only."""
    group = parser.add_argument_group(title, (model.__doc__ or "").strip().partition("\n")[0])
    for name, field in model.model_fields.items():
        flag = f"--{title}.{name.replace('_', '-')}"
        add_field(group, flag, (*(path or ("data", "NAME")), name), field)


def _add_data(commands: Commands) -> None:
    data = _command(
        commands,
        "data",
        "pipeline.data_commands:none",
        "make, import, inspect, audit and export documents and questions",
    )
    actions = data.add_subparsers(required=True, metavar="ACTION")
    make = _command(
        actions,
        "make",
        "pipeline.data_commands:make",
        "generate one of the sets: documents/, questions/ and a manifest",
    )
    sets = make.add_subparsers(required=True, metavar="SET", dest="set")
    for name, model in SETS.items():
        parser = _command(sets, name, "pipeline.data_commands:make", (model.__doc__ or "").partition("\n")[0])
        parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
        parser.add_argument("--out", type=Path, required=True, help="a new folder")
        for key, field in model.model_fields.items():
            add_field(parser, f"--{key.replace('_', '-')}", ("set", key), field)
    _add_import(
        _command(
            actions,
            "import",
            "pipeline.data_commands:import_files",
            "your own files: txt md html pdf jsonl csv parquet arrow",
        )
    )
    inspect = _command(
        actions, "inspect", "pipeline.data_commands:inspect", "counts, columns, lengths and the first rows of a folder"
    )
    inspect.add_argument("folder", type=Path, help="a made set, an import, augmentations, any folder of shards")
    audit = _command(
        actions, "audit", "pipeline.data_commands:audit", "leaks, soundness of questions, baselines without knowledge"
    )
    audit.add_argument("folder", type=Path, help="a made set, or an import with questions/")
    export = _command(
        actions,
        "export",
        "pipeline.data_commands:export",
        "Parquet or JSON lines, with a card that `load_dataset` reads",
    )
    export.add_argument("folder", type=Path, help="a made set, an import, or what `augment` wrote")
    export.add_argument("--to", choices=("parquet", "jsonl", "card"), required=True, help="format of the files")
    export.add_argument("--out", type=Path, required=True, help="a new folder")


def _add_import(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, or patterns in quotes")
    parser.add_argument("--out", type=Path, required=True, help="gets documents/, rejected/ and a manifest")
    parser.add_argument("--text-column", default="text", help="text column of tables and JSON lines (default: text)")
    parser.add_argument(
        "--id-column", default="", help="id column of tables and JSON lines (default: ids from the content)"
    )
    parser.add_argument("--corpus", default="corpus", help="the corpus that all documents belong to (default: corpus)")
    parser.add_argument("--dedup", action="store_true", help="leave out near-duplicates (MinHash)")
    parser.add_argument("--similarity", type=float, default=0.8, help="Jaccard threshold for --dedup (default: 0.8)")
    parser.add_argument(
        "--chunk-tokens",
        type=int,
        default=0,
        metavar="N",
        help="cut at sentence ends to N tokens (default: 0, no cutting)",
    )
    parser.add_argument(
        "--model", default="", help="model whose tokenizer counts --chunk-tokens (default: words are counted)"
    )
    parser.add_argument(
        "--split-sentences",
        choices=("none", "independent", "cumulative"),
        default="none",
        help="one document per sentence",
    )
    parser.add_argument("--max-mib", type=int, default=16, help="longest line and document, in MiB (default: 16)")


def _add_augment(commands: Commands) -> None:
    parser = _command(
        commands,
        "augment",
        "pipeline.commands:augment",
        "let a model write down, in context, what follows from documents",
    )
    parser.add_argument(
        "--documents", type=Path, required=True, help="a made set, an import, an Arrow folder, or text files"
    )
    parser.add_argument("--model", required=True, help="a folder, a hub model, or an endpoint's name for its model")
    parser.add_argument("--out", type=Path, required=True, help="gets augmentations/")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    _add_sections(parser, {"augment": AugmentCommand, "engine": Engine, "cluster": Cluster})


def _add_train(commands: Commands) -> None:
    parser = _command(
        commands, "train", "pipeline.commands:train", "finetune a model on documents, and on augmentations where given"
    )
    parser.add_argument("--model", required=True, help="a folder or a hub model")
    parser.add_argument(
        "--documents", type=Path, required=True, help="a made set, an import, an Arrow folder, or text files"
    )
    parser.add_argument("--augmentations", type=Path, help="what `augment` wrote")
    parser.add_argument(
        "--teacher", type=Path, help="what `augment --teacher-top-k` wrote: distil it instead of learning tokens"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the checkpoint; with several seeds one folder for each"
    )
    parser.add_argument("--text-column", default="text", help="text column of the documents (default: text)")
    parser.add_argument("--prompt-column", default="", help="column that is read before each text and not learned")
    add_field(parser, "--seed", ("train", "seeds"), TrainRun.model_fields["seeds"])
    _add_sections(parser, {"train": TrainRun, "cluster": Cluster}, {"cluster": ("metrics_port",)})
    planned = parser.add_argument_group("planning", "what each ZeRO stage would need; nothing is trained or written")
    planned.add_argument(
        "--plan", action="store_true", help="print memory per rank by part, and communication; then end"
    )
    planned.add_argument("--gpu-gib", type=float, help="plan for GPUs of that memory (default: this machine's)")
    planned.add_argument("--row-tokens", type=int, help="plan for texts of that length (default: the texts')")
    parser.tables = [("train", "mix")]


def _add_evaluate(commands: Commands) -> None:
    parser = _command(
        commands,
        "evaluate",
        "pipeline.commands:evaluate",
        "score a suite of questions with a model and with checkpoints",
    )
    parser.add_argument(
        "--suite", type=Path, required=True, help="a made set, a folder with questions/, or a .jsonl file"
    )
    parser.add_argument("--model", default="", help='the base model, reported as "base"')
    parser.add_argument(
        "--checkpoints", nargs="+", default=[], metavar="GLOB", help="folders that `train` made, patterns in quotes"
    )
    parser.add_argument("--documents", type=Path, help="documents for the contexts (default: the suite's own)")
    parser.add_argument("--prompts", default="", help="a prompt book (TOML) in place of the model's own")
    parser.add_argument("--seed", type=int, default=0, help="of sampled contexts (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="gets report/")
    _add_sections(parser, {"evaluate": EvaluateSuite, "engine": Engine, "cluster": Cluster})


def _add_service(commands: Commands) -> None:
    """Engines that stay up between commands."""
    serve = _command(
        commands, "serve", "pipeline.commands:none", "engines that stay up, behind an OpenAI-compatible HTTP port"
    )
    actions = serve.add_subparsers(required=True, metavar="ACTION")
    up = _command(actions, "up", "pipeline.commands:serve_up", "start a service; returns when it answers")
    up.add_argument("--model", required=True, help="a folder or a hub model")
    up.add_argument("--name", default="default", help="of the service (default: default)")
    up.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: any free port)")
    up.add_argument("--foreground", action="store_true", help="stay in this terminal; Ctrl-C ends the service")
    _add_sections(up, {"engine": Engine, "cluster": Cluster}, {"engine": ("service",), "cluster": ("metrics_port",)})
    status = _command(
        actions, "status", "pipeline.commands:serve_status", "what is up, its engines and what they have done"
    )
    status.add_argument("--name", help="of the service (default: all)")
    down = _command(actions, "down", "pipeline.commands:serve_down", "end a service and everything that it started")
    down.add_argument("--name", default="default", help="of the service (default: default)")


def _quieten() -> None:
    """Libraries report only errors; their progress bars would break ours."""
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
