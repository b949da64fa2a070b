"""The main job: from images through two stages of training to a result with honest figures."""

import contextlib
import logging
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headstart.audit.mirror import mirror_images_may_train
from headstart.audit.of_run import audit_run
from headstart.config import Config, replace
from headstart.data.dataset import Dataset
from headstart.data.load import configured_data, in_folds, one_fold, resolved
from headstart.data.store import held_in_words, way_of
from headstart.data.walk import skipped_words
from headstart.errors import HeadstartError
from headstart.following import follow, report, share
from headstart.groups import carry_out_several
from headstart.inference.engine import Engine
from headstart.metrics.outsiders import REFERENCES, directions, neighbour_distances
from headstart.model.backbones import load_backbone
from headstart.model.batch_norm import adapt_batch_norm
from headstart.model.network import Network, build_network, with_features, without_augmentation
from headstart.model.registry import licence_of, refuse_unusable, say_licence
from headstart.model.unfreeze import refuse_unknown_layer
from headstart.plan import budget
from headstart.recipes import recipe
from headstart.record.folder import RunFolder, locked, refuse_taken
from headstart.record.history import FROZEN
from headstart.record.split import recorded_data, write_split
from headstart.record.tracking import refuse_missing_extras, tracked
from headstart.results import references_file, write_results
from headstart.run import Run
from headstart.system import cluster
from headstart.system.backend import is_out_of_memory, keras, resolve_precision, seed_everything
from headstart.system.environment import versions
from headstart.system.files import remove_partial, write_json, written_whole
from headstart.system.memory import keep_freed_memory
from headstart.system.progress import show_progress, track
from headstart.system.text import count
from headstart.system.workers import connected
from headstart.training.batches import Batches
from headstart.training.checkpoint import Checkpoint
from headstart.training.devices import devices_for
from headstart.training.features import FrozenLayers, cut_where_worthwhile
from headstart.training.fit import Training, fit_stage
from headstart.training.heads import choose_head
from headstart.training.stages import fine_tuning_stage, frozen_stage, images_for_statistics, stages_of
from headstart.training.weighting import choose_weights

logger = logging.getLogger("headstart")

# At most so many classes are named in the log; `data.json` has all.
MOST_LISTED = 30


def train(
    config: Config | str, data: Dataset | str | Path | None = None, *, overwrite: bool = False,
    explicit: Collection[str] | None = None, **options: Any,
) -> Run:  # fmt: skip
    """Train a classifier and return its finished run.

    If `config.seeds` is above 1, the run's folder holds a run for each seed, `seed-0` and so on, and `seeds.json`. With
    `config.folds` it holds a run for each fold, `fold-0` and so on, and `folds.json`; the folds divide all images of the data,
    whatever splits they were given with.

    Args:
        config: all options, from `headstart.recipe` or `headstart.Config`; or the name of a recipe.
        data: a loaded data set, or the name or path of one; by default `config.data` is loaded.
        overwrite: replace an existing run in the same folder.
        explicit: names of options that `config.budget` must not change; by default those in `options`.
        options: options to change, such as `image_size=96`.

    With `config.devices` as "cluster", only the first process returns. The others end when all is done.

    Raises:
        HeadstartError: bad input, an existing run, a failed download or too little memory; the message says which.
    """
    explicit, config = options.keys() if explicit is None else explicit, changed(config, options)
    with show_progress(), contextlib.ExitStack() as held, cluster.together(config.devices), connected(config.ray):
        if others := cluster.follower():
            follow(others, data or resolved(config).data, config.trust, networks)
        run, loaded, loading = begin(config, data, overwrite, explicit, held)
        return finish(run, loaded, loading)


def steps(
    config: Config | str, data: Dataset | str | Path | None = None, *, overwrite: bool = False, **options: Any
) -> Iterator[Network | Training | Run]:
    """Train like `train`, but step by step, for those who want to look inside.

    Yields:
        First the network, whose backbone is frozen (unless it learns from scratch); then each stage before it is trained;
        last the finished run. Each `next` does the work up to its step.

    Raises:
        HeadstartError: as for `train`; or several runs are asked for, by `config.seeds` or `config.folds`.
    """
    with show_progress(), contextlib.ExitStack() as held:
        explicit, config = options.keys(), changed(config, options)
        if config.seeds > 1:
            raise HeadstartError(f"--seeds {config.seeds} makes a run for each seed: leave it out to go step by step")
        if config.divided:
            raise HeadstartError(f"--folds {config.folds} makes a run for each fold: name one with --fold to go step by step")
        if config.devices == cluster.CLUSTER:
            raise HeadstartError("--devices cluster trains in several processes, which cannot go step by step: leave it out")
        held.enter_context(connected(config.ray))
        run, loaded, loading = begin(config, data, overwrite, explicit, held)
        yield from carry_out(run, loaded, loading)
        yield Run(run.path, trust=run.config.trust)


def resume(
    path: str | Path, data: Dataset | None = None, *, trust: bool = False, devices: str = "all", ray: str = ""
) -> Run:  # fmt: skip
    """Resume an interrupted run after its last finished epoch, and return the finished run.

    Args:
        path: the folder of the run.
        data: the data set, if it is loaded already. It is needed if it was made of arrays.
        trust: load layers that may run code, see `headstart.Config`. A run does not keep that it was trusted.
        devices, ray: what to compute on, see `headstart.Config`. It may be something else than before.

    Raises:
        HeadstartError: the folder is no run, its data are gone or have changed; or as for `train`.
    """
    with show_progress(), cluster.together(devices), connected(ray):
        if others := cluster.follower():
            follow(others, data or "", trust, networks)
        run = RunFolder(path, trust=trust, devices=devices, ray=ray)
        if run.searches:
            raise HeadstartError(f"{run.path} holds a search: go on with {run.way_on}")
        refuse_missing_extras(run.config)
        with locked(run.path):
            if run.done:
                logger.info("%s is finished", run.path)
                return Run(run.path, trust=trust)
            remove_partial(run.path)
            start = time.monotonic()
            loaded = recorded_data(run.path, run.config, data)
            return finish(run, loaded, time.monotonic() - start)


def begin(
    config: Config, data: Dataset | str | Path | None, overwrite: bool, explicit: Collection[str], held: contextlib.ExitStack
) -> tuple[RunFolder, Dataset, float]:  # fmt: skip
    """Load the data, plan, and make the run's folder. Return the folder, the data and the seconds that loading them took.

    Args:
        held: what the folder is locked until the end of.
    """
    if data is not None and not isinstance(data, Dataset):
        data, config = None, replace(config, data=str(data))
    refuse_missing_extras(config)
    refuse_unusable(config)
    say_licence(config)
    config = resolved(config, data)
    out = refuse_taken(config, overwrite=overwrite)
    # A folder that is there is locked before minutes of work. A new one is made after the data are read: it may lie among them.
    if there := out.is_dir():
        held.enter_context(locked(out))
    start = time.monotonic()
    loaded = data or configured_data(config)
    if data and config.folds:
        loaded = in_folds(data.source, data.used, config)
    loading = time.monotonic() - start
    planned = budget.prepare(config, one_fold(loaded, config, 0) if config.divided else loaded, explicit, loading)
    # Files are decoded at the image size. On a GPU, a training may look at them oftener than was asked for.
    too_seldom = planned.learns_on_images and not config.learns_on_images and loaded.source.survey
    if not data and loaded.source.files and (planned.image_size != config.image_size or too_seldom):
        loaded = configured_data(planned)
    if not there:
        held.enter_context(locked(out))
    run = RunFolder.create(planned, loaded, overwrite=overwrite)
    budget.record_choice(run, config, explicit)
    if "flip" in explicit and config.flip:
        write_json(run.path / "mirror.json", {"asked": True})
    if data:
        return run, recorded_data(run.path, run.config, data), 0.0  # each split in the order that the run records
    return run, loaded, loading


def changed(config: Config | str, options: dict[str, Any]) -> Config:
    """Return a configuration, or that of a recipe's name, with some options changed."""
    return recipe(config, **options) if isinstance(config, str) else replace(config, **options)


def finish(run: RunFolder, data: Dataset, loading: float) -> Run:
    """Carry out a run, or those of all its seeds or folds, from where it stands, and return it."""
    if run.members:
        carry_out_several(run, data, lambda one, own: finish(one, own, 0.0))
    else:
        for _ in carry_out(run, data, loading):
            pass
    return Run(run.path, trust=run.config.trust)


def carry_out(run: RunFolder, data: Dataset, loading: float) -> Iterator[Network | Training]:
    """Carry out a run from where it stands: network, audit, head, frozen stage, fine-tuning, results.

    It yields the network, and each stage before it is trained, for a caller that wants to look inside (see `steps`).

    Args:
        data: with the splits that the run records.
        loading: the seconds that loading the data took.
    """
    config = run.config
    with run.log(), explained_memory(config), tracked(run) as trackers:
        checkpoint = Checkpoint(run.path / "checkpoint")
        checkpoint.watchers = [tracker.update for tracker in trackers]
        checkpoint.start_clock(loading)
        report(run, "preparation")
        start, earlier = checkpoint.clock, sum(checkpoint.seconds.values())
        keep_freed_memory()
        seed_everything(config.seed, config.deterministic)
        precision = resolve_precision(config.precision)
        refuse_unusable(config)
        describe(data)
        devices = devices_for(config.devices, min(config.batch_size, len(data.train)))

        network, frozen, preprocess = networks(data, config, precision)
        on = keras.backend.backend() + (f", {len(devices)} devices" if len(devices) > 1 else "")
        logger.info("%s, %s, batch %d, on %s", config.backbone, precision, config.batch_size, on)
        checkpoint.stop_clock("preparation")

        budget.announce(run, frozen, data, checkpoint.seconds["preparation"])
        if not mirror_images_may_train(run, frozen, data, checkpoint):
            config = run.switch_off_flip()
            keras.utils.clear_session()  # resets the numbers in layer names, which are in the cache key of the features
            network, frozen, preprocess = networks(data, config, precision)
        data = audit_run(run, frozen, data, checkpoint)
        if config.drop_duplicates:
            write_split(run.path, data)  # only now it is known which images are trained on
        config = choose_weights(run, frozen, data, config, checkpoint)
        config = choose_head(run, network, frozen, data, config, checkpoint)
        used = {"precision": precision, "preprocess": preprocess, "devices": str(max(1, len(devices)))}
        used["licence"] = licence_of(config)
        run.record_start(data, versions() | used)
        looking = time.monotonic()
        yield network
        start += time.monotonic() - looking  # the caller's time is none of the run's

        for stage in stages_of(config):
            if stage == FROZEN and checkpoint.stage not in ("", FROZEN.key):
                continue  # the checkpoint is from fine-tuning, and holds the head as well
            prepare = frozen_stage if stage == FROZEN else fine_tuning_stage
            if not checkpoint.has_finished(stage.key):
                report(run, f"the stage {stage.name}")
                share(stage, network, data, replace(config, precision=precision), checkpoint)
            training = prepare(network, frozen, data, config, checkpoint)
            looking = time.monotonic()
            yield training
            start += time.monotonic() - looking
            fit_stage(training, checkpoint, config.patience)
            network.take(training.learner)
            ask_once(training, run, data, last=stage == stages_of(config)[-1])

        report(run, "the results")
        write_results(run, network, data, checkpoint)
        results = time.monotonic() - start - (sum(checkpoint.seconds.values()) - earlier)
        budget.compare(run, data, results)
        for tracker in trackers:
            tracker.finish(checkpoint.history, run.metrics)
        checkpoint.remove()


def networks(data: Dataset, config: Config, precision: str) -> tuple[Network, FrozenLayers, str]:
    """Return the network, its frozen layers with their cache, and the backbone's preprocessing mode."""
    backbone, preprocess = load_backbone(config)
    network = build_network(backbone, preprocess, data.image_shape, len(data.class_names), config, precision)
    refuse_unknown_layer(network.backbone, config)
    if config.adapts_batch_norm:
        adapt_batch_norm(network, images_for_statistics(data, config), config)
    cut_where_worthwhile(network, data, config)
    return network, FrozenLayers(network, data, config), preprocess


def ask_once(training: Training, run: RunFolder, data: Dataset, last: bool) -> None:
    """Record a stage's logits on the validation and the test split, unless that was done before an interruption.

    After the last stage, also how far both splits are from training images, whose features go with the model.

    In training, this is the only place where the network sees the test split. What is recorded chooses nothing: only the
    results, the report and the audit read it.
    """
    splits = {"validation": training.validation, "test": training.test}
    kept, key = references_file(run), training.stage.key
    if all(run.has_array(f"{split}_{key}") for split in splits) and (kept.exists() or not last):
        return
    engine = Engine(with_features(without_augmentation(training.learner)))  # one for all, which is compiled once
    sample = training_sample(training.batches, len(data.train), run.config.data_seed)
    total = sum(len(batches.indices) for batches in (sample, *splits.values()))

    def outputs(batches: Batches, name: str) -> tuple[np.ndarray, np.ndarray]:
        numbers = track(range(batches.num_batches), f"{training.stage.name} network on {name}")
        found = list(engine.outputs((batches[number][0] for number in numbers), total))
        logits, features = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return logits, features

    if last:
        references = directions(outputs(sample, "training images")[1]).astype(np.float16)
    for split, batches in splits.items():
        logits, features = outputs(batches, f"the {split} split")
        if last:
            run.save_array(f"distances_{split}", neighbour_distances(features, references.astype(np.float32)))
        run.save_array(f"{split}_{key}", logits)
    if last:
        with written_whole(kept) as partial:
            np.save(partial, references)


def training_sample(batches: Batches, images: int, seed: int) -> Batches:
    """Return batches of up to 2,000 training images at random, in order and without changes.

    Args:
        batches: of the training split; its first rows are the images themselves, later ones other views of them.
        images: the number of training images.
    """
    chosen = np.random.default_rng(seed).choice(batches.indices[:images], min(REFERENCES, images), replace=False)
    return Batches(batches.inputs, batches.labels, np.sort(chosen), batches.batch_size)


def describe(data: Dataset) -> None:
    """Log what was loaded, what was skipped, and every duplicate."""
    logger.info(
        "%s: %d classes, %d x %d pixels; %s for training, %s for validation, %s for the test", data.source.name,
        len(data.class_names), *data.image_shape[:2], count(len(data.train), "image"), f"{len(data.validation):,}",
        f"{len(data.test):,}",
    )  # fmt: skip
    counts = np.bincount(data.source.labels, minlength=len(data.class_names)).tolist()
    listed = [f"{name} {number:,}" for name, number in zip(data.class_names, counts, strict=True)]
    more = f" and {len(listed) - MOST_LISTED} more classes" if len(listed) > MOST_LISTED else ""
    logger.info("classes: %s%s", ", ".join(listed[:MOST_LISTED]), more)
    if untested := [name for name, number in data.class_counts()["test"].items() if not number]:
        logger.warning("classes without a test image, and so without figures: %s", ", ".join(untested[:MOST_LISTED]))
    held = held_in_words(way_of(data.source.images), len(data.source.images), data.image_shape[0])
    for line in filter(None, [*data.source.remarks, held]):
        logger.info("data: %s", line)
    for line in data.torn[:MOST_LISTED]:
        logger.warning("%s", line)
    if data.torn:
        logger.warning("%s torn apart by the given splits", count(len(data.torn), "group is", "groups are"))
    if data.source.skipped:
        logger.info("data: not used: %s", skipped_words(data.source.skipped))
    for line in data.source.unreadable:
        logger.warning("skipped %s", line)
    for line in data.duplicates:
        logger.warning("duplicate: %s", line)


@contextlib.contextmanager
def explained_memory(config: Config) -> Iterator[None]:
    """Turn an error for lack of memory, main or the GPU's, into a `HeadstartError` that says what to do."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise HeadstartError(
            f"not enough memory for --batch-size {config.batch_size} at --image-size {config.image_size}: "
            f"try --batch-size {max(1, config.batch_size // 4)}"
        ) from None
