from __future__ import annotations

import pytest

from relearn.core.errors import InputError
from relearn.core.registry import Registry


def test_names_are_unique_sorted_and_unknown_ones_get_a_hint():
    table: Registry[int] = Registry("thing", "relearn.data")
    table.add("beta", 2)
    table.add("alpha", 1)
    assert list(table) == ["alpha", "beta"] and table.get("beta") == 2 and "alpha" in table
    with pytest.raises(ValueError, match="registered twice"):
        table.add("alpha", 3)
    with pytest.raises(InputError, match="unknown thing 'bata' -> did you mean 'beta'"):
        table.get("bata")
