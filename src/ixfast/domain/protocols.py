"""The interfaces of what the loader prepares for a record: profiles, key sources, rules and response texts.

The implementations live in packages above this one (`chips`, `keys`, `rules`, `responses`), which import the domain. These
protocols let a record name them without importing them, so that there is no import cycle. They list only what readers
of a record use, not everything that the implementations offer.

`Any` stands for the types that the implementations define themselves: a message is a `chips.Message`, a scan a `scan.Scan`,
which in turn refers to the records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ixfast.domain.model import EncodingProfile, Evidence, Key


class TapProfile(Protocol):
    """A compiled encoding profile; `chips.CompiledProfile` documents each member."""

    @property
    def name(self) -> str: ...
    @property
    def profile(self) -> EncodingProfile: ...
    @property
    def template(self) -> Any: ...
    @property
    def encrypted(self) -> bool: ...
    @property
    def verify_plain(self) -> Callable[[bytes, bytes, int, bytes], bool] | None: ...
    def read_parameters(self, parameters: Mapping[str, str]) -> Any: ...
    def read_url(self, url: str) -> Any: ...
    def fit(self, parameters: Mapping[str, str], url: str | None = None) -> tuple[int, ...]: ...
    def find_uid(self, message: Any, meta_keys: tuple[Key, ...]) -> list[tuple[bytes, int | None, Key]]: ...
    def examine(
        self,
        message: Any,
        *,
        uid: bytes | None,
        file_keys: tuple[Key, ...],
        meta_keys: tuple[Key, ...] = ...,
        statics: Mapping[str, str] = ...,
    ) -> Evidence: ...


class KeySource(Protocol):
    """Derives the keys of a group's tags, which stores none; see `keys.derived_keys`."""

    @property
    def meta_keys(self) -> tuple[Key, ...] | None: ...
    @property
    def slow(self) -> bool: ...
    def file_keys(self, uid: bytes) -> tuple[Key, ...]: ...
    async def derive(self, uid: bytes) -> tuple[Key, ...]: ...


class ScanRules(Protocol):
    """A compiled rule set; see `rules.RuleSet`."""

    @property
    def decide(self) -> Callable[[Any], int]: ...
    def name_of(self, rule: int) -> str | None: ...


class ScanResponses(Protocol):
    """A rule set with its response texts; see `responses.response_set.ResponseSet`."""

    @property
    def rules(self) -> ScanRules: ...
    @property
    def fragments(self) -> tuple[bytes | None, ...]: ...
    @property
    def subtags(self) -> frozenset[str]: ...
    def json(self, scan: Any) -> bytes: ...
    def text(self, scan: Any) -> str: ...
