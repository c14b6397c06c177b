"""The files in which taps come: separators, names of columns, logs of web servers, encodings; and files without a tap."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from ixfast.audit import Audit, Summary, find_profile, read_keys
from ixfast.audit.findings import MALFORMED
from ixfast.audit.log_lines import read_log_line
from ixfast.audit.tap_bytes import CHUNK_BYTES, chunks, read_chunks
from ixfast.audit.tap_format import detect_format
from ixfast.audit.tap_likeness import TapLikeness
from ixfast.audit.tap_names import LINE_NAMES, LIST_NAMES, QUERY_NAMES, REQUEST_NAMES, TIME_NAMES, folded
from ixfast.audit.tap_times import read_times
from ixfast.cli import audit as audit_command
from ixfast.cli.command_group import CommandGroup
from ixfast.cli.exit_codes import ExitCode, exit_code_of
from ixfast.errors import InputError, IxfastError, ProfileError

KEYS = "uid,file_key,profile\n04A1B2C3D4E5F6,000102030405060708090a0b0c0d0e0f,plain-uid-counter\n"
QUERY = "uid=04A1B2C3D4E5F6&ctr=000001&cmac=C49606EE6F334D39"
TAP = f"https://h.example/?{QUERY}"
AT = "2026-11-29T10:11:12Z"
LOG_AT = "29/Nov/2026:10:11:12 +0000"
MOMENT = 1_795_947_072.0
ICON = f'203.0.113.7 - - [{LOG_AT}] "GET /favicon.ico HTTP/1.1" 404 0 "-" "Mozilla/5.0"\n'
COMBINED = f'203.0.113.7 - - [{LOG_AT}] "GET /?{QUERY} HTTP/1.1" 200 37 "https://h.example/" "Mozilla/5.0"\n'

main = CommandGroup("ixfast", help="The command alone, as `ixfast` mounts it.")
audit_command.register(main)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.csv"
    path.write_text(KEYS)
    return path


def run(keys: Path, content: str | bytes, *options: str) -> Result:
    given = content.encode() if isinstance(content, str) else content
    return CliRunner().invoke(main, ["audit", "-", "--keys", str(keys), *options], input=given)


def status_of(result: Result) -> int:
    """The exit status of the program, which turns an IxfastError into one."""
    return int(exit_code_of(result.exception)) if isinstance(result.exception, IxfastError) else result.exit_code


def json_line(**members: object) -> str:
    return orjson.dumps(members).decode() + "\n"


LISTS = {
    "semicolons": f"at;url\n{AT};{TAP}\n",
    "tabs": f"at\turl\n{AT}\t{TAP}\n",
    "bars": f"url|at|shop\n{TAP}|{AT}|7\n",
    "quoted": f'"at";"url"\n"{AT}";"{TAP}"\n',
    "sep=": f"sep=;\r\nat;url\r\n{AT};{TAP}\r\n",
    "comments": f"# taps of November\nat,url\n{AT},{TAP}\n# the end\n",
    "blank lines above": f"\n\nat,url\n{AT},{TAP}\n",
    "a column at the end without a name": f"at,url,\n{AT},{TAP},\n",
    "spaces": f"at, url\n{AT}, {TAP}\n",
    "CR": f"at,url\r{AT},{TAP}\r",
    "no header": f"{AT},{TAP}\n",
    "no header, the URL first": f"7;{TAP};{AT}\n",
    "a URL and a time": f"{TAP} {AT}\n",
    "parameters": f"at;UID;CTR;CMAC\n{AT};04A1B2C3D4E5F6;000001;C49606EE6F334D39\n",
    "parameters and a path": f"at,path,uid,ctr,cmac\n{AT},/,04A1B2C3D4E5F6,000001,C49606EE6F334D39\n",
    "URL in JSON": json_line(URL=TAP, at=AT),
    "array": orjson.dumps([{"at": AT, "url": TAP}], option=orjson.OPT_INDENT_2).decode(),
    "array over several lines": f'[\n{{"url": "{TAP}",\n"at": "{AT}"}}\n]',
    "objects over several lines": orjson.dumps({"at": AT, "url": TAP}, option=orjson.OPT_INDENT_2).decode() + "\n",
    "an object around a list": f'{{\n  "taps": [\n    {{"at": "{AT}", "url": "{TAP}"}}\n  ]\n}}',
    "URLs in quotation marks": f'"{TAP}"; {AT}\n',
    "standard names": f"AT;U;N;E\n{AT};04A1B2C3D4E5F6;000001;C49606EE6F334D39\n",
    **{f"column {name}": f"when,{name}\n{AT},{TAP}\n" for name in ("URL", "link", "Tap URL", "href")},
}
LOGS = {
    **{f"column {name}": f"time,{name}\n{AT},/?{QUERY}\n" for name in ("request_uri", "uri", "path", "Request URL", "no_name")},
    "column request": f"time_local,request\n{LOG_AT},GET /?{QUERY} HTTP/1.1\n",
    "path and query": f"time,path,query_string\n{AT},/,{QUERY}\n",
    "nginx": json_line(time_iso8601=AT, request_uri=f"/?{QUERY}"),
    "nginx, its path apart": json_line(msec="1795947072.000", uri="/", args=QUERY, status=200),
    "nginx, request": json_line(time_local=LOG_AT, request=f"GET /?{QUERY} HTTP/2.0", request_time="0.003"),
    "Caddy": json_line(
        level="info", ts=MOMENT, msg="handled request", status=200, duration=0.001,
        request={"method": "GET", "host": "h.example", "uri": f"/?{QUERY}", "headers": {"Referer": ["https://h.example/"]}},
    ),
    "Traefik": json_line(RequestPath=f"/?{QUERY}", RequestMethod="GET", StartUTC=AT, time=AT),
    "Google's load balancer": json_line(httpRequest={"requestUrl": TAP, "requestMethod": "GET"}, timestamp=AT),
    "Cloudflare": json_line(ClientRequestURI=f"/?{QUERY}", EdgeStartTimestamp=1_795_947_072_000_000_000),
    "API Gateway": json_line(
        requestTime=LOG_AT, path="/",
        queryStringParameters={"uid": "04A1B2C3D4E5F6", "ctr": "000001", "cmac": "C49606EE6F334D39"},
    ),
    "Docker": json_line(log=COMBINED, stream="stdout", time=AT),
    "CSV of log lines": f'@timestamp,@message\n{AT},"{COMBINED.strip().replace(chr(34), 2 * chr(34))}"\n',
    "CSV of objects": f'time;data\n{AT};"{json_line(request_uri="/?" + QUERY).strip().replace(chr(34), 2 * chr(34))}"\n',
    "an object in an object": json_line(log=json_line(ts=MOMENT, request={"uri": f"/?{QUERY}"}), stream="stdout"),
    "Docker Compose": f"web-1  | {COMBINED}",
    "CRI": f"{AT} stdout F {json_line(request_uri='/?' + QUERY)}",
    "combined": COMBINED,
    "common": f'::1 - - [{LOG_AT}] "GET /?{QUERY} HTTP/1.1" 200 37\n',
    "virtual host": f"h.example:443 {COMBINED}",
    "AWS load balancer": f"https {AT} app/lb/50dc 192.0.2.131:2817 10.0.0.1:80 0.086 0.048 0.037 200 200 0 57"
    f' "GET {TAP.replace("example/", "example:443/")} HTTP/1.1" "curl/7.46.0" ECDHE-RSA TLSv1.2 arn:aws:e/d "Root=1-58" "-" "-" 1'
    f' {AT} "forward" "-" "-" "10.0.0.1:80" "200" "-" "-"\n',
    "CloudFront": "#Version: 1.0\n#Fields: date time x-edge-location cs-method cs(Host) cs-uri-stem sc-status cs-uri-query\n"
    f"2026-11-29\t10:11:12\tLAX\tGET\td1.cloudfront.net\t/\t200\t{QUERY}\n",
    "IIS": "#Software: Microsoft Internet Information Services 10.0\n#Fields: date time cs-method cs-uri-stem cs-uri-query c-ip\n"
    f"2026-11-29 10:11:12 GET / {QUERY} 203.0.113.7\n#Date: 2026-11-30 00:00:00\n",
    "HAProxy": f"haproxy[7]: 203.0.113.7:33317 [29/Nov/2026:10:11:12.000] in static/srv1 10/0/30 200 2750 - - "
    f'"GET /?{QUERY} HTTP/1.1"\n',
    "Envoy": f'[{AT}] "GET /?{QUERY} HTTP/2" 200 - 0 37 "-" "Mozilla/5.0"\n',
    "Heroku": f'2026-11-29T10:11:12.000000+00:00 heroku[router]: at=info method=GET path="/?{QUERY}" host=h.example status=200\n',
    "Go": f"2026/11/29 10:11:12 GET /?{QUERY} 200\n",
    "quotes as nginx escapes them": COMBINED.replace(" HTTP/1.1", "\\x22 HTTP/1.1"),
    "quotes as Apache escapes them": COMBINED.replace(" HTTP/1.1", '\\" HTTP/1.1'),
    "quotes as nginx escapes them, in JSON": json_line(request_uri=f"/?{QUERY}#", time=AT).replace("#", "\\x22"),
    "quotes as nginx escapes them, in a column": f"time_local,request\n{LOG_AT},GET /?{QUERY}\\x22 HTTP/1.1\n",
    "Rails": f'Started GET "/?{QUERY}" for 203.0.113.7 at 2026-11-29 10:11:12 +0000\n',
}  # fmt: skip


MAILS = {
    "one line above": f"Hi Bob, please check\n{TAP}\n",
    "several lines": f"Hi Bob,\n\nplease check this tap:\n\n  {TAP}.\n\nBest regards\nAnn\n",
    "without a comma": f"Hello\nthere is a tap\n> {TAP}\n",
    "a sentence around it": f"Dear all\nPlease see <{TAP}> and reply\n",
    "other links": f"Hi, a, b\nhttps://h.example/help\n{TAP}\n",
}


@pytest.mark.parametrize("content", MAILS.values(), ids=MAILS.keys())
def test_a_tap_is_found_in_a_mail(keys: Path, content: str) -> None:
    result = run(keys, content)
    assert status_of(result) == 0, result.output
    assert [orjson.loads(line)["verdict"] for line in result.stdout.splitlines()] == ["genuine"]


def test_a_header_without_a_known_name_is_not_a_mail(keys: Path) -> None:
    for content in (f"Scan link,Shop\n{TAP},Ann\n", f"Scan link\n{TAP}\n", f"Scan link,Text\n{TAP},see https://h.example/a\n"):
        result = run(keys, content)
        assert status_of(result) == 0 and '"line":2' in result.stdout and "without a tap" not in result.stderr


@pytest.mark.parametrize("between", [" ", ", ", "\t", " | ", '" "'])
def test_two_urls_in_one_line_are_called_so(keys: Path, between: str) -> None:
    result = run(keys, f"{TAP}{between}{TAP}\n")
    assert "several URLs: read each by itself" in result.stdout and "twice" not in result.output


def test_factory_keys_are_reported(keys: Path) -> None:
    assert "all zeros" not in run(keys, f"{TAP}\n").stderr
    keys.write_text(KEYS + f"04112233445566,{'0' * 32},plain-uid-counter\n")
    assert "warning: 1 key of the key file is all zeros, which is public" in run(keys, f"{TAP}\n").stderr
    keys.write_text(KEYS + "".join(f"0411223344556{at},{'0' * 32},plain-uid-counter\n" for at in range(2)))
    assert "warning: 2 keys of the key file are all zeros, which is public" in run(keys, f"{TAP}\n").stderr


def test_texts_of_the_owners_are_read_from_escaped_logs(keys: Path) -> None:
    assert read_log_line(r'"GET /?s=SN-3\x22&n=1 HTTP/1.1"').target == '/?s=SN-3"&n=1'
    assert read_log_line(r'"GET /?s=a\xC3\xBC\x5Cb\xFF HTTP/1.1"').target == "/?s=aü\\b%FF"
    assert read_log_line(r'"GET /?s=\"a\\ HTTP/1.1"').target == '/?s="a\\'
    assert read_log_line(r'"GET /?s=a\x0ab HTTP/1.1"').target == "/?s=a%0Ab"


@pytest.mark.parametrize("content", {**LISTS, **LOGS}.values(), ids={**LISTS, **LOGS}.keys())
def test_a_genuine_tap_is_read_from_any_file(keys: Path, content: str) -> None:
    result = run(keys, content)
    assert result.exit_code == 0, result.output
    assert '"verdict":"genuine","tag":"04A1B2C3D4E5F6","counter":1}' in result.stdout
    assert "warning" not in result.stderr


@pytest.mark.parametrize("content", {**LISTS, **LOGS}.values(), ids={**LISTS, **LOGS}.keys())
def test_the_time_is_read_from_any_file(content: str, monkeypatch: pytest.MonkeyPatch, keys: Path) -> None:
    read: list[float] = []

    def noted(times: list[object]) -> tuple[list[float], list[int]]:
        found = read_times(times)
        read.extend(found[0])
        return found

    monkeypatch.setattr("ixfast.audit.auditor.read_times", noted)
    run(keys, content)
    assert [time for time in read if time] == [MOMENT]


@pytest.mark.parametrize("content", LOGS.values(), ids=LOGS.keys())
def test_a_forged_tap_in_a_log_is_not_skipped(keys: Path, content: str) -> None:
    result = run(keys, content.replace("C49606EE6F334D39", "C49606EE6F334D38"))
    assert result.exit_code == ExitCode.NEGATIVE
    assert '"verdict":"forged"' in result.stdout


@pytest.mark.parametrize("content", LOGS.values(), ids=LOGS.keys())
def test_a_tap_of_an_unknown_tag_in_a_log_is_not_skipped(keys: Path, content: str) -> None:
    result = run(keys, content.replace("04A1B2C3D4E5F6", "04A1B2C3D4E5F7"))
    assert result.exit_code == ExitCode.NEGATIVE
    assert '"verdict":"unknown","reason":"no_such_tag"' in result.stdout


def test_control_a_likeness_that_is_too_narrow_skips_the_tap_of_an_unknown_tag(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapLikeness, "may_be_tap_of_log", lambda self, text: False)
    assert '"verdict":"unknown"' not in run(keys, COMBINED.replace("04A1B2C3D4E5F6", "04A1B2C3D4E5F7")).stdout


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_encodings(keys: Path, encoding: str) -> None:
    for content in (f"at;url\r\n{AT};{TAP}\r\n", f"{TAP}\n", json_line(at=AT, url=TAP), COMBINED):
        result = run(keys, content.encode(encoding))
        assert result.exit_code == 0, result.output
        assert run(keys, gzip.compress(content.encode(encoding))).stdout == result.stdout


def test_utf_16_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"{number},caf\u00e9\U0001f600\n" for number in range(1000))
    monkeypatch.setattr("ixfast.audit.tap_bytes.CHUNK_BYTES", 333)
    assert b"".join(chunks(io.BytesIO(text.encode("utf-16")))).decode() == text


def test_other_requests_of_a_log_are_skipped_and_counted(keys: Path) -> None:
    garbage = f'203.0.113.9 - - [{LOG_AT}] "-" 400 0 "-" "-"\n'
    other = ICON.replace("/favicon.ico", "/list?n=2&t=1")
    result = run(keys, ICON + garbage + COMBINED + other, "--json", "--show", "none")
    assert result.exit_code == 0
    summary = orjson.loads(result.stdout)
    assert (summary["taps"], summary["lines_without_tap"]) == (1, 3)
    assert run(keys, ICON + COMBINED).stdout.startswith('{"line":2,')
    assert "warning: the log has 1 line without a tap" in run(keys, ICON + COMBINED).stderr


def test_a_list_of_taps_has_no_other_requests(keys: Path) -> None:
    result = run(keys, f"url\n{TAP}\nhttps://h.example/favicon.ico\n")
    assert result.exit_code == ExitCode.NEGATIVE
    assert '"line":3,"verdict":"malformed"' in result.stdout
    assert "warning: 1 line could not be read; line 3: no tap: it has none of the parameters uid, ctr, cmac" in result.stderr


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "contains no taps"),
        ("at,url\n", "no line follows its header"),
        ("not a url\n", "must name the columns"),
        ("\nat,shop\n1,2\n", r"must name the columns, .* \(cmac, ctr, .* It has the columns at, shop\."),
        ('{"shop":"7"}\n', "line 1: the line contains no tap: no member is called url or query"),
        ('["a"]\n', "must name the columns"),
        ('{\n"at": 1,\n"url"\n}\n', "has an object that is not valid JSON; it begins in line 1"),
        (f'{{\n"at": 1}}\n{{"url": {TAP}\n', "has an object that is not valid JSON; it begins in line 3"),
        ("time,message\n1,started\n", "1 line and none with a tap"),
        ('[{"url":"a"},\n', "is not valid JSON"),
        ("at,url\n1,\n2,\n", "line 2: the line contains no tap"),
        ("https://h.example/\nhttps://h.example/a?b=c\n", "line 1: no tap: it has none of the parameters"),
        (ICON, "1 line and none with a tap of these tags"),
        (json_line(time=AT, request_uri="/favicon.ico"), "1 line and none with a tap of these tags"),
        (f"date,url\n29.11.2026,{TAP}\n", "line 2: date: neither an ISO 8601 nor a Unix time, nor one of a web server's log"),
        (b"PK\x03\x04" + bytes(100), r"is a workbook \(\.xlsx\) or an archive: save the sheet as CSV"),
        (bytes(range(256)) * 8, "could be read as a tap|must name the columns"),
    ],
)
def test_a_file_without_a_tap_is_an_error_that_says_why(keys: Path, content: str | bytes, why: str) -> None:
    result = run(keys, content)
    assert status_of(result) == ExitCode.FAILED, result.output
    with pytest.raises(IxfastError, match=why):
        raise result.exception or AssertionError(result.output)


def test_names_that_may_be_keys_are_not_shown(keys: Path) -> None:
    result = run(keys, "at,000102030405060708090a0b0c0d0e0f\n1,2\n")
    assert "It has the columns at." in str(result.exception)


def test_a_tap_that_is_malformed_is_a_tap(keys: Path) -> None:
    result = run(keys, f"{TAP}00\n")
    assert result.exit_code == ExitCode.NEGATIVE
    assert '"problem":"cmac must be 16 hex digits (it has 18 characters)"' in result.stdout


@pytest.mark.parametrize(
    "content", [f"url,shop,seen by\n{TAP},7,5\n", f"url,{AT[:10]}\n{TAP},5\n", json_line(url=TAP, seen="yesterday")]
)
def test_a_time_that_is_not_found_is_reported(keys: Path, content: str) -> None:
    result = run(keys, content)
    assert result.exit_code == 0
    assert "warning: no time of the taps was found, so they are taken in the order of their lines" in result.stderr


@pytest.mark.parametrize(
    "content", [f"url\n{TAP}\n", f"{TAP}\n", f"'{TAP}',\n", f"<{TAP}>\n", f"uid,ctr,cmac\n{QUERY[4:18]},000001,{QUERY[-16:]}\n"]
)
def test_no_time_is_expected_of_a_file_that_has_only_taps(keys: Path, content: str) -> None:
    assert "warning" not in run(keys, content).stderr


@pytest.mark.parametrize(
    "shape", ["tagapp://{}", "https://h.example/#/t?{}", "/t?{}", "{}", "\ufeff https://h.example/?{} ", "?{}+"]
)
@pytest.mark.parametrize("layout", ["{}\n", "at;url\n2026-11-29T10:11:12Z;{}\n", "link\n{}\n"])
def test_shapes_of_urls(keys: Path, shape: str, layout: str) -> None:
    tap = shape.format(QUERY)
    assert run(keys, layout.format(tap)).exit_code == 0
    other = run(keys, layout.format(tap.replace("04A1B2C3D4E5F6", "04A1B2C3D4E5F7")))
    assert '"verdict":"unknown"' in other.stdout
    assert status_of(run(keys, layout.format(tap.replace("uid=", "a=").replace("ctr=", "b=").replace("cmac=", "c=")))) == 1


def test_taps_without_names_of_parameters(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"name": "own", "scheme": "ntag424-aes", "template": "{uid}x{counter}x{mac}"}')
    keys = tmp_path / "keys.csv"
    keys.write_text("uid;key\n04A1B2C3D4E5F6;000102030405060708090a0b0c0d0e0f\n")
    tap = "/t?04A1B2C3D4E5F6x000001xC49606EE6F334D39"
    log = COMBINED.replace(f"/?{QUERY}", tap)
    for content in (f"url\n{tap}\n", f"{tap}\n", ICON + log, json_line(request_uri=tap, ts=MOMENT)):
        result = run(keys, content, "--profile", f"@{own}")
        assert result.exit_code == 0, result.output
    assert '"verdict":"forged"' in run(keys, ICON + log.replace("39 HTTP", "38 HTTP"), "--profile", f"@{own}").stdout


def test_keys_of_other_tags_are_suspected(keys: Path) -> None:
    result = run(keys, TAP.replace("04A1B2C3D4E5F6", "04A1B2C3D4E5F7"))
    assert result.exit_code == ExitCode.NEGATIVE
    assert "warning: no tap is of a known tag: do the keys belong to other tags?" in result.stderr


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (LOG_AT, MOMENT),
        (f"[{LOG_AT}]", MOMENT),
        ("29/Nov/2026:11:11:12 +0100", MOMENT),
        ("29/Nov/2026:05:11:12.250 -0500", MOMENT + 0.25),
        ("Sun, 29 Nov 2026 10:11:12 GMT", MOMENT),
        ("2026/11/29 10:11:12", MOMENT),
        ("2026-11-29 10:11:12 UTC", MOMENT),
        ("2026-11-29 11:11:12 +0100", MOMENT),
        (" 2026-11-29T10:11:12Z ", MOMENT),
        ("1795947072000000000", MOMENT),
    ],
)
def test_times_of_logs(at: str, seconds: float) -> None:
    assert read_times([at]) == ([seconds], [])
    assert read_times([at, "1"]) == ([seconds, 1.0], [])


@pytest.mark.parametrize("at", ["29/Now/2026:10:11:12 +0000", "31/Feb/2026:10:11:12 +0000", "29.11.2026", "10:11:12", "-"])
def test_what_no_log_has_as_a_time(at: str) -> None:
    assert read_times([at])[1] == [0]


def test_the_names_of_columns_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/audit-a-log.md").read_text()
    tables = {"URL of a tap": LIST_NAMES, "requested URL or path": REQUEST_NAMES, "query string": QUERY_NAMES, "time": TIME_NAMES}
    tables["line of a log, which a collector wrapped in CSV or JSON"] = LINE_NAMES
    for content, names in tables.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {content} |"))
        assert {folded(name) for name in re.findall("`([^`]+)`", row)} == {*names}


def test_several_candidates_for_the_url(keys: Path) -> None:
    assert run(keys, f"time,uri,request_uri\n{AT},/,/?{QUERY}\n").exit_code == 0
    assert run(keys, f"time,http_referer,landing\n{AT},{TAP},/?{QUERY}\n").stdout.count("genuine") == 1
    assert detect_format(b"at,url,request_uri\n1,/?a=1,/?b=2\n").names == ("at", "url", "")


def test_a_chunk_without_gzip_is_read_from_any_stream() -> None:
    class Plain(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self._rest = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            return self._rest.readinto(buffer)

    assert list(read_chunks(Plain(b"a\nb"), "x")) == [b"a\n", b"b"]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="x is damaged"):
        list(read_chunks(Plain(gzip.compress(b"a" * CHUNK_BYTES)[:-9]), "x"))  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    base=st.sampled_from([*LISTS.values(), *LOGS.values(), ""]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), st.binary(max_size=6)), max_size=6),
)
def test_any_bytes_are_judged_or_refused(base: str, edits: list[tuple[int, int, bytes]]) -> None:
    content = base.encode() * 2
    for at, length, new in edits:
        content = content[:at] + new + content[at + length :]
    catalogue = read_keys([KEYS.encode()], find_profile)
    try:
        found = [*Audit(catalogue).judged(read_chunks(io.BytesIO(content), "it"))]  # type: ignore[arg-type]
    except InputError as error:
        assert len(str(error)) < 600
        return
    summary = Summary()
    for findings in found:
        summary.add(findings, 1)
        assert all(findings.codes[row] == MALFORMED for row in findings.problems)
    assert summary.has_taps or summary.first_problem or summary.without_tap or not summary.taps


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9), st.binary(max_size=6)), max_size=6),
    separator=st.sampled_from(",;\t"),
)
def test_any_key_file_is_read_or_refused_without_its_keys(edits: list[tuple[int, int, bytes]], separator: str) -> None:
    content = KEYS.replace(",", separator).encode()
    for at, length, new in edits:
        content = content[:at] + new + content[at + length :]
    try:
        read_keys([content], find_profile)
    except (InputError, ProfileError) as error:
        assert "0203040506" not in str(error)
