"""Choose the response to a tap with a rule set, and show why it was chosen."""

from datetime import UTC, datetime

import ixfast

RULES = ixfast.read_rules(
    {
        "groups": [
            {"name": "opened", "when": "authentication == pass and tamper.stored == open", "response": "The seal was broken."},
            {"name": "first", "when": "authentication == pass and first_scan == true", "response": "You are its first owner."},
            {"name": "genuine", "when": "authentication == pass", "response": "This bottle is genuine."},
        ],
        "default": "Do not trust this bottle.",
    }
)


def main() -> None:
    print(f"The rules use {', '.join(sorted(RULES.facts))}.")
    tag = ixfast.testing.VirtualTag("encrypted-tamper")
    now = datetime(2026, 1, 31, 18, 30, tzinfo=UTC)
    last = 0  # the position of the last accepted tap
    count = 0
    for event in ("tap", "tap", "open the bottle", "tap", "copied tap"):
        if event == "open the bottle":
            tag.stored = tag.current = "O"
            print("- The bottle is opened.")
            continue
        url = tag.tap_at(1) if event == "copied tap" else tag.tap()
        evidence = ixfast.verify(url, profile="encrypted-tamper", keys=tag.keys)
        passes = evidence.position is not None and evidence.position > last
        facts: dict[str, bool | int | str] = {"authentication": "pass" if passes else "fail"}
        if passes and evidence.position is not None:
            last = evidence.position
            count += 1
            facts["scan_count"] = count
        if evidence.tamper is not None:
            facts |= {"tamper": evidence.tamper.current, "tamper.stored": evidence.tamper.stored}
        choice = ixfast.choose_response(RULES, facts, now=now)
        print(f"- {event}: {choice.response} (group {choice.group or 'default'})")

    print("Why the last response was chosen:")
    for step in ixfast.explain_rules(RULES, facts, now=now):
        print(f"  {'  ' * step.depth}{step.name}: {step.holds}")


if __name__ == "__main__":
    main()
