"""What English-speaking chat models write around an answer: introductions, closings, refusals, "nothing follows".

Pure. Phrases are searched in folded lines (`fold`), so in lower case and with straight quotes; those that are cut off a
line are searched in the line itself. Most begin a line: what occurs within a statement makes no phrase of it.
"""

import re
from collections.abc import Container

_WHAT = (
    r"(?:inferences?|conclusions?|deductions?|implications?|statements?|facts?|sentences?|rephras\w*|paraphras\w*|"
    r"rewrit\w*|rewordings?|restate\w*|versions?|lists?|examples?|answers?|questions?|pairs?|concepts?|key\w*|terms?|"
    r"ideas?|points?|strateg\w*|ways?|articles?|summar\w*|dialog\w*|texts?|documents?|stor(?:y|ies)|translations?|"
    r"responses?|explanations?|outlines?|json|things?|information|names?|suggestions?|methods?|techniques?|passages?|"
    r"results?|revisions?)"
)
_SURE = r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|great|yes|definitely|gladly|no problem)"
_HERE = r"(?:(?:here|below)(?:['’]s| is| are| you (?:go|are))|(?:the )?following (?:is|are))"
_INTRODUCTION = re.compile(
    rf"(?:{_SURE}\W+)?(?:{_HERE}\b|i(?:'ve| have|'ll| will|'d be (?:happy|glad) to)\b|let(?:'s| me| us)\b|based on\b|"
    r"according to\b|from (?:the|this|these)\b|given (?:the|this|these)\b|to (?:answer|rephrase|rewrite|infer)\b|"
    r"in the same order\b)"
)
_MOST_WORDS_OF_HEADING = 6
_ABOUT = re.compile(rf"\b(?:{_WHAT}|order)\b")
_INTERJECTION = re.compile(
    rf"{_SURE}\s*!\s*|{_SURE}\s*[,.:]\s*(?=(?:here|below|i(?:['’](?:ll|ve)| will| have)|let)\b)", re.I
)
_INLINE = re.compile(
    rf"{_HERE}\b[^:\n]{{0,120}}\b{_WHAT}\b[^:\n]{{0,80}}:\s*|"
    r"the (?:\w+ )?(?:answer|result|sentence|statement|output)(?: (?:to|of|for|in)\b[^:\n]{0,60})? "
    r"(?:is|are|reads|would be|could be|becomes)(?: as follows| now)?:\s*",
    re.I,
)
_LABEL = re.compile(
    r"(?:(?:possible|new|another|the|my|final|logical|key|one|first|second|third)\s+)*"
    r"(?:inference|conclusion|deduction|implication|statement|fact|answer|output|response|result|rephras(?:e|ed|ing)|"
    r"paraphrased?|rewritten|reworded|rewording|restated|restatement|reversed?|turned around|in other words|"
    r"other words|new sentence|simplified|becomes|sentence(?=\s*#?\s*\d))"
    r"(?:\s+(?:sentence|statement|version|fact|text|form))?(?:\s*#?\s*\d{1,3}(?:\.\d{1,2})?)?\s*"
    r"(?::|(?<=\d)[.)\-–])\s+",
    re.I,
)
_ACCORDING = re.compile(
    r"(?:according to|based on|as (?:stated|mentioned|described|given) in) (?:the|this) (?:(?:given|provided|above) )?"
    r"(?:text|passage|document|article|paragraph|excerpt)\s*,\s+",
    re.I,
)
_CLOSING = re.compile(
    r"(?:please )?let me know\b|(?:please )?feel free to\b|is there anything (?:else|more)\b|"
    r"(?:i )?hope (?:this|that|it|these)(?: \w+){0,3} (?:helps?|helpful|meets?|answers?|works?|clarif\w+)\b|"
    r"would you like me to\b|do you (?:want me to|need anything|have any (?:other |more )?questions)\b|"
    r"if you (?:have|need|want|would like|'d like)\b.*\b(?:let me|ask|know|feel free|help|happy)\b|"
    r"(?:i(?:'m| am) )?(?:happy|glad|here) to (?:help|assist)\b"
)
_REASON = re.compile(
    r"\(?(?:brief |short )?(?:note|explanation|reason(?:ing)?|comment|justification|evidence|rationale)\s*:"
)
_REMARK = re.compile(
    rf"(?:in )?(?:these|the above|all(?: of)? these)\s+(?:\w+\s+)?{_WHAT}\b|"
    r"(?:in )?this\s+(?:\w+\s+)?(?:list|answer|response|inference|statement|sentence|example|rephrasing|version)\b"
)
_CANNOT = (
    r"i(?: can't| cannot| can not|'m unable to| am unable to|'m not able to| am not able to| won't| will not|"
    r"(?:'m| am) not sure (?:what|how|i)| (?:don't|do not) (?:have|see) "
    r"(?:access|any|enough|the ability|a document|a text)"
    r")"
)
_TASK = (
    r"(?:help|assist|provide|answer|fulfil|comply|complete|create|generate|write|browse|infer|determine|rephrase|"
    r"rewrite|do|see|find|continue|access|draw|respond|engage|what|how|i|to|the|any|enough|information|context)"
)
_REFUSAL = re.compile(
    r"(?:i(?:'m| am) (?:so |very |really |truly )?sorry|sorry|apologies|my apologies|i apologi[sz]e)\s*"
    r"(?:$|[,.!:]|but\b|for\b)|"
    r"as an? (?:ai|artificial intelligence|large language|language model|llm)\b|"
    rf"(?:unfortunately|i'm afraid|i am afraid)?[,\s]*{_CANNOT}(?: {_TASK}\b|[,.!]|$)|"
    r"(?:(?:could|can|would) you )?please (?:provide|share|give|specify|clarify)\b|"
    r"(?:it (?:seems|looks|appears)(?: like| that)? )?you (?:haven't|have not|didn't|did not) (?:provide|give|share)|"
    r"i need (?:more|the|a|some) (?:information|context|text|document|details)"
)
_FROM = r"(?:\s+(?:from|in|about|here|logically|directly|necessarily|explicitly|else|at all|yet|based on|beyond)\b.*)?"
_NO_SUCH = (
    r"no (?:\w+ ){0,3}(?:inference|conclusion|deduction|implication|statement|information|fact)s?"
    r"(?: (?:that )?(?:can|could|may|follow|follows|is|are|to)\b(?: be)?(?: \w+){0,2})?"
)
_DONE = r"(?:inferred|concluded|deduced|derived|drawn|said|added)"
_THAT = r"(?:document|text|passage|sentence|statement)s?"
_NOTHING = re.compile(
    r"(?:nothing(?: else| more| further| new| additional)?(?: (?:logically|necessarily|directly))?"
    rf"(?: (?:follows|is implied|is left)|(?: that)? can be (?:\w+ )?{_DONE}| to (?:infer|add|conclude|report))?|"
    rf"none|n/?a|not applicable|nil|null|{_NO_SUCH}|"
    rf"there (?:is|are) (?:nothing(?: else| more| new)?|none|{_NO_SUCH})(?: (?:that|which|to)\b(?: \w+){{1,4}})?|"
    rf"(?:the|this) {_THAT} (?:does not|doesn't) (?:imply|entail|allow) (?:anything|any)\b.*|"
    rf"(?:from|based on) (?:the|this) {_THAT}(?: \w+){{0,2}}, nothing(?: else)? (?:follows|can be \w+))" + _FROM
)
_ANYWAY = re.compile(r"(?:no[,.] |(?:so|thus|therefore|hence|well),? )+")
_STOP = re.compile(r"[.!;,:(—–]|\s-\s")
_NOUN = r"(?:text|passage|document|article|paragraph|excerpt|sentence|statement)"
_REFERS = re.compile(
    rf"\b(?:the|this|that|these|those) (?:\w+ )?(?P<noun>{_NOUN})s?\b|"
    rf"\b(?:given|above|provided|following|preceding) {_NOUN}s?\b|\b{_NOUN}s? (?:above|below|provided|given)\b|"
    r"\b(?:mentioned|described|stated|given|listed|provided|shown|specified) (?:above|below|here)\b|"
    r"\b(?:as|not|is|are|was|were) (?:\w+ )?mentioned\b|\baccording to (?:it|the (?:above|following))\b|"
    r"\b(?:this|in the) (?P<tale>story)\b|\bthe (?P<person>author|writer|narrator|speaker)\b"
)
_TASK_WORD = r"(?:rephrasing|rewriting|paraphrase|inference|instruction|prompt)"
_ABOUT_ANSWER = r"(?:example|response|answer|version|revision|information|fact|list|question|summary)"
_GIVEN = r"(?:original|new|revised|rewritten|rephrased|given|provided|previous|following|above|correct|final)"
_ANSWER = re.compile(
    r"(?:(?:in|from|within) )?(?:the context of )?(?:"
    rf"(?:the|this|these|both|each|your|my) (?:(?:{_GIVEN}|first|second|last) )?(?P<noun>{_NOUN}|{_TASK_WORD})s?\b|"
    rf"(?:this|these) (?:{_GIVEN} )?(?P<near>{_ABOUT_ANSWER})s?\b|"
    rf"(?:the|your|my) {_GIVEN} (?P<given>{_ABOUT_ANSWER})s?\b|"
    rf"the (?P<provided>{_ABOUT_ANSWER})s? (?:provided|given|above)\b)|"
    r"(?:this|that|it|here) (?:is|was|has|means)\b (?:(?:a|an|the|just|only|another|one) )*(?:\w+ ){0,2}"
    rf"(?P<kind>{_NOUN}|{_TASK_WORD}|{_ABOUT_ANSWER}|continuation|rewording|syllogism|fallacy|case with|instance|"
    r"way to|difference|different)\b|"
    r"(?P<self>i)(?:'ve|'ll|'m| (?:have|will|would|can|added|changed|used|replaced|think|hope|am))\b|"
    r"you(?:'re| are) (?:right|correct|welcome|on the right)\b|"
    rf"to \w+ (?:the|this) (?P<aim>{_NOUN})s?\b"
)
_POLLUTED = re.compile(
    rf"\b(?:original|given|revised|rewritten|rephrased) (?P<noun>{_NOUN}|meaning|version)s?\b|"
    r"\bi(?:'m| am) (?:a|an|your) (?:[\w-]+ ){0,4}(?:ai|assistant|language model|chatbot)\b"
)
_TASKED = re.compile(r"\b(?P<noun>inference|rephrasing|paraphrase)s?\b")
_SENTENCE_END = re.compile(r"[.!?:][\"')]*\s+")


def is_introduction(folded: str) -> bool:
    """Whether a line introduces an answer ("Here are three statements that follow")."""
    found = _INTRODUCTION.match(folded)
    return bool(found and _ABOUT.search(folded)) or bool(re.fullmatch(_SURE, folded))


def names_answer(folded: str) -> bool:
    """Whether a heading says what is below it ("Key concepts")."""
    return folded.count(" ") < _MOST_WORDS_OF_HEADING and bool(_ABOUT.search(folded))


def without_introduction(line: str) -> str:
    """A line without what introduces the answer on it: "Sure! Here is the sentence: ", "Inference 2: "."""
    for pattern in (_INTERJECTION, _INLINE, _LABEL, _ACCORDING):
        found = pattern.match(line)
        line = line[found.end() :] if found else line
    return line


def is_labelled(line: str) -> bool:
    """Whether a line names what it is: "Inference 2: "."""
    return bool(_LABEL.match(line))


def is_closing(folded: str) -> bool:
    """Whether a line speaks to the user behind an answer."""
    return bool(_CLOSING.match(folded))


def is_reason(folded: str) -> bool:
    """Whether a line names itself a reason or a note."""
    return bool(_REASON.match(folded))


def is_remark(folded: str) -> bool:
    """Whether a line speaks of the statements above it."""
    return bool(_REMARK.match(folded))


def is_refusal(folded: str) -> bool:
    """Whether a line refuses, apologises, or asks for the text."""
    return bool(_REFUSAL.match(folded))


def is_talk(folded: str) -> bool:
    """Whether a line speaks to the user."""
    return is_refusal(folded) or is_closing(folded)


def says_nothing(folded: str, phrase: str) -> bool:
    """Whether a line says that nothing follows: by the folded phrase of the prompt book, or in English."""
    folded = _ANYWAY.sub("", folded)
    rest = folded[len(phrase) :] if phrase and folded.startswith(phrase) else None
    if rest is not None and (
        not rest or _STOP.match(rest.lstrip("\"' ")) or (rest[0] == " " and re.fullmatch(_FROM, rest))
    ):
        return True
    first = _STOP.split(folded, maxsplit=1)[0].strip()
    return bool(_NOTHING.fullmatch(first) or _NOTHING.fullmatch(folded))


def refers_to_text(folded: str, known: Container[str] = ()) -> bool:
    """Whether a line speaks of its text ("according to the passage"), so that it cannot be understood without it.

    A source that has a word such as "document" itself, among its `known` words, is about documents.
    """
    return any(_is_unknown(found, known) for found in _REFERS.finditer(folded))


def speaks_of_answer(folded: str, known: Container[str] = ()) -> bool:
    """Whether a sentence speaks of the answer, or of what was asked ("The original sentence", "I have added")."""
    found = [*map(_ANSWER.match, _SENTENCE_END.split(folded)), _POLLUTED.search(folded), _TASKED.search(folded)]
    return any(one is not None and _is_unknown(one, known) for one in found)


def begins_with_talk(folded: str, known: Container[str] = ()) -> bool:
    """Whether a document begins with talk about itself, or speaks of what it was made from."""
    found = _ANSWER.match(folded), _POLLUTED.search(folded)
    return any(one is not None and _is_unknown(one, known) for one in found)


def _is_unknown(found: re.Match[str], known: Container[str]) -> bool:
    word = next(filter(None, found.groupdict().values()), "")
    return not word or not (word in known or (word != "i" and f"{word}s" in known))
