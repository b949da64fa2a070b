"""The runs that are served, without HTTP."""

import asyncio
import json
import shutil

import numpy as np
import pytest

import headstart as hs
from headstart.errors import HeadstartError
from headstart.metrics.rejection import best_promise
from headstart.serve.batching import KerasEngine
from headstart.serve.limits import Refusal
from headstart.serve.measures import Measures
from headstart.serve.models import Models
from headstart.system.files import write_json
from headstart.system.reading import seal
from helpers import random_images
from serving import picture


def test_a_run_whose_files_have_changed_explains_nothing_and_says_nothing_of_its_folder(served_run, tmp_path, caplog):
    folder = shutil.copytree(served_run.path, tmp_path / "secret")
    models = Models([folder], False, Measures())
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"oops")
    with pytest.raises(Refusal) as found:
        asyncio.run(models.explain(models.named(None), picture()))
    assert found.value.status == 503
    assert "secret" not in found.value.message
    assert "weights.safetensors" in caplog.text
    assert not models.explaining


def test_one_image_is_explained_at_a_time(served_run):
    models = Models([served_run.path], False, Measures())

    async def both() -> list[object]:
        served = models.named(None)
        return await asyncio.gather(*(models.explain(served, picture()) for _ in range(2)), return_exceptions=True)

    first, second = asyncio.run(both())
    assert first[0].startswith(b"\x89PNG")
    assert isinstance(second, Refusal)
    assert (second.status, second.headers) == (503, {"retry-after": "1"})


def test_links_and_other_files_of_a_run_are_not_handed_out(served_run, tmp_path):
    folder = shutil.copytree(served_run.path, tmp_path / "model")
    models = Models([folder], False, Measures())
    (folder / "report.html").unlink()
    (folder / "report.html").symlink_to("/etc/passwd")
    (folder / "images" / "gain.png").unlink()
    (folder / "images" / "gain.png").symlink_to("/etc/passwd")
    for name in ("report.html", "images/gain.png", "config.toml", "images/missing.png", "/etc/passwd", "images//etc/passwd"):
        with pytest.raises(Refusal) as found:
            models.named(None).report_file(name)
        assert found.value.status == 404
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refusal):
        models.named(None).report_file("images/history.png")


def test_examples_are_left_out_if_the_data_are_gone_or_others(photos_run, photos, tmp_path):
    data, folder = shutil.copytree(photos, tmp_path / "data"), shutil.copytree(photos_run.path, tmp_path / "model")
    config = folder / "config.toml"
    config.write_text(config.read_text().replace(str(photos), str(data)))
    assert Models([folder], False, Measures()).about()["models"][0]["examples"]
    for file in (data / "test").rglob("*.png"):
        file.write_bytes(picture())
    assert Models([folder], False, Measures()).about()["models"][0]["examples"] == []
    shutil.rmtree(data)
    assert Models([folder], False, Measures()).about()["models"][0]["examples"] == []


def test_keras_computes_where_openvino_does_not(served_run, tmp_path):
    folder = shutil.copytree(served_run.path, tmp_path / "model")
    content = json.loads((folder / "manifest.json").read_text())
    content["sha256"] = {name: value for name, value in content["sha256"].items() if not name.startswith("model.")}
    write_json(folder / "manifest.json", content | {"seal": seal(content)})
    served = Models([folder], False, Measures()).named(None)
    assert isinstance(served.batcher.engine, KerasEngine)
    bodies = [picture(seed=seed) for seed in range(5)]
    found, expected = asyncio.run(served.answers(bodies)), hs.Run(folder).predict(bodies)
    np.testing.assert_allclose([one.probabilities for one in found], expected.probabilities, atol=1e-5)
    assert [one.unlike for one in found] == expected.outsiders.tolist()


def test_answers_that_are_not_sure_enough_are_withheld_as_by_predict(small_run, digits):
    limits = small_run.classifier.limits
    wanted = best_promise(limits.confidences, limits.correct)
    served = Models([small_run.path], False, Measures(), reject=wanted).named(None)
    images = [*digits.images(digits.test[:12]), *random_images(4, 8)]
    found, expected = asyncio.run(served.classify(images)), small_run.predict(images, reject=wanted)
    assert [served.label(one) for one in found] == expected.labels
    assert [served.rejects(one) for one in found] == expected.rejected.tolist()
    assert {True, False} == set(expected.rejected.tolist())
    assert served.about["reject_below"] == expected.threshold
    with pytest.raises(HeadstartError, match=r"do not support a precision of 99\.9 %"):
        Models([small_run.path], False, Measures(), reject=0.999)


def test_two_runs_of_one_name_are_refused(served_run, tmp_path):
    other = shutil.copytree(served_run.path, tmp_path / "served")
    with pytest.raises(HeadstartError, match="two runs are named"):
        Models([served_run.path, other], False, Measures())
