"""Chooses between the native core and its twin, once, and says which one is in use and why.

`IMPLEMENTATION` names it ("native-…" or "twin-cryptography"); `REASON` is None for the native core, otherwise why
the twin is in use. `IXFAST_FORCE_TWIN=1` in the environment forces the twin. A native core that is there but does
not load is an ImportError, not a reason: nothing falls back silently. What the functions take and answer is told in
`_cmac_py`.
"""

import os
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from ixfast import _cmac_py


def _choose() -> tuple[ModuleType, str | None]:
    if os.environ.get("IXFAST_FORCE_TWIN") == "1":
        return _cmac_py, "forced by IXFAST_FORCE_TWIN=1"
    try:
        return import_module("ixfast._cmac"), None
    except ModuleNotFoundError:
        return _cmac_py, "the native extension is not built"
    except ImportError as failure:
        if failure.path is not None:  # the file is there and the loader refused it
            raise
        return _cmac_py, str(failure)  # the module itself refused this CPU


_chosen, REASON = _choose()
if TYPE_CHECKING:
    _core = _cmac_py
else:
    _core = _chosen

IMPLEMENTATION = _core.IMPLEMENTATION
aes_encrypt_block = _core.aes_encrypt_block
aes_decrypt_block = _core.aes_decrypt_block
aes_cmac = _core.aes_cmac
aes_cmac_subkeys = _core.aes_cmac_subkeys
aes_cmac_verify = _core.aes_cmac_verify
sdm_session_keys = _core.sdm_session_keys
sdm_mac = _core.sdm_mac
sdm_verify = _core.sdm_verify
sdm_verify_batch = _core.sdm_verify_batch
picc_decrypt = _core.picc_decrypt
sdm_decrypt_file = _core.sdm_decrypt_file
sdm_encrypt_file = _core.sdm_encrypt_file
