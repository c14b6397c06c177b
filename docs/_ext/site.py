"""The Sphinx extension of this site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from docs._ext import generated, python_api
from docs._ext.lexers import LEXERS
from docs._ext.repository_links import site_links

_LOG = logging.getLogger(__name__)
_DESCRIPTION_CHARS = 160
_SHORT_CODE_CHARS = 26
_PAGES_OF_FACTS = frozenset(("reference/settings",))


def _read_page(app: Sphinx, page: str, content: list[str]) -> None:
    file = Path(app.env.doc2path(page))
    content[0] = generated.fill_in(_linked(content[0], file, page), file)


def _read_include(app: Sphinx, path: Path, page: str, content: list[str]) -> None:
    content[0] = _linked(content[0], (Path(app.srcdir) / path).resolve(), page)


def _linked(text: str, file: Path, page: str) -> str:
    return site_links(text, file, lambda problem: _LOG.warning("%s", problem, location=page))


def _describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Give a page its first paragraph as the description that search engines show."""
    paragraphs = () if doctree is None else doctree.findall(nodes.paragraph)
    paragraph = next((each for each in paragraphs if isinstance(each.parent, nodes.section)), None)
    if paragraph is not None:
        text = " ".join(paragraph.astext().split())
        if len(text) > _DESCRIPTION_CHARS:
            text = text[:_DESCRIPTION_CHARS].rpartition(" ")[0] + " …"
        escaped = text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        context["metatags"] = context.get("metatags", "") + f'<meta name="description" content="{escaped}">\n'


def _show_facts_in_a_line(app: Sphinx, doctree: nodes.document) -> None:
    """Show the table of each setting, which has one row, as a line: `Flag: … Environment: …`, without empty cells."""
    if app.env.docname not in _PAGES_OF_FACTS:
        return
    for table in list(doctree.findall(nodes.table)):
        head, *rows = [[*row.findall(nodes.entry)] for row in table.findall(nodes.row)]
        if len(rows) == 1:
            table.replace_self(_facts([entry.astext() for entry in head], rows[0]))


def _facts(titles: list[str], cells: list[nodes.entry]) -> nodes.paragraph:
    line = nodes.paragraph(classes=["facts"])
    for title, cell in zip(titles, cells, strict=True):
        if cell.astext():
            line += nodes.inline("", "", nodes.Text(f"{title}: "), *_inline(cell))
            line += nodes.Text(" ")
    return line


def _keep_short_code_together(app: Sphinx, doctree: nodes.document) -> None:
    """Browsers break lines after the hyphens of flags; the style sheet forbids it for code that is short enough."""
    for code in doctree.findall(nodes.literal):
        if len(code.astext()) <= _SHORT_CODE_CHARS:
            code["classes"].append("short")


def _inline(entry: nodes.entry) -> list[nodes.Node]:
    return [child for paragraph in entry.children for child in paragraph.children]


def _link_docstring(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    lines[:] = python_api.with_links("\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    for language, lexer in LEXERS.items():
        app.add_lexer(language, lexer)
    app.connect("source-read", _read_page)
    app.connect("include-read", _read_include)
    app.connect("autodoc-process-docstring", _link_docstring)
    app.connect("doctree-read", _keep_short_code_together)
    app.connect("doctree-read", _show_facts_in_a_line)
    app.connect("html-page-context", _describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
