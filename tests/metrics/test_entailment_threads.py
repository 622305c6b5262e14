"""Passes on all cores at once: the same results in the same order, whatever happens in between."""

import threading

import pytest
import torch

from relearn.metrics.entailment_builtin.judge import map_on_threads


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_each_item_has_a_core_to_itself_and_its_result_stands_in_its_place(three_threads):
    together = threading.Barrier(3, timeout=20)

    def work(number):
        together.wait()  # Passes only where three are at work at a time.
        return number**2, torch.get_num_threads(), torch.is_inference_mode_enabled()

    found = map_on_threads(work, range(9))
    assert [square for square, _, _ in found] == [number**2 for number in range(9)]
    assert {(threads, inference) for _, threads, inference in found} == {(1, True)}
    assert torch.get_num_threads() == 3


def test_fewer_items_than_cores_are_done_in_turn_on_all_of_them(three_threads):
    main = threading.get_ident()
    found = map_on_threads(lambda number: (number, threading.get_ident() == main, torch.get_num_threads()), [5, 7])
    assert found == [(5, True, 3), (7, True, 3)]


@pytest.mark.parametrize("items", [[1, 0], [1, 0, 2, 3, 4]])
def test_what_fails_is_raised_and_the_threads_are_as_before(three_threads, items):
    with pytest.raises(ZeroDivisionError):
        map_on_threads(lambda number: 1 / number, items)
    assert torch.get_num_threads() == 3
    assert not torch.is_inference_mode_enabled()


def test_nothing_to_do_gives_nothing(three_threads):
    assert map_on_threads(lambda number: number, []) == []
