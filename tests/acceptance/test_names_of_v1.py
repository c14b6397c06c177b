"""Tags whose URLs use the names of `/v1/t` for other contents, forwarded verbatim to a real server."""

import pytest
from support.served import Served, once

from ixfast.domain.model import EncodingProfile
from ixfast.testing.virtual_tags import VirtualFleet


def fleet_of(seed: int, template: str) -> VirtualFleet:
    return VirtualFleet(
        seed, 4, EncodingProfile(name=f"own-{seed}", scheme="ntag424-aes", template=template), account=f"names{seed}"
    )


FLEETS = [
    fleet_of(seed, template)
    for seed, template in enumerate(
        (
            "u={uid}&n={counter}&c={mac}",
            "u={uid}&r={counter}&m={mac}",
            "n={picc}&c={mac}",
            "i={uid}&k={counter}&u={mac}",
            "x={counter}&u={uid}&m={mac}",
        ),
        start=461,
    )
]


@pytest.fixture(scope="module")
def fleets(server: Served) -> Served:
    for fleet in FLEETS:
        server.provision(fleet)
    return server


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: fleet.profile.profile.template)
async def test_a_verbatim_query_passes_once(fleets: Served, fleet: VirtualFleet) -> None:
    for index, headers in enumerate(({}, {"Expect": ""})):
        query = fleet[index].tap().partition("?")[2]
        answers = [await once(fleets.port, f"/v1/t?{query}&a={fleet.account}", headers) for _ in "12"]
        assert (answers[0].passed, answers[1].failed) == (True, True), answers
    key = {"X-API-Key": fleets.cli("api-key", "create", fleet.account).strip()}
    assert (await once(fleets.port, f"/v1/t?{fleet[2].tap().partition('?')[2]}", key)).passed
