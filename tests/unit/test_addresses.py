"""Addresses of listeners as URLs have them."""

from urllib.parse import urlsplit

import pytest

from ixfast.config.addresses import authority, is_every_interface, reachable
from ixfast.config.settings_loader import load


@pytest.mark.parametrize(
    ("host", "shown", "reached"),
    [
        ("127.0.0.1", "127.0.0.1:80", "127.0.0.1"),
        ("::1", "[::1]:80", "::1"),
        ("::", "[::]:80", "::1"),
        ("0.0.0.0", "0.0.0.0:80", "127.0.0.1"),
        ("::0", "[::0]:80", "::1"),
        ("2001:db8::7", "[2001:db8::7]:80", "2001:db8::7"),
        ("fe80::1%eth0", "[fe80::1%25eth0]:80", "fe80::1%eth0"),
        ("::ffff:192.0.2.1", "[::ffff:192.0.2.1]:80", "::ffff:192.0.2.1"),
        ("ixfast.internal", "ixfast.internal:80", "ixfast.internal"),
    ],
)
def test_every_address_is_one_of_a_url(host: str, shown: str, reached: str) -> None:
    assert authority(host, 80) == shown
    assert urlsplit(f"http://{shown}/").port == 80
    assert reachable(host) == reached
    assert is_every_interface(host) == (reached != host)


@pytest.mark.parametrize("written", ["::1", "[::1]", " [::1] "])
def test_a_setting_may_have_brackets(written: str) -> None:
    assert load({"host": written}, {}).host == "::1"
    assert load({}, {"IXFAST_PRIVATE_HOST": written}).private_host == "::1"
