"""What the columns of a tap file and the members of its objects mean, by their names.

The names of the taps and times that web servers, proxies, clouds and spreadsheets write, each table with the most telling name
first. Names are compared without case and punctuation, so that `cs-uri-query` is `csuriquery`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ixfast.chips.template import STANDARD_NAMES
from ixfast.domain.references import CODE_NAMES

TIME, CLOCK, URL, QUERY, LINE, EXPECTED = "at", "clock", "url", "query", "line", "expected"
"""What a column can be other than a parameter of the tap. `CLOCK` is the time of day where `TIME` is only the date.

`LINE` is a line of a log. `EXPECTED` is what `ixfast simulate` expects of the verdict, which is not read.
"""

LIST_NAMES = ("url", "tapurl", "tap", "link", "href", "fullurl")
"""Columns of a list of taps: each line is one."""

REQUEST_NAMES = (
    "requesturi", "requesturl", "uri", "rawuri", "originalurl", "original", "full", "clientrequesturi", "requesttarget", "target",
    "request", "requestpath", "clientrequestpath", "rawpath", "path", "pathname", "csuristem", "uristem",
)  # fmt: skip
"""Columns of a log, whose lines are the requests that a server answered: a URL, its path, or `GET /t?uid=... HTTP/1.1`."""

URL_NAMES = (*LIST_NAMES, *REQUEST_NAMES)

QUERY_NAMES = (
    "query", "querystring", "csuriquery", "uriquery", "queryparameters", "querystringparameters", "queryparams", "args",
)  # fmt: skip
"""A query string, or in JSON an object with its parameters."""

TIME_NAMES = (
    "at", "timestamp", "time", "datetime", "ts", "tappedat", "taptime", "scannedat", "scantime", "timeiso8601", "timelocal",
    "timeutc", "startutc", "starttime", "startlocal", "edgestarttimestamp", "requesttimestamp", "requesttimeepoch", "requesttime",
    "eventtime", "eventtimestamp", "receivedat", "timegenerated", "created", "createdat", "msec", "epoch", "unixtime", "when",
    "date",
)  # fmt: skip

LINE_NAMES = ("log", "message", "msg", "line", "textpayload", "raw")
"""A line of a log that another program wrapped in an object or in CSV."""

STANDARD = frozenset((*CODE_NAMES, *STANDARD_NAMES.values()))
"""The parameters of `/v1/t`, which may be written in either case."""

_PUNCTUATION = re.compile(r"[^0-9a-z]+")


@lru_cache(4096)
def folded(name: str) -> str:
    """A name as the tables have it."""
    return _PUNCTUATION.sub("", name.lower())
