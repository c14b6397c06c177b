"""Text of the site that is made from the code: a comment `<!-- generated: NAME -->` in a page marks its place.

The paragraph that begins on the line below the comment, if there is one, is for readers of the Markdown: the site has the
generated text in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from docs._ext import command_line, http_api, python_api

_MARK = re.compile(r"^<!-- generated: ([\w ]+) -->(?:\n.+)*$", re.MULTILINE)
_LISTED = re.compile(r"^- .*?\]\(([\w./-]+)\.md\)", re.MULTILINE)

_GENERATORS: dict[str, Callable[[], str]] = {
    "commands": command_line.commands,
    "operations": http_api.operations,
    "schemas": http_api.schemas,
    "python names": python_api.names,
}


def fill_in(text: str, page: Path) -> str:
    """The Markdown `text` of a page with what is generated. `contents` is the navigation: the pages that its list links to."""

    def generated(mark: re.Match[str]) -> str:
        if mark[1] == "contents":
            return "\n".join(("```{toctree}", ":hidden:", "", *_LISTED.findall(text), "```"))
        return _GENERATORS[mark[1]]()

    try:
        return _MARK.sub(generated, text)
    except KeyError as error:
        raise ValueError(f"{page.name} asks for generated text of an unknown kind: {error}") from None
