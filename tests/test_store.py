"""Arrow folders: what is written is read back, by us and by `datasets`; half-written ones are not taken for whole."""

import datasets
import pytest

from data.errors import InputError
from data.records import Document, Question
from data.store import is_sealed, read_folder, seal, write_folder, write_shard

QUESTION = Question("q", "w", "s", "i", "femp are", ("glon", "troff"), 1, "f", ("d",))


def test_records_come_back_as_they_were(tmp_path) -> None:
    write_folder(tmp_path, Question, [QUESTION])
    assert list(read_folder(tmp_path, Question)) == [QUESTION]


def test_datasets_opens_the_folder(tmp_path) -> None:
    write_shard(tmp_path / "part-00000.arrow", Document, [Document("a", "one", "w")])
    write_shard(tmp_path / "part-00001.arrow", Document, [Document("b", "two", "w")])
    seal(tmp_path, Document)
    assert datasets.load_from_disk(str(tmp_path))["text"][:] == ["one", "two"]
    write_folder(tmp_path / "lists", Question, [QUESTION])
    assert datasets.load_from_disk(str(tmp_path / "lists"))[0]["options"] == ["glon", "troff"]


def test_a_folder_without_its_manifest_is_unfinished(tmp_path) -> None:
    write_shard(tmp_path / "part-00000.arrow", Document, [Document("a", "one", "w")])
    assert not is_sealed(tmp_path)
    seal(tmp_path, Document, key="inputs")
    assert is_sealed(tmp_path, key="inputs")


def test_a_folder_made_from_other_inputs_is_refused(tmp_path) -> None:
    write_folder(tmp_path, Document, [], key="one")
    with pytest.raises(InputError, match="other inputs"):
        is_sealed(tmp_path, key="two")


def test_an_empty_folder_is_refused_with_its_name(tmp_path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        list(read_folder(tmp_path, Document))


def test_an_interrupted_write_leaves_no_shard(tmp_path) -> None:
    def rows():
        yield Document("a", "one", "w")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shard(tmp_path / "part-00000.arrow", Document, rows())
    assert not list(tmp_path.glob("*.arrow"))
