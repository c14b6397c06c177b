"""ixfast verifies taps of authentication NFC tags: durably, and each at most once.

The names below are the Python API: verify a tap without a server, detect a profile, derive keys, try rule sets. It proves who
made a tap, never that the tap is the first of its kind: only the server, with its ledger, refuses replays.

    >>> import ixfast
    >>> tag = ixfast.testing.VirtualTag("encrypted")
    >>> evidence = ixfast.verify(tag.tap(), profile="encrypted", keys=tag.keys)
    >>> evidence.authentic, evidence.counter
    (True, 1)

Importing the package imports nothing else: each name is loaded when it is first used.
"""

import os
from _thread import RLock  # importing `threading` for it would load more

TYPE_CHECKING = False  # Type checkers take it as true; importing `typing` for it would be most of the import.
if TYPE_CHECKING:
    from ixfast import testing
    from ixfast.api.encoding_profiles import detect_profile, find_profile, profile_names, read_profile
    from ixfast.api.evidence import Claim, Evidence, TamperState
    from ixfast.api.key_material import TagKeys, derivation, derivation_names, derive_keys
    from ixfast.api.rule_evaluation import Choice, choose_response, explain_rules, read_rules
    from ixfast.api.tap_verification import explain, identify, verify
    from ixfast.chips.detect import Detection, Proposal
    from ixfast.chips.explain import Step
    from ixfast.domain.model import EncodingProfile
    from ixfast.errors import InputError, IxfastError
    from ixfast.keys.diversify import Derivation
    from ixfast.rules.interpreter import RuleStep
    from ixfast.rules.rule_document import Rules
    from ixfast.rules.rule_error import RuleError

    __version__: str

__all__ = [
    "Choice",
    "Claim",
    "Derivation",
    "Detection",
    "EncodingProfile",
    "Evidence",
    "InputError",
    "IxfastError",
    "Proposal",
    "RuleError",
    "RuleStep",
    "Rules",
    "Step",
    "TagKeys",
    "TamperState",
    "__version__",
    "choose_response",
    "derivation",
    "derivation_names",
    "derive_keys",
    "detect_profile",
    "explain",
    "explain_rules",
    "find_profile",
    "identify",
    "profile_names",
    "read_profile",
    "read_rules",
    "testing",
    "verify",
]

_MODULES = {
    "api.encoding_profiles": ("detect_profile", "find_profile", "profile_names", "read_profile"),
    "api.evidence": ("Claim", "Evidence", "TamperState"),
    "api.rule_evaluation": ("Choice", "choose_response", "explain_rules", "read_rules"),
    "api.key_material": ("TagKeys", "derivation", "derivation_names", "derive_keys"),
    "api.tap_verification": ("explain", "identify", "verify"),
    "chips.detect": ("Detection", "Proposal"),
    "chips.explain": ("Step",),
    "domain.model": ("EncodingProfile",),
    "errors": ("InputError", "IxfastError"),
    "keys.diversify": ("Derivation",),
    "rules.interpreter": ("RuleStep",),
    "rules.rule_document": ("Rules",),
    "rules.rule_error": ("RuleError",),
}
"""The modules that define the names, without the prefix `ixfast.`."""

_LOADING = RLock()
"""Held while a name is loaded: two threads that import modules with a cycle between them in different orders would fail."""

if not TYPE_CHECKING:  # so that a type checker reports a misspelt name

    def __getattr__(name: str) -> object:
        """Load a name of the API when it is first used (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module 'ixfast' has no attribute {name!r}")
        with _LOADING:
            value = globals()[name] = _load(name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _load(name: str) -> object:
    from importlib import import_module

    if name == "__version__":
        return import_module("importlib.metadata").version("ixfast")
    if name == "testing":
        return import_module("ixfast.testing")
    module = next(module for module, names in _MODULES.items() if name in names)
    return getattr(import_module(f"ixfast.{module}"), name)


if os.environ.get("IXFAST_FORCE_TWIN") == "1":
    from ixfast import compiled

    compiled.prefer_plain()  # before any module with two forms is imported
