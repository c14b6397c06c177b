"""What is lost and comes back: one line for each return, at the level of the loss."""

import logging

import pytest

from ixfast.store.connections.outages import Outage


def test_a_return_is_logged_once_with_its_duration(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    outage = Outage(logging.getLogger("test"), "connected", lambda: now)
    outage.end()
    assert caplog.messages == []
    assert outage.begin()
    now = 112.5
    assert not outage.begin()
    outage.end()
    outage.end()
    assert caplog.messages == ["connected again after 12.5 s"]
    assert caplog.records[0].levelno == logging.WARNING
    assert outage.begin()
    outage.end()
    assert caplog.messages[1:] == ["connected again after 0.0 s"]


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_a_log_filtered_by_level_has_both_or_neither(level: int, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(logging.getLogger("test"), "connected", lambda: 0.0, level)
    outage.begin()
    outage.end()
    assert [record.levelno for record in caplog.records] == [level]
