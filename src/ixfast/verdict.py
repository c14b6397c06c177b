"""The verdicts: what the engine decides about a scan.

Their values are the words of the `/v2` API and the label of `ixfast_scans_total`, so they never change. They live in the root
because `meters` counts scans by them; everything else imports `Verdict` from `domain.model`, with the rest of the model.
"""

import enum


class Verdict(enum.StrEnum):
    """What the engine decided about a scan."""

    GENUINE = "genuine"
    REPEAT = "repeat"  # the same tap again, within the group's retry window or under the same Idempotency-Key
    REPLAYED = "replayed"  # the counter has been used
    FORGED = "forged"
    INCOMPLETE = "incomplete"  # an authentication tag without the parameters of its profile
    PLAIN = "plain"  # a standard tag: there is nothing to authenticate
    INACTIVE = "inactive"
    UNKNOWN = "unknown"
