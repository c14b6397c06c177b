"""What a group derives: keys with their masters' versions, nothing without all masters, and no secret in a `repr`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from ixfast.domain.model import Key
from ixfast.keys import DerivedKeys, KeyUnavailableError, check_value
from ixfast.keys.derived_keys import Master, MasterId
from ixfast.keys.diversify import DEFAULT_DERIVATIONS, An10922, BoltCard, Derivation, SdmBackend, SdmBackendLegacy

UID = bytes.fromhex("04A1B2C3D4E5F6")


def master(version: int) -> Key:
    value = bytes([version]) * 16
    return Key(version, value, check_value(value))


MASTERS = (master(7), master(2))


def derived_by(derivation: Derivation, masters: Sequence[Key] = MASTERS) -> DerivedKeys:
    return DerivedKeys([Master(derivation, key) for key in masters])


@pytest.mark.parametrize("derivation", DEFAULT_DERIVATIONS.values(), ids=DEFAULT_DERIVATIONS)
def test_keys_have_the_versions_of_their_masters(derivation: Derivation) -> None:
    derived = derived_by(derivation)
    keys = derived.file_keys(UID)
    assert [key.version for key in keys] == [7, 2]
    assert [key.value for key in keys] == [derivation.derive_file_key(key.value, UID) for key in MASTERS]
    assert derived.meta_keys is not None
    wanted = [derivation.derive_meta_key(key.value) for key in MASTERS]
    assert [key.value for key in derived.meta_keys] == [value for value in wanted if value is not None]
    assert all(key.check_value == check_value(key.value) for key in (*keys, *derived.meta_keys))


def test_each_master_has_its_own_derivation() -> None:
    derived = DerivedKeys([Master(BoltCard(version=2), MASTERS[0]), Master(An10922(), MASTERS[1])])
    wanted = [BoltCard(version=2).derive_file_key(MASTERS[0].value, UID), An10922().derive_file_key(MASTERS[1].value, UID)]
    assert [key.value for key in derived.file_keys(UID)] == wanted
    assert derived.meta_keys is not None and [key.version for key in derived.meta_keys] == [7]


def test_without_all_masters_there_are_no_keys() -> None:
    derived = DerivedKeys(None)
    assert derived.meta_keys is None and not derived.complete and derived.masters_like([]) is None
    with pytest.raises(KeyUnavailableError):
        derived.file_keys(UID)
    with pytest.raises(KeyUnavailableError):
        asyncio.run(derived.derive(UID))


def test_masters_are_found_again_by_version_and_check_value() -> None:
    derived = derived_by(SdmBackend())
    wanted = [MasterId(SdmBackend(), key.version, bytes(key.check_value)) for key in MASTERS]
    masters = tuple(Master(SdmBackend(), key) for key in MASTERS)
    assert derived.masters_like(wanted) == masters
    assert derived.masters_like(wanted[1:]) == masters[1:]
    for other in (wanted[0]._replace(version=3), wanted[0]._replace(derivation=SdmBackend(key_number=1))):
        assert derived.masters_like([other]) is None


def test_identity_changes_with_all_that_changes_a_key() -> None:
    same = derived_by(BoltCard()).identity
    assert derived_by(BoltCard(), (master(7), master(2))).identity == same
    for other in (
        derived_by(BoltCard(version=2)),
        derived_by(An10922()),
        derived_by(BoltCard(), MASTERS[:1]),
        DerivedKeys(None),
    ):
        assert other.identity != same


def test_what_is_slow_is_derived_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    for kind in (SdmBackend, SdmBackendLegacy):
        original = kind.derive_file_key

        def noted(self: Derivation, value: bytes, uid: bytes, original: object = original) -> bytes:
            threads.append(threading.current_thread() is threading.main_thread())
            return original(self, value, uid)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(kind, "derive_file_key", noted)

    async def derive() -> None:
        for derivation in (SdmBackend(), SdmBackendLegacy()):
            derived = await DerivedKeys.make([Master(derivation, key) for key in MASTERS])
            assert derived.slow is isinstance(derivation, SdmBackendLegacy)
            assert [key.value for key in await derived.derive(UID)] == [key.value for key in derived.file_keys(UID)]

    asyncio.run(derive())
    assert threads == [True] * 4 + [False] * 2 + [True] * 2


def test_no_repr_shows_a_key() -> None:
    derived = derived_by(BoltCard())
    shown = repr(derived) + repr(derived.identity)
    assert not any(key.value.hex() in shown or repr(key.value) in shown for key in (*MASTERS, *derived.file_keys(UID)))
