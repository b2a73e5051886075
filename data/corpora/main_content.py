"""Which parts of a page are its main content: rules for its structure, and resiliparse's for the names of its parts.

Resiliparse knows how content management systems call what is not content (cookie notices, shares, related articles). It
does not use landmarks inside the page or the density of links, and it takes lists near the body for navigation; that is
done, and corrected, here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from resiliparse.extract.html2text import extract_plain_text
from selectolax.lexbor import LexborHTMLParser, LexborNode

from data.corpora.page_text import PAGE, PROSE_NOTES, count_visible, marks_in

# Landmarks and controls that are never content.
_APART = (
    "nav,[role=navigation],[role=search],[role=banner],[role=contentinfo],[role=complementary],[role=dialog],"
    "[role=alertdialog],[role=menu],[role=menubar],[role=toolbar],[role=tablist],dialog:not([open]),button,select,input,"
    "textarea,form label"
)
# What generators of documentation and wikis put around or into the content.
_MACHINERY = (
    ".navheader,.navfooter,.headerlink,.sphinxsidebar,.mw-editsection,.mw-jump-link,.mw-cite-backlink,sup.reference,"
    ".printfooter,.catlinks,.navbox,.noprint,.screen-reader-text,.sr-only,.visually-hidden,.skip-link,"
    "#comments,.comments-area,.comment-list"
)
# Buttons that open what a heading is about; links that a heading has to itself.
_OPENERS = "button[aria-expanded],button[aria-controls],button[data-toggle],button[data-bs-toggle]"
_ANCHORS = frozenset("§ ¶ # ∞ 🔗".split())
_MAIN = "main,[role=main]"
_ARTICLE = "article,[itemprop=articleBody]"
_DENSE = frozenset("div ul ol dl table td p section aside center header footer".split())
_CONTENT = frozenset({"article", "main", "blockquote"})
_MAY_HOLD_TITLE = frozenset({"header", "div"})
_MOST_LINKS = 0.6  # of the characters of a block are links: it is navigation
_LEAST_SHARE = 0.5  # of the characters of a page are in its only article: the rest is not content


def remove_landmarks(tree: LexborHTMLParser) -> None:
    """Remove the parts of a page that are marked as navigation, controls, headers, footers and asides."""
    for button in tree.css(_OPENERS):
        button.unwrap()
    for link in tree.css("a[href^='#']"):
        if link.text().strip() in _ANCHORS:
            link.decompose()
    _remove(tree.css(f"{_APART},{_MACHINERY}"), tree.css("h1"))
    _remove([node for node in tree.css("header,footer,aside") if not _is_within(node, _CONTENT)], tree.css("h1"))


def keep_main(tree: LexborHTMLParser, body: LexborNode) -> None:
    """Remove from a tree what its structure shows to be no main content."""
    container = _container(tree.css(_MAIN), 0) or _container(tree.css(_ARTICLE), _size_of(body))
    if container is not None:
        _isolate(container)
        article = _container(container.css(_ARTICLE), _size_of(container))
        if article is not None:
            _isolate(article)
    remove_landmarks(tree)
    blocks = _link_blocks(tree)
    if container is None or sum(map(_size_of, blocks)) < _MOST_LINKS * _size_of(body):
        _remove(blocks, tree.css("h1"))


def markup_of_main(tree: LexborHTMLParser, body: LexborNode) -> str:
    """The markup of what is left in a tree, as resiliparse shall read it."""
    for node in tree.css("section[id],h1[id],h2[id],h3[id],h4[id],h5[id],h6[id]"):
        del node.attrs["id"]  # "related", "menu": made from a heading, not the name of a part
    for node in reversed(tree.css("aside")):
        if PROSE_NOTES.search(node.attributes.get("class") or "note"):
            node.unwrap()
    for node in reversed(tree.css("label,figure,figcaption")):
        node.unwrap()
    # Within three elements, lists and the like are not taken for the navigation of the page.
    return f"<body><div><div><div>{body.inner_html}</div></div></div></body>"


def main_marks(tree: LexborHTMLParser, body: LexborNode) -> frozenset[int]:
    """The marks of what is left in a tree, without the parts whose names show that they are no content.

    Resiliparse chooses; its text is not used, for it leaves out words of one character in some scripts.
    """
    markup = markup_of_main(tree, body)
    text = extract_plain_text(markup, preserve_formatting=False, main_content=True, list_bullets=False, alt_texts=False)
    titles = tree.css("h1")
    return marks_in(text) | (marks_in(titles[0].text()) if len(titles) == 1 else frozenset())


def _container(named: Sequence[LexborNode], size: int) -> LexborNode | None:
    """The only one of these elements, if it has a text and a good part of a page of this size."""
    outer = [node for node in named if not _is_within(node, _CONTENT)] if len(named) > 1 else named
    if len(outer) == 1 and _size_of(outer[0]) > _LEAST_SHARE * size:
        return outer[0]
    return None


def _isolate(container: LexborNode) -> None:
    """Remove all that is not in this element, except for the page's only heading of the first level."""
    has_heading = container.css_first("h1,h2") is not None
    node = container
    while node.tag != "body" and (parent := node.parent) is not None:
        for other in list(parent.iter(include_text=True)):
            if other.mem_id != node.mem_id:
                heading = None if has_heading or other.tag == "-text" else other.css_first("h1")
                if heading is not None:
                    other.insert_before(heading)
                other.decompose()
        node = parent


def _remove(nodes: Sequence[LexborNode], titles: Sequence[LexborNode]) -> None:
    """Remove parts, later ones first, but keep the title of the page, if that is in one and nowhere else."""
    for node in reversed(nodes):
        if node.tag in _MAY_HOLD_TITLE and len(titles) == 1 and node.css_first("h1"):
            node.insert_before(titles[0])
            titles = ()
        if node.tag not in PAGE:
            node.decompose()


def _link_blocks(tree: LexborHTMLParser) -> list[LexborNode]:
    """Blocks of which most is links; of blocks in one another, the outermost ones."""
    num_linked: Counter[int] = Counter()
    num_links: Counter[int] = Counter()
    nodes: dict[int, LexborNode] = {}
    above: dict[int, int] = {}
    for link in tree.css("a[href]"):
        size, below = _size_of(link), 0
        for node in _above(link):
            key = node.mem_id
            nodes[key] = node
            num_linked[key] += size
            num_links[key] += 1
            above[below], below = key, key
    dense = {
        key
        for key, node in nodes.items()
        if num_links[key] > 1 and node.tag in _DENSE and num_linked[key] >= _MOST_LINKS * _size_of(node)
    }
    return [nodes[key] for key in dense if not any(upper in dense for upper in _chain(above, key))]


def _chain(above: dict[int, int], key: int) -> Iterator[int]:
    while key := above.get(key, 0):
        yield key


def _above(node: LexborNode) -> Iterator[LexborNode]:
    """The elements that a node is in, within the body."""
    parent = node.parent
    while parent is not None and parent.tag != "body":
        yield parent
        parent = parent.parent


def _is_within(node: LexborNode, tags: frozenset[str]) -> bool:
    return any(above.tag in tags for above in _above(node))


def _size_of(node: LexborNode) -> int:
    return count_visible(node.text())
