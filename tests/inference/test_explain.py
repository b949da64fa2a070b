import dataclasses

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

import headstart as hs
from headstart.cli.main import main
from headstart.inference import explain
from headstart.inference.explain import Explanations, covered, heat_maps, occlusion, overlay, resized
from headstart.inference.predictions import Predictions
from headstart.model.backbones import load_backbone
from headstart.model.head import standardise
from headstart.model.network import Network, build_network

SIDE, OBJECT = 128, 64


def plain(count: int, side: int) -> np.ndarray:
    """Images of one shade of grey each."""
    return np.broadcast_to(np.linspace(60, 200, count).astype(np.uint8)[:, None, None, None], (count, side, side, 3)).copy()


def planted(count: int, side: int = SIDE, size: int = OBJECT) -> tuple[np.ndarray, np.ndarray]:
    """Plain images with a square of coloured checks in one quarter, and where it lies, bool (N, side, side)."""
    generator = np.random.default_rng(0)
    images, where = plain(count, side), np.zeros((count, side, side), bool)
    for image, mask in zip(images, where, strict=True):
        top, left = generator.integers(0, 2, 2) * (side - size)
        checks = generator.integers(0, 2, (8, 8, 3)).astype(np.uint8) * 255
        image[top : top + size, left : left + size] = checks.repeat(size // 8, 0).repeat(size // 8, 1)
        mask[top : top + size, left : left + size] = True
    return images, where


def network_that_knows_the_object(backbone: str, images: np.ndarray, **options) -> Network:
    """A network whose linear head tells images with the object (class 1) from plain grey ones (class 0)."""
    keras.utils.set_random_seed(0)
    size = images.shape[1]
    weights = "auto" if backbone == "starter" or backbone.endswith(".keras") else "none"
    config = hs.Config(backbone=backbone, weights=weights, image_size=size, hidden_units=0, precision="float32", **options)
    # With the head of a pretrained network, and so with standardised features.
    pretrained = dataclasses.replace(config, weights="auto")
    network = build_network(*load_backbone(config), (size, size, 3), 2, pretrained, "float32")
    both = np.concatenate([plain(len(images), size), images])
    features = features_of(network, both)
    standardise(network.head, [features])
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    fitted = LogisticRegression().fit((features - mean) / deviation, np.repeat([0, 1], len(images)))
    # The head's own layer leaves channels that hardly vary smaller than 1, as those of random networks are.
    kernel = fitted.coef_[0] / deviation * np.sqrt(deviation**2 + network.head.get_layer("standardise").epsilon) / 2
    network.head.get_layer("logits").set_weights([np.stack([-kernel, kernel], axis=1), np.zeros(2)])
    return network


def features_of(network: Network, images: np.ndarray) -> np.ndarray:
    features = network.feature_extractor()
    features.compile(jit_compile=False)
    return np.asarray(features.predict_on_batch(images))


def own_backbone(folder) -> str:
    """A user's own network, saved as they would."""
    keras.utils.set_random_seed(1)
    images = x = keras.Input((None, None, 3))
    for channels in (8, 16, 32):
        x = keras.layers.Conv2D(channels, 3, 2, "same", activation="relu")(x)
    keras.Model(images, x, name="mine").save(folder / "mine.keras")
    return str(folder / "mine.keras")


# With random weights, which say little; MobileNets' say nothing at all about where something is. What is computed does not
# depend on the backbone, but on how its images are prepared and how small its map is.
@pytest.mark.parametrize("backbone", ["starter", "resnet50", "efficientnetv2b0", "a user's own"])
def test_the_map_points_at_a_planted_object(backbone, tmp_path):
    images, where = planted(8)
    options = {}
    if backbone == "a user's own":
        backbone, options = own_backbone(tmp_path), {"preprocess": "unit"}
    network = network_that_knows_the_object(backbone, images, **options)
    maps, method = heat_maps(network, images, np.ones(len(images), int))
    assert method.startswith("HiResCAM")
    assert_points_at(maps, where)


def test_a_feature_map_too_coarse_to_point_gives_way_to_occlusion(tmp_path):
    images, where = planted(8, side=16, size=8)
    network = network_that_knows_the_object("starter", images)
    maps, method = heat_maps(network, images, np.ones(len(images), int))
    assert method.startswith("occlusion")
    assert "only 2 x 2)" in method
    assert_points_at(maps, where)


def assert_points_at(maps: np.ndarray, where: np.ndarray) -> None:
    assert maps.shape == where.shape
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1)
    # The object is a quarter of the image: a map that knows nothing has a quarter of its mass there.
    inside = (maps * where).sum(axis=(1, 2)) / maps.sum(axis=(1, 2))
    assert inside.mean() > 0.5
    # The pointing game (Zhang et al. 2016): the map's largest value lies on the object.
    assert np.mean([mask.flat[one.argmax()] for one, mask in zip(maps, where, strict=True)]) > 0.8


@pytest.mark.parametrize(("hidden_units", "precision"), [(0, "float32"), (16, "float32"), (16, "bfloat16")])
def test_the_map_is_that_of_numerical_differences(hidden_units, precision):
    keras.utils.set_random_seed(0)
    config = hs.Config(backbone="starter", image_size=32, hidden_units=hidden_units, precision=precision)
    network = build_network(*load_backbone(config), (32, 32, 3), 3, config, precision)
    images, classes = planted(8, side=32, size=16)[0], np.arange(8) % 3
    standardise(network.head, [features_of(network, np.concatenate([plain(8, 32), images]))])
    maps, method = heat_maps(network, images, classes)
    assert method == "HiResCAM, 4 x 4 positions"
    expected = maps_by_differences(network, images, classes)
    for one, other in zip(maps, expected, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


def maps_by_differences(network: Network, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Heat maps from the network's own logits: how fast the class's, less the mean, grows as a position's does."""
    maps = np.asarray(network.feature_map().predict_on_batch(images), np.float32)
    inputs = keras.Input(maps.shape[1:])
    head = keras.Model(inputs, network.head(network.pool(inputs)))
    count, rows, columns, _ = maps.shape
    positions = np.eye(rows * columns, dtype=np.float32).reshape(1, -1, rows, columns, 1)
    larger, smaller = (
        np.asarray(head.predict_on_batch((maps[:, None] * (1 + step * positions)).reshape(-1, *maps.shape[1:])), np.float64)
        for step in (0.01, -0.01)
    )
    logits = (larger - smaller).reshape(count, rows * columns, -1)
    growth = logits[np.arange(count), :, classes] - logits.mean(axis=2)
    above = np.maximum(growth - growth.mean(axis=1, keepdims=True), 0).reshape(count, rows, columns)
    return np.stack([resized(one, images.shape[2:0:-1]) for one in above])


@pytest.mark.parametrize("products", [False, True])
def test_occlusion_covers_one_square_after_the_other(products, monkeypatch):
    monkeypatch.setattr(explain, "small_convolutions_are_slow", lambda: products)
    images, _ = planted(5, side=16, size=8)
    network, classes = network_that_knows_the_object("starter", images), np.array([1, 0, 1, 1, 0])
    falls, model = occlusion(network, images, classes), network.classifier()
    for image, label, fall in zip(images, classes, falls, strict=True):
        whole, *covers = (np.asarray(model.predict_on_batch(one[None]))[0] for one in covered(image))
        expected = [(whole - cover)[label] - (whole - cover).mean() for cover in covers]
        np.testing.assert_allclose(fall.ravel(), expected, rtol=1e-3, atol=1e-3)


def test_a_square_covers_a_quarter_of_the_side_with_the_mean_colour():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    whole, *covers = covered(image)
    np.testing.assert_array_equal(whole, image)
    changed = [(cover != image).any(axis=2) for cover in covers]
    np.testing.assert_array_equal(np.flatnonzero(changed[24].any(axis=1)), np.arange(12, 20))
    assert np.any(changed, axis=0).all()


def test_a_run_explains_files_and_skips_what_is_no_image(small_run, digits, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number, image in enumerate(digits.images(digits.test[:2])):
        Image.fromarray(image).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no image")
    main(["explain", str(small_run.path), str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert "skipped" in printed.err
    assert "broken.jpg" in printed.err
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["001-0.png", "002-1.png"]
    assert all(str(file) in printed.out for file in files)
    assert Image.open(files[0]).size == (224, 224)
    explanations = small_run.explain(tmp_path / "in")
    assert explanations.maps.shape == explanations.images.shape[:3] == (2, 8, 8)
    assert explanations.predictions.labels == small_run.predict(tmp_path / "in").labels


@pytest.mark.parametrize(("images", "message"), [([], "no images to look at"), ("missing.jpg", "no file or folder")])
def test_what_cannot_be_explained_is_said(small_run, images, message):
    with pytest.raises(hs.HeadstartError, match=message):
        small_run.explain(images)


def test_nothing_readable_is_an_error(small_run, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(hs.HeadstartError, match="none of 1 image"):
        small_run.explain(tmp_path)


# As files on Linux may be called; the last is no UTF-8.
AWKWARD = [
    "a" * 251 + ".png",
    "\N{PILE OF POO}" * 62 + ".png",
    "two\nlines\t\x1b[31m.png",
    "<b>:|?*.png",
    "image 3",
    "..",
    "",
    "\udcff.png",
]


def explanations(*names: str) -> Explanations:
    count = len(names)
    predictions = Predictions(list(names), np.ones((count, 1), np.float32), ("thing",), [])
    return Explanations(np.zeros((count, 8, 8, 3), np.uint8), np.zeros((count, 8, 8), np.float32), predictions, "none")


def test_every_name_gives_a_file_that_any_system_can_hold(tmp_path):
    files = explanations(*(f"/some where/{name}" for name in AWKWARD)).save(tmp_path / "new" / "out")
    assert sorted(files) == sorted((tmp_path / "new" / "out").iterdir())
    assert [file.name[:4] for file in files] == [f"{number:03d}-" for number in range(1, len(AWKWARD) + 1)]
    for file in files:
        assert Image.open(file).size == (224, 224)
        assert len(file.name.encode()) < 120
        assert file.name.isprintable()
        assert not set(file.name) & set('<>:"/\\|?*')
    assert files[2].name == "003-two_lines__[31m.png"


def test_files_of_one_name_do_not_replace_each_other(tmp_path):
    files = explanations("a/same.png", "b/same.png").save(tmp_path)
    assert [file.name for file in files] == ["001-same.png", "002-same.png"]


@pytest.mark.parametrize("place", ["taken", "taken/deeper", "full", "~nobody-has-this-name/out"])
def test_a_folder_that_cannot_be_written_is_said_in_a_line(place, tmp_path):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "full" / "001-a.png" / "in the way").mkdir(parents=True)
    with pytest.raises(hs.HeadstartError, match=r"^[^:]* cannot be written: .+$") as caught:
        explanations("a.png").save(place if place.startswith("~") else tmp_path / place)
    assert "\n" not in str(caught.value)


def test_an_overlay_keeps_the_images_proportions():
    assert overlay(np.zeros((10, 20, 3), np.uint8), np.zeros((10, 20)), 50).size == (100, 50)
