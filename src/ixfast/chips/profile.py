"""Compiled encoding profiles: read a tap, and examine what it proves about a tag.

The examination reads the mirror (an encrypted one with each meta key), compares its UID with the registered one, forms the
session vector from **what the tag mirrors and nothing else**, assembles the authenticated text, and verifies the MAC under each
live file key. File data is decrypted and tamper text accepted only after the MAC has been verified.

Whether the session vector includes the UID depends on the chip's configuration, which the template reflects: it does if the
template has `{uid}`, and does not if it has only `{counter}`. An encrypted mirror states it in its tag byte. A profile may have
`{uid}` although callers forward only tag code, counter and MAC; the registered UID is used then (NT4H2421Gx section 9.3.9,
AN12196 section 4).

Static texts (`{xuid}`, `{cuid}`, `{aid}`, `{batch}`), constants and tamper text outside the window are not authenticated and
never evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ixfast.chips.message import Message, Missing
from ixfast.chips.reasons import REASONS
from ixfast.chips.registry import find_scheme
from ixfast.chips.scheme import PiccData, Scheme
from ixfast.chips.tamper import TAMPER_CHARS, read_tamper
from ixfast.chips.tap_reader import Reader
from ixfast.chips.template import STATICS, Slot, Template, compile_template
from ixfast.domain import owner_texts
from ixfast.domain.model import EncodingProfile, Evidence, Key, Tamper
from ixfast.domain.owner_texts import SentText, says, spelling
from ixfast.limits import COUNTER_MAX, META_KEYS_TRIED_MAX, UID_BYTES

_RANKS = {reason: rank for rank, reason in enumerate(REASONS)}
_NO_STATICS: Mapping[str, str] = MappingProxyType({})


PlainVerifier = Callable[[bytes, bytes, int, bytes], bool]


def compile_profile(profile: EncodingProfile, *, scheme: Scheme | None = None) -> CompiledProfile:
    """Check a profile and prepare everything that does not depend on a tap. Raises ProfileError for a contradictory profile.

    `scheme` overrides the look-up by name, for example to use the twin of the core.
    """
    chip = find_scheme(profile.scheme) if scheme is None else scheme
    template = compile_template(profile, picc_chars=chip.picc_chars, mirrors=chip.mirrors, signed_fields=chip.signed_fields)
    return CompiledProfile(profile, chip, template)


class CompiledProfile:
    """Reads and examines the taps of one profile. Immutable; shared by all scans of a worker.

    `encrypted`: the mirror is `{picc}`. `uid_in_session`: the session vector of a plain mirror includes the UID.
    `counter_expected`: a tap without a counter is refused. `parameters`: the names that `read_parameters` reads.
    `is_bare_plain`: `verify_plain(file_key, uid, counter, mac)` suffices to examine a tap, because the mirror is plain with a
    counter and the window consists only of literals, UID and counter. Otherwise `verify_plain` is None.
    """

    __slots__ = (
        "_counter_may_be_off",
        "_fixed_windows",
        "_plain_literals",
        "_reader",
        "counter_expected",
        "encrypted",
        "is_bare_plain",
        "parameters",
        "profile",
        "scheme",
        "tamper_in_window",
        "template",
        "uid_in_session",
        "verify_plain",
        "window_statics",
    )

    def __init__(self, profile: EncodingProfile, scheme: Scheme, template: Template) -> None:
        self.profile = profile
        self.scheme = scheme
        self.template = template
        window_slots = {part.name for part in template.window if isinstance(part, Slot)}
        self.encrypted = template.encrypted
        self.uid_in_session = "uid" in template.slots
        self.counter_expected = "counter" in template.slots or (self.encrypted and not profile.allow_without_counter)
        self._counter_may_be_off = scheme.counter_can_be_off and profile.allow_without_counter
        self.tamper_in_window = "tamper" in window_slots or "tt" in window_slots
        self.window_statics = tuple(name for name in STATICS if name in window_slots)
        self._fixed_windows: tuple[bytes, ...] | None = None
        self._plain_literals = not any(isinstance(part, str) and owner_texts.may_vary(part) for part in template.window)
        if not window_slots:
            literal = "".join(map(str, template.window))
            self._fixed_windows = tuple(window.encode() for window in owner_texts.windows([literal], ()))
        self._reader = Reader(template, self.tamper_in_window)
        self.parameters = self._reader.parameters
        self.is_bare_plain = "counter" in template.slots and "enc" not in template.slots and window_slots <= {"uid", "counter"}
        self.verify_plain: PlainVerifier | None = self._plain_verifier() if self.is_bare_plain else None

    @property
    def name(self) -> str:
        return self.profile.name

    def __repr__(self) -> str:
        return f"CompiledProfile({self.profile.name!r}, scheme={self.scheme.name!r})"

    def read_parameters(self, parameters: Mapping[str, str]) -> Message | Missing:
        """Read a tap from percent-decoded parameters; see `Reader.from_parameters` for the errors.

        Accepts the profile's own names, for a plain mirror also `u`, `n`, `e` and `t` as in `/v1/t`, and for an encrypted
        mirror in a path `picc`, `enc`, `mac` and `tamper`. The profile's own names take precedence. Returns `Missing` if
        parameters are absent.
        """
        return self._reader.from_parameters(parameters)

    def read_url(self, url: str) -> Message | Missing | None:
        """Read a tap from its verbatim URL; None if it does not match this profile. See `Reader.from_url` for the errors."""
        return self._reader.from_url(url)

    def fit(self, parameters: Mapping[str, str], url: str | None = None) -> tuple[int, ...]:
        """How well percent-decoded parameters and their URL fit this profile, greater for better; see `Reader.fit`."""
        return self._reader.fit(parameters, url)

    def examine(
        self,
        message: Message,
        *,
        uid: bytes | None,
        file_keys: tuple[Key, ...],
        meta_keys: tuple[Key, ...] = (),
        statics: Mapping[str, str] = _NO_STATICS,
    ) -> Evidence:
        """Determine what `message` proves about the tag with this registered `uid` (7 bytes, or None) and these keys.

        `statics` are the registered `xuid`, `cuid`, `aid` and `batch`, empty or absent if there is none; they are needed only if
        the window contains them. Keys are tried in the order given. Evidence that is not authentic has one of `REASONS`, and its
        UID and counter are mere claims. A counter of 0 that means "disabled" becomes a counter of None. Tamper text with
        characters other than C, O and I leaves `tamper` None: the MAC is valid, but the chip reports no known state.
        """
        if not file_keys:
            return _refused("no_key", message.uid, message.counter)
        if self.window_statics:
            reason = self._statics_reason(message, statics)
            if reason is not None:
                return _refused(reason, message.uid, message.counter)
        if self.encrypted:
            return self._examine_encrypted(message, uid, file_keys, meta_keys, statics)
        if message.uid is not None and uid is not None and message.uid != uid:
            return _refused("uid_mismatch", message.uid, message.counter)
        if message.counter is None and self.counter_expected:
            return _refused("counter_missing", message.uid, None)
        session_uid = b""
        if self.uid_in_session:
            known = message.uid or uid
            if known is None:
                return _refused("uid_missing", None, message.counter)
            session_uid = known
        return self._judge(message, session_uid, message.counter, file_keys, statics)

    def find_uid(self, message: Message | Missing, meta_keys: tuple[Key, ...]) -> list[tuple[bytes, int | None, Key]]:
        """The possible origins of an encrypted mirror: UID (7 bytes), counter and meta key for every key that reads it.

        An incomplete tap may have the mirror as well. These are claims, not evidence: a wrong meta key reads something about once
        in 85 times, so look up and `examine` each.
        """
        if message.picc is None:
            return []
        return [(picc.uid, picc.counter, key) for picc, key in self.candidates(message, meta_keys) if picc.uid is not None]

    def candidates(self, message: Message | Missing, meta_keys: tuple[Key, ...]) -> list[tuple[PiccData, Key]]:
        """Every reading of an encrypted mirror that is possible under this profile, with its meta key."""
        if len(meta_keys) > META_KEYS_TRIED_MAX:
            raise ValueError(f"more than {META_KEYS_TRIED_MAX} meta keys")
        if message.picc is None:
            raise ValueError("the message has no encrypted mirror; it was not read with this profile")
        read_picc, picc = self.scheme.read_picc, message.picc
        readings = ((read_picc(key.value, picc), key) for key in meta_keys)
        # File data is encrypted under UID and counter, so a tag that sends it also mirrors both (NT4H2421Gx section 9.3.6).
        whole = "enc" in self.template.slots
        return [
            (reading, key)
            for reading, key in readings
            if reading is not None and not (whole and (reading.uid is None or reading.counter is None))
        ]

    def windows(self, message: Message, uid: bytes, statics: Mapping[str, str]) -> tuple[bytes, ...]:
        """The texts that the MAC may cover, the likeliest first: one, or two if the chip may have escaped something in it.

        Hex digits are in upper case. `domain.owner_texts` says how static texts are spelled.
        """
        if self._fixed_windows is not None:
            return self._fixed_windows
        literals, texts = [""], []
        for part in self.template.window:
            if isinstance(part, Slot) and part.name in STATICS:
                texts.append(spelling(getattr(message, part.name), statics.get(part.name)))
                literals.append("")
            else:
                literals[-1] += part if isinstance(part, str) else _window_part(part.name, message, uid, statics)
        return tuple(window.encode() for window in owner_texts.windows(literals, texts))

    def _usual_window(self, message: Message, uid: bytes, statics: Mapping[str, str]) -> bytes | None:
        """The first of `windows`, at once; None if something in it was escaped, so that there may be another."""
        if not self._plain_literals:
            return None
        for name in self.window_statics:
            text = getattr(message, name)
            if type(text) is SentText or (text is not None and "+" in text):
                return None
        parts = self.template.window
        texts = [part if isinstance(part, str) else _window_part(part.name, message, uid, statics) for part in parts]
        return "".join(texts).encode()

    def _examine_encrypted(
        self,
        message: Message,
        uid: bytes | None,
        file_keys: tuple[Key, ...],
        meta_keys: tuple[Key, ...],
        statics: Mapping[str, str],
    ) -> Evidence:
        if not meta_keys:
            return _refused("no_meta_key", None, None)
        best = _refused("picc_unreadable", None, None)
        for picc, _ in self.candidates(message, meta_keys):
            if uid is not None and picc.uid is not None and picc.uid != uid:
                evidence = _refused("uid_mismatch", picc.uid, picc.counter)
            elif picc.counter is None and self.counter_expected:
                evidence = _refused("counter_missing", picc.uid, None)
            else:
                evidence = self._judge(message, picc.uid or b"", picc.counter, file_keys, statics)
            if evidence.authentic:
                return evidence
            if _RANKS[evidence.reason or ""] > _RANKS[best.reason or ""]:
                best = evidence
        return best

    def _judge(
        self, message: Message, uid: bytes, counter: int | None, file_keys: tuple[Key, ...], statics: Mapping[str, str]
    ) -> Evidence:
        """Verify the MAC under each file key. `uid` is b"" and `counter` None where the tag does not mirror them."""
        session_counter = -1 if counter is None else counter
        if counter is not None and not 0 < counter <= COUNTER_MAX:
            if counter != 0 or not self._counter_may_be_off:
                return _refused("counter_range", uid or None, counter)
            counter = None  # a counter that never changes cannot detect replays
        windows, usual = self._fixed_windows, None
        if windows is None:
            usual = self._usual_window(message, uid, statics)
            windows = (usual,) if usual is not None else self.windows(message, uid, statics)
        key = self._key_of(message, uid, session_counter, file_keys, windows)
        if key is None and usual is not None and self.window_statics:
            others = tuple(window for window in self.windows(message, uid, statics) if window != usual)
            key = self._key_of(message, uid, session_counter, file_keys, others)
        if key is None:
            return _refused("mac_mismatch", uid or None, counter)
        file_data = None
        if message.enc is not None:
            file_data = self.scheme.decrypt_file(key.value, uid, session_counter, message.enc)
        return Evidence(True, None, uid or None, counter, key.version, self._tamper_of(message, file_data), file_data)

    def _key_of(
        self, message: Message, uid: bytes, counter: int, file_keys: tuple[Key, ...], windows: tuple[bytes, ...]
    ) -> Key | None:
        """The file key under which the MAC is valid over one of the windows."""
        verify = self.scheme.verify
        for window in windows:
            for key in file_keys:
                if verify(key.value, uid, counter, window, message.mac):
                    return key
        return None

    def _tamper_of(self, message: Message, file_data: bytes | None) -> Tamper | None:
        """The tamper state, from authenticated text only. The caller has verified the MAC."""
        if self.tamper_in_window:
            text = (message.tamper or message.tt or "")[:TAMPER_CHARS]
        elif self.profile.tamper_offset is not None and file_data is not None:
            text = file_data[self.profile.tamper_offset :][:TAMPER_CHARS].decode("latin-1")
        else:
            return None
        return read_tamper(text)

    def _statics_reason(self, message: Message, statics: Mapping[str, str]) -> str | None:
        """The reason to refuse the static texts in the window, which are authenticated and must be those registered; else None.

        Case is ignored: clients that lower-case a URL do so for its hex digits as well. A text may be registered as the chip
        spells it or as it reads.
        """
        for name in self.window_statics:
            sent, registered = getattr(message, name), statics.get(name)
            if not sent and not registered:
                return "static_missing"
            if sent and registered and not says(sent, registered):
                return "static_mismatch"
        return None

    def _plain_verifier(self) -> PlainVerifier:
        """Build the closure that the hot path calls, so that it need not consult the template."""
        verify, windows_of, uid_in_session = self.scheme.verify, self.windows, self.uid_in_session
        fixed = self._fixed_windows
        uid_bytes = UID_BYTES if uid_in_session else 0

        def verify_with_uid(file_key: bytes, uid: bytes, counter: int, mac: bytes) -> bool:
            if len(uid) != uid_bytes:  # the core would accept b"" as that of a tag that mirrors no UID
                raise ValueError(f"uid must be {uid_bytes} bytes")
            return 0 < counter <= COUNTER_MAX and verify(file_key, uid, counter, window, mac)

        def verify_counter_only(file_key: bytes, uid: bytes, counter: int, mac: bytes) -> bool:
            return 0 < counter <= COUNTER_MAX and verify(file_key, b"", counter, window, mac)

        def verify_with_windows(file_key: bytes, uid: bytes, counter: int, mac: bytes) -> bool:
            if uid_in_session and len(uid) != uid_bytes:
                raise ValueError(f"uid must be {uid_bytes} bytes")
            session_uid = uid if uid_in_session else b""
            windows = windows_of(Message(mac=mac, counter=counter), session_uid, _NO_STATICS)
            return 0 < counter <= COUNTER_MAX and any(verify(file_key, session_uid, counter, each, mac) for each in windows)

        if fixed is None or len(fixed) > 1:
            return verify_with_windows
        (window,) = fixed
        return verify_with_uid if uid_in_session else verify_counter_only


def _refused(reason: str, uid: bytes | None, counter: int | None) -> Evidence:
    return Evidence(False, reason, uid, counter)


def _window_part(name: str, message: Message, uid: bytes, statics: Mapping[str, str]) -> str:
    if name == "uid":
        return uid.hex().upper()
    if name == "counter":
        return f"{message.counter:06X}"
    if name in STATICS:
        return statics.get(name) or str(getattr(message, name))
    value = getattr(message, name)
    return value if isinstance(value, str) else value.hex().upper()
