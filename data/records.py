"""The records that cross a process or rest on disk. Each docstring names its producer and its consumers.

Every field is a string, an integer, a float, a boolean or a tuple of one of these, so that `data.store` can
derive the Arrow schema of a record from its annotations.
"""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Document:
    """A training text. Producer: `data.sets`, `data.corpora`. Consumers: augmentation, training, contexts.

    `heading` holds its title and the headings above it, from the outermost to the innermost. `language` is an ISO 639
    code, "" if it is unknown. `outline` has three integers for each heading and each part that is not prose, as
    `data.structure` describes.
    """

    doc_id: str
    text: str
    corpus: str
    heading: str = ""
    language: str = ""
    outline: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation(Document):
    """A document whose text is a conversation, as `data.conversations` writes it.

    Producer: `data.corpora`. Consumer: training, which learns the assistant's turns.
    """


@dataclass(frozen=True, slots=True)
class Question:
    """A forced choice: which of `options` continues `prompt`? Producer: `data.sets`. Consumer: `evaluate`.

    `fact_id` clusters questions that test the same fact; `requires` lists the documents that hold what is needed.
    `options` continue the prompt after `joiner`. `inference` names the kind of step that is asked for.
    `also_right` are options that say the same as the answer ("no femp are glon", "no glon are femp"), `also_true` those
    that follow but say less.
    """

    question_id: str
    corpus: str
    split: str
    inference: str
    prompt: str
    options: tuple[str, ...]
    answer: int
    fact_id: str
    requires: tuple[str, ...]
    also_right: tuple[int, ...] = ()
    also_true: tuple[int, ...] = ()
    joiner: str = " "


@dataclass(frozen=True, slots=True)
class Context:
    """Documents that precede questions or instructions, rendered once. Producer: `augment_service.contexts`.

    Consumers: the tasks of `augment_service.jobs`. Prompts and score items refer to it by `context_id`, a hash of its
    text. `doc_ids` are the documents in it, in their order.
    """

    context_id: str
    text: str
    doc_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The documents that are most related to a question, the most related first. Producer and consumer: `evaluate`."""

    question_id: str
    doc_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A generation request. Producer: `augment_service.methods`. Consumer: an engine.

    The model reads `context + text`; `context` is shared by many prompts, so an engine computes it once. `sentence` is
    the part of the document that is asked about. `before` and `after`, which a chat template has rendered, frame the
    text; only in them are special tokens control tokens.
    `seed` alone decides the sampling noise: the text of a row does not depend on its batch.
    """

    prompt_id: str
    method: str
    doc_id: str
    context: str
    text: str
    max_tokens: int
    temperature: float
    seed: int
    stop: str
    sentence: str = ""
    context_id: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote for one prompt. Producer: an engine. Consumer: `augment_service.methods` parsers.

    `finish_reason` is "stop" or "length". `num_tokens` were written; `num_read` were read, which is no part of what was
    written.
    """

    prompt_id: str
    text: str
    finish_reason: str
    num_tokens: int
    num_read: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One inference that the model wrote down. Producer: `augment_service.augment`. Consumers: training, report.

    `sources` are the ids of the documents that it is about: first the one that was asked about, then those that a
    context of its own holds. `sentence`, `span` (characters, empty for the whole document) and `about` (entities,
    strategy or question) say what of it was asked about. `reasoning` is what the model wrote before the inference.
    `verdict` is "kept" or the reason for the rejection; only kept rows are trained on. `support`, `confidence`,
    `premises`, `grounded`, `overlap`, `distinct`, `margin` and `agreement` are what `augment_service.verifiers`
    measured, NaN where they did not. `model`, `template` and `context_id` are content hashes. `prompt_id` names what
    was asked: text, context, sampling, weights; `place` counts the inferences of one answer, and `augmentation_id`
    names the two. What is trained is the `text`; with the `form` "chat" it is the answer to the user's turn `prompt`,
    otherwise `prompt` precedes it without being learned. The first row of an answer has its `tokens`: read, and
    written.
    """

    augmentation_id: str
    corpus: str
    method: str
    sources: tuple[str, ...]
    sentence: str
    text: str
    reasoning: str
    verdict: str
    support: float
    finish_reason: str
    model: str
    template: str
    context_id: str
    temperature: float
    seed: int
    prompt_id: str = ""
    place: int = 0
    about: tuple[str, ...] = ()
    span: tuple[int, ...] = ()
    prompt: str = ""
    form: str = "text"
    tokens: tuple[int, ...] = field(default=(), compare=False)
    confidence: float = math.nan
    premises: float = math.nan
    grounded: float = math.nan
    overlap: float = math.nan
    distinct: float = math.nan
    margin: float = math.nan
    agreement: float = math.nan


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one verifier measured of one inference. Producer: `augment_service.verify`. Consumer: its last step.

    `measurement_id` names everything that was asked; `verifier` is the column of `Augmentation` that `value` is for.
    `log_likelihood` (nats per token) is that of the inference given its documents, NaN where it was not needed.
    """

    measurement_id: str
    augmentation_id: str
    verifier: str
    value: float
    log_likelihood: float = math.nan


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A folder of HF safetensors. Producer: `train.engine.export`, written last. Consumer: `evaluate`, engines.

    `fingerprint` is a hash of the weights' content, `name` the run that made it (e.g. "reversals/w0/augmented").
    """

    name: str
    path: str
    fingerprint: str
    base: str
    num_steps: int


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """A request for the exact log-likelihood of each continuation. Producer: `evaluate.fanout`. Consumer: an engine.

    Scored text: `context + prompt + joiner + continuation`, only the continuation's tokens count. `unconditional` is
    the text that stands in place of `context + prompt` for the no-context likelihood (PMI); "" asks for none. `before`
    and `after` frame either as in `Prompt`: then the continuation is the beginning of the model's turn.
    """

    item_id: str
    context: str
    prompt: str
    continuations: tuple[str, ...]
    unconditional: str = ""
    joiner: str = " "
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """Log-likelihoods (nats, summed over tokens), one per continuation. Producer: an engine. Consumer: `evaluate`.

    `greedy[i]` says whether continuation i is what greedy decoding would have written. `token_log_likelihoods` are the
    values of single tokens, continuation after continuation (`num_tokens` says where each ends). `unconditional` holds
    the no-context likelihoods, where the item asked for them. `parity` is the largest difference (nats per token)
    that was measured between these weights in this engine and in fp32, 0 where nothing was measured.
    """

    item_id: str
    log_likelihoods: tuple[float, ...]
    num_tokens: tuple[int, ...]
    greedy: tuple[bool, ...]
    token_log_likelihoods: tuple[float, ...] = ()
    unconditional: tuple[float, ...] = ()
    parity: float = 0.0


@dataclass(frozen=True, slots=True)
class Echo:
    """What a model thinks of every token of a row of n tokens. Producer: an engine. Consumer: the HTTP port.

    `log_likelihoods` (nats) are those of tokens 1 to n-1, each after all before it. `best_tokens` (ids) and
    `best_log_likelihoods`, n of each, are the likeliest tokens after the first 1 to n tokens.
    """

    log_likelihoods: tuple[float, ...]
    best_tokens: tuple[int, ...]
    best_log_likelihoods: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DistillationExample:
    """A request for what a model expects in a text after `context + prompt`. Producer: `augment_service.distillation`.

    Consumer: an engine, which names the `num_top` likeliest tokens in place of each of the text's tokens. `context` is
    shared by many examples, so an engine computes it once. `reasoning` is what the model wrote before the text, with
    the space before it. `before` and `after` frame context and prompt as in `Prompt`.
    """

    text_id: str
    context: str
    prompt: str
    text: str
    num_top: int
    reasoning: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a teacher with a context expects in a text of n tokens. Producer: an engine. Consumer: `train`.

    `token_ids` are the text's tokens as a student reads it, without the context. `top_ids` and `top_log_probs` (nats)
    are the `num_top` likeliest tokens in place of each of the tokens 1 to n-1, place after place. The token that ends a
    text is its own teacher: it alone is likely in its place. `vocabulary` names what the ids belong
    to: the `data.seeds.vocabulary_fingerprint` of the tokenizer.
    """

    text_id: str
    text: str
    token_ids: tuple[int, ...]
    top_ids: tuple[int, ...]
    top_log_probs: tuple[float, ...]
    num_top: int
    vocabulary: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that has no answer, and why: never a score of zero. Producers: an engine, a pool actor. Consumer: stages.

    `item_id` is the row's `item_id` or `prompt_id`. `kind`: "window" (too long), "empty" (nothing to score or read),
    "tokens" (ids out of range), "endpoint" (a server refused it or answered nonsense), "crash" (it kills its engine).
    """

    item_id: str
    kind: str
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """Proof that a shard of work is on disk. Producer: a pool actor. Consumers: the driver, progress, the report.

    Of the unit's rows, `num_rows` were answered and `num_refused` were not (see `refused/` beside the shard). Tokens:
    read by the model, those of them found in the prefix cache, and written or scored. Counts are of this unit alone,
    and so are `engine_seconds`, in which the engine worked.
    """

    unit: str
    path: str
    num_rows: int
    wall_seconds: float
    node: str
    num_refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    engine_seconds: float = 0.0
