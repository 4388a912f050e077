"""Spare buffers: few, and handed around."""

from __future__ import annotations

from hf_haul.engine.buffers import SpareBuffers


def test_there_are_few_and_what_is_put_back_can_be_taken_again() -> None:
    spares = SpareBuffers(100)
    taken = []
    while (buffer := spares.take(0.0)) is not None:
        taken.append(buffer)
    assert [len(each) for each in taken] == [100] * 8
    assert len({id(each.obj) for each in taken}) == 8
    spares.put(taken[3])
    assert spares.take(0.0) is taken[3]
    assert spares.take(0.001) is None
