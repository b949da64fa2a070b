import pytest

import headstart as hs
from headstart.model import starter
from headstart.model.backbones import OURS, built
from headstart.model.registry import BACKBONES, preprocess_by_name, refuse_unusable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", "caffe"),
        ("resnet50v2", "tf"),
        ("resnet50_v15", "caffe"),
        ("efficientnetv2-b0", "none"),
        ("convnext_tiny", "none"),
    ],
)
def test_families_are_known_by_their_model_names(name, expected):
    assert preprocess_by_name(name) == expected


def test_an_unknown_family_is_asked_for_not_guessed():
    with pytest.raises(hs.HeadstartError, match="--preprocess"):
        preprocess_by_name("functional_3")


def test_an_unknown_backbone_gets_a_suggestion():
    with pytest.raises(hs.HeadstartError, match="did you mean resnet50"):
        refuse_unusable(hs.recipe("quick", backbone="resnet5O"))


def test_a_size_below_the_minimum_is_refused():
    with pytest.raises(hs.HeadstartError, match="smallest is 32"):
        refuse_unusable(hs.recipe("scratch", backbone="resnet50", image_size=16))


def test_a_missing_weights_file_is_named():
    with pytest.raises(hs.HeadstartError, match=r"no file missing\.h5"):
        refuse_unusable(hs.recipe("quick", backbone="mobilenetv2", weights="missing.h5"))


def test_a_missing_backbone_file_is_named():
    with pytest.raises(hs.HeadstartError, match=r"there is no file net\.keras"):
        refuse_unusable(hs.recipe("quick", backbone="net.keras"))


@pytest.mark.parametrize("name", ["mobilenetv3small", *OURS])
def test_the_registry_counts_the_parameters_of_its_networks(name):
    one = BACKBONES[name]
    assert built(name, one, None).count_params() == one.parameters


def test_the_size_of_the_packaged_weights_is_true():
    assert BACKBONES["starter"].megabytes == pytest.approx(starter.WEIGHTS.stat().st_size / 1e6, rel=0.01)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_says_what_it_costs_and_allows(name):
    one = BACKBONES[name]
    assert one.licence in ("MIT", "BSD-3-Clause", "Apache-2.0")
    assert one.parameters > 9e5
    assert one.top1 is None or 0.68 <= one.top1 < 0.87
    assert (one.top1 is None) == (name == "starter")
    assert one.paper
