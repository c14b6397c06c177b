"""What is wrong with a tap that none of an account's profiles can read: the complaint of the one that its chip most likely has.

Nothing is authenticated here. Scans, audits and `ixfast verify` choose by the same rule, so that they say the same of a tap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ixfast.chips.message import Message, Missing
from ixfast.domain.protocols import TapProfile
from ixfast.errors import InputError

Complaint = tuple[TapProfile, InputError]


def complaint_about(profile: TapProfile, message: Message | Missing, *, leads_to_tag: bool) -> InputError | None:
    """What a tap lacks under the profile that read it; None if it is whole.

    A profile may read a MAC alone, which a malformed tap of another profile has as well: that names no tag.
    """
    if isinstance(message, Missing):
        return InputError("missing_parameter", f"The tap lacks {' and '.join(message.names)}.", message.names[0])
    if leads_to_tag or profile.encrypted:
        return None
    return InputError("missing_parameter", "The tap names no tag.")


def malformed(complaints: Sequence[Complaint], parameters: Mapping[str, str], url: str | None) -> InputError | None:
    """The complaint of the profile that fits the tap best; None if the tap is only incomplete under that profile."""
    if not complaints:
        return None
    fits = [(*profile.fit(parameters, url), error.code != "missing_parameter") for profile, error in complaints]
    _, error = complaints[fits.index(max(fits))]
    return error if error.code != "missing_parameter" else None
