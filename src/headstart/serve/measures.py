"""What a server counts, in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """How many values lie at or below each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, number in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += number
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Measures:
    """The counts of one server.

    Attributes:
        requests: by route and status.
        images: that were classified, by model.
        seconds: from the head of a request to classify to the end of its answer.
        batches: images that were computed together.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.images: Counter[str] = Counter()
        self.seconds, self.batches = Histogram(SECONDS), Histogram(SIZES)

    def answered(self, path: str, status: int, seconds: float) -> None:
        self.requests[path, status] += 1
        if path.endswith(("/predict", "/infer")):
            self.seconds.add(seconds)

    def text(self, under_way: int) -> str:
        """Return all counts; `under_way` is the number of requests that are not answered yet."""
        return "\n".join(self.lines(under_way)) + "\n"

    def lines(self, under_way: int) -> Iterator[str]:
        yield from described("headstart_requests_total", "counter", "Requests by route and status.")
        for (path, status), number in sorted(self.requests.items()):
            yield f'headstart_requests_total{{path="{path}",status="{status}"}} {number}'
        yield from described("headstart_images_total", "counter", "Images classified.")
        for model, number in sorted(self.images.items()):
            yield f'headstart_images_total{{model="{escaped(model)}"}} {number}'
        yield from described("headstart_requests_in_flight", "gauge", "Requests that are not answered yet.")
        yield f"headstart_requests_in_flight {under_way}"
        yield from described("headstart_request_seconds", "histogram", "Seconds to answer a request to classify.")
        yield from self.seconds.lines("headstart_request_seconds")
        yield from described("headstart_batch_images", "histogram", "Images computed together.")
        yield from self.batches.lines("headstart_batch_images")


def described(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
