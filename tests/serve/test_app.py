"""What each address answers."""

import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from headstart.inference.explain import overlay
from serving import form, picture


@pytest.mark.parametrize(("kind", "side"), [("PNG", 32), ("JPEG", 300), ("WEBP", 77), ("GIF", 20), ("BMP", 64), ("TIFF", 40)])
def test_an_image_gets_the_probabilities_that_predict_gives(server, served_run, kind, side):
    body = picture(side, kind)
    found = server.post("/predict", body)
    assert found.status == 200
    content = found.json
    assert content["model"] == "served"
    assert content["version"] == served_run.classifier.manifest["seal"][:12]
    (one,) = content["predictions"]
    expected = served_run.predict(body)
    assert list(one["probabilities"]) == list(served_run.class_names)
    np.testing.assert_allclose(list(one["probabilities"].values()), expected.probabilities[0], atol=2e-6)
    assert (one["name"], one["class"]) == ("image 0", expected.labels[0])
    assert one["probability"] == max(one["probabilities"].values())
    assert one["rejected"] == (one["probability"] < 0.2)
    assert one["unlike"] is bool(expected.outsiders[0])


def test_several_images_come_back_in_order_and_one_that_is_damaged_in_its_place(server, served_run):
    images = [picture(seed=seed) for seed in range(5)]
    body, kind = form(*((f"ü{place}.png", one) for place, one in enumerate(images)), ("bad.jpg", b"no image"))
    found = server.post("/predict", body, content_type=kind)
    assert found.status == 200
    predictions = found.json["predictions"]
    assert [one["name"] for one in predictions] == [f"ü{place}.png" for place in range(5)] + ["bad.jpg"]
    assert set(predictions[5]) == {"name", "error"}
    probabilities = [list(one["probabilities"].values()) for one in predictions[:5]]
    np.testing.assert_allclose(probabilities, served_run.predict(images).probabilities, atol=2e-6)


def test_the_model_is_named_in_the_address(server, photos_run):
    body = picture()
    content = server.post("/predict?model=photos_served", body).json
    assert content["model"] == "photos_served"
    assert content["predictions"][0]["class"] == photos_run.predict(body).labels[0]
    found = server.post("/predict?model=none", body)
    assert found.status == 404
    assert "served" in found.json["error"]


def test_many_clients_at_once_get_each_their_own_answer(server, served_run):
    bodies = [picture(seed=seed) for seed in range(40)]
    found = [None] * 40

    def ask(place: int) -> None:
        found[place] = list(server.post("/predict", bodies[place]).json["predictions"][0]["probabilities"].values())

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, served_run.predict(bodies).probabilities, atol=2e-6)


def test_models_are_described(server, served_run, photos_run):
    content = server.get("/models").json
    assert content["limits"] == {"bytes": 20_000_000, "pixels": 50_000_000, "images": 64}
    first, second = content["models"]
    assert (first["name"], second["name"]) == ("served", "photos_served")
    figures = served_run.metrics["test"]["frozen"]
    assert (first["accuracy"], first["interval"], first["test_images"]) == (
        figures["accuracy"], figures["interval"], figures["images"],
    )  # fmt: skip
    assert first["classes"] == list(served_run.class_names)
    assert first["image"] == {"height": served_run.image_shape[0], "width": served_run.image_shape[1]}
    assert first["backbone"] == "tiny"  # a path, of which only the name is told
    assert first["trained_on"].startswith("digits, ")
    assert second["trained_on"].startswith("photos, ")
    assert str(photos_run.path.parent) not in json.dumps(content)


def test_examples_are_test_images_of_the_run_as_the_model_sees_them(server, served_run, photos_run):
    for model, run in zip(server.get("/models").json["models"], (served_run, photos_run), strict=True):
        assert len(model["examples"]) == 8
        assert len({one["class"] for one in model["examples"]}) == min(8, len(run.class_names))
        data = run.load_data()
        test = {image.tobytes(): data.class_names[label]
                for image, label in zip(data.images(data.test), data.labels(data.test), strict=True)}  # fmt: skip
        for one in model["examples"]:
            found = server.get(one["image"])
            assert found.headers["content-type"] == "image/png"
            assert test[np.asarray(Image.open(io.BytesIO(found.body))).tobytes()] == one["class"]
    assert server.get("/examples/served/8").status == 404
    assert server.get("/examples/served/-1").status == 404


def test_the_report_and_its_charts_are_all_that_is_handed_out_of_a_run(server, served_run):
    found = server.get("/report/served/report.html")
    assert found.body == (served_run.path / "report.html").read_bytes()
    assert "sandbox" in found.headers["content-security-policy"]
    assert found.headers["content-type"].startswith("text/html")
    assert server.get("/report/served/images/history.png").headers["content-type"] == "image/png"
    for name in ("manifest.json", "config.toml", "images/../config.toml", "images/%2e%2e/config.toml", "", "images/", "log.txt",
                 "images/other.png", "..%2f..%2fconfig.toml", "%00"):  # fmt: skip
        assert server.get(f"/report/served/{name}").status == 404, name
    assert server.get("/report/none/report.html").status == 404


def test_an_image_is_explained(server, served_run):
    body = picture()
    found = server.post("/explain", body)
    assert (found.status, found.headers["content-type"]) == (200, "image/png")
    assert found.headers["x-class"] == served_run.predict(body).labels[0]
    assert "%20positions" in found.headers["x-method"]
    image = Image.open(io.BytesIO(found.body))
    expected = served_run.explain(body)
    assert image.size == (224, 224)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(overlay(expected.images[0], expected.maps[0], 224)))
    assert server.post("/explain", b"no image").status == 415


def test_health_and_counts(server):
    assert server.get("/healthz").status == 200
    server.post("/predict", picture())
    text = server.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain")
    lines = [line for line in text.body.decode().splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    assert values['headstart_requests_total{path="/predict",status="200"}'] >= 1
    assert values['headstart_images_total{model="served"}'] >= 1
    assert values["headstart_requests_in_flight"] == 1  # this one
    assert values["headstart_request_seconds_count"] == values['headstart_request_seconds_bucket{le="+Inf"}'] >= 1
    assert 1 <= values["headstart_batch_images_count"] <= values["headstart_batch_images_sum"]


def test_every_answer_has_the_policies_and_none_lets_other_sites_read_it(server):
    for method, path in (("GET", "/"), ("GET", "/models"), ("GET", "/none"), ("OPTIONS", "/predict"), ("POST", "/predict")):
        found = server.ask(method, path, Origin=f"http://127.0.0.1:{server.port}")
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in found.headers if name.startswith("access-control")]
        assert "server" not in found.headers


def test_what_is_unknown_is_refused_as_json(server):
    for method, path, status in (
        ("GET", "/none", 404), ("GET", "/predict", 405), ("PUT", "/predict", 405), ("TRACE", "/", 405), ("OPTIONS", "/", 405),
        ("DELETE", "/models", 405), ("POST", "/models", 405), ("GET", "/predict/", 404), ("GET", "//", 404),
    ):  # fmt: skip
        found = server.ask(method, path)
        assert found.status == status, (method, path)
        assert found.json["error"]
    assert "POST" in server.get("/predict").headers["allow"]
    found = server.ask("HEAD", "/healthz")
    assert (found.status, found.body) == (200, b"")
