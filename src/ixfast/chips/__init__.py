"""Chip families: message parts in, evidence out. Pure: no clock, no I/O, no state.

`compile_profile` turns an `EncodingProfile` into what reads and examines its taps; `preset` has the usual profiles by
name.
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
