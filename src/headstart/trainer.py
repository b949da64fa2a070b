"""The main job: images in, two stages of training, a result that tells the truth about itself out."""

import contextlib
import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import keras
import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from headstart.audit.data import audit_run
from headstart.audit.mirror import mirror_images_may_train
from headstart.config import ALL, LAST_STAGE, Config, suggestion
from headstart.data.dataset import Dataset
from headstart.data.load import configured_data, resolved
from headstart.data.walk import skipped_words
from headstart.errors import HeadstartError
from headstart.groups import write_seeds
from headstart.inference.evaluate import predict_logits
from headstart.model.backbones import load_backbone
from headstart.model.head import head_model, standardise
from headstart.model.network import (
    adapt_batch_norm,
    all_layers,
    build_model,
    copy_back,
    tuning_model,
    unfreeze,
)
from headstart.model.registry import refuse_unusable
from headstart.plan import budget as plan
from headstart.record.folder import Run
from headstart.record.split import recorded_data, write_record
from headstart.record.tracking import refuse_missing_extras, tracked
from headstart.results import write_results
from headstart.system.backend import is_out_of_memory, resolve_jit, resolve_precision, seed_everything, versions
from headstart.system.files import remove_partial, write_json
from headstart.system.memory import keep_freed_memory
from headstart.system.text import count
from headstart.training.batches import Batches, Rows, head_batch_size
from headstart.training.checkpoint import Checkpoint
from headstart.training.features import FrozenLayers, worthwhile_cut
from headstart.training.fit import fit_stage, kept_row
from headstart.training.optimizer import fine_tuning_optimizer

logger = logging.getLogger("headstart")

# More would change a mean over so many images and places by less than their batches differ.
IMAGES_FOR_STATISTICS = 2048

# So many classes are named in the log; data.json has all.
MOST_LISTED = 30

FROZEN, FINE_TUNED, SCRATCH = "frozen", "fine_tuned", "scratch"


def train(config: Config, data: Dataset | None = None, *, overwrite: bool = False, explicit: Collection[str] = ()) -> Run:
    """Train a classifier and return its finished run.

    With `config.seeds` above 1 the run holds one for each seed, in `seed-0` and so on, and `seeds.json`.

    Args:
        config: all options, from `headstart.recipe` or `headstart.Config`.
        data: the data set, if it is loaded already; else `config.data` is.
        overwrite: replace an existing run in the same folder.
        explicit: names of options that `config.budget` must leave as they are.

    Raises:
        HeadstartError: bad input, an existing run, no network, no memory; the message says which.
    """
    refuse_missing_extras(config)
    refuse_unusable(config)
    config = resolved(config, data)
    Run.refuse_taken(config, overwrite=overwrite)
    begin = time.monotonic()
    loaded = data or configured_data(config)
    loading = time.monotonic() - begin
    planned = plan.prepare(config, loaded, explicit, loading)
    if not data and loaded.source.files and planned.image_size != config.image_size:
        loaded = configured_data(planned)  # files are decoded at the image size
    run = Run.create(planned, loaded, overwrite=overwrite)
    plan.record_choice(run, config)
    if "flip" in explicit and config.flip:
        write_json(run.path / "mirror.json", {"asked": True})
    if data:
        loaded = recorded_data(run.path, run.config, data)  # in the order that the run records
    return carry_out_seeds(run, loaded) if config.seeds > 1 else carry_out(run, loaded, 0.0 if data else loading)


def resume(path: str | Path, data: Dataset | None = None) -> Run:
    """Go on with an interrupted run from its last finished epoch.

    Raises:
        HeadstartError: the folder is no run, or its data have changed.
    """
    run = Run(path)
    refuse_missing_extras(run.config)
    if is_done(run):
        logger.info("%s is finished", run.path)
        return run
    remove_partial(run.path)
    begin = time.monotonic()
    loaded = recorded_data(run.path, run.config, data)
    return carry_out_seeds(run, loaded) if run.config.seeds > 1 else carry_out(run, loaded, time.monotonic() - begin)


def carry_out_seeds(run: Run, data: Dataset) -> Run:
    """Do what is still to be done of the runs of all seeds, and write what they say together.

    All keep the split of the first seed: they share the frozen features, which are those of one training split, and
    differ by what training does at random (head, dropout, shuffling, augmentation) and not by their test images.
    """
    with run.log():
        checkpoint = Checkpoint(run.path / "checkpoint")
        checkpoint.write()
        runs = []
        for seed in range(run.config.seed, run.config.seed + run.config.seeds):
            path = run.path / f"seed-{seed}"
            if (path / "config.toml").exists():
                one = Run(path)
            else:
                shutil.rmtree(path, ignore_errors=True)  # what a kill left of it
                config = dataclasses.replace(run.config, out=str(path), seed=seed, split_seed=run.config.data_seed, seeds=1)
                one = Run.create(config, data)
                if run.mirror:
                    write_json(one.path / "mirror.json", run.mirror)
            logger.info("seed %d", seed)
            keras.utils.clear_session()  # memory, and the numbers in layers' names, by which features are cached too
            runs.append(one if is_done(one) else carry_out(one, data))
        write_seeds(run, runs)
        checkpoint.remove()
    return run


def carry_out(run: Run, data: Dataset, loading: float = 0.0) -> Run:
    """Do what is still to be done of a run: data, model, frozen stage, fine-tuning, results.

    Args:
        data: in the split that the run records.
        loading: how many seconds it took to load them.
    """
    config = run.config
    with run.log(), explained_memory(config), tracked(run) as trackers:
        checkpoint = Checkpoint(run.path / "checkpoint")
        checkpoint.watchers = [tracker.update for tracker in trackers]
        checkpoint.start_clock(loading)
        begin, earlier = checkpoint.clock, sum(checkpoint.seconds.values())
        keep_freed_memory()
        seed_everything(config.seed, config.deterministic)
        precision = resolve_precision(config.precision)
        refuse_unusable(config)
        describe(data)

        model, frozen, preprocess = networks(data, config, precision)
        logger.info("%s, %s, batch %d, on %s", config.backbone, precision, config.batch_size, keras.backend.backend())
        checkpoint.stop_clock("preparation")

        plan.announce(run, frozen, data, checkpoint.seconds["preparation"])
        if not mirror_images_may_train(run, frozen, data, checkpoint):
            config = run.switch_off_flip()
            keras.utils.clear_session()  # the numbers in layers' names, by which features are cached
            model, frozen, preprocess = networks(data, config, precision)
        data = audit_run(run, frozen, data, checkpoint)
        if config.drop_duplicates:
            write_record(run.path, data)  # what is trained on is known only now
        run.record_start(data, versions() | {"precision": precision, "preprocess": preprocess})

        if not config.from_scratch:
            frozen_stage(model, frozen, data, config, run, checkpoint)
        if config.epochs:
            fine_tuning_stage(model, frozen, data, config, run, checkpoint)

        write_results(run, model, data, checkpoint)
        results = time.monotonic() - begin - (sum(checkpoint.seconds.values()) - earlier)
        plan.compare(run, data, results)
        for tracker in trackers:
            tracker.finish(checkpoint.history, run.metrics)
        checkpoint.remove()
    return run


def networks(data: Dataset, config: Config, precision: str) -> tuple[keras.Model, FrozenLayers, str]:
    """Return the whole network, its frozen layers with their cache, and the preprocessing mode of the backbone."""
    backbone, preprocess = load_backbone(config)
    model = build_model(backbone, preprocess, data.image_shape, len(data.class_names), config, precision)
    refuse_unknown_layer(model, config)
    if config.adapts_batch_norm:
        adapt_batch_norm(model, some_images(data, config), config)
    return model, FrozenLayers(model, data, config, worthwhile_cut(model, data, config)), preprocess


def is_done(run: Run) -> bool:
    """Whether a run is finished, and was not killed while its results were copied to a tracker."""
    return run.finished and not (run.path / "checkpoint" / "state.json").exists()


def frozen_stage(
    model: keras.Model, frozen: FrozenLayers, data: Dataset, config: Config, run: Run, checkpoint: Checkpoint
) -> None:
    """Train the head alone, on features that the frozen backbone computes once (or, plainly, at every epoch)."""
    if checkpoint.stage == FINE_TUNED:
        return  # its checkpoint holds the whole network
    if config.cache_features:
        learner, (training, validation, test) = head_model(model), feature_batches(frozen, data, config, checkpoint)
        frozen.rest()
        standardise(model, (training[step][0] for step in range(training.num_batches)))
    else:
        learner, (training, validation, test) = model, image_batches(data, config, seed=config.seed)
    seed_everything(config.seed, config.deterministic)
    compile_frozen(learner, config, config.head_epochs * training.num_batches)
    fit_stage(
        FROZEN, learner, training, validation, checkpoint,
        epochs=config.head_epochs, patience=config.patience, class_weight=class_weights(data, config),
    )  # fmt: skip
    test_once(FROZEN, learner, validation, test, run)


def fine_tuning_stage(
    model: keras.Model, frozen: FrozenLayers, data: Dataset, config: Config, run: Run, checkpoint: Checkpoint
) -> None:
    """Train backbone and head together at a reduced rate, batch norm held in inference mode.

    From scratch it is the only stage, and batch norm learns. Where the frozen layers keep maps, what comes
    after these is trained alone, on them.
    """
    stage = SCRATCH if config.from_scratch else FINE_TUNED
    unfreeze(model, config)
    seed_everything(config.seed + 1, config.deterministic)
    learner, classes = tuning_model(model, frozen.cut), len(data.class_names)
    if frozen.cut:
        training, validation, test = map_batches(frozen, data, config, classes)
    else:
        training, validation, test = image_batches(data, config, seed=config.seed + 1, classes=classes)
    epochs = max(config.epochs, math.ceil(config.fewest_steps / training.num_batches))
    compile_fine_tuning(learner, config, epochs * training.num_batches)
    start = kept_row(checkpoint.epochs_of(FROZEN), len(data.validation))
    if start:
        # Smoothed labels make every loss larger: at equal accuracy fine-tuning would never count.
        start = start | {"epoch": 0, "val_loss": math.inf if config.label_smoothing else start["val_loss"]}
    fit_stage(
        stage, learner, training, validation, checkpoint, epochs=epochs, patience=config.patience,
        class_weight=class_weights(data, config), start=start,
    )  # fmt: skip
    copy_back(learner, model, frozen.cut)
    test_once(stage, learner, validation, test, run)


def compile_frozen(learner: keras.Model, config: Config, steps: int) -> None:
    rate = config.head_learning_rate
    if config.cache_features:  # the plain way is what others do, to be compared with
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    learner.compile(
        keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"], jit_compile=resolve_jit(),
    )  # fmt: skip


def compile_fine_tuning(learner: keras.Model, config: Config, steps: int) -> None:
    learner.compile(
        fine_tuning_optimizer(config, steps),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
        metrics=["accuracy"], jit_compile=resolve_jit(),
    )  # fmt: skip


def image_batches(data: Dataset, config: Config, *, seed: int, classes: int = 0) -> list[Batches]:
    """Return batches of images: training shuffled (and mixed, where labels are one-hot), the others in order."""
    images, labels, size = data.source.images, data.source.labels, config.batch_size
    training = Batches(images, labels, data.train, size, seed, classes, config.mix if classes else "none")
    return [training, *(Batches(images, labels, part, size, None, classes) for part in (data.validation, data.test))]


def feature_batches(frozen: FrozenLayers, data: Dataset, config: Config, checkpoint: Checkpoint) -> list[Batches]:
    """Return batches of features: training in all its views, validation and test as they are."""
    checkpoint.start_clock()
    views = [
        frozen.features(data.training_candidates, view, f"training images, view {view + 1} of {config.views}")
        for view in range(config.views)
    ]
    validation, test = (frozen.features(part, 0, f"{name} images")
                        for name, part in (("validation", data.validation), ("test", data.test)))  # fmt: skip
    checkpoint.stop_clock("features")
    batch_size = head_batch_size(config.views * len(data.train))
    return output_batches(np.concatenate(views), validation, test, data, config, batch_size, seed=config.seed)


def map_batches(frozen: FrozenLayers, data: Dataset, config: Config, classes: int) -> list[Batches]:
    """Return batches of the feature maps that fine-tuning starts from: training in all its views, the others as they are."""
    training = frozen.maps(data.training_candidates, config.views, "training images")
    validation, test = (frozen.maps(part, 1, f"{name} images")
                        for name, part in (("validation", data.validation), ("test", data.test)))  # fmt: skip
    return output_batches(training, validation, test, data, config, config.batch_size, seed=config.seed + 1, classes=classes)


def some_images(data: Dataset, config: Config) -> Iterator[np.ndarray]:
    """Yield training images enough for a channel's mean and variance, in batches as fine-tuning has them."""
    batches, _, _ = image_batches(data, config, seed=config.data_seed)
    for step in range(min(batches.num_batches, math.ceil(IMAGES_FOR_STATISTICS / config.batch_size))):
        yield batches[step][0]


def output_batches(
    training: Rows, validation: Rows, test: Rows, data: Dataset, config: Config, batch_size: int, *, seed: int, classes: int = 0
) -> list[Batches]:
    """Return batches of what frozen layers gave for each part; training comes view by view, and is shuffled."""
    candidates = data.training_candidates
    labels = np.tile(data.labels(candidates), config.views)
    rows = np.flatnonzero(np.tile(np.isin(candidates, data.train), config.views))
    return [
        Batches(training, labels, rows, batch_size, seed, classes),
        Batches(validation, data.labels(data.validation), np.arange(len(data.validation)), batch_size, None, classes),
        Batches(test, data.labels(data.test), np.arange(len(data.test)), batch_size, None, classes),
    ]


def test_once(stage: str, learner: keras.Model, validation: Batches, test: Batches, run: Run) -> None:
    """Keep the logits on the validation and test splits, unless an interrupted run did so; the test's choose nothing."""
    for part, batches in (("validation", validation), ("test", test)):
        if not run.has_array(f"{part}_{stage}"):
            logits = predict_logits(learner, batches, f"{stage.replace('_', '-')} network on the {part} part")
            run.save_array(f"{part}_{stage}", logits)


def class_weights(data: Dataset, config: Config) -> dict[int, float] | None:
    """Return weights inverse to the classes' frequencies in training, or None where they are not asked for."""
    if not config.class_weights:
        return None
    classes = np.arange(len(data.class_names))
    return dict(enumerate(compute_class_weight("balanced", classes=classes, y=data.labels(data.train)).tolist()))


def describe(data: Dataset) -> None:
    """Log what was loaded, with every file that was skipped and every duplicate."""
    logger.info(
        "%s: %d classes, %d x %d pixels; %s for training, %d for validation, %d for the test", data.source.name,
        len(data.class_names), *data.image_shape[:2], count(len(data.train), "image"), len(data.validation), len(data.test),
    )  # fmt: skip
    counts = np.bincount(data.source.labels, minlength=len(data.class_names)).tolist()
    listed = [f"{name} {number:,}" for name, number in zip(data.class_names, counts, strict=True)]
    more = f" and {len(listed) - MOST_LISTED} more classes" if len(listed) > MOST_LISTED else ""
    logger.info("classes: %s%s", ", ".join(listed[:MOST_LISTED]), more)
    if untested := [name for name, number in data.class_counts()["test"].items() if not number]:
        logger.warning("no test image, and so no figure, of the class: %s", ", ".join(untested[:MOST_LISTED]))
    for line in data.source.remarks:
        logger.info("data: %s", line)
    if data.source.skipped:
        logger.info("data: not used: %s", skipped_words(data.source.skipped))
    for line in data.source.unreadable:
        logger.warning("skipped %s", line)
    for line in data.duplicates:
        logger.warning("duplicate: %s", line)


def refuse_unknown_layer(model: keras.Model, config: Config) -> None:
    """Refuse a `fine_tune_from` that no layer of the backbone begins with."""
    start, backbone = config.fine_tune_from, model.get_layer("backbone")
    layers = [*backbone.layers, *all_layers(backbone)]
    if start not in (ALL, LAST_STAGE) and not any(layer.name.startswith(start) for layer in layers):
        weighted = [layer.name for layer in layers if layer.weights]
        raise HeadstartError(
            f"--fine-tune-from: no layer of {config.backbone} begins with {start!r}{suggestion(start, weighted)}"
        )


@contextlib.contextmanager
def explained_memory(config: Config) -> Iterator[None]:
    """Say what to do where memory, main or the GPU's, runs out."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise HeadstartError(
            f"not enough memory for --batch-size {config.batch_size} at --image-size {config.image_size}: "
            f"try --batch-size {max(1, config.batch_size // 4)}"
        ) from None
