"""Derive the keys of tags from one master key, and verify taps with the master alone.

A program that writes keys to tags needs `file_key` and `meta_key` of each tag. A program that verifies taps needs the master
only. This prints check values: 3 bytes that distinguish keys without revealing them.
"""

import ixfast

MASTER = "00112233445566778899aabbccddeeff"  # Yours comes from a key file or a key service.
UIDS = ("04782e21801d80", "04a1b2c3d4e5f6")
OWN = ixfast.derivation("an10922", input="{uid}3042f5")  # AN10922 with UID, AID 3042F5 and no system identifier


def main() -> None:
    for scheme in (*ixfast.derivation_names(), OWN):
        print(scheme if isinstance(scheme, str) else f"{scheme!r}")
        for uid in UIDS:
            keys = ixfast.derive_keys(MASTER, uid, scheme)
            (file_key,) = keys.file_keys_of(None)
            meta = keys.meta_keys[0].check_value.hex() if keys.meta_keys else "none is derived"
            print(f"  {uid}  file key {file_key.check_value.hex()}  meta key {meta}")

    tags = [
        ixfast.testing.VirtualTag("plain-uid-counter", uid=uid, file_key=ixfast.derive_keys(MASTER, uid, OWN).file_key)
        for uid in UIDS
    ]
    fleet = ixfast.TagKeys(master=MASTER, derivation=OWN)
    for tag in tags:
        evidence = ixfast.verify(tag.tap(), profile="plain-uid-counter", keys=fleet)
        print(f"{tag.uid.hex()}: {'authentic' if evidence.authentic else evidence.reason}")


if __name__ == "__main__":
    main()
