from __future__ import annotations

import pytest

from plugins.plugin_cases import fresh_plugins


@pytest.fixture(autouse=True)
def clean_registries():
    """Every test starts without plug-ins."""
    with fresh_plugins():
        yield
