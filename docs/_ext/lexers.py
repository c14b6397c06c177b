"""Languages of code blocks that Pygments does not know, or knows too strictly."""

from __future__ import annotations

from pygments.lexer import RegexLexer, bygroups, using
from pygments.lexers.data import JsonLexer
from pygments.lexers.special import TextLexer
from pygments.token import Keyword, Literal, Name, Number, Operator, Text


class HttpExchangeLexer(RegexLexer):
    """Requests and responses as the pages show them: without `HTTP/1.1` in the request line, several in one block."""

    name = "HTTP exchange"
    tokens = {  # noqa: RUF012  (as Pygments declares it)
        "root": [
            (r"^(GET|HEAD|OPTIONS|POST|PUT|PATCH|DELETE)( +)(\S+)(.*\n)", bygroups(Name.Function, Text, Name.Namespace, Text)),
            (r"^(HTTP/[\d.]+)( +)(\d{3})(.*\n)", bygroups(Keyword.Reserved, Text, Number, Name.Exception)),
            (r"^([A-Za-z][\w-]*)(:)( .*\n)", bygroups(Name.Attribute, Operator, Literal)),
            (r"^[\[{].*\n", using(JsonLexer)),
            (r".*\n", Text),
        ]
    }


LEXERS = {
    "csv": TextLexer,
    "errors": TextLexer,
    "http": HttpExchangeLexer,
    "jsonl": JsonLexer,
    "responses": TextLexer,
    "rules": TextLexer,
}
"""Lexers by the language of the block."""
