"""PDF files as running text. `reader` is the import's side; all else runs in a child process, see `worker`.

`words` takes words and their places from PDFium, `layout` puts them into reading order, `furniture` finds running heads
and page numbers, `prose` makes paragraphs and headings, `hyphens` judges the ends of lines.
"""
