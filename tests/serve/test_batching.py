"""Images of several requests are computed together, each is answered, and an error reaches all that it concerns."""

import asyncio
import threading
import time

import numpy as np
import pytest

from headstart.serve import batching
from headstart.serve.batching import Batcher
from headstart.serve.limits import Refusal


class Classifier:
    path, temperature, image_shape, compiled, limits = "run", 1.0, (2, 2, 3), None, None


class Engine:
    """Gives the mean of each image as a logit, when it may."""

    def __init__(self, slots: int = 1, most: int = 8) -> None:
        self.slots, self.most, self.sizes, self.may = slots, most, [], threading.Event()
        self.may.set()

    def length(self, waiting: int) -> int:
        return min(waiting, self.most)

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        self.sizes.append(len(images))
        self.may.wait(10)
        if images.max() == 255:
            raise ValueError("an engine may fail")
        return [np.stack([images.mean(axis=(1, 2, 3)), np.zeros(len(images))], axis=1).astype(np.float32)]


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


async def classified(batcher: Batcher, images: list[np.ndarray]) -> np.ndarray:
    """Return the probabilities, float32 (N, classes)."""
    return np.stack([one.probabilities for one in await batcher.classify(images)])


@pytest.fixture
def made(monkeypatch):
    engine = Engine()
    monkeypatch.setattr(batching, "fastest", lambda classifier: engine)
    return engine, Batcher(Classifier(), lambda size: None)


def test_what_comes_while_the_engine_computes_is_the_next_batch(made):
    engine, batcher = made

    async def work() -> list[np.ndarray]:
        engine.may.clear()
        first = asyncio.create_task(classified(batcher, [image(1)]))
        await asyncio.sleep(0)
        later = [asyncio.create_task(classified(batcher, [image(2 + value)])) for value in range(5)]
        await asyncio.sleep(0)
        engine.may.set()
        return await asyncio.gather(first, *later)

    found = np.concatenate(asyncio.run(work()))
    assert engine.sizes == [1, 5]
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(-np.arange(1, 7.0))), rtol=1e-6)


def test_no_batch_is_larger_than_the_engine_takes(made):
    engine, batcher = made
    found = asyncio.run(classified(batcher, [image(value) for value in range(20)]))
    assert engine.sizes == [8, 8, 4]
    assert (np.diff(found[:, 0]) >= 0).all()


def test_an_engine_that_is_free_waits_for_what_is_being_decoded_but_not_for_long(made, monkeypatch):
    engine, batcher = made

    async def together() -> None:
        with batcher.expected(1):
            first = asyncio.create_task(classified(batcher, [image(1)]))
            await asyncio.sleep(0)
            second = asyncio.create_task(classified(batcher, [image(2)]))
            await asyncio.sleep(0)
        await asyncio.gather(first, second)

    asyncio.run(together())
    assert engine.sizes == [2]

    async def alone() -> None:
        with batcher.expected(1):
            await classified(batcher, [image(1)])

    asyncio.run(alone())
    assert engine.sizes == [2, 1]


def test_an_error_reaches_its_batch_alone(made):
    _, batcher = made

    async def work() -> list[object]:
        bad = asyncio.gather(*(classified(batcher, [image(255)]) for _ in range(2)), return_exceptions=True)
        found = await bad
        return [*found, await classified(batcher, [image(1)])]

    *errors, good = asyncio.run(work())
    assert [type(error) for error in errors] == [ValueError, ValueError]
    assert good.shape == (1, 2)


def test_a_client_that_has_gone_keeps_nobody_waiting(made):
    engine, batcher = made

    async def work() -> np.ndarray:
        engine.may.clear()
        gone, here = (asyncio.create_task(classified(batcher, [image(value)])) for value in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        engine.may.set()
        return await here

    assert asyncio.run(work()).shape == (1, 2)


def test_images_that_would_not_fit_the_memory_are_sent_away(made, monkeypatch):
    _, batcher = made
    monkeypatch.setattr(batching, "MOST_DECODED", 3 * 12)
    with batcher.expected(2):
        with pytest.raises(Refusal) as found, batcher.expected(2):
            pass
        assert found.value.status == 503
        assert batcher.coming == 2


def test_two_batches_are_computed_at_once_by_an_engine_with_two_slots(monkeypatch):
    engine = Engine(slots=2)
    monkeypatch.setattr(batching, "fastest", lambda classifier: engine)
    batcher = Batcher(Classifier(), lambda size: None)
    engine.may.clear()

    async def work() -> None:
        tasks = [asyncio.create_task(classified(batcher, [image(1)])) for _ in range(2)]
        end = time.monotonic() + 10
        while len(engine.sizes) < 2 and time.monotonic() < end:
            await asyncio.sleep(0.01)
        engine.may.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())
    assert engine.sizes == [1, 1]
