"""Compute the images of several requests together, and none later than it must be."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from headstart import inference
from headstart.inference.classifier import Classifier, fitting, refuse_infinite
from headstart.metrics.calibration import probabilities
from headstart.serve.limits import MOST_IMAGES, busy
from headstart.system.backend import compiles_each_shape

# In bytes: what decoded images that wait may take together. A small file may be a large input.
MOST_DECODED = 400_000_000
# Lengths of batches, which are all computed once before anybody asks: OpenVINO prepares itself for each, and with a ResNet-50
# at 64 px that takes as long as three images.
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64)
# An engine that is free waits at most so many seconds for further images: together they are faster.
WAIT = 0.005


class Found(NamedTuple):
    """What a model says of one image.

    Attributes:
        probabilities: float32 (classes,).
        unlike: whether it is unlike the training images; None if the run is of an older version, which cannot tell.
    """

    probabilities: np.ndarray
    unlike: bool | None


class Engine(Protocol):
    """What computes a network.

    Attributes:
        slots: how many batches are computed at the same time.
        most: the most images of a batch.
    """

    slots: int
    most: int

    def length(self, waiting: int) -> int:
        """Return how many of the images that wait, 1 or more, are best computed next."""

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the logits, float32 (B, classes), of images, uint8 (B, H, W, 3), and the features that the run's limits want."""


class OpenvinoEngine:
    def __init__(self, classifier: Classifier) -> None:
        compiled = classifier.compiled
        self.slots: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.most, self.wanted = fitting(MOST_IMAGES, compiled.largest), 1 if classifier.limits is None else 2
        self.idle = deque(compiled.create_infer_request() for _ in range(self.slots))

    def length(self, waiting: int) -> int:
        return max(length for length in LENGTHS if length <= min(waiting, self.most))

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        request = self.idle.pop()
        try:
            request.infer({0: images})
            return [np.array(one.data, np.float32) for one in request.output_tensors[: self.wanted]]
        finally:
            self.idle.append(request)


class KerasEngine:
    slots = 1

    def __init__(self, classifier: Classifier) -> None:
        self.model = classifier.model if classifier.limits is None else classifier.model_with_features
        self.most = fitting(MOST_IMAGES, classifier.largest_output)

    def length(self, waiting: int) -> int:
        return min(waiting, self.most)

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        # The next power of two, so that a backend that compiles each length compiles few.
        length = min(self.most, 1 << (len(images) - 1).bit_length()) if compiles_each_shape() else len(images)
        padded = np.concatenate([images, np.repeat(images[:1], length - len(images), axis=0)])
        return [one[: len(images)] for one in inference.engine.keras_outputs(self.model, padded)]


def fastest(classifier: Classifier) -> Engine:
    """Return the engine that `Classifier.predict` would use for a few images."""
    compiled = classifier.compiled
    whole = compiled is not None and (classifier.limits is None or len(compiled.outputs) > 1)
    return OpenvinoEngine(classifier) if whole else KerasEngine(classifier)


class Batcher:
    """Collects images while an engine computes others. It belongs to one event loop.

    Args:
        classifier: what computes.
        observe: is called with the number of images of each batch.
    """

    def __init__(self, classifier: Classifier, observe: Callable[[int], Any]) -> None:
        self.classifier, self.observe, self.engine = classifier, observe, fastest(classifier)
        self.threads = ThreadPoolExecutor(self.engine.slots, "engine")
        self.waiting: deque[tuple[np.ndarray, asyncio.Future[Found]]] = deque()
        # How many images are being decoded, and how many each batch has that is being computed.
        self.coming, self.running = 0, list[int]()
        self.timer: asyncio.TimerHandle | None = None

    def warm_up(self) -> None:
        """Compute batches of several lengths: the first of each takes longer."""
        for length in sorted({self.engine.length(length) for length in LENGTHS}):
            self.compute(np.zeros((length, *self.classifier.image_shape), np.uint8))

    @contextmanager
    def expected(self, images: int) -> Iterator[None]:
        """Say that so many images are being decoded inside the block, and may be worth waiting for.

        Raises:
            Refusal: too many wait already.
        """
        if (images + self.coming + len(self.waiting)) * math.prod(self.classifier.image_shape) > MOST_DECODED:
            raise busy("too many images are under way")
        self.coming += images
        try:
            yield
        finally:
            self.coming -= images
            self.start()

    async def classify(self, images: list[np.ndarray]) -> list[Found]:
        """Return what the model says of images, each uint8 (H, W, 3)."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Found]] = [loop.create_future() for _ in images]
        self.waiting.extend(zip(images, futures, strict=True))
        self.start()
        return [await future for future in futures]

    def start(self, patient: bool = True) -> None:
        """Let the engine compute what waits, if it is free and nothing is worth waiting for."""
        while self.waiting and len(self.running) < self.engine.slots:
            # Behind a large batch, a small one would stay alone: more images come as soon as that is answered.
            more = self.coming or len(self.waiting) < max(self.running, default=0)
            if patient and more and len(self.waiting) < self.engine.most:
                if self.timer is None:
                    self.timer = asyncio.get_running_loop().call_later(WAIT, self.time_is_up)
                return
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
            batch = [self.waiting.popleft() for _ in range(self.engine.length(len(self.waiting)))]
            self.running.append(len(batch))
            self.observe(len(batch))
            computed = asyncio.get_running_loop().run_in_executor(
                self.threads, self.compute, np.stack([image for image, _ in batch])
            )
            computed.add_done_callback(partial(self.finish, [future for _, future in batch]))

    def time_is_up(self) -> None:
        self.timer = None
        self.start(patient=False)

    def compute(self, images: np.ndarray) -> list[Found]:
        logits, *features = self.engine.outputs(images)
        refuse_infinite(logits, self.classifier.path)
        of_classes = probabilities(logits, self.classifier.temperature).astype(np.float32)
        limits = self.classifier.limits
        unlike = [None] * len(images) if limits is None else limits.outsiders(features[0]).tolist()
        return list(map(Found, of_classes, unlike))

    def finish(self, futures: list[asyncio.Future[Found]], found: asyncio.Future[list[Found]]) -> None:
        self.running.remove(len(futures))
        error = found.exception()
        for place, future in enumerate(futures):
            if future.done():  # its client has gone
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(found.result()[place])
        self.start()
