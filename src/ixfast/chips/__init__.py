"""Chip families and encoding profiles: parse a tap, and derive from it the evidence that it proves.

`compile_profile` turns an `EncodingProfile` into an object that reads and examines taps; `preset` returns a common profile by
name.

Not here: looking up tags and keys, replay checks and verdicts (`pipeline`). Pure functions: no clock, no I/O, no mutable state.
May import `domain` and the root.
"""

from ixfast.chips.explain import Step, explain_message
from ixfast.chips.message import Message, Missing
from ixfast.chips.presets import PRESETS, preset
from ixfast.chips.profile import CompiledProfile, compile_profile
from ixfast.chips.reasons import REASONS, UNDECIDED_REASONS
from ixfast.chips.registry import find_scheme, scheme_names

__all__ = [
    "PRESETS",
    "REASONS",
    "UNDECIDED_REASONS",
    "CompiledProfile",
    "Message",
    "Missing",
    "Step",
    "compile_profile",
    "explain_message",
    "find_scheme",
    "preset",
    "scheme_names",
]
