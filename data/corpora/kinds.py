"""The kinds of files: which suffix is read by which reader, and what is not read, and why."""

_SUFFIXES = {
    "text": ".txt .text .md .markdown .rst .adoc .asciidoc .org",
    "html": ".html .htm .xhtml",
    "pdf": ".pdf",
    "jsonl": ".jsonl .ndjson",
    "json": ".json",
    "csv": ".csv .tsv",
    "parquet": ".parquet .pq",
    "arrow": ".arrow .feather .ipc",
    "docx": ".docx .docm .dotx .dotm",
    "pptx": ".pptx .pptm .ppsx .ppsm .potx",
    "odf": ".odt .ott .odp .otp",
    "xlsx": ".xlsx .xlsm",
    "ods": ".ods",
    "epub": ".epub",
    "mail": ".eml",
}
KINDS = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
CODE = "code"  # the kind of source files, which are read if they are asked for
CODE_SUFFIXES = frozenset(
    (
        ".py .pyi .js .mjs .cjs .jsx .ts .tsx .vue .java .kt .kts .scala .groovy .c .h .cc .cpp .cxx .hpp .hh .cs .fs "
        ".m .mm .rs .go .rb .php .pl .pm .lua .r .jl .swift .dart .hs .ml .mli .clj .ex .exs .erl .el .lisp .vb .vbs "
        ".bas .pas .f90 .f95 .asm .sh .bash .zsh .fish .ps1 .bat .cmd .sql .proto .graphql .tf .cmake .mk .gradle "
        ".toml .yaml .yml .ini .cfg .conf .properties .css .scss .sass .less .xml .xsd .xsl .xslt .tex .bib .sty .log "
        ".diff .patch"
    ).split()
)
# By suffix, what a file must become before it can be read.
CONVERT = {
    suffix: f"save it as {better}, or: soffice --headless --convert-to {better[1:]} FILE"
    for suffixes, better in (
        (".doc .dot .rtf .wps .wpd .pages", ".docx"),
        (".xls .xlt .xlsb .numbers", ".xlsx"),
        (".ppt .pps .pot .key", ".pptx"),
        (".sxw .stw .fodt", ".odt"),
        (".sxi .fodp", ".odp"),
        (".sxc .fods", ".ods"),
    )
    for suffix in suffixes.split()
} | {
    ".msg": "save it as .eml",
    ".mobi": "convert it to .epub: ebook-convert FILE FILE.epub",
    ".azw3": "convert it to .epub: ebook-convert FILE FILE.epub",
}
ARCHIVES = frozenset(".zip .tgz .tbz2 .txz .tzst .tar .7z .rar .lz4 .jar".split())
SEEKING = frozenset("parquet arrow docx pptx odf xlsx ods epub".split())  # kinds that are not read as streams
