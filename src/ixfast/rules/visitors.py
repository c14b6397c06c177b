"""Facts about the visitor: country, time zone and currency from the IP address, operating system and browser from the user agent.

They are known only if the caller passes on the visitor's address or user agent. Addresses are looked up in a MaxMind DB file
that the operator provides (country or city edition); it is opened once and mapped into memory. User agents are parsed with the
patterns of ua-parser. The extra `visitors` installs both libraries. Without a library or a file the facts are unknown, and
`lacking` reports why, so that a rule set that depends on them does not fail silently.

Nothing here raises because of what a visitor sent: unreadable input is unknown.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ixfast.limits import USER_AGENT_CHARS_MAX, USER_AGENTS_REMEMBERED_MAX

if TYPE_CHECKING:
    from ixfast.domain.scan import Scan

LOCATION_FACTS = frozenset(("country", "countrycode", "timezone", "currency", "tzlocal"))
"""Names of the facts and subtags that need the address database."""

DEVICE_FACTS = frozenset(("os", "browser"))
"""Names of the facts and subtags that need the user agent."""


class Location(NamedTuple):
    """The location of an address: ISO 3166 country, IANA time zone, ISO 4217 currency; None if unknown."""

    country: str | None = None
    time_zone: str | None = None
    currency: str | None = None


class Device(NamedTuple):
    """Operating system and browser of a user agent, named as in `SYSTEMS` and `BROWSERS`, otherwise as in ua-parser."""

    system: str | None = None
    browser: str | None = None


NOWHERE = Location()
NOTHING = Device()

# ua-parser distinguishes what no rule needs to: the same browser on a phone and on a desktop computer.
SYSTEMS = {"Mac OS X": "macOS", "Mac OS": "macOS", "Chrome OS": "ChromeOS"}
BROWSERS = {
    "Mobile Safari": "Safari", "Mobile Safari UI/WKWebView": "Safari", "Chrome Mobile": "Chrome", "Chrome Mobile iOS": "Chrome",
    "Chrome Mobile WebView": "Chrome", "Firefox Mobile": "Firefox", "Firefox iOS": "Firefox", "Firefox Focus": "Firefox",
    "Edge Mobile": "Edge", "Opera Mobile": "Opera", "Opera Mini": "Opera", "Opera Touch": "Opera",
    "Brave Mobile": "Brave", "DuckDuckGo Mobile": "DuckDuckGo",
}  # fmt: skip


class _Addresses:
    """The open address database of this process, or the reason why there is none."""

    reader: Any = None
    errors: tuple[type[Exception], ...] = (ValueError,)
    reason: str | None = "no address database is configured"


_addresses = _Addresses()


def open_addresses(path: Path | None) -> str | None:
    """Open a MaxMind DB file for this process in place of the current one; None closes the current one.

    Returns None, or the reason why the file cannot be used; then a file that is open stays open.
    """
    if path is None:
        _replace(None, "no address database is configured")
        return None
    try:
        library = importlib.import_module("maxminddb")
        _addresses.errors = (ValueError, library.InvalidDatabaseError)
        _replace(library.open_database(str(path)), None)
    except ImportError:
        reason = "maxminddb is not installed (pip install ixfast[visitors])"
    except Exception as error:  # the library's own exceptions can only be named if it is installed
        reason = f"{path} cannot be read as a MaxMind DB file: {type(error).__name__}"
    else:
        return None
    if _addresses.reader is None:
        _addresses.reason = reason
    return reason


def _replace(reader: Any, reason: str | None) -> None:
    before, _addresses.reader, _addresses.reason = _addresses.reader, reader, reason
    if before is not None:
        before.close()


def lacking(names: Collection[str]) -> tuple[str, ...]:
    """Warnings about the facts or subtags among `names` that have no source in this process, one for each missing source."""
    found = []
    locations, devices = sorted(LOCATION_FACTS.intersection(names)), sorted(DEVICE_FACTS.intersection(names))
    if locations and _addresses.reason is not None:
        found.append(f"unavailable: {', '.join(locations)}; {_addresses.reason}")
    if devices and _user_agent_parser() is None:
        found.append(f"unavailable: {', '.join(devices)}; ua-parser is not installed (pip install ixfast[visitors])")
    return tuple(found)


def prepare(names: Collection[str]) -> None:
    """Load what these facts need before the first scan does: the patterns take about 200 ms and 20 MB."""
    if DEVICE_FACTS.intersection(names):
        _user_agent_parser()


def place(scan: Scan) -> Location:
    """The location of the visitor."""
    extras = scan.extras
    visitor = extras.visitor if extras is not None else None
    return location_of(visitor.address) if visitor is not None and visitor.address else NOWHERE


def location_of(address: str) -> Location:
    """The location of an IPv4 or IPv6 address; `NOWHERE` if it is malformed or not in the database."""
    reader = _addresses.reader
    if reader is None:
        return NOWHERE
    try:
        entry = reader.get(address)
    except _addresses.errors:
        return NOWHERE
    if not isinstance(entry, dict):
        return NOWHERE
    country = _text(entry.get("country"), "iso_code") or _text(entry, "country_code")
    return Location(country, _text(entry.get("location"), "time_zone"), _text(entry, "currency") or _currency_of(country))


def country(scan: Scan) -> str | None:
    return place(scan).country


def device(scan: Scan) -> Device:
    """The visitor's operating system and browser."""
    extras = scan.extras
    visitor = extras.visitor if extras is not None else None
    return device_of(visitor.user_agent[:USER_AGENT_CHARS_MAX]) if visitor is not None and visitor.user_agent else NOTHING


def system(scan: Scan) -> str | None:
    """The operating system in lower case, as rules compare it."""
    name = device(scan).system
    return name.lower() if name is not None else None


def browser(scan: Scan) -> str | None:
    """The browser in lower case, as rules compare it."""
    name = device(scan).browser
    return name.lower() if name is not None else None


@functools.lru_cache(USER_AGENTS_REMEMBERED_MAX)
def device_of(user_agent: str) -> Device:
    """Operating system and browser of a user agent, which has at most USER_AGENT_CHARS_MAX characters."""
    parse = _user_agent_parser()
    if parse is None:
        return NOTHING
    try:
        found = parse(user_agent)
    except UnicodeError:  # an unpaired surrogate
        return NOTHING
    system = str(found.os.family) if found.os is not None else None
    browser = str(found.user_agent.family) if found.user_agent is not None else None
    return Device(SYSTEMS.get(system or "", system), BROWSERS.get(browser or "", browser))


@functools.cache
def _user_agent_parser() -> Callable[[str], Any] | None:
    """ua-parser with its compiled patterns if they are installed; without the device patterns, the largest part."""
    try:
        library = importlib.import_module("ua_parser")
        loaders = importlib.import_module("ua_parser.loaders")
        try:
            resolver = importlib.import_module("ua_parser.regex").Resolver
        except ImportError:
            resolver = importlib.import_module("ua_parser.basic").Resolver
    except ImportError:
        return None
    browsers, systems, _ = loaders.load_lazy_builtins() if resolver.__module__ == "ua_parser.basic" else loaders.load_builtins()
    parser = library.Parser(resolver((browsers, systems, [])))
    wanted = library.Domain.OS | library.Domain.USER_AGENT
    return functools.partial(_parse, parser, wanted)


def _parse(parser: Any, wanted: Any, user_agent: str) -> Any:
    return parser(user_agent, wanted)


def _text(entry: Any, name: str) -> str | None:
    """A text member of a database entry; editions differ in the names and types of their members."""
    found = entry.get(name) if isinstance(entry, dict) else None
    return found if isinstance(found, str) and found else None


def _currency_of(country: str | None) -> str | None:
    """The currency in everyday use in a country, which most address databases do not contain."""
    return _currencies().get(country) if country is not None else None


@functools.cache
def countries() -> frozenset[str]:
    """Every two-letter ISO 3166 country code, and XK."""
    return frozenset(_currencies()) | {"AQ"}


@functools.cache
def _currencies() -> dict[str, str]:
    shared = {country: currency for currency, countries in _SHARED_CURRENCIES.items() for country in countries.split()}
    return shared | {currency[:2]: currency for currency in _OWN_CURRENCIES.split()}


# ISO 4217 by ISO 3166 country, as of January 2026. The code of a country's own currency begins with the country's.
_SHARED_CURRENCIES = {
    "AUD": "AU CC CX HM KI NF NR TV",
    "CHF": "CH LI",
    "DKK": "DK FO GL",
    "EUR": "AD AT AX BE BG BL CY DE EE ES FI FR GF GP GR HR IE IT LT LU LV MC ME MF MQ MT NL PM PT RE SI SK SM TF VA XK YT",
    "GBP": "GB GG GS IM JE",
    "ILS": "IL PS",
    "MAD": "EH MA",
    "NOK": "BV NO SJ",
    "NZD": "CK NU NZ PN TK",
    "USD": "AS BQ EC FM GU IO MH MP PR PW SV TC TL UM US VG VI",
    "XAF": "CF CG CM GA GQ TD",
    "XCD": "AG AI DM GD KN LC MS VC",
    "XCG": "CW SX",
    "XOF": "BF BJ CI GW ML NE SN TG",
    "XPF": "NC PF WF",
}
_OWN_CURRENCIES = """
AED AFN ALL AMD AOA ARS AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CLP CNY COP CRC CUP CVE CZK
DJF DOP DZD EGP ERN ETB FJD FKP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF
KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NPR OMR PAB PEN
PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND TOP TRY TTD
TWD TZS UAH UGX UYU UZS VES VND VUV WST YER ZAR ZMW ZWG
"""
