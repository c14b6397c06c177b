"""The cryptographic core: chooses between the native implementation and its Python twin, once, at import.

`IMPLEMENTATION` names the one in use ("native-…" or "twin-cryptography"); `REASON` says why the twin is in use, or is None.
`IXFAST_FORCE_TWIN=1` in the environment forces the twin. A native core that is installed but does not load raises ImportError:
there is no silent fallback. The core has two halves, which are always both native or both twins; `_cmac_py` and, for LRP mode,
`_lrp_py` document the functions.
"""

import os
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from ixfast import _cmac_py, _lrp_py


def _choose() -> tuple[ModuleType, str | None]:
    if os.environ.get("IXFAST_FORCE_TWIN") == "1":
        return _cmac_py, "forced by IXFAST_FORCE_TWIN=1"
    try:
        return import_module("ixfast._cmac"), None
    except ModuleNotFoundError:
        return _cmac_py, "the native extension is not built"
    except ImportError as failure:
        if failure.path is not None:  # the file exists, but the loader refused it
            raise
        return _cmac_py, str(failure)  # the module does not support this CPU


_chosen, REASON = _choose()
if TYPE_CHECKING:
    _core, _lrp = _cmac_py, _lrp_py
else:
    _core, _lrp = _chosen, import_module("ixfast._lrp") if REASON is None else _lrp_py

IMPLEMENTATION = _core.IMPLEMENTATION
aes_encrypt_block = _core.aes_encrypt_block
aes_decrypt_block = _core.aes_decrypt_block
aes_cmac = _core.aes_cmac
aes_cmac_subkeys = _core.aes_cmac_subkeys
aes_cmac_verify = _core.aes_cmac_verify
mact = _core.mact
mact_verify = _core.mact_verify
sdm_session_keys = _core.sdm_session_keys
sdm_mac = _core.sdm_mac
sdm_verify = _core.sdm_verify
sdm_verify_batch = _core.sdm_verify_batch
picc_decrypt = _core.picc_decrypt
sdm_decrypt_file = _core.sdm_decrypt_file
sdm_encrypt_file = _core.sdm_encrypt_file
lrp_key_material = _lrp.lrp_key_material
lrp_eval = _lrp.lrp_eval
lrp_cmac = _lrp.lrp_cmac
lricb_encrypt = _lrp.lricb_encrypt
lricb_decrypt = _lrp.lricb_decrypt
lrp_session_master = _lrp.lrp_session_master
lrp_sdm_mac = _lrp.lrp_sdm_mac
lrp_sdm_verify = _lrp.lrp_sdm_verify
lrp_picc_decrypt = _lrp.lrp_picc_decrypt
lrp_picc_encrypt = _lrp.lrp_picc_encrypt
lrp_sdm_decrypt_file = _lrp.lrp_sdm_decrypt_file
lrp_sdm_encrypt_file = _lrp.lrp_sdm_encrypt_file
