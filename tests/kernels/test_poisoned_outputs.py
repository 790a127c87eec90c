"""The fixture that shows what a kernel forgets to write."""

import torch


def test_memory_that_nobody_has_written_is_not_a_number() -> None:
    like = torch.zeros(2, 3)
    made = [
        torch.empty(2, 3),
        torch.empty(2, 3, dtype=torch.float16),
        torch.empty_like(like),
        torch.empty_strided((2, 3), (3, 1)),
        like.new_empty(2, 3),
        like.new_empty((2, 3)),
        like.new_empty_strided((2, 3), (3, 1)),
    ]
    assert all(tensor.isnan().all() for tensor in made)


def test_integers_are_as_far_off_as_they_can_be() -> None:
    assert (torch.empty(3, dtype=torch.int64) == torch.iinfo(torch.int64).min).all()
    assert torch.zeros(3).new_empty(3, dtype=torch.bool).all()
