"""The Open Inference Protocol: the same probabilities as `predict`, in JSON and in binary, and refusals of what is none."""

import base64
import json
import struct

import numpy as np
import pytest

from headstart.serve.inference_protocol import HEADER_LENGTH
from serving import Answer, ServerProcess, picture

INFER = "/v2/models/served/infer"


def infer(server: ServerProcess, content: object, binary: bytes | None = None) -> Answer:
    text = json.dumps(content).encode()
    if binary is None:
        return server.post(INFER, text)
    return server.post(INFER, text + binary, **{HEADER_LENGTH: str(len(text))})


def images_input(datatype: str, shape: list[int], data: object = None, **parameters: object) -> dict:
    one = {"name": "images", "datatype": datatype, "shape": shape, "parameters": parameters}
    return {"inputs": [one if data is None else one | {"data": data}]}


def probabilities(found: Answer) -> np.ndarray:
    assert found.status == 200, found.body
    (one,) = [one for one in found.json["outputs"] if one["name"] == "probabilities"]
    assert one["datatype"] == "FP32"
    return np.array(one["data"], np.float32).reshape(one["shape"])


@pytest.fixture(scope="module")
def arrays() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)


def test_server_and_models_are_described(server, served_run):
    assert server.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert server.get("/v2/health/live").status == server.get("/v2/health/ready").status == 200
    assert server.get("/v2/models/served/ready").status == 200
    content = server.get("/v2/models/served").json
    assert content["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert content["outputs"][0]["shape"] == [-1, len(served_run.class_names)]
    kinds = {"probabilities": "FP32", "labels": "BYTES", "rejected": "BOOL", "unlike": "BOOL"}
    assert {one["name"]: one["datatype"] for one in content["outputs"]} == kinds
    for path in ("/v2/models/none", "/v2/models/none/ready"):
        assert server.get(path).status == 404


@pytest.mark.parametrize("flat", [True, False])
def test_arrays_in_json(server, served_run, arrays, flat):
    found = infer(server, images_input("UINT8", list(arrays.shape), (arrays.ravel() if flat else arrays).tolist()) | {"id": "x"})
    np.testing.assert_allclose(probabilities(found), served_run.predict(arrays).probabilities, atol=1e-6)
    assert found.json["id"] == "x"
    assert found.json["model_version"] == served_run.classifier.manifest["seal"][:12]
    expected = served_run.predict(arrays)
    assert found.json["outputs"][1]["data"] == expected.labels
    assert found.json["outputs"][2]["data"] == (expected.confidences < 0.2).tolist()
    assert found.json["outputs"][3]["data"] == expected.outsiders.tolist()


def test_encoded_images_in_json(server, served_run):
    bodies = [picture(kind="JPEG", seed=seed) for seed in range(3)]
    found = infer(server, images_input("BYTES", [3], [base64.b64encode(one).decode() for one in bodies]))
    np.testing.assert_allclose(probabilities(found), served_run.predict(bodies).probabilities, atol=1e-6)


@pytest.mark.parametrize("encoded", [True, False])
def test_tensors_in_binary(server, served_run, arrays, encoded):
    bodies = [picture(seed=seed) for seed in range(3)]
    binary = b"".join(struct.pack("<I", len(one)) + one for one in bodies) if encoded else arrays.tobytes()
    shape = [3] if encoded else list(arrays.shape)
    content = images_input("BYTES" if encoded else "UINT8", shape, binary_data_size=len(binary))
    expected = served_run.predict(bodies if encoded else arrays)
    np.testing.assert_allclose(probabilities(infer(server, content, binary)), expected.probabilities, atol=1e-6)
    found = infer(server, content | {"parameters": {"binary_data_output": True}}, binary)
    length = int(found.headers[HEADER_LENGTH.lower()])
    first, second, *marks = json.loads(found.body[:length])["outputs"]
    assert [one["parameters"]["binary_data_size"] for one in marks] == [3, 3]
    assert found.body[-3:] == expected.outsiders.tobytes()
    size = first["parameters"]["binary_data_size"]
    values = np.frombuffer(found.body[length : length + size], "<f4").reshape(first["shape"])
    np.testing.assert_allclose(values, expected.probabilities, atol=1e-6)
    label = expected.labels[0].encode()
    assert found.body[length + size :].startswith(struct.pack("<I", len(label)) + label)
    assert second["parameters"]["binary_data_size"] == len(found.body) - length - size - 6


SMALL = {"name": "images", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"name": "pictures"}, 400), ({"datatype": "FP32"}, 400), ({"shape": [1, 2, 2]}, 400), ({"shape": [1, 2, 2, 4]}, 400),
        ({"shape": [1, 2, 2, 3, 1]}, 400), ({"shape": [0, 2, 2, 3]}, 400), ({"shape": [-1, 2, 2, 3]}, 400), ({"shape": []}, 400),
        ({"shape": [1 << 70, 2, 2, 3]}, 400), ({"shape": [65, 2, 2, 3]}, 413), ({"shape": [1, 1 << 20, 1 << 20, 3]}, 413),
        ({"data": [0] * 11}, 400), ({"data": [256] * 12}, 400), ({"data": [-1] * 12}, 400), ({"data": [0.5] * 12}, 400),
        ({"data": [True] * 12}, 400), ({"data": ["0"] * 12}, 400), ({"data": [[0], [0, 0]]}, 400),
        ({"data": [1 << 80] * 12}, 400),
        ({"data": None}, 400), ({"data": {}}, 400), ({"data": []}, 400), ({"data": [None] * 12}, 400),
        ({"datatype": "BYTES", "shape": [1], "data": ["/etc/passwd"]}, 400),
        ({"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"/etc/passwd").decode()]}, 415),
        ({"datatype": "BYTES", "shape": [2], "data": ["AA=="]}, 400), ({"datatype": "BYTES", "shape": [1], "data": [1]}, 400),
        ({"parameters": {"binary_data_size": 12}}, 400), ({"parameters": {"a": {"b": 1}}}, 400), ({"parameters": []}, 400),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(server, changes, status):
    found = infer(server, {"inputs": [SMALL | changes]})
    assert found.status == status, found.body
    assert found.json["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"{}", b'{"inputs": []}', b"\xff\xfe", b"[" * 200_000, b'{"inputs": ' + b"[" * 200_000,
     json.dumps({"inputs": [SMALL]}).replace("[0,", "[" * 100_000 + "0" + "]" * 100_000 + ",").encode(),
     json.dumps({"inputs": [SMALL, SMALL]}).encode(), json.dumps({"inputs": [SMALL], "outputs": [{"name": "x"}]}).encode()],
)  # fmt: skip
def test_what_is_no_message_is_refused(server, body):
    assert server.post(INFER, body).status == 400


@pytest.mark.parametrize("length", ["-1", "x", "999999999999", "1e3", "٣", ""])
def test_a_wrong_length_of_the_json_is_refused(server, length):
    found = server.post(INFER, json.dumps({"inputs": [SMALL]}).encode(), **{HEADER_LENGTH: length.encode().decode("latin-1")})
    assert found.status == 400


def test_binary_strings_whose_lengths_lie_are_refused(server):
    for binary in (b"\xff\xff\xff\xff", b"\x00", b"\x05\x00\x00\x00abc", b"\x00\x00\x00\x00" * 1000):
        assert infer(server, images_input("BYTES", [1], binary_data_size=len(binary)), binary).status == 400


def test_tritonclient_gets_what_predict_gives(server, served_run, arrays):
    client_of = pytest.importorskip("tritonclient.http")
    client = client_of.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("served")
    for values in (arrays, np.array([picture(seed=1), picture(seed=2)], dtype=np.object_)):
        one = client_of.InferInput("images", list(values.shape), "UINT8" if values.dtype == np.uint8 else "BYTES")
        expected = served_run.predict(values if values.dtype == np.uint8 else list(values))
        for binary in (True, False) if values.dtype == np.uint8 else (True,):
            one.set_data_from_numpy(values, binary_data=binary)
            found = client.infer("served", [one])
            np.testing.assert_allclose(found.as_numpy("probabilities"), expected.probabilities, atol=1e-6)
            assert found.as_numpy("labels").astype(str).tolist() == expected.labels
