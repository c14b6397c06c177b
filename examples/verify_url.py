"""Verify a tapped URL without a server or a database.

    python examples/verify_url.py                        # a simulated tag
    python examples/verify_url.py URL PROFILE KEY_FILE   # a tag of yours

KEY_FILE has the tag's file key as 32 hex digits, and on a second line the meta key if the profile is encrypted.

This shows who made the tap, not whether it is new: sqlite_replay_check.py adds that.
"""

import sys
from pathlib import Path

import ixfast


def keys_in(file: Path) -> ixfast.TagKeys:
    """Keys come from a file: other users of the machine can read command lines."""
    file_key, *meta_key = file.read_text().split()
    return ixfast.TagKeys(file=file_key, meta=meta_key[0] if meta_key else None)


def main(arguments: list[str]) -> int:
    try:
        if arguments:
            url, profile, key_file = arguments
            keys = keys_in(Path(key_file))
        else:
            profile = "encrypted-tamper"
            tag = ixfast.testing.VirtualTag(profile, uid="04782e21801d80", stored="O", current="C")
            url, keys = tag.tap(), tag.keys
        evidence = ixfast.verify(url, profile=profile, keys=keys)
    except ixfast.InputError as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return 2
    if not evidence.authentic:
        print(f"{'undecided' if evidence.undecided else 'not authentic'}: {evidence.explanation}")
        return 1
    print("authentic")
    print(f"UID          {evidence.uid.hex().upper() if evidence.uid else 'not mirrored'}")
    print(f"counter      {evidence.counter if evidence.counter is not None else 'not mirrored'}")
    print(f"key version  {evidence.key_version}")
    if evidence.tamper is not None:
        print(f"tamper wire  {evidence.tamper.current} now; stored state: {evidence.tamper.stored}")
    if evidence.file_data is not None:
        print(f"file data    {evidence.file_data!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
