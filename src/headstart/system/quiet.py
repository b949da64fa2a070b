"""Silence warnings in threads. Python's own way changes filters that all threads share, and may leave them changed."""

import contextlib
import threading
import warnings
from collections.abc import Iterator


class Quiet:
    """No warning is shown while any thread is inside a block; after the last one, the filters are as before the first."""

    def __init__(self) -> None:
        self.lock, self.inside, self.filters = threading.Lock(), 0, contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.filters.enter_context(warnings.catch_warnings(action="ignore"))
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.filters.close()


quiet = Quiet()
