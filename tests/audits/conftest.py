"""Inputs of attacks about invented people."""

from __future__ import annotations

import pytest

from relearn.audits.attack import AuditInputs
from relearn.audits.check_attack import toy_inputs


@pytest.fixture
def inputs(tmp_path) -> AuditInputs:
    return toy_inputs(tmp_path)
