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

from cluster.termination import EXIT_CODE, HINT, TerminatedError, ended_by_sigterm
from data.errors import InputError, ResumableError
from pipeline.data_section import SETS, OwnCorpus
from pipeline.flags import Parser, add_field, add_sections
from pipeline.recipe import RECIPES, Recipe
from pipeline.sections import (
    Augment,
    AugmentCommand,
    Cluster,
    Engine,
    EvaluateStudy,
    EvaluateSuite,
    Questions,
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
COMMANDS = {  # the function that runs each, and its help
    "demo": ("pipeline.commands:run_recipe", "the whole study on the embedded model, in minutes, without a GPU"),
    "run": ("pipeline.commands:run_recipe", "a study from a recipe"),
    "data": ("", "make, import, inspect, audit and export documents and questions"),
    "data make": ("pipeline.data_commands:make", "generate one of the sets: documents/, questions/ and a manifest"),
    "data import": (
        "pipeline.data_commands:import_files",
        "your own files: text, HTML, PDF, office, tables, JSON, Arrow",
    ),
    "data inspect": ("pipeline.data_commands:inspect", "counts, columns, lengths and random rows of a folder"),
    "data audit": ("pipeline.data_commands:audit", "leaks, soundness of questions, baselines without knowledge"),
    "data export": ("pipeline.data_commands:export", "Parquet or JSON lines, with a card that `load_dataset` reads"),
    "augment": ("pipeline.commands:augment", "let a model write down, in context, what follows from documents"),
    "learn": ("pipeline.commands:learn", "from documents to a model that knows them, and the evidence"),
    "questions": ("pipeline.commands:questions", "write questions from documents, and check them by likelihood"),
    "train": ("pipeline.commands:train", "finetune a model on documents, and on augmentations where given"),
    "evaluate": ("pipeline.commands:evaluate", "score a suite of questions with a model and with checkpoints"),
    "export": (
        "pipeline.commands:export",
        "a checkpoint for other programs: whole weights, adapters, or GGUF for llama.cpp",
    ),
    "serve": ("", "engines that stay up, behind an OpenAI-compatible HTTP port"),
    "serve up": ("pipeline.serve.commands:up", "start a service; returns when it answers"),
    "serve status": ("pipeline.serve.commands:status", "what is up, its engines and what they have done"),
    "serve down": ("pipeline.serve.commands:down", "end a service and everything that it started"),
    "pretrain": ("models.pretrain.commands:run", "make the embedded model from scratch, and measure it"),
    "submit": ("pipeline.ray_jobs:submit", "run a command on a cluster's head, as a Ray job"),
    "jobs": ("", "what was submitted to a cluster: list, status, logs, stop"),
    "jobs list": ("pipeline.ray_jobs:show_jobs", "the jobs of a cluster, the newest first"),
    "jobs status": ("pipeline.ray_jobs:show_status", "the state of a job"),
    "jobs logs": ("pipeline.ray_jobs:show_logs", "what a job has printed"),
    "jobs stop": ("pipeline.ray_jobs:stop", "end a job by SIGTERM: a training writes its state"),
    "report": ("pipeline.commands:show_reports", "print the table of finished studies"),
    "logs": ("pipeline.commands:collect_logs", "copy the ends of the logs of all nodes of a cluster into a folder"),
    "doctor": ("pipeline.commands:check_machine", "check this machine, or all nodes of a cluster"),
}
DASHBOARD = "http://127.0.0.1:8265"  # of a cluster's head: Ray's job server
DOCUMENTS = "a made set, an import, an Arrow folder, or text files"
Commands = Any  # argparse's action that holds the commands; its class is private


def main(words: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    _quieten()
    try:
        flags = build_parser().parse_args(words)
        flags.command = shlex.join(["entail", *words])
        module, _, name = flags.run.partition(":")
        run: Callable[[argparse.Namespace], object] = getattr(import_module(module), name)
        with ended_by_sigterm():
            run(flags)
    except InputError as error:
        print(f"entail: {error}", file=sys.stderr)
        return 2
    except ResumableError as error:
        print(f"entail: {error}\n  re-run the same command to resume", file=sys.stderr)
        return 3
    except TerminatedError as error:
        print(f"\nentail: {error}\n  {HINT}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("\nentail: interrupted; re-run the same command to resume", file=sys.stderr)
        return 130
    return 0


def build_parser() -> Parser:
    """All commands; building it imports nothing heavy."""
    parser = Parser(prog="entail", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_studies(commands)
    _add_learn(commands)
    _add_data(commands)
    _add_augment(commands)
    _add_questions(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_service(commands)
    _add_jobs(commands)
    pretrain = _command(commands, "pretrain")
    pretrain.add_argument("--seed", type=int, default=0, help="of the weights and the documents (default: 0)")
    pretrain.add_argument("--out", type=Path, default=Path("models/tiny"), help="model folder (default: models/tiny)")
    threads = "CPU threads; weights are bit-identical only for the same number (default: 1)"
    pretrain.add_argument("--threads", type=int, default=1, help=threads)
    pretrain.add_argument("--measure-only", action="store_true", help="only measure the model in --out")
    report = _command(commands, "report")
    report.add_argument("runs", type=Path, nargs="+", help="folders of studies or evaluations")
    logs = _command(commands, "logs")
    logs.add_argument("--address", required=True, help="HOST:PORT of a running Ray cluster, or auto")
    logs.add_argument("--out", type=Path, required=True, help="gets a folder for each node")
    doctor = _command(commands, "doctor")
    doctor.add_argument("--address", help="HOST:PORT of a running Ray cluster: check all its nodes")
    folder = "a folder that all nodes must share, with --address; may be repeated"
    doctor.add_argument("--folder", type=Path, action="append", default=[], metavar="PATH", help=folder)
    return parser


def _command(commands: Commands, name: str, path: str = "", **options: Any) -> Parser:
    """A command of the table; `path` is its place there, where it is not its name."""
    run, help = COMMANDS[path or name]
    return _add_parser(commands, name, help, run, **options)


def _add_parser(commands: Commands, name: str, help: str, run: str, **options: Any) -> Parser:
    parser: Parser = commands.add_parser(name, help=help, description=help, **options)
    parser.set_defaults(run=run)
    return parser


def _add_studies(commands: Commands) -> None:
    """`demo` and `run`: every key of a recipe is a flag."""
    usage = "entail {} [--out DIR] [--section.key VALUE ...]"
    demo = _command(commands, "demo", usage=usage.format("demo"))
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="the study's folder (default: runs/demo)")
    demo.set_defaults(recipe=RECIPES / "demo.toml")
    run = _command(commands, "run", usage=usage.format("run RECIPE"))
    run.add_argument("recipe", type=Path, help=f"a TOML recipe; bundled ones are in {RECIPES}")
    run.add_argument("--out", type=Path, help="the study's folder (default: runs/STUDY)")
    for parser in (demo, run):
        for name in ("study", "seed", "model"):
            add_field(parser, [f"--{name}"], (name,), Recipe.model_fields[name])
        add_sections(parser, STUDY)
        for name, model in SETS.items():
            _add_long(parser, name, model)
        _add_long(parser, "NAME", OwnCorpus)  # shown in the help; a free name takes their place
        parser.tables = [("data",), ("train", "arms"), ("train", "mix")]


def _add_learn(commands: Commands) -> None:
    parser = _command(commands, "learn")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="text files, folders of them, or an import")
    parser.add_argument("--model", required=True, help="the base model: a folder or a hub model")
    parser.add_argument("--out", type=Path, required=True, help="gets report/, questions/, model/ and all between")
    parser.add_argument(
        "--suite", type=Path, help="your own questions: a .jsonl file or a folder (default: written ones)"
    )
    until = "stop after the questions, which say how much the model knows already"
    parser.add_argument("--until", choices=["questions"], help=until)
    plan = "print what would be asked, and what memory a training needs; no engine starts"
    parser.add_argument("--plan", action="store_true", help=plan)
    loss = "the model may lose at most this share of the questions that the base model knew, e.g. 0.05"
    parser.add_argument("--max-retention-loss", type=share, metavar="X", help=loss)
    parser.add_argument("--seed", type=int, default=0, help="of the parts, the sampling and the options (default: 0)")
    add_sections(parser, STUDY | {"questions": Questions})
    parser.tables = [("train", "arms"), ("train", "mix")]


def share(text: str) -> float:
    """A number from 0 to 1. Raises ValueError."""
    found = float(text)
    if not 0 <= found <= 1:
        raise ValueError(text)
    return found


def _add_long(parser: Parser, name: str, model: type[Section]) -> None:
    """An entry of [data], whose flags have the long spelling alone."""
    group = parser.add_argument_group(f"data.{name}", (model.__doc__ or "").strip().partition("\n")[0])
    for key, field in model.model_fields.items():
        add_field(group, [f"--data.{name}.{key.replace('_', '-')}"], ("data", name, key), field)


def _add_data(commands: Commands) -> None:
    actions = _command(commands, "data").add_subparsers(required=True, metavar="ACTION")
    sets = _command(actions, "make", "data make").add_subparsers(required=True, metavar="SET", dest="set")
    for name, model in SETS.items():
        help = (model.__doc__ or "").partition("\n")[0]
        parser = _add_parser(sets, name, help, COMMANDS["data make"][0])
        parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
        parser.add_argument("--out", type=Path, required=True, help="a new folder")
        for key, field in model.model_fields.items():
            add_field(parser, [f"--{key.replace('_', '-')}"], ("set", key), field)
    _add_import(_command(actions, "import", "data import"))
    inspect = _command(actions, "inspect", "data inspect")
    inspect.add_argument("folder", type=Path, help="a made set, an import, augmentations, any folder of shards")
    inspect.add_argument("--rows", type=int, default=3, metavar="N", help="random rows to show (default: 3)")
    inspect.add_argument("--seed", type=int, default=0, help="which random rows are shown (default: 0)")
    inspect.add_argument(
        "--row", default="", metavar="ID", help="of augmentations: where the row of that id comes from"
    )
    about = "of augmentations: what was written about the document of that id"
    inspect.add_argument("--document", default="", metavar="ID", help=about)
    runs = "with --row: in which of these finetuning runs it was trained, and how often"
    inspect.add_argument("--runs", type=Path, nargs="+", default=[], metavar="FOLDER", help=runs)
    documents = "with --row or --document: where the documents are (default: where they were)"
    inspect.add_argument("--documents", type=Path, help=documents)
    rejected = "show what an import rejected instead: the first --rows rows for each reason"
    inspect.add_argument("--rejected", action="store_true", help=rejected)
    audit = _command(actions, "audit", "data audit")
    audit.add_argument("folder", type=Path, help="a made set, or an import with questions/")
    export = _command(actions, "export", "data export")
    export.add_argument("folder", type=Path, help="a made set, an import, or what `augment` wrote")
    export.add_argument("--to", choices=("parquet", "jsonl", "card"), required=True, help="format of the files")
    export.add_argument("--out", type=Path, required=True, help="a new folder")


def _add_import(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, or patterns in quotes")
    parser.add_argument("--out", type=Path, required=True, help="gets documents/, rejected/ and a manifest")
    parser.add_argument("--text-column", default="text", help="text column of tables and JSON lines (default: text)")
    messages = "column of conversations in tables and JSON lines: documents are conversations, for `train`"
    parser.add_argument("--messages-column", default="", help=messages)
    ids = "id column of tables and JSON lines (default: ids from the content)"
    parser.add_argument("--id-column", default="", help=ids)
    parser.add_argument("--corpus", default="corpus", help="the corpus that all documents belong to (default: corpus)")
    parser.add_argument("--dedup", action="store_true", help="leave out near-duplicates (MinHash)")
    parser.add_argument("--similarity", type=float, default=0.8, help="Jaccard threshold for --dedup (default: 0.8)")
    chunks = "cut at sentence ends to N tokens (default: 0, no cutting)"
    parser.add_argument("--chunk-tokens", type=int, default=0, metavar="N", help=chunks)
    model = "model whose tokenizer counts --chunk-tokens (default: words are counted)"
    parser.add_argument("--model", default="", help=model)
    splits = ("none", "independent", "cumulative")
    parser.add_argument("--split-sentences", choices=splits, default="none", help="one document per sentence")
    pages = "of web pages, their main content or all that is visible (default: main)"
    parser.add_argument("--html", choices=("main", "full"), default="main", help=pages)
    parser.add_argument("--code", action="store_true", help="import source files, too, as text")
    repeated = "remove lines that repeat over many documents: headers, licences, notices"
    parser.add_argument("--drop-repeated-lines", action="store_true", help=repeated)
    parser.add_argument("--max-mib", type=int, default=16, help="longest line and document, in MiB (default: 16)")


def _add_augment(commands: Commands) -> None:
    parser = _command(commands, "augment")
    parser.add_argument("--documents", type=Path, required=True, help=DOCUMENTS)
    parser.add_argument("--model", required=True, help="a folder, a hub model, or an endpoint's name for its model")
    parser.add_argument("--out", type=Path, required=True, help="gets augmentations/")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    add_sections(parser, {"augment": AugmentCommand, "engine": Engine, "cluster": Cluster})
    planned = parser.add_argument_group("planning", "what it would cost, and what would be written")
    plan = "print prompts, tokens and disk by method, write them to OUT/plan.json, and end; no engine is started"
    planned.add_argument("--plan", action="store_true", help=plan)
    measure = "with --plan: ask a few dozen prompts of each method, for the time and the length of answers"
    planned.add_argument("--measure", action="store_true", help=measure)
    preview = "ask about N random documents, show prompts, answers and rows, and end; nothing is sealed"
    planned.add_argument("--preview", type=int, metavar="N", help=preview)


def _add_questions(commands: Commands) -> None:
    parser = _command(commands, "questions")
    parser.add_argument("--documents", type=Path, required=True, help=DOCUMENTS)
    parser.add_argument("--model", required=True, help="the base model: a folder or a hub model")
    parser.add_argument("--out", type=Path, required=True, help="gets questions/, facts/, dropped/, questions.jsonl")
    parser.add_argument("--seed", type=int, default=0, help="of the parts, the options and the sampling (default: 0)")
    add_sections(parser, {"questions": Questions, "engine": Engine, "cluster": Cluster})


def _add_train(commands: Commands) -> None:
    parser = _command(commands, "train")
    parser.add_argument("--model", required=True, help="a folder or a hub model")
    parser.add_argument("--documents", type=Path, required=True, help=DOCUMENTS)
    parser.add_argument("--augmentations", type=Path, help="what `augment` wrote")
    teacher = "what `augment --teacher-top-k` wrote: distil it instead of learning tokens"
    parser.add_argument("--teacher", type=Path, help=teacher)
    out = "the checkpoint; with several seeds one folder for each"
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--text-column", default="text", help="text column of the documents (default: text)")
    parser.add_argument("--prompt-column", default="", help="column that is read before each text and not learned")
    messages = "column of conversations in files: the assistant's turns are learned, through the model's chat template"
    parser.add_argument("--messages-column", default="", help=messages)
    add_field(parser, ["--seed"], ("train", "seeds"), TrainRun.model_fields["seeds"])
    add_sections(parser, {"train": TrainRun, "cluster": Cluster}, exclude=("metrics_port",))
    planned = parser.add_argument_group("planning", "what each ZeRO stage would need; nothing is trained or written")
    plan = "print memory per rank by part, and communication; then end"
    planned.add_argument("--plan", action="store_true", help=plan)
    planned.add_argument("--gpu-gib", type=float, help="plan for GPUs of that memory (default: this machine's)")
    planned.add_argument("--row-tokens", type=int, help="plan for texts of that length (default: the texts')")
    parser.tables = [("train", "mix")]


def _add_evaluate(commands: Commands) -> None:
    parser = _command(commands, "evaluate")
    suite = "a made set, a folder with questions/, or a .jsonl file"
    parser.add_argument("--suite", type=Path, required=True, help=suite)
    parser.add_argument("--model", default="", help='the base model, reported as "base"')
    checkpoints = "folders that `train` made, other model folders, folders of these, patterns in quotes"
    parser.add_argument("--checkpoints", nargs="+", default=[], metavar="GLOB", help=checkpoints)
    parser.add_argument("--documents", type=Path, help="documents for the contexts (default: the suite's own)")
    parser.add_argument("--prompts", default="", help="a prompt book (TOML) in place of the model's own")
    parser.add_argument("--seed", type=int, default=0, help="of sampled contexts (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="gets report/")
    add_sections(parser, {"evaluate": EvaluateSuite, "engine": Engine, "cluster": Cluster})


def _add_export(commands: Commands) -> None:
    parser = _command(commands, "export")
    parser.add_argument("checkpoint", type=Path, help="a folder that `train` or `learn` made, or another model folder")
    kinds = "merged: whole weights; adapter: adapters alone; gguf: for llama.cpp and Ollama, by llama.cpp's converter"
    parser.add_argument("--to", choices=("merged", "adapter", "gguf"), required=True, help=kinds)
    parser.add_argument("--model", default="", help="the base of adapters (default: where it was when it was trained)")
    converter = "llama.cpp's convert_hf_to_gguf.py (default: the one on the PATH)"
    parser.add_argument("--converter", default="", metavar="FILE", help=converter)
    types = ("auto", "f32", "f16", "bf16", "q8_0")
    parser.add_argument("--type", choices=types, default="auto", help="of the weights in GGUF (default: auto)")
    suite = "questions (a folder or file) that GGUF and checkpoint are asked, to compare what they write"
    parser.add_argument("--suite", type=Path, help=suite)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")


def _add_service(commands: Commands) -> None:
    """Engines that stay up between commands."""
    actions = _command(commands, "serve").add_subparsers(required=True, metavar="ACTION")
    up = _command(actions, "up", "serve up")
    up.add_argument("--model", required=True, help="a folder or a hub model")
    up.add_argument("--name", default="default", help="of the service (default: default)")
    up.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: any free port)")
    seconds = "a request over HTTP that takes longer is refused (default: 600)"
    up.add_argument("--request-seconds", type=float, default=600.0, metavar="X", help=seconds)
    up.add_argument("--foreground", action="store_true", help="stay in this terminal; Ctrl-C ends the service")
    add_sections(
        up,
        {"engine": Engine, "cluster": Cluster},
        exclude=("service", "metrics_port", "place_seconds", "grace_seconds"),
    )
    status = _command(actions, "status", "serve status")
    status.add_argument("--name", help="of the service (default: all)")
    down = _command(actions, "down", "serve down")
    down.add_argument("--name", default="default", help="of the service (default: default)")


def _add_jobs(commands: Commands) -> None:
    """Commands on a cluster of which this machine is no node."""
    server = f"the head's job server (default: {DASHBOARD}, to which `ssh -L` can forward)"
    submit = _command(commands, "submit")
    submit.add_argument("--dashboard", default=DASHBOARD, metavar="URL", help=server)
    submit.add_argument("--name", default="", help="of the job (default: Ray's choice)")
    ship = "a file of this machine that the command names without its folder, such as a recipe; may be repeated"
    submit.add_argument("--ship", type=Path, action="append", default=[], metavar="FILE", help=ship)
    python = "of the environment on the cluster (default: the one on the PATH of `ray start`)"
    submit.add_argument("--python", default="python", metavar="FILE", help=python)
    submit.add_argument("--follow", action="store_true", help="print what the job prints, until it ends")
    words = "after --: a command of entail with its flags; all paths but those of --ship are the cluster's"
    submit.add_argument("words", nargs="...", metavar="COMMAND", help=words)
    actions = _command(commands, "jobs").add_subparsers(required=True, metavar="ACTION")
    for name in ("list", "status", "logs", "stop"):
        action = _command(actions, name, f"jobs {name}")
        action.add_argument("--dashboard", default=DASHBOARD, metavar="URL", help=server)
        if name != "list":
            action.add_argument("job", help="its name, as `submit` and `jobs list` say it")
        if name == "logs":
            action.add_argument("--follow", action="store_true", help="go on until the job ends")


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
