"""What a server must not load before it answers the first scan: starting is mostly importing, so each of these is paid for."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEITHER = frozenset(
    (
        "aiohttp", "boto3", "google", "hvac", "maxminddb", "prometheus_client",
        "ixfast.api", "ixfast.audit", "ixfast.cli.tap", "ixfast.http.management", "ixfast.http.metrics", "ixfast.http.openapi",
        "ixfast.http.private_app", "ixfast.http.request_handler", "ixfast.http.scan_app", "ixfast.process.worker_apps",
        "ixfast.store.imports", "ixfast.tag_files", "ixfast.testing",
    )
)  # fmt: skip
"""Packages and modules that neither process needs to start."""

SUPERVISOR = ("ixfast.cli.serve", "ixfast.process.supervisor", "ixfast.process.tls")
NOT_IN_SUPERVISOR = NEITHER | {
    "uvloop", "ixfast.http.front_door", "ixfast.pipeline", "ixfast.process.worker", "ixfast.responses", "ixfast.rules",
    "ixfast.store.catalogue", "ixfast.store.ledger",
}  # fmt: skip
WORKER = ("ixfast.process.worker",)
NOT_IN_WORKER = NEITHER | {"click", "ixfast.cli", "ixfast.embedded", "ixfast.process.supervisor"}


def loaded(modules: tuple[str, ...], unwanted: frozenset[str]) -> set[str]:
    """Which of the unwanted modules a new interpreter has loaded once it has imported these."""
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return unwanted & set(done.stdout.split())


@pytest.mark.parametrize(
    ("modules", "unwanted"), [(SUPERVISOR, NOT_IN_SUPERVISOR), (WORKER, NOT_IN_WORKER)], ids=["supervisor", "worker"]
)
def test_a_process_starts_without_what_it_does_not_need(modules: tuple[str, ...], unwanted: frozenset[str]) -> None:
    assert loaded(modules, frozenset(unwanted)) == set()


def test_what_a_worker_loads_later_would_be_noticed() -> None:
    found = loaded((*WORKER, "ixfast.process.worker_apps"), frozenset(NOT_IN_WORKER))
    assert found >= {"aiohttp", "prometheus_client", "ixfast.http.management", "ixfast.http.openapi", "ixfast.http.scan_app"}
