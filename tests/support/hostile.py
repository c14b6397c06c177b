"""Random malformed and unusual requests, for every route of both listeners, reproducible from a seed.

Most are nearly correct, so that they get far: a real route with a valid API key and a body that follows its schema, with one or
two oddities in the head, framing, encoding or values, or with some bytes changed.
"""

import gzip
import json
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ixfast.http.openapi.document import description
from support.malformed import FIELDS

SPOKEN = re.compile(rb"HTTP/1\.[01] (\d\d\d) ")

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_ODD_METHODS = (b"CONNECT", b"TRACE", b"PROPFIND", b"get", b"G\0T", b"\xff", b"", b"PRI", b"M-SEARCH", b"QUERY", b"A" * 9000)
_ODD_VERSIONS = (
    b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3", b"HTTP/9.9", b"HTTP/1.1.1", b"http/1.1", b"ICE/1.0", b"",
    b"RTSP/1.0",
)  # fmt: skip
_ODD_TEXTS: tuple[str, ...] = (
    "", " ", "\0", "\x7f", "\r\n", "a\nb", "é", "\u2028", "\ud800", "\udcff", "\U0001f600", "x" * 300, "x" * 5000, "0", "-1",
    "1e999", "NaN",
    "null", "true", "2000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "0000-00-00", "{{x}}", "[[x]]", "%00", "%ff",
    "'; --",
    "\\u0000", "http://[", "http://a/?x=%ff", "https://é.example/?x=a&n=000001&e=0000000000000000", "\u0661\u0662", "A" * 64,
)  # fmt: skip
_ODD_NUMBERS = (
    0,
    -1,
    1,
    2,
    255,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 53) + 1,
    (1 << 63) - 1,
    1 << 63,
    1 << 64,
    10**400,
    1.5,
    -0.0,
    1e300,
)
_ODD_VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": None}, *_ODD_TEXTS, *_ODD_NUMBERS)
_ODD_PATHS = (
    "/", "//", "/..", "/%00", "/%ff", "/%", "*", "/v1", "/v2/", "/v2/tags/%2e%2e", "/v2/x/%ED%A0%80", "http://[",
    "http://a:b/", "a:1", "",
    "/" + "a" * 9000, "/v2/accounts/\xff", "/#", "/?", "?", "/v1/t?x=%", "http://é/", "/v1/t#?", "//a/v1/t", "/livez?\xff=\xfe",
)  # fmt: skip
_ENCODINGS = ("gzip", "deflate", "br", "zstd", "compress", "x-gzip", "identity", "gzip, gzip", "é", "\xff", "", "*")
_TYPES = (
    "application/json", "application/json; charset=utf-8", "application/json; charset=utf-16", "application/json; charset=\xff",
    'application/json; charset="', "application/json; charset", "text/csv; charset=latin-1", "text/csv", "application/x-ndjson",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "multipart/form-data", "\xff/\xfe", ";;;",
    "a/b; c=\xff",
)  # fmt: skip
_LENGTHS = (
    "0", "1", "-1", "+5", "5 5", "5, 5", "0x10", "1e3", "\u0665", "", " ", "1048577", "4294967296", "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615", "18446744073709551616", "9" * 5000, "0" * 5000 + "5", "abc", "\xff", "5\0",
)  # fmt: skip
_ODD_HEADERS: tuple[tuple[str, Sequence[str]], ...] = (
    ("Expect", ("100-continue", "100-Continue", "wonders", "\xff\xfe", "100-continue, 100-continue", "", "1" * 2000)),
    ("Idempotency-Key", ("", "a", "\xff", "a" * 300, "\x01", "\0", "é")),
    ("X-Request-Id", ("\xff", "a" * 65, '"', "\t")),
    ("X-Forwarded-For", ("\xff", ",,", "1.2.3.4, \xff", "::1%eth0")),
    ("If-Match", ("*", '"', '"a"', "\xff", 'W/"a", "b"', "," * 3000)),
    ("If-None-Match", ("*", "\xff", '"a')),
    ("If-Modified-Since", ("\xff", "Thu, 99 Jan 99999 00:00:00 GMT")),
    ("Range", ("bytes=0-1", "bytes=\xff", "bytes=5-1")),
    ("Cookie", ("\xff=\xfe", "a=b; ;;=", '"' * 2000)),
    ("Origin", ("null", "\xff", "http://[")),
    ("Accept", ("\xff", "*/*;q=\xff")),
    ("Accept-Encoding", ("gzip", "\xff", "*;q=x")),
    ("ix_c", ("\xff", "", "é", "\x7f")),
    ("ix_u", ("\xff", "04", "04A1B2C3D4E5F6")),
    ("Authorization", ("Bearer \xff", "Basic \xff", "Bearer", "\xff")),
    ("Upgrade", ("websocket", "h2c", "\xff", "TLS/1.0")),
    ("Connection", ("Upgrade", "close", "keep-alive", "\xff", "Upgrade, close", "HTTP2-Settings")),
    ("Sec-WebSocket-Key", ("dGhlIHNhbXBsZSBub25jZQ==", "\xff", "")),
    ("Sec-WebSocket-Key1", ("\xff",)),
    ("Trailer", ("X-API-Key", "\xff")),
    ("Host", ("\xff", "", "a, b", "[", "localhost:99999")),
    ("Transfer-Encoding", ("chunked", "gzip, chunked", "chunked, chunked", "CHUNKED", "\xff", "", "identity", "gzip")),
    ("Content-Length", _LENGTHS),
    ("Content-Encoding", _ENCODINGS),
)  # fmt: skip
_READ_HEADERS = tuple(
    each for each in _ODD_HEADERS if each[0] in ("Expect", "Idempotency-Key", "X-Request-Id", "If-Match", "ix_c", "Authorization")
)
_WORDS: dict[str, tuple[str, ...]] = {
    "uid": ("04A1B2C3D4E5F6", "041E3C8A2D6B80"), "cuid": ("62-1", "62-2", "c"), "profile": ("ixkio-plain", "plain",
    "encrypted", "nobody"),
    "key": ("0123456789abcdef" * 2, "00" * 16), "meta_key": ("0123456789abcdef" * 2,), "limit": ("1", "2", "1000"),
    "format": ("csv", "jsonl"),
    "cursor": ("WzFd", "WzFd", "WzksOV0", "e30", "W10"), "since": ("2026-01-31", "2026-01-31T09:30:00+01:00"),
    "until": ("2026-12-31",),
    "by": ("day", "group", "tag"), "dry_run": ("true", "false"), "peek": ("true", "false"), "verdict": ("genuine", "forged"),
    "url": ("https://a.example/?x=abcd1234&n=000001&e=0000000000000000", "https://a.example/hostile/x"),
    "query": ("x=a&n=000001&e=00",),
    "counter": ("000001", "FFFFFF"), "code": ("0000000000000000",), "account": ("hostile",),
    "expires_at": ("2030-01-01T00:00:00Z",),
}  # fmt: skip
"""Valid values by parameter name, so that later checks are reached."""
_PIECES = (
    b"\0", b"\xff", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b":", b"\t", b"%", b"?", b"#", b"=", b"&", b'"', b"{", b"[",
    b"\x80", b"0", b"-",
)  # fmt: skip


class Operation(NamedTuple):
    method: str
    path: str
    query: tuple[str, ...]
    content: Mapping[str, Any]  # the schema of the body by media type


class Hostile(NamedTuple):
    """A request in pieces, and how the client leaves: it `waits`, half-closes (`fin`), resets (`rst`) or closes (`gone`)."""

    private: bool
    pieces: list[bytes]
    leaves: str


class Generator:
    """Generates requests from a seed. `token` is a valid API key; `ids` are used as object ids in paths."""

    def __init__(self, seed: int, token: str, ids: Sequence[str], targets: Sequence[str]) -> None:
        self.random = random.Random(seed)
        self._token = token
        self._ids = ids
        self._targets = targets
        spec = description()
        self._schemas = spec["components"]["schemas"]
        self._public: list[Operation] = []
        self._private: list[Operation] = []
        for path, methods in spec["paths"].items():
            for method, operation in methods.items():
                names = tuple(each["name"] for each in operation.get("parameters", ()) if each["in"] == "query")
                content = operation.get("requestBody", {}).get("content", {})
                is_public = path in ("/v1/t", "/v2/scans", "/v2/scans/batch")
                (self._public if is_public else self._private).append(Operation(method.upper(), path, names, content))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def next(self) -> Hostile:
        private = self.chance(0.55)
        odd = self.random.choice(("values", "values", "head", "head", "framing", "framing", "bytes", "end"))
        self._odd_head, self._odd_framing = odd == "head", odd == "framing"
        self._odd_values = self.random.choice((0.03, 0.2)) if odd == "values" else 0.0
        stream = b"".join(self._request(private) for _ in range(self.random.choice((1, 1, 1, 1, 2, 4))))
        if odd == "bytes":
            stream = self._damaged(stream)
        if odd == "end":
            stream = stream[: self.random.randrange(len(stream) + 1)]
        cuts = sorted(self.random.randrange(len(stream) + 1) for _ in range(self.random.choice((0, 0, 1, 3))))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        return Hostile(private, pieces, self.random.choice(("waits", "waits", "waits", "fin", "rst", "gone")))

    def _request(self, private: bool) -> bytes:
        pick = self.random.choice
        operation = pick(self._private if private != self.chance(0.05) else self._public)
        method, target = operation.method.encode(), self._target(operation)
        body, kind = self._body(operation)
        fields = [b"Host: localhost"]
        if self.chance(0.9):
            fields.append(b"X-API-Key: " + self._token.encode())
        fields.append(b"Content-Type: " + _latin(pick(_TYPES) if self._odd_framing and self.chance(0.3) else kind))
        body, framing = self._framed(body)
        fields += framing
        version = b"HTTP/1.1"
        if self._odd_head:
            for _ in range(pick((0, 1, 2, 4))):
                name, values = pick(_READ_HEADERS if self.chance(0.5) else _ODD_HEADERS)
                fields.append(b"%b: %b" % (name.encode(), _latin(pick(values))))
            if self.chance(0.2):
                fields.append(pick(tuple(FIELDS.values())).removesuffix(b"\r\n"))
            if self.chance(0.2):
                self.random.shuffle(fields)
            if self.chance(0.1):
                version = pick(_ODD_VERSIONS)
            if self.chance(0.1):
                method = pick((*_ODD_METHODS, *map(str.encode, _METHODS)))
        return b"%b %b %b\r\n%b\r\n\r\n%b" % (method, target, version, b"\r\n".join(fields), body)

    def _target(self, operation: Operation) -> bytes:
        pick = self.random.choice
        if self._odd_head and self.chance(0.2):
            return _latin(pick(_ODD_PATHS))
        if operation.path == "/v1/t" and self.chance(0.7):
            return pick(self._targets).encode()
        path = re.sub(r"\{\w+\}", lambda _: pick(self._ids) if self.chance(0.9) else _escaped(pick(_ODD_TEXTS)), operation.path)
        names = [name for name in operation.query if self.chance(0.4)]
        if self.chance(0.1):
            names.append(pick(("peek", "limit", "cursor", "r", "x", "a", "\xff", "", *(names or ("z",)))))
        query = "&".join(f"{name}={_escaped(self._word(name))}" for name in names)
        return _latin(f"{path}?{query}" if query else path)

    def _body(self, operation: Operation) -> tuple[bytes, str]:
        """A body that follows the schema of the route, or nearly does."""
        pick = self.random.choice
        if not operation.content:
            return (b"" if self.chance(0.8) else pick((b"{}", b"\xff", b"a=b", b"x" * 70_000)), "application/json")
        kind = pick(tuple(operation.content))
        if self.chance(self._odd_values):
            nested = (
                b"[" * 100_000,
                b'{"a":' * 50_000,
                b'{"a":1,"a":2}',
                b'"\\ud800"',
                b"\xef\xbb\xbf{}",
                b"1" * 5000,
                b"\xff\xfe{\0}\0",
            )
            return pick((b"", b"{", b"null", b"\0", b'"\xff"', b"{}" * 9, *nested)), kind
        if "json" in kind:
            value = self._value(operation.content[kind]["schema"], "", 0)
            encoded = json.dumps(value, ensure_ascii=self.chance(0.7)).encode("utf-8", "surrogatepass")
        elif "form" in kind:
            encoded = "&".join(f"{n}={_escaped(pick(_ODD_TEXTS))}" for n in ("ix_dr", "ix_status", "z")).encode(
                "latin-1", "replace"
            )
        else:
            rows = [",".join(pick(("xuid", "uid", "cuid", "name", *_ODD_TEXTS[:12])) for _ in range(4)) for _ in range(5)]
            encoded = "\n".join(rows).encode("utf-8", "surrogatepass")
        return (gzip.compress(encoded) if self.chance(0.05) else encoded), kind

    def _value(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        """A value for a member of this name and JSON schema, occasionally an invalid one."""
        pick = self.random.choice
        if depth > 8 or self.chance(self._odd_values):
            return pick(_ODD_VALUES)
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rpartition("/")[2]], name, depth + 1)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self._value(pick(schema[choice]), name, depth + 1)
        if "enum" in schema or "const" in schema:
            return pick(schema.get("enum") or [schema["const"]])
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = pick(kind)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            least = schema.get("minItems", 0)
            return [self._value(schema.get("items", {}), name, depth + 1) for _ in range(least + pick((0, 1, 2, 5)))]
        if kind == "boolean":
            return self.chance(0.5)
        if kind == "null":
            return None
        if kind in ("integer", "number"):
            return pick((1, 2, 3, schema.get("minimum", 1), schema.get("maximum", 100)))
        return self._word(name)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required, known = schema.get("required", ()), schema.get("properties", {})
        made = {n: self._value(s, n, depth + 1) for n, s in known.items() if n in required or self.chance(0.4)}
        if not known:
            made[self._word("name")] = self._value(schema.get("additionalProperties") or {"type": "string"}, "value", depth + 1)
        if self.chance(self._odd_values):
            made[self.random.choice(_ODD_TEXTS)] = self.random.choice(_ODD_VALUES)
        return made

    def _word(self, name: str) -> str:
        """A text for a member or parameter of this name."""
        pick = self.random.choice
        if self.chance(self._odd_values):
            return pick(_ODD_TEXTS)
        return pick(_WORDS.get(name, ()) or (*self._ids, "name", "abcd1234", "2026-01-31", "00" * 16))

    def _framed(self, body: bytes) -> tuple[bytes, list[bytes]]:
        """The encoded body, and the header fields that describe its encoding."""
        pick = self.random.choice
        fields = []
        if not self._odd_framing and self.chance(0.9):
            return body, [b"Content-Length: %d" % len(body)] if body else []
        if body and self.chance(0.3):
            encoding = pick(_ENCODINGS)
            fields.append(b"Content-Encoding: " + _latin(encoding))
            body = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)(body) if self.chance(0.5) else body
        if self.chance(0.5):
            if self.chance(0.4):
                return body, [*fields, b"Content-Length: " + _latin(pick(_LENGTHS))]
            length = len(body) + (pick((-1, 1, 7)) if self.chance(0.2) else 0)
            return body, [*fields, b"Content-Length: %d" % max(length, 0)] if body or self.chance(0.5) else fields
        chunks = b""
        while body:
            size = self.random.randint(1, len(body))
            chunks += b"%x%b\r\n%b\r\n" % (size, pick((b"", b"", b";a=b", b';a="\xff"')), body[:size])
            body = body[size:]
        if self.chance(0.3):
            chunks += pick(
                (b"g\r\n", b"-1\r\na\r\n", b"ffffffffffffffffff\r\n", b"5\r\nab", b"\r\n", b"1\nZ\n", b"0" * 5000, b"\xff\r\n")
            )
        end = pick(
            (
                b"0\r\n\r\n",
                b"0\r\n\r\n",
                b"0\r\nA: b\r\n\r\n",
                b"0\r\nA: \xff\r\n\r\n",
                b"0\r\n: \r\n\r\n",
                b"0\r\n" + b"A: b\r\n" * 200,
            )
        )
        return chunks + end, [*fields, b"Transfer-Encoding: chunked"]

    def _damaged(self, stream: bytes) -> bytes:
        """Insert, remove or replace some bytes, half of the time in the first head."""
        for _ in range(self.random.randint(1, 3)):
            end = len(stream) if self.chance(0.5) else min(len(stream), 300)
            at = self.random.randrange(end + 1)
            stream = stream[:at] + self.random.choice(_PIECES) + stream[at + self.random.randrange(3) :]
        return stream


def _latin(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _escaped(text: str) -> str:
    """Percent-encode a text, including lone surrogates."""
    return "".join(chr(b) if chr(b).isalnum() and b < 128 else f"%{b:02x}" for b in text.encode("utf-8", "surrogatepass"))
