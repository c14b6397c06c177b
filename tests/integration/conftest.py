"""Fixtures of the ledger's tests: a ledger on a test's own database, and a view of what is durable there."""

from collections.abc import AsyncIterator

import pytest
from support.ledger_kit import LedgerKit, Truth, open_ledger, open_truth


@pytest.fixture
async def truth(database: str, request: pytest.FixtureRequest) -> AsyncIterator[Truth]:
    """The durable state of a database with `TAGS` tags, a constant of the test module."""
    async with open_truth(database, request.module.TAGS) as truth:
        yield truth


@pytest.fixture
async def kit(database: str, truth: Truth) -> AsyncIterator[LedgerKit]:
    """A started ledger on the database of `truth`."""
    async with open_ledger(database) as kit:
        yield kit
