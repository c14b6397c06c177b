"""The location and device of a visitor, from the address database and the user agent."""

from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from ixfast import rules
from ixfast.domain.scan import Extras, Scan, Visitor
from ixfast.limits import USER_AGENT_CHARS_MAX
from ixfast.responses import response_text
from ixfast.rules import visitors

PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/17.4 Mobile/15E148 Safari/604.1"
)
TABLET = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Mobile Safari/537.36"


@pytest.fixture
def addresses(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A database of documentation addresses, open."""
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="ixfast-test-City")
    berlin = {"country": {"iso_code": "DE"}, "location": {"time_zone": "Europe/Berlin"}}
    writer.insert_network(IPSet(["192.0.2.0/24", "2001:db8::/32"]), berlin)
    writer.insert_network(IPSet(["198.51.100.0/24"]), {"country_code": "US"})
    writer.insert_network(IPSet(["203.0.113.0/24"]), {"country": "France", "location": 7})
    path = tmp_path / "city.mmdb"
    writer.to_db_file(str(path))
    assert visitors.open_addresses(path) is None
    request.addfinalizer(lambda: visitors.open_addresses(None))
    return path


def visited(address: str | None = None, user_agent: str | None = None) -> Scan:
    return Scan(lambda _scan: None, b"", -1, None, None, 1, 0.0, Extras(visitor=Visitor(address, user_agent)))


@pytest.mark.parametrize(("address", "place"), [
    ("192.0.2.7", visitors.Location("DE", "Europe/Berlin", "EUR")),
    ("2001:db8::1", visitors.Location("DE", "Europe/Berlin", "EUR")),
    ("198.51.100.1", visitors.Location("US", None, "USD")),
    ("203.0.113.1", visitors.NOWHERE),
    ("10.0.0.1", visitors.NOWHERE),
    ("no address", visitors.NOWHERE),
    ("fe80::1%eth0", visitors.NOWHERE),
    ("9" * 4000, visitors.NOWHERE),
    ("", visitors.NOWHERE),
    (None, visitors.NOWHERE),
])  # fmt: skip
def test_place(address: str | None, place: visitors.Location, addresses: Path) -> None:
    assert visitors.place(visited(address)) == place
    assert visitors.country(visited(address)) == place.country


def test_without_visitor_nothing_is_known(addresses: Path) -> None:
    assert visitors.place(Scan(lambda _scan: None, b"", -1, None, None, 1, 0.0)) == visitors.NOWHERE
    assert visitors.device(Scan(lambda _scan: None, b"", -1, None, None, 1, 0.0)) == visitors.NOTHING


def test_another_file_takes_the_place_of_the_first(addresses: Path, tmp_path: Path) -> None:
    writer = MMDBWriter()
    writer.insert_network(IPSet(["192.0.2.0/24"]), {"country": {"iso_code": "AT"}})
    other = tmp_path / "other.mmdb"
    writer.to_db_file(str(other))
    assert visitors.open_addresses(other) is None
    assert visitors.location_of("192.0.2.7").country == "AT"
    assert visitors.location_of("2001:db8::1") == visitors.NOWHERE  # the file has no addresses of this kind


def test_a_file_that_cannot_be_used_does_not_close_the_one_that_is_open(addresses: Path, tmp_path: Path) -> None:
    assert "cannot be read" in str(visitors.open_addresses(tmp_path / "missing.mmdb"))
    assert visitors.location_of("192.0.2.7").country == "DE"
    assert visitors.lacking({"country"}) == ()


def test_nobody_is_looked_up_unless_a_rule_or_a_response_asks(addresses: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    looked_up, parsed = visitors.location_of, visitors.device_of
    monkeypatch.setattr(visitors, "location_of", lambda address: asked.append(address) or looked_up(address))
    monkeypatch.setattr(visitors, "device_of", lambda agent: asked.append(agent) or parsed(agent))
    scan = visited("192.0.2.7", PHONE)
    for condition, response, count in (
        ("verdict == forged", "{randnum}", 0),
        ("country == DE", "{randnum}", 1),
        ("verdict == forged", "{countrycode}", 1),
        ("os == ios", "{browser}", 2),
    ):
        asked.clear()
        document = {"groups": [{"name": "g", "when": condition, "response": "r"}], "default": response}
        rules.load_rules(document).decide(scan)
        response_text.compile_response(response).render(scan)
        assert len(asked) == count, condition


@pytest.mark.parametrize("content", [None, b"", b"no database"])
def test_file_that_cannot_be_used_is_told(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.mmdb"
    if content is not None:
        path.write_bytes(content)
    reason = visitors.open_addresses(path)
    assert reason is not None
    assert "cannot be read" in reason
    assert visitors.location_of("192.0.2.7") == visitors.NOWHERE
    document = {"groups": [{"name": "home", "when": "country == DE", "response": "h"}], "default": "d"}
    (warning,) = response_text.never_known(rules.read_rules(document))
    assert warning == f"unavailable: country; {reason}"
    visitors.open_addresses(None)


def test_open_file_leaves_nothing_to_warn_of(addresses: Path) -> None:
    assert visitors.lacking({"country", "os", "browser", "cuid"}) == ()


@pytest.mark.parametrize(("user_agent", "device"), [
    (PHONE, visitors.Device("iOS", "Safari")),
    (TABLET, visitors.Device("Android", "Chrome")),
    ("\ud800", visitors.NOTHING),
    ("x" * 100_000, visitors.NOTHING),
    ("", visitors.NOTHING),
])  # fmt: skip
def test_device(user_agent: str, device: visitors.Device) -> None:
    scan = visited(user_agent=user_agent)
    assert visitors.device(scan) == device
    assert visitors.system(scan) == (device.system.lower() if device.system else None)
    assert visitors.browser(scan) == (device.browser.lower() if device.browser else None)


def test_memory_of_user_agents_is_bounded() -> None:
    visitors.device(visited(user_agent="y" * (USER_AGENT_CHARS_MAX + 1)))
    before = visitors.device_of.cache_info()
    visitors.device(visited(user_agent="y" * (USER_AGENT_CHARS_MAX + 2)))
    assert visitors.device_of.cache_info().hits == before.hits + 1
    assert before.maxsize is not None


def test_missing_libraries_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(visitors.importlib, "import_module", absent)
    visitors._user_agent_parser.cache_clear()
    visitors.device_of.cache_clear()
    try:
        assert "maxminddb is not installed" in str(visitors.open_addresses(tmp_path / "city.mmdb"))
        assert visitors.device_of(PHONE) == visitors.NOTHING
        places, devices = visitors.lacking({"country", "timezone", "os"})
        assert places.startswith("unavailable: country, timezone; maxminddb")
        assert devices.startswith("unavailable: os; ua-parser")
    finally:
        visitors._user_agent_parser.cache_clear()
        visitors.device_of.cache_clear()
        visitors.open_addresses(None)


def test_patterns_without_the_compiled_library_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def without_regex(name: str) -> object:
        if name == "ua_parser.regex":
            raise ImportError(name)
        return importlib.__import__(name, fromlist=["x"])

    monkeypatch.setattr(visitors.importlib, "import_module", without_regex)
    visitors._user_agent_parser.cache_clear()
    visitors.device_of.cache_clear()
    try:
        assert visitors.device_of(PHONE) == visitors.Device("iOS", "Safari")
    finally:
        visitors._user_agent_parser.cache_clear()
        visitors.device_of.cache_clear()


def test_every_country_has_a_currency_but_one() -> None:
    known = visitors.countries()
    assert len(known) == 250
    assert {country for country in known if visitors._currency_of(country) is None} == {"AQ"}
    assert all(len(country) == 2 and country.isupper() for country in known)
    assert visitors._currency_of("LS") == "LSL"
