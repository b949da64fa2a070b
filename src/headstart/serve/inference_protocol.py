"""The Open Inference Protocol, version 2: the addresses and messages that clients of KServe and Triton speak.

Input `images`: UINT8 (N, H, W, 3), of any H and W; or BYTES (N), encoded images, which are base64 in JSON. Output
`probabilities`: FP32 (N, classes); `labels`: BYTES (N), the likeliest class of each, or "none of these" if its answer is
withheld; `rejected`: BOOL (N), whether the probability is too low, if the server rejects; and `unlike`: BOOL (N), whether the
image is unlike the training images, if the run can tell. Tensors stand in JSON, or in binary after it (the extension
`binary_tensor_data`).
"""

import base64
import binascii
import json
import math
import struct
from collections import Counter
from importlib.metadata import version
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from headstart.data.decode import Decoding
from headstart.inference.inputs import as_input
from headstart.serve.batching import Found
from headstart.serve.images import in_thread
from headstart.serve.limits import MOST_IMAGES, MOST_PIXELS, Refusal
from headstart.serve.models import Served

HEADER_LENGTH = "Inference-Header-Content-Length"

Parameters = dict[str, bool | int | float | str | None]
Length = Annotated[int, Meta(ge=1, le=2**31)]


class Tensor(Struct):
    name: str
    datatype: str
    shape: Annotated[list[Length], Meta(max_length=4)]
    parameters: Parameters = {}
    data: msgspec.Raw = msgspec.Raw()


class Wanted(Struct):
    name: str
    parameters: Parameters = {}


class InferRequest(Struct):
    inputs: list[Tensor]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[Wanted] | None = None


REQUEST = msgspec.json.Decoder(InferRequest)


def server_metadata() -> dict[str, Any]:
    return {"name": "headstart", "version": version("headstart"), "extensions": ["binary_tensor_data"]}


def model_metadata(served: Served) -> dict[str, Any]:
    return {
        "name": served.name, "versions": [served.version], "platform": "headstart",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in outputs_of(served).items()],
    }  # fmt: skip


def outputs_of(served: Served) -> dict[str, tuple[str, list[int]]]:
    """Return datatype and shape of each output that a run has."""
    found = {"probabilities": ("FP32", [-1, len(served.class_names)]), "labels": ("BYTES", [-1])}
    found |= {"rejected": ("BOOL", [-1])} if served.threshold else {}
    return found | ({} if served.classifier.limits is None else {"unlike": ("BOOL", [-1])})


async def infer(served: Served, body: bytes, header_length: str | None) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the answer to a request to infer.

    Args:
        body: JSON, perhaps with tensors in binary after it.
        header_length: of `HEADER_LENGTH`: the length of the JSON; None if there is nothing after it.

    Raises:
        Refusal: it is no such request, or an image of it is refused.
    """
    request, images = await in_thread(parsed, body, header_length)
    if isinstance(images, list):
        found = await served.answers(images)
    else:
        shape, decoding = served.classifier.image_shape, served.classifier.decoding
        with served.batcher.expected(len(images)):
            pixels = await in_thread(fitted, images, shape, decoding)
        found = [*await served.classify(pixels)]
    for place, one in enumerate(found):
        if isinstance(one, Refusal):
            raise Refusal(one.status, f"images[{place}]: {one.message}")
    return answer(served, request, [one for one in found if not isinstance(one, Refusal)])


def parsed(body: bytes, header_length: str | None) -> tuple[InferRequest, list[bytes] | np.ndarray]:
    """Return a request, and its images: encoded ones, or uint8 (N, H, W, 3)."""
    text, rest = body, memoryview(b"")
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 9:
            raise Refusal(400, f"{HEADER_LENGTH} is no number of bytes")
        text, rest = body[: int(header_length)], memoryview(body)[int(header_length) :]
    try:
        request = REQUEST.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Refusal(400, "the body is no request of the Open Inference Protocol: inputs with name, datatype, shape") from None
    if [one.name for one in request.inputs] != ["images"]:
        raise Refusal(400, "there is one input, and it is named images")
    return request, tensor(request.inputs[0], rest)


def tensor(given: Tensor, rest: memoryview) -> list[bytes] | np.ndarray:
    shape = given.shape
    fits = len(shape) == 1 if given.datatype == "BYTES" else len(shape) == 4 and shape[3] == 3
    if given.datatype not in ("UINT8", "BYTES") or not fits:
        raise Refusal(400, "images is UINT8 of shape [N, H, W, 3], or BYTES of shape [N], encoded images")
    if shape[0] > MOST_IMAGES:
        raise Refusal(413, f"a request has at most {MOST_IMAGES} images")
    if math.prod(shape[1:3]) > MOST_PIXELS:
        raise Refusal(413, f"an image has at most {MOST_PIXELS:,} pixels")
    found: list[bytes] | np.ndarray
    if "binary_data_size" in given.parameters:
        if given.parameters["binary_data_size"] != len(rest):
            raise Refusal(400, f"binary_data_size is not the number of bytes after the JSON, {len(rest):,}")
        found = binary_strings(rest) if given.datatype == "BYTES" else np.frombuffer(rest, np.uint8)
    else:
        found = json_strings(given.data) if given.datatype == "BYTES" else json_values(given.data)
    if isinstance(found, list):
        if len(found) != shape[0]:
            raise Refusal(400, f"images has {len(found)} elements, and its shape says {shape[0]}")
        return found
    if found.size != math.prod(shape):
        raise Refusal(400, f"images has {found.size:,} values, and its shape says {math.prod(shape):,}")
    return found.reshape(shape)


def binary_strings(rest: memoryview) -> list[bytes]:
    """Return byte strings, each of which stands after its length in 4 bytes, little-endian."""
    found: list[bytes] = []
    while rest:
        if len(rest) < 4 or len(rest) < 4 + (length := struct.unpack("<I", rest[:4])[0]) or len(found) == MOST_IMAGES:
            raise Refusal(400, "the binary data are not strings after their lengths, or too many")
        found.append(bytes(rest[4 : 4 + length]))
        rest = rest[4 + length :]
    return found


def json_strings(data: msgspec.Raw) -> list[bytes]:
    try:
        return [base64.b64decode(one, validate=True) for one in msgspec.json.decode(data, type=list[str])]
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise Refusal(400, "data of BYTES in JSON is a list of encoded images in base64") from None


def json_values(data: msgspec.Raw) -> np.ndarray:
    """Return the values of a list, nested or not, uint8 (values,)."""
    try:
        values = np.array(msgspec.json.decode(data, type=list[Any]))
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError):
        values = np.array(None)
    if values.dtype.kind not in "iu" or not values.size or values.min() < 0 or values.max() > 255:
        raise Refusal(400, "data of UINT8 in JSON is a list of whole numbers from 0 to 255, nested as the shape says or flat")
    return values.astype(np.uint8).ravel()


def fitted(images: np.ndarray, shape: tuple[int, int, int], decoding: Decoding) -> list[np.ndarray]:
    """Return arrays as the model takes them, as `headstart predict` would."""
    return [as_input(image, *shape[:2], decoding, Counter()) for image in images]


def answer(served: Served, request: InferRequest, found: list[Found]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer, with the outputs that are wanted: without a wish, all."""
    kinds = outputs_of(served)
    columns: dict[str, Any] = {
        "probabilities": np.stack([one.probabilities for one in found]), "labels": [served.label(one) for one in found],
        "rejected": [served.rejects(one) for one in found], "unlike": [one.unlike for one in found],
    }  # fmt: skip
    outputs, buffers = [], []
    for wanted in request.outputs or map(Wanted, kinds):
        if wanted.name not in kinds:
            raise Refusal(400, f"the outputs are named {', '.join(kinds)}")
        (kind, shape), values = kinds[wanted.name], columns[wanted.name]
        one: dict[str, Any] = {"name": wanted.name, "datatype": kind, "shape": [len(found), *shape[1:]]}
        if wanted.parameters.get("binary_data", request.parameters.get("binary_data_output", False)):
            buffers.append(in_binary(kind, values))
            one["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            one["data"] = values.ravel().tolist() if kind == "FP32" else values
        outputs.append(one)
    content: dict[str, Any] = {"model_name": served.name, "model_version": served.version, "outputs": outputs}
    if request.id:
        content["id"] = request.id
    text = json.dumps(content).encode()
    if not buffers:
        return text, {"content-type": "application/json"}
    return b"".join([text, *buffers]), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def in_binary(kind: str, values: Any) -> bytes:
    """Return the values of a tensor in binary, little-endian; strings after their lengths in 4 bytes."""
    if kind == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text for text in (value.encode() for value in values))
    return np.asarray(values, "<f4" if kind == "FP32" else bool).tobytes()
