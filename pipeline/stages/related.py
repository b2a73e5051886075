"""The index of related documents: built once for a folder of documents, before the work that asks it."""

from pathlib import Path

from augment_service.related.index import INDEX, index_folder, is_indexed, open_index
from pipeline.progress import bar
from pipeline.stages.data import count_rows
from pipeline.stages.resources import Setting


def find_index(setting: Setting, documents: Path) -> Path:
    """The folder of the index of these documents, built with a bar where there is none; reported.

    It is beside the documents, or in the command's folder where that place cannot be written.
    """
    fallback = setting.space.root / INDEX
    folder = index_folder(documents, fallback)
    if not is_indexed(documents, folder):
        count = count_rows(documents)
        setting.say("index", f"words and entities of {count:,} documents, in {folder}")
        with setting.space.timed("index"), bar(setting.console, "index", count, eta=True) as shown:
            open_index(documents, fallback, shown.update)
    return open_index(documents, fallback).folder
