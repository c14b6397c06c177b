"""Whether a text could be a tap of any of the tags at all, which a request for a page or a picture is not.

A log has mostly other requests, which are skipped, and a file whose URLs are all of another kind is not a file of taps. Nothing
is read or authenticated here: a text that could be a tap is left to `judge`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ixfast.chips import CompiledProfile
from ixfast.domain import tap_url
from ixfast.domain.references import CODE_NAMES
from ixfast.domain.tap_readings import readings
from ixfast.errors import InputError

_TELLING = frozenset(("mac", "picc", "enc", "uid"))  # n=2 and t=1 are in many requests
_SHOWN_MAX = 8


class TapLikeness:
    """What taps of the `profiles` have in common. `parameters` are the names of all their parameters, in lower case."""

    def __init__(self, profiles: Iterable[CompiledProfile | None]) -> None:
        own = [profile for profile in profiles if profile is not None]
        self._by_form = [
            profile for profile in own if profile.template.path or any(not piece.name for piece in profile.template.query)
        ]
        names = {name.lower(): None for profile in own for name in profile.parameters}
        self.parameters = frozenset((*names, *CODE_NAMES))
        self.shown = ", ".join([*names][:_SHOWN_MAX])
        self._telling = frozenset(
            name.lower() for profile in own for name, slots in _slots_of_parameters(profile) if not _TELLING.isdisjoint(slots)
        )

    def may_be_tap(self, text: str) -> bool:
        """Whether a URL or query has any parameter of a tap, or the form of one without any."""
        return _has_any(text, self.parameters) or self.has_form(text)

    def may_be_tap_of_log(self, text: str) -> bool:
        """Whether the target of a request has a parameter that identifies or authenticates a tag, or the form of one without."""
        return _has_any(text, self._telling) or self.has_form(text)

    def has_form(self, text: str) -> bool:
        """Whether a path, or a query without names, is like that of a tap."""
        for profile in self._by_form:
            for reading in readings(text):
                try:
                    if profile.read_url(reading) is not None:
                        return True
                except InputError as error:
                    if error.field != "url":
                        return True
        return False


def _slots_of_parameters(profile: CompiledProfile) -> Iterable[tuple[str, Collection[str]]]:
    template = profile.template
    yield from ((piece.name, piece.slots) for piece in template.query if piece.name)
    yield from ((name, (slot,)) for slot, name in template.separate.items())


def _has_any(text: str, names: Collection[str]) -> bool:
    return any(name.lower() in names for place in tap_url.places(text) for name, _ in tap_url.pairs(place.query))
