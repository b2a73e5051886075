"""Thai and Lao write no marks between sentences: a space between two clauses ends one.

Pure. Spaces also stand around numbers, foreign words and the sign ๆ, between the items of a list and before "and";
they are recognised by the length of the clauses between them and by the first word.
"""

import re
from collections.abc import Iterator

_LETTERS = "\u0e01-\u0e2f\u0e30-\u0e3a\u0e40-\u0e45\u0e47-\u0e4e\u0e81-\u0eb9\u0ebb-\u0ec5\u0ec8-\u0ecd"
_ANY = re.compile(r"[\u0e01-\u0ecd]")
_GAP = re.compile(rf"(?<=[{_LETTERS}]) +(?=[{_LETTERS}])")
_CLAUSE = re.compile(r"[^\s]+")
_SHORTEST = 7  # characters of a clause; items of lists and names are shorter
_LIST_ITEM = 14
_JOINING = re.compile(
    "และ|หรือ|กับ|แต่|ที่|ซึ่ง|อัน|โดย|เพราะ|เพื่อ|ว่า|ของ|จาก|ใน|ถึง|เป็น|คือ|เช่น|ได้แก่|รวม|เมื่อ|ถ้า|หาก|จน|"
    "ແລະ|ຫຼື|ແຕ່|ທີ່|ຊຶ່ງ|ໂດຍ|ເພາະ|ຂອງ|ຈາກ|ໃນ"
)
_AND = re.compile(r"\S+ +(?:และ|หรือ|ແລະ|ຫຼື)")


def divide_clauses(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A span, divided where a space ends a clause."""
    if _ANY.search(text, start, end):
        for gap in _GAP.finditer(text, start, end):
            if gap.start() - start >= _SHORTEST and _begins_clause(text, gap.end(), end):
                yield start, gap.end()
                start = gap.end()
    yield start, end


def _begins_clause(text: str, at: int, end: int) -> bool:
    found = _CLAUSE.match(text, at, end)
    length = len(found.group()) if found else 0
    is_item = bool(length < _LIST_ITEM and _AND.match(text, at, end))
    return length >= _SHORTEST and not _JOINING.match(text, at) and not is_item
