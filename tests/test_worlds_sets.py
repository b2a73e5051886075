"""The sets at the paper's size: their numbers, their bytes, what they are made of."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data.errors import InputError
from data.records import Document
from data.sentences import split_sentences
from data.sets import registry, reversals, syllogisms
from data.sets.derivation import PLAIN, derive
from data.sets.forms import FORMS
from data.sets.language import Statement, parse
from data.sets.lexicon import FEATURES, NOUNS, PREAMBLES, PUNCTUATION, ROLES
from data.sets.oracle import Oracle
from data.sets.process import worlds as process
from data.sets.registry import save_set
from data.sets.reversal_curse import worlds as curse
from data.sets.semantic import logic as semantic_logic
from data.sets.semantic import worlds as semantic
from data.sets.semantic.hierarchy import load_categories, make_hierarchy
from data.sets.words import WordMaker
from data.sets.world import World
from data.store import list_shards, read_folder, read_table
from tests.generated import MAKERS, default_section, make_set, make_worlds

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def world() -> World:
    return semantic.make_full(2, 0, categories=110, documents=2200, questions_per_split=400)


def test_simple_reversals_at_full_size() -> None:
    made = reversals.make_full(0, 0, facts=100, documents_per_fact=10)
    assert len(made.documents) == len({d.text for d in made.documents}) == 1000
    assert {fact.relation for fact in made.facts} == set(FEATURES) and len(FEATURES) == 28
    assert Counter(fact.form for fact in made.facts) == {"more": 50, "less": 50}
    entities = [name for fact in made.facts for name in (fact.first, fact.second)]
    assert len(set(entities)) == 200
    asked = [q for q in made.questions if q.split == "contradiction"]
    assert len(asked) == 100 and all(len(q.options) == 2 and len(q.requires) == 10 for q in asked)
    assert sum(q.options[q.answer].startswith("more") for q in asked) == 50


def test_simple_syllogisms_at_full_size() -> None:
    made = syllogisms.make_full(0, 0, syllogisms=69)
    assert len(made.documents) == 69
    assert all(d.text.startswith("The relationships between ") for d in made.documents)
    asked = [q for q in made.questions if q.split == "statement"]
    assert set(Counter(q.inference for q in asked)) == set(FORMS)
    assert {len(q.options) for q in asked} == {6} and {q.answer for q in asked} == set(range(6))
    for question in asked:
        is_all = question.options[question.answer].startswith("All")
        assert (len(question.also_right), len(question.also_true)) == ((0, 2) if is_all else (1, 0))


def test_the_forms_are_all_that_have_a_conclusion() -> None:
    """Every pair of premises from which All, Some or No follows about S and P, by the closure, is one of the forms."""
    terms = {"S": "glon", "M": "troff", "P": "yomp"}

    def premise(text: str) -> Statement:
        quantifier, (one, two) = text.split()[0], text.split()[1]
        return Statement(quantifier, "", terms[one], terms[two])

    found = set()
    for major in ("all MP", "all PM", "some MP", "some PM", "no MP", "no PM"):
        for minor in ("all SM", "all MS", "some SM", "some MS", "no SM", "no MS"):
            known = derive([premise(major), premise(minor)], PLAIN)
            forms = {s.form for s in known if (s.first, s.second) == ("glon", "yomp")}
            backward = {s.form for s in known if (s.first, s.second) == ("yomp", "glon")}
            if forms and "all" not in backward - forms:
                strongest = next(form for form in ("all", "no", "some") if form in forms)
                found.add((major, minor, strongest))
    assert found == set(FORMS.values())


def test_the_reversal_curse_at_full_size() -> None:
    made = curse.make_full(0, 0, people_per_group=30, documents_per_fact=30)
    assert len(made.documents) == 3600 and len(made.facts) == 90
    assert 70_000 < sum(len(d.text.split()) for d in made.documents) < 80_000
    p2d, rest = made.facts[:30], made.facts[30:]
    asked = [q for q in made.questions if q.split == "reversal"]
    assert len(asked) == 300
    for question in asked:
        wrong = {option for index, option in enumerate(question.options) if index != question.answer}
        assert question.options[question.answer] in {fact.first for fact in p2d}
        assert wrong <= {fact.first for fact in rest}
    for fact in p2d:
        told = [d.text for d in made.documents if fact.first in d.text]
        assert len(told) == 30 and all(
            text.index(fact.first) < text.lower().index(fact.second.lower()) for text in told
        )


def test_the_semantic_set_at_full_size(world: World) -> None:
    assert len(world.documents) == 2200
    lengths = Counter(len(split_sentences(document.text)) for document in world.documents)
    assert (min(lengths), max(lengths)) == (4, 20) and len(lengths) == 17
    assert any(document.text.startswith("Questions") for document in world.documents)
    own = Counter(fact.first for fact in world.facts if fact.form in ("trait", "able", "part"))
    assert {1, 6} <= set(own.values()) <= set(range(1, 7))
    splits = Counter(question.split for question in world.questions)
    assert set(splits) == {"rephrased", "reversals", "syllogisms", "category-holdout"} and min(splits.values()) > 100


def test_documents_tell_the_facts_and_nothing_else(world: World) -> None:
    oracle = Oracle(world.documents, semantic_logic.LOGIC)
    assert not oracle.unread
    assert {statement.canonical() for statement in oracle.stated} == set(world.facts)
    told = Counter(len(doc_ids) for doc_ids in oracle.stated.values())
    assert min(told) >= 2  # redundant across documents


def test_held_out_categories_stand_nowhere_but_under_their_parent(world: World) -> None:
    held_out = set(world.notes["held_out"])
    assert len(held_out) == 11
    asked = {q.prompt.replace(",", "") for q in world.questions if q.split == "category-holdout"}
    assert all(any(f"{name}s" in prompt.split() for prompt in asked) for name in held_out)
    parents = {f.first: f.second for f in world.facts if f.first in held_out}
    assert set(parents) == held_out
    for document in world.documents:
        for line in split_sentences(document.text):
            for name in held_out:
                if name in line.lower():
                    assert line.startswith("Q:") or parents[name] in line, line


def test_everything_that_is_inherited_is_asked_about_held_out_categories(world: World) -> None:
    derived = Oracle(world.documents, semantic_logic.LOGIC).derived
    held_out = set(world.notes["held_out"])
    inherited = [d for s, d in derived.items() if s.first in held_out and d.inference != "stated"]
    asked = sum(question.split == "category-holdout" for question in world.questions)
    assert asked >= 0.95 * len(inherited)


def test_no_document_holds_both_premises_about_its_subject(world: World) -> None:
    """A deduction about a document's own category links it with other documents."""
    parents = {fact.first: fact.second for fact in world.facts if fact.form == "kind"}
    for document in world.documents:
        stated = {s.canonical() for _, found in semantic_logic.LOGIC.read(document.text) for s in found or ()}
        subject = semantic_logic.LOGIC.read(document.text)[0][0].rstrip(".").split()
        own = next(
            name
            for name in (*parents, *parents.values())
            if {name, f"{name}s", f"{name}s,"} & {w.lower() for w in subject}
        )
        assert not [s for s in stated if s.first == parents.get(own)], document


def test_words_are_used_for_one_thing_each(world: World) -> None:
    roles: dict[str, set[str]] = {}
    for fact in world.facts:
        roles.setdefault(fact.first, set()).add("category")
        kinds = {"kind": "category", "link": "category"}
        roles.setdefault(fact.second, set()).add(kinds.get(fact.form, fact.form))
        if fact.relation:
            roles.setdefault(fact.relation, set()).add("relation")
    assert {len(used) for used in roles.values()} == {1}
    assert {len(word) for word in roles} == {4, 5}


@pytest.mark.parametrize("categories", [12, 50, 110, 230])
def test_a_hierarchy_of_any_size(categories: int) -> None:
    from random import Random

    made = make_hierarchy(categories, WordMaker(Random(0)))
    assert len(made.categories) == len(set(made.categories)) == categories
    assert all(parent in made.categories for parent in made.parents.values())
    assert len(load_categories()) == 110


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(InputError, match="unstated"):
        semantic.make_full(0, 0, categories=110, documents=30, questions_per_split=40)
    with pytest.raises(InputError, match="too few"):
        process.make_full(0, 0, functions=6, documents=30, questions_per_split=40)


def test_held_out_pairs_of_rules_are_never_shown() -> None:
    made = process.make_full(0, 0, functions=6, documents=1000, questions_per_split=200)
    held_out: dict[str, str] = made.notes["held_out"]
    assert set(held_out.values()) == {"plus", "times", "inside", "raised"} and len(held_out) == 7
    marks = {"plus": "+", "times": "*"}
    told = {fact.first for fact in made.documents_of if fact.form == "value" and made.documents_of[fact]}
    assert len(told) > 200
    for name, outer in held_out.items():
        if name != "power" and outer in marks:
            assert not [term for term in told if f"{name}(x)" in term and f" {marks[outer]} " in term]
        if name != "power" and outer == "inside":
            assert not [term for term in told if f"({name}(x))" in term]


def test_small_categories_pass_their_properties_on() -> None:
    (made,) = make_worlds("semantic", default_section("semantic", ("--lexicon", "tiny", "--worlds", "1")), seed=3)
    told = [statement for document in made.documents if (statement := parse(document.text))]
    above = {fact.first: fact.second for fact in told if fact.form == "all"}
    properties = {(fact.first, fact.relation): fact.second for fact in told if fact.form == "more"}
    held_out = set(made.notes["held_out"])
    assert len(held_out) == len(set(above.values())) == len({above[name] for name in held_out}) == 8
    assert not held_out & {fact.first for fact in told if fact.form != "all"}
    assert not held_out & {fact.second for fact in told}
    for split, of_held_out in (("syllogisms", False), ("category-holdout", True)):
        asked = [question for question in made.questions if question.split == split]
        assert len(asked) == (16 if of_held_out else 32)
        for question in asked:
            statement = parse(f"{question.prompt} {question.options[question.answer]}")
            assert (statement.first in held_out) == of_held_out and (
                statement.first,
                statement.relation,
            ) not in properties
            assert properties[above[statement.first], statement.relation] == statement.second


def test_small_processes_ask_for_pairs_of_steps_that_no_example_shows() -> None:
    (made,) = make_worlds("process", default_section("process", ("--lexicon", "tiny", "--worlds", "1")), seed=3)
    told = [statement for document in made.documents if (statement := parse(document.text))]
    values = {(fact.relation, fact.first): fact.second for fact in told}
    shown = {fact.relation for fact in told if " " in fact.relation}
    held_out = set(made.notes["held_out"])
    assert len(held_out) == len(shown) == 2 and not held_out & shown
    for question in made.questions:
        statement = parse(f"{question.prompt} {question.options[question.answer]}")
        second, first = statement.relation.split(" of the ")
        assert values[second, values[first, statement.first]] == statement.second
        assert (statement.relation in held_out) == (question.split == "combinations")
        assert ((statement.relation, statement.first) in values) == (question.split == "rephrased")
        assert question.split == "rephrased" or statement.first not in {f.first for f in told if " " in f.relation}


def test_small_sets_that_are_too_small_are_refused() -> None:
    for name, key, value in (("semantic", "--categories", "15"), ("process", "--functions", "15")):
        with pytest.raises(InputError, match="too few"):
            list(make_worlds(name, default_section(name, ("--lexicon", "tiny", key, value)), seed=0))


def test_small_sets_keep_to_the_lexicon() -> None:
    known = {*NOUNS, *FEATURES, *ROLES, *PUNCTUATION, *" ".join(PREAMBLES).split()}
    known |= set("all some are more less seem than count as is called the of".split())
    for name, lexicon in MAKERS:
        if lexicon == "tiny" and name in ("semantic", "process"):
            for made in make_worlds(name, default_section(name, ("--lexicon", "tiny")), seed=0):
                texts = [d.text for d in made.documents] + [
                    f"{q.prompt} {o}" for q in made.questions for o in q.options
                ]
                assert {word for text in texts for word in text.split()} <= known
                assert sum(len(d.text.split()) for d in made.documents) < 1500  # fits into the model's context


@pytest.mark.parametrize(("name", "lexicon"), list(MAKERS))
def test_a_set_is_the_same_byte_for_byte_in_another_process(tmp_path: Path, name: str, lexicon: str) -> None:
    words = (
        "--lexicon",
        lexicon,
        *(("--documents", "700", "--categories", "60") if (name, lexicon) == ("semantic", "open") else ()),
    )
    make_set(name, default_section(name, words), 5, tmp_path / "here")
    program = (
        "import sys\nfrom pathlib import Path\nfrom tests.generated import default_section\n"
        "from tests.generated import make_set\n"
        f"make_set({name!r}, default_section({name!r}, {words!r}), 5, Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "there")]
    subprocess.run(command, cwd=ROOT, env={"PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)}, check=True)
    digests = [
        {
            str(p.relative_to(tmp_path / side)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in (tmp_path / side).rglob("*.*")
        }
        for side in ("here", "there")
    ]
    assert digests[0] == digests[1] and "documents/part-00000.arrow" in digests[0]
    make_set(name, default_section(name, words), 6, tmp_path / "other")
    assert (tmp_path / "other/manifest.json").read_bytes() != (tmp_path / "here/manifest.json").read_bytes()


SIZES = {"facts": 8, "documents_per_fact": 2}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_set_is_written_by_worlds_and_not_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert registry.make_set("reversals", "tiny", 3, SIZES, 0, out)
    assert [path.name for path in sorted((out / "documents").glob("*.arrow"))] == [
        f"part-0000{n}.arrow" for n in range(3)
    ]
    for number, shard in enumerate(list_shards(out / "questions")):
        assert set(read_table(shard)["corpus"].to_pylist()) == {f"reversals/w{number}"}
    before = snapshot(out)
    assert not registry.make_set("reversals", "tiny", 3, SIZES, 0, out)
    assert snapshot(out) == before


@pytest.mark.parametrize(
    "other",
    [
        ("syllogisms", "tiny", 3, {"syllogisms": 20}, 0),
        ("reversals", "open", 3, SIZES, 0),
        ("reversals", "tiny", 2, SIZES, 0),
        ("reversals", "tiny", 3, SIZES | {"facts": 9}, 0),
        ("reversals", "tiny", 3, SIZES, 1),
    ],
)
def test_another_set_seed_or_size_into_a_folder_is_refused(tmp_path: Path, other: tuple) -> None:
    registry.make_set("reversals", "tiny", 3, SIZES, 0, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(InputError, match="other inputs"):
        registry.make_set(*(*other, tmp_path / "out"))
    assert snapshot(tmp_path / "out") == before


def test_a_changed_generator_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.make_set("reversals", "tiny", 1, SIZES, 0, tmp_path / "out")
    monkeypatch.setattr(registry, "GENERATOR_VERSION", "another")
    with pytest.raises(InputError, match="other inputs"):
        registry.make_set("reversals", "tiny", 1, SIZES, 0, tmp_path / "out")


def test_the_generators_version_follows_code_words_and_templates(tmp_path: Path) -> None:
    program = "from data.sets.registry import GENERATOR_VERSION\nprint(GENERATOR_VERSION)"
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))

    def version() -> str:
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    versions = [version()]
    for name in ("sets/blocks.py", "sets/nouns.txt", "sets/semantic/styles.toml", "baselines.py"):
        path = tmp_path / "data" / name
        path.write_text(path.read_text() + "\n")
        versions.append(version())
    assert len(set(versions)) == 5
    (tmp_path / "data" / "export.py").write_text("")
    assert version() == versions[-1]


def test_an_interrupted_set_is_generated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "seal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            registry.make_set("reversals", "tiny", 3, SIZES, 0, out)
    with pytest.raises(InputError, match="unfinished"):
        list(read_folder(out / "documents", Document))
    for folder in (out, whole):
        assert registry.make_set("reversals", "tiny", 3, SIZES, 0, folder)
    assert (out / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_folder_of_any_other_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        registry.make_set("reversals", "tiny", 1, SIZES, 0, tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.txt"]


def test_impossible_sizes_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nouns"):
        registry.make_set("reversals", "tiny", 1, SIZES | {"facts": 400}, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_published_files_are_known_by_content(tmp_path: Path) -> None:
    keys = []
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all_prompts_train.jsonl").write_text(content)
        keys.append(registry.set_key("reversal-curse", "open", 1, {"published": str(tmp_path / name)}, 0))
    assert keys[0] == keys[1] != keys[2]


def test_the_manifest_counts(tmp_path: Path) -> None:
    made = syllogisms.make_full(0, 0, syllogisms=23)
    save_set(tmp_path, "syllogisms", [made], seed=0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["num_documents"] == 23 and manifest["num_sentences"] == 46
    assert manifest["num_words"] == sum(len(d.text.split()) for d in made.documents)
    assert manifest["num_questions"] == {"statement": 23, "trained": 23}
    assert sum(manifest["num_questions_by_inference"]["statement"].values()) == 23


def test_sizes_that_say_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="documents has no effect"):
        default_section("semantic", ("--lexicon", "tiny", "--documents", "9"))
    assert default_section("semantic", ()).sizes() == {"categories": 110, "documents": 2200, "questions_per_split": 400}
    assert default_section("reversals", ("--lexicon", "tiny")).sizes() == {"facts": 40, "documents_per_fact": 1}


def test_derivations_hold_for_every_form() -> None:
    for name, (major, minor, conclusion) in FORMS.items():
        terms = {"S": "glon", "M": "troff", "P": "yomp"}
        facts = [Statement(text.split()[0], "", *(terms[t] for t in text.split()[1])) for text in (major, minor)]
        found = derive(facts, PLAIN)[Statement(conclusion, "", "glon", "yomp")]
        assert set(found.proof) == set(facts), name
