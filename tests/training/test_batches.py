import numpy as np
import pytest

from headstart.training.batches import Batches
from headstart.training.changes import cutmix, mixup


def batches(**options) -> Batches:
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    return Batches(images, np.arange(10) % 2, np.arange(10), 4, **options)


def seen(source: Batches) -> list[int]:
    return [int(image[0, 0, 0]) for index in range(source.num_batches) for image in source[index][0]]


def test_evaluation_sees_every_row_in_order():
    assert seen(batches()) == list(range(10))


def test_each_epoch_has_an_order_of_its_own_and_a_resumed_one_the_same():
    source, resumed = batches(seed=3), batches(seed=3)
    orders = []
    for epoch in range(3):
        source.start_at(epoch)
        orders.append(seen(source))
    resumed.start_at(2)
    assert orders[0] != orders[1] != orders[2]
    assert seen(resumed) == orders[2]


def test_training_steps_all_have_one_shape():
    source = batches(seed=0)
    assert [len(source[index][0]) for index in range(source.num_batches)] == [4, 4]


def test_fewer_rows_than_a_batch_are_one_batch():
    assert Batches(np.zeros((3, 2)), np.zeros(3, int), np.arange(3), 64, seed=0).num_batches == 1


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_a_change_is_the_same_each_time_and_another_in_each_epoch(change):
    first, same, later = [batches(seed=1, classes=2, changes=[change]) for _ in range(3)]
    later.start_at(1)
    np.testing.assert_array_equal(first[0][0], same[0][0])
    np.testing.assert_array_equal(first[0][1], same[0][1])
    assert not np.array_equal(first[0][1], later[0][1])


def test_batches_that_are_made_ahead_are_the_same():
    plain, ahead = batches(seed=1, classes=2, changes=[mixup]), batches(seed=1, classes=2, changes=[mixup], ahead=3)
    for epoch in range(3):
        plain.start_at(epoch)
        ahead.start_at(epoch)
        ahead[0]  # Keras looks at the first batch before it begins
        for index in range(plain.num_batches):
            for expected, found in zip(plain[index], ahead[index], strict=True):
                np.testing.assert_array_equal(found, expected)
