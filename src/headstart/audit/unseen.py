"""Which images of a data set a run has never seen, and which of these resemble images that it was trained on."""

import logging

import numpy as np

from headstart.audit.duplicates import near_duplicates_of_grey, normalised, on_grid
from headstart.data.dataset import Dataset
from headstart.data.source import SPLIT_NAMES, Source
from headstart.errors import HeadstartError
from headstart.metrics.classification import subset_figures
from headstart.metrics.figures import SubsetFigures
from headstart.record.folder import RunFolder
from headstart.record.split import FOLD, hexadecimal, recorded_data

logger = logging.getLogger("headstart")

# With more images, the search for near-duplicates would take longer than the evaluation itself.
MOST_TO_COMPARE = 20_000


def unseen_images(run: RunFolder, data: Dataset) -> tuple[np.ndarray, dict[str, int]]:
    """Return the test images, as indices, that are not in a run's training or validation split, and how many are, by split.

    Raises:
        HeadstartError: all of them are.
    """
    # What tests one fold trains the others.
    split_of = {row["digest"]: SPLIT_NAMES[0] if row["split"].startswith(FOLD) else row["split"] for row in run.split}
    splits = [split_of.get(digest, "") for digest in hexadecimal(data.source.digests[data.test])]
    left_out = {name: splits.count(name) for name in SPLIT_NAMES[:2]}
    number = sum(left_out.values())
    if not number:
        return data.test, left_out
    if number == len(data.test):
        raise HeadstartError(
            f"{data.source.name}: {run.path} was trained on {left_out['training']} of these {number} images and chose its "
            "epoch by the others, so none is left to measure on"
            + ("" if run.config.divided else "; without --data its own test split is measured")
        )
    logger.warning(
        "%d of %d images are left out: the run was trained on %d of them and chose its epoch by %d",
        number, len(data.test), left_out["training"], left_out["validation"],
    )  # fmt: skip
    return data.test[[name not in SPLIT_NAMES[:2] for name in splits]], left_out


def images_of_known_groups(run: RunFolder, source: Source, rows: np.ndarray) -> int:
    """Return how many of the images `rows` are of a group that a run was trained on, by the names of groups, and log it."""
    of_training = (row for row in run.split if row["split"] == SPLIT_NAMES[0] or row["split"].startswith(FOLD))
    trained = {row.get("group", "") for row in of_training} - {""}
    known = sum(source.groups[row] in trained for row in rows.tolist()) if source.groups else 0
    if known:
        logger.warning("%d of the %d images are of groups that the run was trained on, by their names", known, len(rows))
    return known


def figures_without_near_duplicates(run: RunFolder, source: Source, rows: np.ndarray, right: np.ndarray) -> SubsetFigures | None:
    """Return the accuracy on the images that have no near-duplicate among a run's training images.

    None is returned if no image has one, for the run's own data, which its audit has searched, and if there was no search:
    the run records no split, its data are gone, or there are too many images. The last two are logged.

    Args:
        rows: int (N,), the images that are measured.
        right: bool (N,), whether each was classified correctly.
    """
    if source.name == run.read_json("data.json")["source"] or not run.split:
        return None
    if len(rows) + len(run.split) > MOST_TO_COMPARE:
        logger.info(
            "no search for near-duplicates of the run's training images: with more than %d images it takes long", MOST_TO_COMPARE
        )
        return None
    try:
        own = recorded_data(run.path, run.config)
    except HeadstartError as error:
        logger.info("no search for near-duplicates of the run's training images: %s", str(error).splitlines()[0])
        return None
    trained = own.used if run.config.divided else own.train
    grey = np.concatenate([source.grey(rows), own.source.grey(trained)])
    # Coarse pixels find candidates without a network. They do not find mirror images, as the run's audit does.
    coarse = normalised(on_grid(grey).reshape(len(grey), -1))
    pairs, _ = near_duplicates_of_grey(lambda places: grey[places], source.images.shape, coarse, run.config.flip)
    across = pairs[(pairs[:, 0] < len(rows)) & (pairs[:, 1] >= len(rows))]
    new = ~np.isin(np.arange(len(rows)), across[:, 0])
    known = int((~new).sum())
    if not known:
        return None
    logger.warning("%d of the %d images have a near-duplicate among those that the run was trained on", known, len(rows))
    groups = source.units[rows] if source.groups else None
    return subset_figures(right, new, groups)
