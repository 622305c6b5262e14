"""Inputs of attacks about invented people, and a cache folder of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from relearn.audits.attack import AuditInputs
from relearn.audits.check_attack import toy_inputs


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEARN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def inputs(tmp_path) -> AuditInputs:
    return toy_inputs(tmp_path)
