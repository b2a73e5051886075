"""How text becomes tokens: the seam, shared contexts, and what is wrong with a row."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from augment_service import tokens
from augment_service.tokens import ItemTokens, TextReader, TokenRow, encode, seam
from data.errors import InputError
from data.records import Prompt, Refusal, ScoreItem

MERGES = [("a", "b"), ("ab", " "), ("b", " "), (" ", "a"), (" a", "b"), ("x", "x"), ("xx", "xx"), (" ", " ")]


def pieces(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer over a few letters that may merge over spaces; begins with <s> and ends with </s>."""
    symbols = ["<s>", "</s>", "a", "b", "x", " ", *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, merges))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def sentence_pieces() -> PreTrainedTokenizerFast:
    """As in SentencePiece: spaces become a sign of their own, and one is set before every text."""
    merges = [("▁", "a"), ("▁a", "b"), ("a", "b"), ("x", "x"), ("xx", "xx"), ("▁", "xx")]
    symbols = ["a", "b", "x", "▁", *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, merges))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_pieces() -> PreTrainedTokenizerFast:
    """As in GPT-2: words with the space before them, in bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab"), ("x", "x")]
    symbols = [*alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {"merges": pieces(MERGES), "sentences": sentence_pieces(), "bytes": byte_pieces()}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """A closed vocabulary of words."""
    return AutoTokenizer.from_pretrained(make_model(tmp_path_factory.mktemp("words"), 0, tied=True))


def test_tokens_that_change_at_the_seam_belong_to_the_continuation() -> None:
    item = ScoreItem("i", "", "xa", ("b",))
    plain = pairs_of(pieces([]), item).pairs[0]
    assert (tuple(plain.prefix), plain.continuation) == ((0, 4, 2), (5, 3))
    merged = pairs_of(pieces([("a", " ")]), item).pairs[0]
    assert (tuple(merged.prefix), merged.continuation) == ((0, 4), (6, 3))


def test_prompt_and_continuation_are_joined_as_the_item_says() -> None:
    for joiner, wanted in {"": ((0, 4, 2), (3,)), "x": ((0, 4, 2), (4, 3)), " ": ((0, 4, 2), (5, 3))}.items():
        pair = pairs_of(pieces([]), ScoreItem("i", "", "xa", ("b",), "x", joiner)).pairs[0]
        assert (tuple(pair.prefix), pair.continuation) == wanted


def test_the_text_without_context_takes_the_place_of_context_and_prompt() -> None:
    row = pairs_of(pieces([]), ScoreItem("i", "ab", "xa", ("b", "x"), unconditional="x"))
    assert [tuple(pair.prefix) for pair in row.pairs] == [(0, 2, 3, 4, 2)] * 2
    assert [tuple(pair.prefix) for pair in row.unconditional] == [(0, 4)] * 2
    assert [pair.continuation for pair in row.unconditional] == [(5, 3), (5, 4)]


def test_a_text_begins_with_the_start_token_and_has_no_end_token() -> None:
    assert TextReader(pieces([])).texts(["ab", ""], where="here") == [[0, 2, 3], [0]]
    prompt = Prompt("p", "", "", "ab", "x", 1, 0.0, 0, "")
    (row,) = TextReader(pieces([])).prompts([prompt])
    assert isinstance(row, TokenRow) and row.ids == [0, 2, 3, 4]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(
    context=st.lists(st.sampled_from(["ab", "a", "b", "xx", "xxxxx", "abab", "", "ba"]), min_size=10, max_size=60),
    following=st.lists(st.text("abx ", max_size=12), min_size=3, max_size=5),
)
def test_a_shared_context_is_tokenised_once_and_as_in_the_whole(
    name: str, context: list[str], following: list[str]
) -> None:
    tokenizer, shared = TOKENIZERS[name], " ".join(context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "TAIL", 24)
        found = encode(tokenizer, [(shared, own) for own in following])
    for own in following:
        assert found[shared, own].ids == tokenizer(shared + own, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("name", "spared"), [("sentences", True), ("bytes", True), ("merges", False)])
def test_the_work_on_a_shared_context_is_spared_where_it_can_be(
    name: str, spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    tokenizer = TOKENIZERS[name]
    call = type(tokenizer).__call__

    def counting(self: object, text: str | list[str], **options: object) -> object:
        lengths.extend(map(len, [text] if isinstance(text, str) else text))
        return call(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counting)
    shared = "ab a xx b " * 400
    encode(tokenizer, [(shared, f"ab{'x' * at}") for at in range(50)])
    assert (sum(lengths) < 2 * len(shared) + 50 * 600 + 4 * tokens.TAIL) == spared


def test_what_is_wrong_with_a_row_is_that_rows_refusal(words: PreTrainedTokenizerFast) -> None:
    reader = TextReader(words, window=8, num_ids=100)
    prompts = [
        Prompt("good", "", "", "w1 w2", " w3", 5, 0.0, 0, ""),
        Prompt("long", "", "", "w1 w2", " w3", 6, 0.0, 0, ""),
        Prompt("none", "", "", " ", "", 5, 0.0, 0, ""),
        Prompt("unknown", "", "", "one w1", " two one", 5, 0.0, 0, ""),
        Prompt("range", "", "", "w1 w2", " w97", 5, 0.0, 0, ""),
    ]
    good, *rows = reader.prompts(prompts)
    assert isinstance(good, TokenRow) and good.ids == [4, 5, 6]
    refusals = [row for row in rows if isinstance(row, Refusal)]
    assert [(row.item_id, row.kind) for row in refusals] == [
        ("long", "window"),
        ("none", "empty"),
        ("unknown", "tokens"),
        ("range", "tokens"),
    ]
    assert "9 tokens are needed, the model's window has 8" in refusals[0].what
    assert refusals[2].what == "the model does not know: one, two"
    assert all(row.hint for row in refusals)


def test_many_unknown_words_are_counted(words: PreTrainedTokenizerFast) -> None:
    text = " ".join(f"x{number}" for number in range(20))
    with pytest.raises(InputError, match="x11 and 8 more") as raised:
        TextReader(words).texts([text], where="here")
    assert (raised.value.where, "--model" in raised.value.hint) == ("here", True)


def test_ids_are_checked_as_they_are(words: PreTrainedTokenizerFast) -> None:
    rows = TextReader(words, window=4, num_ids=9).ids([[1, 8], [], [9], [-1], [1, 2, 3, 4]], num_more=1)
    assert rows[0] == [1, 8]
    kinds = [(row.item_id, row.kind) for row in rows[1:] if isinstance(row, Refusal)]
    assert kinds == [("1", "empty"), ("2", "tokens"), ("3", "tokens"), ("4", "window")]


def test_a_start_token_that_is_also_the_unknown_one_is_no_unknown_word() -> None:
    tokenizer = pieces([])
    tokenizer.unk_token = "<s>"
    assert TextReader(tokenizer).texts(["ab"], where="here") == [[0, 2, 3]]


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_the_seam_is_the_end_of_the_longest_common_beginning(before: list[int], joined: list[int]) -> None:
    cut = seam(before, joined)
    assert before[:cut] == joined[:cut]
    assert before[cut : cut + 1] != joined[cut : cut + 1] or cut == len(before) == len(joined)


def pairs_of(tokenizer: PreTrainedTokenizerFast, item: ScoreItem) -> ItemTokens:
    (row,) = TextReader(tokenizer, window=99).items([item])
    assert isinstance(row, ItemTokens)
    return row


def test_special_tokens_in_a_text_are_text_unless_a_template_rendered_it(words: PreTrainedTokenizerFast) -> None:
    data = Prompt("data", "", "", "", "ab</s>", 1, 0.0, 0, "")
    rendered = replace(data, text="", before="ab</s>")
    rows = TextReader(pieces([])).prompts([data, rendered, data])
    assert [1 in row for row in rows if isinstance(row, TokenRow)] == [False, True, False]
    framed = replace(data, context="x", text="ab", before="</s>", after="</s>b")
    both = [framed, replace(framed, text="ab</s>")]  # the second holds a special token itself
    plain, hostile = TextReader(pieces([])).prompts(both)
    assert isinstance(plain, TokenRow) and isinstance(hostile, TokenRow)
    assert plain.ids == [0, 1, 4, 2, 3, 1, 3]
    assert hostile.ids[:5] == plain.ids[:5] and hostile.ids.count(1) == 2 and hostile.ids[-2:] == [1, 3]
    assert 1 in TextReader(pieces([]), split_special_tokens=False).texts(["ab</s>"], where="here")[0]
    # A vocabulary of whole words cannot split them: the row is refused, and named.
    (row,) = TextReader(words).prompts([replace(data, text="w1 <eos>")])
    assert isinstance(row, Refusal) and row.kind == "tokens" and "<eos>" in row.what


def test_a_framed_item_is_tokenized_as_a_whole_and_its_text_without_context_is_framed_too() -> None:
    item = ScoreItem("i", "ab", "xa", ("b", "x"), "x", "", before="</s>a", after="</s>")
    row = pairs_of(pieces([]), item)
    assert [tuple(pair.prefix) for pair in row.pairs] == [(0, 1, 2, 2, 3, 4, 2, 1)] * 2
    assert [tuple(pair.prefix) for pair in row.unconditional] == [(0, 1, 2, 4, 1)] * 2
    assert [pair.continuation for pair in (*row.pairs, *row.unconditional)] == [(3,), (4,)] * 2
    spaced = pairs_of(pieces([]), replace(item, joiner=" "))
    assert [pair.continuation for pair in spaced.pairs] == [(5, 3), (5, 4)]
    merged = pairs_of(pieces([("x", "b")]), replace(item, after="x"))  # over the seam, as without a frame
    assert [pair.continuation for pair in merged.pairs] == [(6,), (4,)]


@pytest.mark.parametrize("place", ["context", "prompt", "unconditional", "option"])
def test_no_text_of_a_framed_item_is_a_control_token(place: str) -> None:
    item = ScoreItem("i", "ab", "xa", ("b", "x"), "x", "", before="</s>a", after="</s>")
    is_option = place == "option"
    change = {"continuations": ("b", "x</s>")} if is_option else {place: getattr(item, place) + "</s>"}
    row, plain = pairs_of(pieces([]), replace(item, **change)), pairs_of(pieces([]), item)
    for found, wanted in zip((*row.pairs, *row.unconditional), (*plain.pairs, *plain.unconditional), strict=True):
        assert [*found.prefix].count(1) == [*wanted.prefix].count(1) and 1 not in found.continuation
        assert not is_option or [*found.prefix] == [*wanted.prefix]
    assert (row.pairs[0].continuation, row.pairs[1].continuation[:1]) == ((3,), (4,))


def test_special_tokens_that_the_tokenizer_does_not_name_are_text_too() -> None:
    tokenizer = pieces([])
    tokenizer.add_tokens([AddedToken("<turn>", special=True)])
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    item = ScoreItem("i", "a<turn>b", "x", ("b",), "", "", before="<turn>", after="<turn>")
    (pair,) = pairs_of(tokenizer, item).pairs
    assert [*pair.prefix].count(turn) == 2


def test_framed_rows_of_one_context_share_the_frame_and_the_context(words: PreTrainedTokenizerFast) -> None:
    context = "w1 w2 w3 " * 400
    items = [ScoreItem(str(at), context, f"w{at}", ("w5", "w7"), "", "", "w8 ", " w9 ") for at in range(50)]
    rows = [row for row in TextReader(words).items(items) if isinstance(row, ItemTokens)]
    prefixes = [pair.prefix for row in rows for pair in row.pairs]
    assert len(prefixes) == 100
    assert len({id(prefix.head) for prefix in prefixes}) == 1
    assert max(len(prefix.tail) for prefix in prefixes) < tokens.TAIL
    assert {len(prefix) for prefix in prefixes} == {1203}


def test_rows_of_one_context_share_its_tokens_and_cost_their_own(words: PreTrainedTokenizerFast) -> None:
    context = "w1 w2 w3 " * 4000
    items = [ScoreItem(str(at), context, f"w{at}", ("w5 w6", "w7")) for at in range(50)]
    rows = [row for row in TextReader(words).items(items) if isinstance(row, ItemTokens)]
    prefixes = [pair.prefix for row in rows for pair in row.pairs]
    assert len(prefixes) == 100
    assert len({id(prefix.head) for prefix in prefixes}) == 1
    assert max(len(prefix.tail) for prefix in prefixes) < tokens.TAIL
    assert {len(prefix) for prefix in prefixes} == {12_001}
    assert len(set(prefixes)) == 50
