"""Find out how a fleet of tags encodes its taps, from a few tapped URLs and candidate keys.

    python examples/detect_profile.py                   # simulated tags
    python examples/detect_profile.py KEY_FILE URL...   # tags of yours; two taps of each of a few tags are enough

KEY_FILE has the candidate keys, one of 32 hex digits a line. `ixfast profile detect` does the same on the command line.
"""

import sys
from pathlib import Path

import msgspec

import ixfast


def simulated() -> tuple[list[bytes | str], list[str]]:
    """Two tags of a fleet with derived keys and a layout of its own; the master key is the only key that is known."""
    layout = {"name": "wine", "scheme": "ntag424-aes", "template": "/v/{picc}{mac}", "window": ""}
    profile = ixfast.read_profile(layout)
    master = "00112233445566778899aabbccddeeff"
    tags = []
    for uid in ("04782e21801d80", "04a1b2c3d4e5f6"):
        keys = ixfast.derive_keys(master, uid, "boltcard")
        assert keys.file_key is not None and keys.meta_key is not None
        url = "https://wine.example"
        tags.append(ixfast.testing.VirtualTag(profile, uid=uid, file_key=keys.file_key, meta_key=keys.meta_key, base_url=url))
    return [master], [tag.tap() for tag in tags for _ in range(2)]


def main(arguments: list[str]) -> int:
    if arguments:
        keys: list[bytes | str] = [*Path(arguments[0]).read_text().split()]
        urls = arguments[1:]
    else:
        keys, urls = simulated()
    found = ixfast.detect_profile(urls, keys=keys)
    for reason in found.reasons:
        print(f"not explained: {reason}")
    if not found.proposals:
        return 1
    best = found.proposals[0]
    print(f"{len(best.verified)} of {len(urls)} URLs are authentic under this profile:")
    print(msgspec.json.format(msgspec.json.encode(best.profile), indent=2).decode())
    print(f"file keys: {'; '.join(best.file_keys)}")
    if best.meta_keys:
        print(f"meta keys: {'; '.join(best.meta_keys)}")
    for note in best.notes:
        print(f"note: {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
