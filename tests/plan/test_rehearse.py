"""The measurement of this machine: how much memory it takes itself, and what it says of a training's."""

import subprocess

import numpy as np
import pytest

import headstart as hs
from headstart.model.backbones import load_backbone
from headstart.model.network import build_network
from headstart.plan import costs, rehearse
from headstart.training.blocks import ROWS_OF_BLOCK
from headstart.training.features import extraction_batch
from helpers import random_images


def memory_of(config, digits, folder, monkeypatch, each):
    """Return the batches that are tried, and the costs, on a machine where an image of a batch takes so many MB."""
    tried = []

    def timed(model, inputs, labels, batch, devices="1", **options):
        tried.append(batch)
        clock = rehearse.Clock()
        clock.ticks = [0.1 * number for number in range(9)]
        return clock, clock

    monkeypatch.setattr(rehearse, "timed", timed)
    monkeypatch.setattr(rehearse, "has_gpu", lambda: False)
    monkeypatch.setattr(rehearse, "available_memory", lambda: 24e9)
    monkeypatch.setattr(rehearse, "peak_memory_mb", lambda: 800.0 + each * (tried[-1] if tried else 0))
    network = build_network(*load_backbone(config), digits.image_shape, 10, config, "float32")
    return tried, rehearse.tuning_costs(network, digits.images(digits.train), digits.labels(digits.train), 10, config, folder)


@pytest.mark.parametrize(("each", "batches"), [(1, [8, 32, 128]), (55, [8, 32]), (200, [8, 16])])
def test_large_batches_are_not_tried_but_their_memory_is_foretold(each, batches, digits, tmp_path, monkeypatch):
    config = hs.recipe("starter", image_size=16)
    tried, cost = memory_of(config, digits, tmp_path, monkeypatch, each)
    assert tried == batches
    assert cost["memory_image"] == pytest.approx(each * 1e6)
    assert cost["tune_memory"] == pytest.approx(8e8)


def test_a_sample_of_large_images_is_a_small_one(tmp_path, monkeypatch):
    sent = {}

    def run(command, **options):
        with np.load(f"{command[-1]}/images.npz") as sample:
            sent.update({name: sample[name].shape for name in sample})
        return subprocess.CompletedProcess(command, 1, "", "stopped")

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(costs, "MOST_BYTES_OF_SAMPLE", 100 * 32 * 32 * 3)
    data = hs.Dataset.from_arrays(random_images(300), np.arange(300) % 2)
    with pytest.raises(costs.NotMeasured, match="stopped"):
        costs.measure_apart(hs.recipe("starter"), data, [32])
    assert sent == {"images": (100, 32, 32, 3), "labels": (100,)}


def test_fewer_large_images_pass_through_the_frozen_layers_together():
    usual = extraction_batch(32, gpu=False)
    assert extraction_batch(224, gpu=False) == usual
    assert extraction_batch(300, gpu=False) == usual // 2
    batches = [extraction_batch(side, gpu=False) for side in range(16, 4000, 48)]
    assert batches == sorted(batches, reverse=True)
    assert all(ROWS_OF_BLOCK % batch == 0 for batch in batches)
