import dataclasses
import os

import pytest

import headstart as hs
from headstart.config import Config, budget_seconds, read_toml, replace, write_toml
from headstart.recipes import MEASURED, RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_toml_file(name, tmp_path):
    config = hs.recipe(name, data='a "quoted" Ordner/ü')
    write_toml(config, tmp_path / "config.toml")
    assert Config(**read_toml(tmp_path / "config.toml")) == config
    assert config.recipe == name


@pytest.mark.parametrize(
    "path", [b"no UTF-8: \xe9", b"control: \x01 \t \r\n \x1b[31m \x7f", "\U0001f600 \u4f60 \u202e \u2028".encode()]
)
def test_any_path_survives_the_toml_file(path, tmp_path):
    config = Config(data=os.fsdecode(path))
    write_toml(config, tmp_path / "config.toml")
    # All but `trust`, since a file from somebody else would trust itself, and those of the place, where a run resumes on others.
    kept = {name: value for name, value in vars(config).items() if name not in ("trust", "devices", "ray")}
    assert read_toml(tmp_path / "config.toml") == kept


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"trust = true", "sets trust, which only the command line can"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"#" * (1 << 20) + b"\n", "larger than"),
        (b"epochs = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
    ],
)
def test_a_hostile_file_of_options_is_refused_in_a_line(content, message, tmp_path):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(hs.HeadstartError, match=message) as refusal:
        read_toml(tmp_path / "config.toml")
    assert "\n" not in str(refusal.value)


def test_a_pipe_as_a_file_of_options_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(hs.HeadstartError, match="is no regular file"):
        read_toml(tmp_path / "pipe")


def test_a_toml_file_may_be_marked_as_utf_8(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbfepochs = 3")
    assert read_toml(tmp_path / "config.toml") == {"epochs": 3}


@pytest.mark.parametrize(
    ("changes", "views"),
    [({}, 5), ({"translation": 0}, 2), ({"translation": 0, "flip": False}, 1), ({"translation": 0, "rand_augment": True}, 5)],
)
def test_there_are_no_more_views_than_the_augmentation_makes(changes, views):
    assert replace(hs.recipe("starter", views=5), **changes).views == views


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_sise": 64}, "did you mean image_size"),
        ({"image_size": 4}, "8 to 1024"),
        ({"image_size": "64"}, "--image-size wants int"),
        ({"rotation": float("nan")}, "--rotation is nan"),
        ({"epochs": True}, "--epochs wants int"),
        ({"mix": "mixupp"}, "did you mean mixup"),
        ({"weights": "none", "epochs": 0, "fine_tune_from": "all"}, "trains nothing"),
        ({"weights": "none", "fine_tune_from": "conv4"}, "give --fine-tune-from all"),
        ({"weights": "none", "fine_tune_from": "all", "batch_norm": "inference"}, "leave out --batch-norm"),
        ({"backbone": "a.keras", "weights": "imagenet"}, "brings its own weights"),
        ({"backbone": "starter", "weights": "imagenet"}, "not trained on ImageNet"),
        ({"budget": "20"}, "such as 90s, 20m or 1.5h"),
        ({"budget": "0m"}, "is no time"),
        ({"devices": "0"}, "--devices '0' is none of what it accepts: all, cluster, or a number such as 2"),
        ({"devices": "gpu"}, "is none of what it accepts"),
        ({"devices": "cluster", "budget": "20m"}, "leave out --budget or --devices cluster"),
        ({"epochs": 0, "mix": "cutmix"}, "acts in fine-tuning"),
        ({"data": "a\0b"}, "--data holds a zero byte"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(hs.HeadstartError, match=message):
        hs.recipe("quick", **changes)


def test_an_unknown_recipe_gets_a_suggestion():
    with pytest.raises(hs.HeadstartError, match="did you mean standard"):
        hs.recipe("standart")


def test_a_whole_number_serves_where_a_fraction_is_wanted():
    assert hs.recipe("quick", learning_rate=1).learning_rate == 1.0


@pytest.mark.parametrize(("budget", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("", 0), ("-5m", 0), ("1e3s", 0)])
def test_a_budget_is_a_time(budget, seconds):
    assert budget_seconds(budget) == seconds


def test_a_broken_toml_file_is_named(tmp_path):
    (tmp_path / "bad.toml").write_text("epochs = ")
    with pytest.raises(hs.HeadstartError, match=r"bad\.toml is not TOML"):
        read_toml(tmp_path / "bad.toml")


def test_the_help_of_recipe_names_them_all():
    help = {field.name: field.metadata["help"] for field in dataclasses.fields(Config)}["recipe"]
    assert [name for name in RECIPES if name not in help] == []


def test_what_was_measured_is_of_a_recipe():
    assert set(MEASURED) == set(RECIPES) - {"best"}
    assert all(0 < one.accuracy < 1 and one.minutes > 0 for one in MEASURED.values())


@pytest.mark.parametrize(("before", "now"), [(True, "balanced"), (False, "none")])
def test_class_weights_were_a_switch_in_earlier_versions(before, now, tmp_path):
    assert hs.recipe("quick", class_weights=before).class_weights == now
    (tmp_path / "config.toml").write_text(f"class_weights = {str(before).lower()}\n")
    assert Config(**read_toml(tmp_path / "config.toml")).class_weights == now
    with pytest.raises(hs.HeadstartError, match="--flip wants bool"):
        hs.recipe("quick", flip="balanced")
