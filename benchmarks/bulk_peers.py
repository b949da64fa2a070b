"""The loops of Ray Data and Daft, as their documents write the classification of images: `python -m benchmarks.bulk` calls it.

Both are given our model, which takes decoded images of its size.
"""

import sys
import tempfile
from typing import Any

import numpy as np

import headstart as hs


class Model:
    """Our model in a worker of theirs."""

    def __init__(self, run: str, batch_size: int) -> None:
        self.run, self.batch_size = hs.Run(run), batch_size

    def answers(self, images: list[np.ndarray]) -> hs.Predictions:
        return self.run.predict(images, max(1, self.batch_size // 4))


def by_ray(run: str, folder: str, out: str, batch_size: int) -> None:
    import ray

    class Classify(Model):
        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = self.answers(list(batch["image"]))
            return {"path": batch["path"], "class": np.array(found.labels), "confidence": found.confidences}

    ray.init(include_dashboard=False, log_to_driver=False)
    images = ray.data.read_images(folder, size=hs.Run(run).image_shape[:2], mode="RGB", include_paths=True)
    classified = images.map_batches(Classify, fn_constructor_args=(run, batch_size), batch_size=batch_size, concurrency=1)
    classified.write_parquet(out)


def by_daft(run: str, folder: str, out: str, batch_size: int) -> None:
    import daft

    height, width, _ = hs.Run(run).image_shape

    @daft.cls(max_concurrency=1)
    class Classify(Model):
        @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=batch_size)
        def __call__(self, images: Any) -> list[str]:
            return self.answers([np.asarray(one) for one in images.to_pylist()]).labels if len(images) else []

    files = daft.from_glob_path(f"{folder}/**/*.jpg")
    decoded = files["path"].download().decode_image(mode="RGB").resize(width, height)
    frame = files.with_column("image", decoded)
    frame = frame.with_column("class", Classify(run, batch_size)(frame["image"]))
    frame.select("path", "class").write_parquet(out)


if __name__ == "__main__":
    which, run, folder, size = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out:
        {"ray": by_ray, "daft": by_daft}[which](run, folder, out, int(size))
