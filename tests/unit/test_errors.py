"""Exceptions cross process boundaries: each class of the package survives `pickle` and `copy` whole."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import ixfast
from ixfast.embedded.ownership import DatabaseInUseError
from ixfast.errors import InputError, IxfastError, UnavailableError
from ixfast.keys.provider import ProviderError
from ixfast.rules.rule_error import RuleError
from ixfast.tag_files.cells import CellError

_OPTIONAL = ("ixfast.keys.providers.", "ixfast.native.", "ixfast.__main__")
_ARGUMENTS: dict[type[Exception], tuple[Any, ...]] = {
    InputError: ("invalid_parameter", "uid must be 7 bytes.", "uid"),
    UnavailableError: ("database_unavailable", "lost"),
    ProviderError: ("Vault", "sealed"),
    CellError: ("bad_uid",),
    DatabaseInUseError: ("4711", Path("/var/lib/ixfast")),
}


def _subclasses(cls: type[Exception]) -> Iterator[type[Exception]]:
    yield cls
    for each in cls.__subclasses__():
        yield from _subclasses(each)


def _examples() -> list[Exception]:
    for module in pkgutil.walk_packages(ixfast.__path__, "ixfast."):
        if not module.name.startswith(_OPTIONAL):
            importlib.import_module(module.name)
    found: list[Exception] = [
        RuleError("Unknown fact.", path="$.groups[0].when", column=7, suggestion="tamper"),
        CellError("bad_uid"),
    ]
    for cls in dict.fromkeys(_subclasses(IxfastError)):
        if cls.__module__.startswith("ixfast.") and cls is not RuleError:
            arguments = next((_ARGUMENTS[base] for base in cls.__mro__ if base in _ARGUMENTS), ("A message.",))
            found.append(cls(*arguments))
    return found


def _pickled(error: Exception) -> Exception:
    copied: Exception = pickle.loads(pickle.dumps(error))
    return copied


@pytest.mark.parametrize("copied", [_pickled, copy.copy, copy.deepcopy])
def test_a_copy_equals_its_original(copied: Callable[[Exception], Exception]) -> None:
    examples = _examples()
    assert len(examples) > 15
    for error in examples:
        error.add_note("a note")
        found = copied(error)
        assert type(found) is type(error)
        assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


def _fail() -> None:
    ixfast.find_profile("encrypte")


def test_a_process_pool_returns_the_exception() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(InputError) as raised:
        pool.submit(_fail).result(60)
    assert (raised.value.code, raised.value.field) == ("invalid_profile", "profile")
