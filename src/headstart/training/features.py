"""The frozen backbone's features: each view of each picture goes through it once, and never again."""

import hashlib
import json
import logging
from pathlib import Path

import keras
import numpy as np

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.files import cache_folder, written_whole
from headstart.model.graph import augmentation, feature_model
from headstart.progress import track

logger = logging.getLogger("headstart")

EXTRACTION_BATCH = 128
MOST_CACHE_BYTES = 20 << 30
# Beyond float16's range features are kept as float32; within it, half the disk at a relative error of 0.0005.
LARGEST_FLOAT16 = 65000.0


def cached_features(model: keras.Model, data: Dataset, indices: np.ndarray, config: Config, view: int, name: str) -> np.ndarray:
    """Return the pooled features of one view of some pictures, from the cache or freshly computed.

    The cache's key holds everything that determines them: the pixels, the backbone's graph and
    weights, the sizes, the normalisation, the precision, the backend's version and the view.

    Args:
        model: the whole network, of `build_model`.
        indices: which pictures of `data`.
        view: 0 is the picture itself, 1 its mirror image (where flipping is on), others are
            augmented at random.
        name: what the progress bar says.

    Returns:
        float16 or float32 (len(indices), channels).
    """
    file = cache_folder("features") / f"{cache_key(model, data, indices, config, view)}.npy"
    if file.exists():
        try:
            features = np.load(file)
            file.touch()  # used lately: the last to be removed
            logger.info("features of %s: found in the cache", name)
            return features
        except (ValueError, EOFError, OSError) as error:
            logger.warning("features of %s: the cached file is damaged (%s); computing them again", name, error)
    features = compute_features(feature_model(model), data, indices, config, view, name)
    prune(file.parent, MOST_CACHE_BYTES - features.nbytes)
    with written_whole(file) as partial:
        np.save(partial, features)
    return features


def compute_features(
    extractor: keras.Model, data: Dataset, indices: np.ndarray, config: Config, view: int, name: str
) -> np.ndarray:
    """Pass pictures through the backbone in batches; see `cached_features`."""
    augmenter = None
    if view > int(config.flip):
        # Seeded by the view alone: the same view is the same pictures in every run.
        keras.utils.set_random_seed(config.data_seed + view)
        augmenter = keras.Sequential(augmentation(config))
    batches = []
    for start in track(range(0, len(indices), EXTRACTION_BATCH), f"features of {name}"):
        images = data.images(indices[start : start + EXTRACTION_BATCH])
        if view == 1 and config.flip:
            images = images[:, :, ::-1]
        elif augmenter:
            unit = keras.ops.convert_to_numpy(augmenter(np.float32(images) / 255, training=True))
            images = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
        batches.append(np.asarray(extractor.predict_on_batch(images)))
    features = np.concatenate(batches)
    return features.astype(np.float16) if np.abs(features).max() < LARGEST_FLOAT16 else features


def cache_key(model: keras.Model, data: Dataset, indices: np.ndarray, config: Config, view: int) -> str:
    backbone = model.get_layer("backbone")
    digest = hashlib.sha256(data.pictures.digests[indices].tobytes())
    for weight in backbone.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    view_options = (
        [config.rotation, config.zoom, config.translation, config.rand_augment, config.data_seed]
        if view > int(config.flip)
        else []
    )
    shared = [
        [layer.get_config() for layer in model.layers if layer.name in ("enlarge", "normalise", "rgb_to_bgr", "to_byte_range")],
        backbone.to_json(), data.image_shape, keras.backend.backend(), keras.version(), view and config.flip, view, view_options,
    ]  # fmt: skip
    digest.update(json.dumps(shared, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:40]


def prune(folder: Path, most_bytes: int) -> None:
    """Remove the least recently used files until the rest take at most `most_bytes`."""
    files = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > most_bytes:
            file.unlink()
