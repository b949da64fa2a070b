"""`headstart tune`: find the backbone and the options that do best on validation in the time there is, and train them once.

Trials are made in rungs. Those of a rung learn on the same images, and only the best of them go on to the next rung, which
compares other options on more images (successive halving, Jamieson and Talwalkar 2016). All are ranked on the validation split
of one split of the data. The test split is asked once, by the training of the winner.
"""

import contextlib
import dataclasses
import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart.audit.mirror import mirror_images_may_train
from headstart.config import ALL, TUNE_BUDGET, Config, budget_seconds, refuse_unsearchable, replace, write_toml
from headstart.data.dataset import Dataset
from headstart.data.labels import Labelling
from headstart.data.load import configured_data, read_source, resolved
from headstart.errors import HeadstartError, UnreachableError, UnwritableError
from headstart.inference.engine import Engine
from headstart.inference.logits import network_logits
from headstart.metrics.classification import UNEVEN, interval_of, unevenness
from headstart.metrics.grouped import effective_images
from headstart.model.backbones import load_backbone
from headstart.model.network import without_augmentation
from headstart.model.unfreeze import begin_of_stages
from headstart.plan import search
from headstart.plan.estimate import MARGIN, duration
from headstart.plan.search import Candidate, Prices
from headstart.record.folder import TRIALS, WINNER, RunFolder, default_path, empty, locked, refuse_taken
from headstart.record.history import FROZEN, EpochRow, write_history
from headstart.record.manifest import read_entries
from headstart.record.schema import RankedBy, Rung, SearchState, TrialResult, Winner
from headstart.record.split import recorded_data
from headstart.record.tracking import refuse_missing_extras
from headstart.report.tuning import write_tuning_report
from headstart.run import Run
from headstart.system.backend import keras, resolve_precision, seed_everything
from headstart.system.environment import versions
from headstart.system.files import remove_partial, write_json, written_whole
from headstart.system.memory import give_back_freed_memory, keep_freed_memory
from headstart.system.progress import show_progress
from headstart.system.text import count
from headstart.trainer import changed, describe, explained_memory, networks, resume, train
from headstart.training.checkpoint import Checkpoint, Unsaved
from headstart.training.fit import fit_stage
from headstart.training.heads import decide_head
from headstart.training.stages import fine_tuning_stage, frozen_stage, stages_of
from headstart.training.weighting import decide_weights

logger = logging.getLogger("headstart")

# What a search's own page takes, and the end of it, in seconds.
ENDING = 5.0
# Why trials were not made.
TOO_LONG = "their training on all images would not end in time"
NO_TIME = "there was no time left for them"


class OutOfTime(Exception):
    """A trial has begun to take the time that the winner's training needs."""


def tune(
    config: Config | str, data: Dataset | str | Path | None = None, *, overwrite: bool = False,
    explicit: Collection[str] | None = None, **options: Any,
) -> Run:  # fmt: skip
    """Search for the backbone and options that do best on validation, train them on all training images, and return that run.

    The search and the training end within `config.budget`, by default 30 minutes. The folder has a page about all trials,
    `report.html`, and the finished run in its folder `winner`.

    Args:
        config: all options, from `headstart.recipe` or `headstart.Config`; or the name of a recipe.
        data: a loaded data set, or the name or path of one; by default `config.data` is loaded.
        overwrite: replace a run or search in the same folder.
        explicit: names of options that are not searched; by default those in `options`.
        options: options to change, such as `backbone="starter"`.

    Raises:
        HeadstartError: as for `train`; or the budget is too short for one trial and the shortest training.
    """
    explicit, config = options.keys() if explicit is None else explicit, changed(config, options)
    with show_progress(), contextlib.ExitStack() as held:
        if data is not None and not isinstance(data, Dataset):
            data, config = None, replace(config, data=str(data))
        config = searchable(config)
        config = resolved(config, data)
        out = refuse_taken(config, overwrite=overwrite)
        if there := out.is_dir():
            held.enter_context(locked(out))
        start = time.monotonic()
        loaded = data or configured_data(config, often=True)  # many trials look at them
        loading = time.monotonic() - start
        if not there:
            held.enter_context(locked(out))
        run = RunFolder.create(config, loaded, overwrite=overwrite, searches=True)
        tried, lines = search.local_backbones(config, explicit)
        state: SearchState = {
            "explicit": sorted(explicit), "ranked_by": ranked_by(loaded), "backbones": tried, "rungs": []
        }  # fmt: skip
        write_json(run.path / TRIALS / "rungs.json", state)
        with run.log():
            for line in lines:
                logger.info("%s", line)
        loaded = recorded_data(run.path, run.config, loaded) if data else loaded
        try:
            return Search(run, loaded, loading).carry_out()
        except HeadstartError as error:
            begun = any((run.path / TRIALS).glob("*/trial.json")) or (run.path / WINNER).exists()
            if not begun and not isinstance(error, (UnreachableError, UnwritableError)):
                empty(run.path)  # as if it had been refused before: the folder is free for another budget
            raise


def resume_tuning(path: str | Path, data: Dataset | None = None, *, trust: bool = False) -> Run:
    """Go on with an interrupted search after its last finished trial, and return the finished run of its winner.

    Args:
        path: the folder of the search.
        data: the data set, if it is loaded already. It is needed if it was made of arrays.
        trust: load layers that may run code, see `headstart.Config`.

    Raises:
        HeadstartError: the folder is no search, its data are gone or have changed; or as for `tune`.
    """
    with show_progress():
        run = RunFolder(path, trust=trust)
        if not run.searches:
            raise HeadstartError(f"{run.path} is no search of headstart tune: go on with {run.way_on}")
        with locked(run.path):
            if run.done:
                logger.info("%s is finished", run.path)
                return Run(run.path / WINNER, trust=trust)
            remove_partial(run.path)
            start = time.monotonic()
            loaded = recorded_data(run.path, run.config, data)
            return Search(run, loaded, time.monotonic() - start).carry_out()


def searchable(config: Config) -> Config:
    """Return the configuration of a search, with its budget and folder.

    Raises:
        HeadstartError: an option with which nothing can be searched, or a missing package.
    """
    refuse_unsearchable(config)
    refuse_missing_extras(config)
    return replace(config, budget=config.budget or TUNE_BUDGET, out=config.out or str(default_path(config, "tune")))


def ranked_by(data: Dataset) -> RankedBy:
    """Return which figure ranks the trials: where classes are far from even, accuracy would forget the small ones."""
    return "macro recall" if unevenness(data.labels(data.train)) > UNEVEN else "accuracy"


class Search:
    """A search in its folder, from where it stands.

    Args:
        run: its folder.
        data: the data set, with the splits that the folder records.
        loading: the seconds that loading the data took.
    """

    def __init__(self, run: RunFolder, data: Dataset, loading: float) -> None:
        self.run, self.data, self.loading, self.config = run, data, loading, run.config
        if not self.state_file.exists():
            raise HeadstartError(f"{run.path} was stopped before its search began: start it again with --overwrite")
        self.state: SearchState = read_entries(run.path / TRIALS, "rungs.json")
        self.explicit = set(self.state["explicit"])
        self.budget = budget_seconds(self.config.budget)
        self.checkpoint = Checkpoint(run.path / "checkpoint")
        self.checkpoint.start_clock(loading)
        self.sources: dict[int, Dataset] = {}
        self.dropped: dict[int, Counter[str]] = {}

    @property
    def state_file(self) -> Path:
        return self.run.path / TRIALS / "rungs.json"

    @property
    def spent(self) -> float:
        """Seconds since the search began, without interruptions."""
        return sum(self.checkpoint.seconds.values()) + time.monotonic() - self.checkpoint.clock

    @cached_property
    def precision(self) -> str:
        return resolve_precision(self.config.precision)

    def carry_out(self) -> Run:
        """Make the trials that are not made, train the winner, and write what was found."""
        run = self.run
        with run.log(), explained_memory(self.config):
            keep_freed_memory()
            describe(self.data)
            write_json(run.path / "environment.json", versions())
            self.stop_clock("preparation")
            if "winner" not in self.state:
                self.state["winner"] = self.find_winner()
                write_json(self.state_file, self.state)
            trained = self.train_winner()
            self.write_tuning(trained)
            self.checkpoint.remove()
            logger.info("%.0f seconds; the search is in %s, its winner in %s", self.spent, run.path, trained.path)
        return trained

    def stop_clock(self, part: str) -> None:
        """Record the time since the clock was started last."""
        self.checkpoint.stop_clock(part)
        self.checkpoint.write()

    def find_winner(self) -> Winner:
        """Make the trials of all rungs, and return the entry `winner` of the state."""
        bases, left = self.bases(), Counter[str]()
        self.prices = Prices(self.data, bases, search.MEASURING_SHARE * self.budget)
        candidates = search.first_candidates(bases, self.data, self.explicit, left)
        best = self.rung(0, self.affordable(candidates, left), left)[: search.SURVIVORS]

        if not best:
            raise HeadstartError(f"no trial of {self.run.path} succeeded: its log says why")
        if not self.flips(best[0].config):
            best = [one.changed({}, flip=False) for one in best]

        left = Counter()
        stages = {str(one): self.two_stages(one.config) for one in best} if "fine_tune_from" not in self.explicit else {}
        candidates = search.second_candidates(best, self.explicit, stages)
        better = self.rung(1, self.affordable(candidates, left), left) or best

        left = Counter()
        candidates = search.third_candidates(better[: search.FINALISTS], self.explicit)
        ranked = self.rung(2, self.affordable(candidates, left), left) or better

        chosen = self.fitting_winner(ranked)
        places = [
            (number, place) for number, rung in enumerate(self.state["rungs"])
            for place, trial in enumerate(rung["trials"]) if trial["choices"] == chosen.choices
        ]  # fmt: skip
        self.prices.save(chosen.config)
        self.stop_clock("planning")
        winner: Winner = {"choices": chosen.choices, "options": search.options_of(chosen.config)}
        if places:
            winner["rung"], winner["trial"] = places[-1]
        return winner

    def bases(self) -> dict[str, Config]:
        """Return the configuration of each backbone that is tried; those that explicit options rule out are logged."""
        bases = {}
        for backbone in self.state["backbones"]:
            try:
                bases[backbone] = search.with_backbone(replace(self.config, budget=""), backbone, self.explicit)
            except HeadstartError as error:
                logger.info("%s is not tried: %s", backbone, error)
        if not bases:
            raise HeadstartError("no backbone on this machine can be combined with these options: name one with --backbone")
        return bases

    def affordable(self, candidates: list[Candidate], left: Counter[str]) -> list[Candidate]:
        """Return the candidates whose training would end in time; why the others are not tried is added to `left`.

        What is not known yet is measured, unless the next rung is planned already.

        Raises:
            HeadstartError: none of the first candidates would; the message says which budget is enough.
        """
        sizes: dict[str, set[int]] = {}
        for one in candidates:
            sizes.setdefault(one.config.backbone, set()).add(one.config.image_size)
        found, needed, failed = list[Candidate](), list[float](), None
        for one in candidates:
            parts = search.UNFROZEN in one.choices
            try:
                # A backbone is measured as a whole first, and its parts if there is time.
                whole = one.config if "fine_tune_from" in self.explicit else replace(one.config, fine_tune_from=ALL)
                self.prices.measure(whole, sizes[one.config.backbone])
                if parts:
                    self.prices.measure(one.config, sizes[one.config.backbone], anew=len(self.state["rungs"]) < 2)
            except HeadstartError as error:
                left[f"{one.choices[search.BACKBONE]}: {error}"] += 1
                failed = error
                continue
            ways = search.ways_to_train(one.config, self.explicit)
            # As long as nobody has chosen what is unfrozen, that may be nothing.
            shortest = min(self.prices.training(way) for way in ways if way.epochs or not (parts and one.config.epochs))
            needed.append(shortest)
            if shortest <= MARGIN * search.WINNERS_SHARE * self.budget:
                found.append(one)
            else:
                left[TOO_LONG] += 1
        self.stop_clock("measuring")
        if found or self.state["rungs"]:
            return found
        if failed and not needed:
            raise failed
        if not candidates:
            raise HeadstartError(next(iter(left)))
        least = search.least_that_fits(needed, self.spent)
        raise HeadstartError(
            f"--budget {self.config.budget} is too short: the shortest training takes about {duration(min(needed))} here, "
            f"and half of the budget is for trials; give --budget {least}, a smaller backbone, or --limit"
        )

    def flips(self, config: Config) -> bool:
        """Whether trials may mirror images: not if mirror images contradict the labels, which is tested once.

        Args:
            config: of the network whose features the test is made with.
        """
        if not config.flip or not self.run.config.flip or "flip" in self.explicit:
            return True
        if "images" not in self.run.mirror:
            keras.utils.clear_session()
            config = replace(config, epochs=0, mix="none")
            images = max((rung["images"] for rung in self.state["rungs"]), default=0) or search.FEWEST_FOR_MIRROR
            (seen,) = self.seen(self.at_size(config.image_size), 1, len(self.data.validation))
            data = search.part_of(seen, images, self.config.data_seed)
            _, frozen, _ = networks(data, config, self.precision)
            mirror_images_may_train(self.run, frozen, data, self.checkpoint)
            self.stop_clock("trials")
        return bool(self.run.mirror.get("flip", True))

    def two_stages(self, config: Config) -> str:
        """Return the layer with which the last two stages of a backbone begin; "" if there is none."""
        keras.utils.clear_session()
        backbone, _ = load_backbone(replace(config, trust=self.config.trust))
        return begin_of_stages(backbone, config.image_size, 2)

    def rung(self, number: int, candidates: list[Candidate], left: Counter[str]) -> list[Candidate]:
        """Make the trials of a rung that are not made, and return their candidates, the best first.

        If there is nothing to compare, or no time for it, the candidates are returned as they are.
        """
        if len(self.state["rungs"]) <= number:
            self.state["rungs"].append(self.plan_rung(number, candidates, left))
            write_json(self.state_file, self.state)
        rung = self.state["rungs"][number]
        trials = [Candidate(self.configured(trial["options"]), trial["choices"]) for trial in rung["trials"]]
        self.log_rung(number, rung)
        if not trials:
            return candidates if len(candidates) == 1 else []
        end = self.budget - ENDING - self.reserve(trials)
        results = [self.trial(number, place, one, rung, end) for place, one in enumerate(trials)]
        done = [(one, result) for one, result in zip(trials, results, strict=True) if result]
        scores = [(result["score"], result["error"]) for _, result in done]
        # As it was measured before: a search that is stopped and goes on chooses as one that is not.
        costs = [self.prices.training(one.config, corrected=False) for one, _ in done]
        return [done[place][0] for place in search.best_first(scores, costs)]

    def plan_rung(self, number: int, candidates: list[Candidate], left: Counter[str]) -> Rung:
        """Return what a rung tries, on how many images; without trials if there is nothing to compare or no time for it."""
        # Fine-tuning takes longer than fitting a head: only the last rung must not have fewer images than the one before.
        before = self.state["rungs"][1]["images"] if number == 2 else 0
        least = max(before, search.FEWEST, search.OF_EACH_CLASS * len(self.data.class_names))
        reading = sum(self.reading(size) for size in {one.config.image_size for one in candidates})
        seconds = max(0.0, self.budget - self.spent - ENDING - self.reserve(candidates) - reading)
        kinds = [self.seen(self.data, folds, self.most_scored(number)) for folds in self.folds]
        # In folds only with all images. The first candidates are in the order of their costs, so they are tried together; the
        # others are in the order of likelihood: the first few say more in folds than many that are ranked by chance.
        enough = 2 if number else len(candidates)
        # The later rungs get as much; where that leaves too little for this one, they are left out.
        for rungs in range(len(search.TITLES) - number, 0, -1):
            for seen in kinds:
                most = search.most_images(number, min(len(one.train) for one in seen))
                sharing = 2 if number and len(seen) > 1 else 4
                images, fit, expected = search.choose_trials(
                    candidates, self.data, seen, least, search.WANTED[number], seconds / rungs, self.prices, most, sharing
                )
                if images == most and len(fit) >= enough and fit[:1] == candidates[:1]:
                    break
            if len(fit) > 1:
                break
        else:
            fit = []
            if len(candidates) > 1 and not any(rung["trials"] for rung in self.state["rungs"]):
                self.refuse_budget(candidates, least)
        if len(candidates) > max(1, len(fit)):
            left[NO_TIME] += len(candidates) - len(fit)
        return {
            "title": search.TITLES[number], "images": images if fit else 0,
            "validation": sum(len(one.validation) for one in seen), "folds": len(seen),
            "trials": [
                {"choices": one.choices, "options": search.options_of(one.config), "expected": round(takes, 2)}
                for one, takes in zip(fit, expected, strict=False)
            ],
            "not_tried": [{"why": why, "trials": trials} for why, trials in left.items()],
        }  # fmt: skip

    @cached_property
    def folds(self) -> list[int]:
        """In how many folds trials are made, the best first, if there is time."""
        return search.folds_for(self.data, self.config.data_seed)

    def seen(self, data: Dataset, folds: int, scored: int) -> list[Dataset]:
        return search.seen_by_trials(data, folds, scored, self.config.data_seed)

    def most_scored(self, number: int) -> int:
        """Return on how many validation images the trials of a rung are ranked at most."""
        images = len(self.data.validation)
        return images if number == 2 else min(images, max(search.MOST_SCORED, 2 * len(self.data.class_names)))

    def refuse_budget(self, candidates: list[Candidate], least: int) -> None:
        """Raise `HeadstartError`: there is no time for two trials; the message says which budget has it."""
        seen = self.seen(self.data, 1, self.most_scored(0))
        _, _, expected = search.choose_trials(candidates, self.data, seen, least, 10**6, math.inf, self.prices, most=least)
        needed = self.spent + ENDING + sum(sorted(expected)[:2])
        raise HeadstartError(
            f"--budget {self.config.budget} is too short for two trials beside the training: give "
            f"--budget {math.ceil(needed / (1 - search.WINNERS_SHARE) / 60)}m, a smaller backbone, or --limit"
        )

    def reserve(self, candidates: list[Candidate]) -> float:
        """Return the seconds that are left to the winner's training, should it be one of these."""
        longest = max((self.prices.training(one.config) for one in candidates), default=0.0)
        return min(search.WINNERS_SHARE * self.budget, longest / MARGIN)

    def log_rung(self, number: int, rung: Rung) -> None:
        trials = rung["trials"]
        if trials:
            seconds = sum(trial["expected"] for place, trial in enumerate(trials) if not self.has_result(number, place))
            logger.info(
                "rung %d of %d, %s: %s on %s, about %s", number + 1, len(search.TITLES), rung["title"],
                count(len(trials), "trial"), search.learned_on(rung), duration(seconds),
            )  # fmt: skip
        for reason in rung["not_tried"]:
            logger.info("%s: %s not tried: %s", rung["title"], count(reason["trials"], "candidate"), reason["why"])

    def configured(self, options: dict[str, Any]) -> Config:
        """Return the configuration that recorded options stand for.

        Raises:
            HeadstartError: an option is unknown or out of range.
        """
        base = search.with_backbone(replace(self.config, budget=""), str(options.get("backbone")), self.explicit)
        return replace(base, **options)

    def folder(self, number: int, place: int) -> Path:
        return self.run.path / TRIALS / f"{number + 1}-{place + 1:02}"

    def has_result(self, number: int, place: int) -> bool:
        return (self.folder(number, place) / "trial.json").exists()

    def trial(self, number: int, place: int, one: Candidate, rung: Rung, end: float) -> TrialResult | None:
        """Make a trial, or read the result of one that was made; None if there was no time for it, or it failed.

        Args:
            end: when it must have ended, in seconds of the search.
        """
        folder, expected = self.folder(number, place), rung["trials"][place]["expected"]
        config = search.as_tried(one, rung["images"], len(self.data.train))
        if self.has_result(number, place):
            result: TrialResult = read_entries(folder, "trial.json")
            self.prices.learn(config, result["seconds"], expected)
            return result
        if earlier := self.same_trial(number, config, rung):  # as a finalist on no more images
            shutil.copytree(earlier, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("trial.json"))
            write_json(folder / "trial.json", result := read_entries(earlier, "trial.json"))
            return result
        if len(self.state["rungs"]) > number + 1:  # an earlier process had no time for it, and went on without it
            return None
        takes = expected * self.prices.correction(config) + self.reading(config.image_size)
        what = f"trial {place + 1} of {len(rung['trials'])}, {one}"
        if self.spent + takes > end:
            logger.info("%s: not made: about %s would be too long", what, duration(takes))
            self.drop(number, NO_TIME)
            return None
        begin = time.monotonic()
        try:
            whole = self.at_size(config.image_size)
            begin = time.monotonic()
            seen = self.seen(whole, rung.get("folds", 1), rung["validation"])
            parts = [search.part_of(one, rung["images"], self.config.data_seed) for one in seen]
            tried, found = replace(config, class_weights=self.state.get("class_weights", config.class_weights)), []
            with quiet():
                for data in parts:
                    found.append(try_out(tried, data, self.precision, lambda: self.spent > end))
                    tried = replace(tried, class_weights=found[0][2].class_weights)
        except OutOfTime:
            logger.info("%s: stopped: it took longer than expected", what)
            self.drop(number, NO_TIME)
            return None
        except HeadstartError as error:
            logger.warning("%s: failed: %s", what, error)
            self.drop(number, str(error))
            return None
        finally:
            seconds = time.monotonic() - begin
            self.stop_clock("trials")
        _, history, used = found[0]
        if "class_weights" not in self.state and used.class_weights != "auto":
            # Chosen by the first trial for all: trials that differ in it by chance would not be alike. The winner's training
            # chooses anew, in the same way, on all images.
            self.state["class_weights"] = used.class_weights
            write_json(self.state_file, self.state)
        logits = np.concatenate([of_fold for of_fold, _, _ in found])
        asked = np.concatenate([part.validation for part in parts])
        result = measure(logits, whole.labels(asked), self.state["ranked_by"], seconds, self.spent, whole.groups(asked))
        folder.mkdir(exist_ok=True)
        write_toml(replace(used, out=""), folder / "options.toml")
        write_history(folder, history)
        with written_whole(folder / "validation.npy") as partial:
            np.save(partial, logits)
        write_json(folder / "trial.json", result)  # last: it marks the trial as made
        self.prices.learn(config, seconds, expected)
        self.prices.features |= search.feature_files(config, parts[0]).keys()
        logger.info(
            "%s: validation %.2f %% (%.2f to %.2f), %s; %s left", what, 100 * result["accuracy"],
            *(100 * value for value in result["interval"]), duration(seconds), duration(max(0.0, self.budget - self.spent)),
        )  # fmt: skip
        return result

    def same_trial(self, number: int, config: Config, rung: Rung) -> Path | None:
        """Return the folder of a trial of an earlier rung with the same options and images, if there was one."""
        for before, other in enumerate(self.state["rungs"][:number]):
            if all(other.get(name, 1) == rung.get(name, 1) for name in ("images", "validation", "folds")):
                for place, trial in enumerate(other["trials"]):
                    one = Candidate(self.configured(trial["options"]), trial["choices"])
                    same = search.as_tried(one, other["images"], len(self.data.train)) == config
                    if same and self.has_result(before, place):
                        return self.folder(before, place)
        return None

    def drop(self, number: int, why: str) -> None:
        """Count a trial that was planned and not made."""
        self.dropped.setdefault(number, Counter())[why] += 1

    def reading(self, size: int) -> float:
        """Return the seconds that it takes to decode a folder's images at a size that is not loaded."""
        loaded = not self.data.source.files or size == self.config.image_size or size in self.sources
        return 0.0 if loaded else self.loading

    def at_size(self, size: int) -> Dataset:
        """Return the data with their images at a size, and the same splits: a folder's images are decoded at the image size."""
        source = self.data.source
        if not source.files or size == self.config.image_size:
            return self.data
        if size not in self.sources:
            other = read_source(self.config.data, size, Labelling.of(self.config), decoding=source.decoding)
            if other.files != source.files or not np.array_equal(other.labels, source.labels):
                raise HeadstartError(f"{source.name} has changed since the search began: start it again with --overwrite")
            self.sources = {size: dataclasses.replace(self.data, source=other)}  # one at a time: they are large
        return self.sources[size]

    def fitting_winner(self, ranked: list[Candidate]) -> Candidate:
        """Return the best candidate whose training ends in the time that is left, with as many epochs as fit."""
        left = MARGIN * (self.budget - self.spent - ENDING)
        trainings = [
            (self.prices.training(way), Candidate(way, one.choices))
            for one in ranked for way in search.ways_to_train(one.config, self.explicit)
        ]  # fmt: skip
        fitting = [one for takes, one in trainings if takes <= left]
        # Without fine-tuning only where nothing fits with it, or where a trial without it was better.
        tuned = [one for one in fitting if one.config.epochs or one.choices.get(search.UNFROZEN) == search.NOTHING]
        if fitting:
            return (tuned or fitting)[0]
        takes, shortest = min(trainings, key=lambda training: training[0])
        logger.warning("the shortest training takes about %s, and %s are left", duration(takes), duration(max(0.0, left)))
        return shortest

    def train_winner(self) -> Run:
        """Train the winner on all training images, or go on with that, and return its run."""
        winner, path = self.state["winner"], self.run.path / WINNER
        config = replace(self.configured(winner["options"]), out=str(path))
        logger.info("the winner is trained on all images: %s", ", ".join(search.shown_choices(winner["choices"])))
        data, trust = self.at_size(config.image_size), self.config.trust
        self.stop_clock("planning")
        keras.utils.clear_session()
        if (path / "config.toml").exists():
            trained = resume(path, data, trust=trust, devices=self.config.devices)
        else:
            fixed = self.explicit | winner["options"].keys() - {"flip"}
            trained = train(replace(config, trust=trust), data, explicit=fixed)
        self.stop_clock("winner")
        return trained

    def write_tuning(self, trained: Run) -> None:
        """Write `report.html` and, last, `tuning.json`, which marks the search as finished."""
        results = [
            [read_entries(self.folder(number, place), "trial.json") if self.has_result(number, place) else None
             for place in range(len(rung["trials"]))]
            for number, rung in enumerate(self.state["rungs"])
        ]  # fmt: skip
        rungs: Any = [
            rung | {"not_tried": [*rung["not_tried"], *({"why": why, "trials": trials} for why, trials in
                                                        self.dropped.get(number, Counter()).items())]}
            for number, rung in enumerate(self.state["rungs"])
        ]  # fmt: skip
        seconds = {name: round(value, 2) for name, value in self.checkpoint.seconds.items()}
        content: Any = self.state | {
            "rungs": rungs, "budget": self.config.budget, "results": results,
            "seconds": seconds | {"total": round(self.spent, 2)}, "test": list(trained.metrics["test"].values())[-1],
        }  # fmt: skip
        write_tuning_report(self.run, trained, content)
        write_json(self.run.path / "tuning.json", content)


def try_out(config: Config, data: Dataset, precision: str, too_late: Any) -> tuple[np.ndarray, list[EpochRow], Config]:
    """Train on the data of a trial, as a training on all images does.

    Returns:
        The logits of its validation images, float32 (N, classes), its history, and the configuration with the head and the class
        weights that were chosen.

    Args:
        too_late: a function that is asked after each epoch whether to stop.

    Raises:
        OutOfTime: it was too late.
        HeadstartError: the options do not work with these data.
    """
    keras.utils.clear_session()
    give_back_freed_memory()
    seed_everything(config.seed, config.deterministic)
    checkpoint = Unsaved()

    def watch(history: list[EpochRow]) -> None:
        if too_late():
            raise OutOfTime

    checkpoint.watchers = [watch]
    with explained_memory(config):
        network, frozen, _ = networks(data, config, precision)
        config, _ = decide_weights(frozen, data, config, checkpoint)
        # The training's audit finds the strength of its linear head by cross-validation, which takes longer than a trial.
        config, _ = decide_head(network, frozen, data, config, checkpoint, {}, None)
        for stage in stages_of(config):
            prepare = frozen_stage if stage == FROZEN else fine_tuning_stage
            training = prepare(network, frozen, data, config, checkpoint)
            fit_stage(training, checkpoint, config.patience)
            network.take(training.learner)
        batches = training.validation
        # Keras computes them: to start OpenVINO would take longer.
        inputs = (batches[number][0] for number in range(batches.num_batches))
        engine = Engine(without_augmentation(training.learner))
        return np.concatenate(list(network_logits(engine.outputs, inputs, 0))), checkpoint.history, config


def measure(
    logits: np.ndarray, labels: np.ndarray, ranked_by: str, seconds: float, ended: float, groups: np.ndarray | None = None
) -> TrialResult:  # fmt: skip
    """Return the result of a trial; its `score` is what ranks it, with its standard error."""
    right = logits.argmax(axis=1) == labels
    of_classes = [labels == label for label in np.unique(labels)]
    recalls = np.array([right[rows].mean() for rows in of_classes])
    if ranked_by == "accuracy":
        score, error = float(right.mean()), standard_error(right, groups)
    else:
        # Classes count as independent, even if groups have images of several.
        errors = [standard_error(right[rows], None if groups is None else groups[rows]) for rows in of_classes]
        score, error = float(recalls.mean()), float(np.sqrt(np.square(errors).sum())) / len(errors)
    low, high = interval_of(right, groups)
    return {
        "accuracy": float(right.mean()), "interval": (low, high), "macro_recall": float(recalls.mean()), "score": score,
        "error": error, "seconds": round(seconds, 2), "ended": round(ended, 2),
    }  # fmt: skip


def standard_error(right: np.ndarray, groups: np.ndarray | None) -> float:
    """Return the standard error of a share of right answers, with two right and two wrong ones added (Agresti and Coull 1998).

    Without these, 14 of 14 would have none, and would be taken for better than 12 of 14. With groups, their `effective_images`
    count.
    """
    images = len(right) if groups is None else effective_images(right, groups)
    share = float((right.mean() * images + 2) / (images + 4))
    return float(np.sqrt(share * (1 - share) / (images + 4)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Log warnings only: a trial's epochs would fill the screen."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
