"""Pickles of CIFAR batches that call functions, mean gigabytes, or hold no batch."""

import pickle
import struct
from typing import Any

import numpy as np

from case import Payload


def pickles() -> dict[str, bytes]:
    """Return pickles that hold no batch, or one that takes all memory, by name."""
    one = batch()
    nested: Any = [0]
    for _ in range(9):
        nested = [nested] * 10
    own: list[Any] = []
    own.append(own)
    flat = {"strides": (0, 0), "buffer": b"\0"}
    found = {
        "many lists in few bytes": dumped({b"data": nested, b"fine_labels": [0]}),
        "labels of many lists in few bytes": dumped({b"data": one[b"data"], b"fine_labels": nested}),
        "a list in itself": dumped({b"data": own, b"fine_labels": own}),
        "stride 0": dumped(
            {b"data": Payload(np.ndarray, (10**7, 3072), "u1", flat["buffer"], 0, flat["strides"]), b"fine_labels": [0]}
        ),
        "stride 0 with labels": dumped(
            {
                b"data": Payload(np.ndarray, (10**7, 3072), "u1", b"\0", 0, (0, 0)),
                b"fine_labels": Payload(np.ndarray, (10**7,), "i4", b"\0" * 4, 0, (0,)),
            }
        ),
        "labels of stride 0": dumped(
            {b"data": one[b"data"], b"fine_labels": Payload(np.ndarray, (2**40,), "u1", b"\0", 0, (0,))}
        ),
        "negative stride": dumped({b"data": Payload(np.ndarray, (9, 9), "u1", b"\0" * 9, 0, (-1, -1)), b"fine_labels": [0]}),
        "a huge array": dumped({b"data": Payload(np.ndarray, (10**10,), "u1"), b"fine_labels": [0]}),
        "a huge array of objects": dumped({b"data": Payload(np.ndarray, (10**9,), "O"), b"fine_labels": [0]}),
        "a larger array": dumped({b"data": Payload(np.ndarray, (2**62,), "u1"), b"fine_labels": [0]}),
        "a huge type": dumped({b"data": Payload(np.dtype, f"V{2**31 - 1}"), b"fine_labels": [0]}),
        "a type": dumped({b"data": np.dtype("u1"), b"fine_labels": np.dtype("O")}),
        "a deep type": dumped({b"data": Payload(np.dtype, [("a", [("b", "u1")])]), b"fine_labels": [0]}),
        "memo 2**32": b"}r\xf0\xff\xff\x7f.",
        "memo 10**9": b"]q\x00r" + struct.pack("<I", 10**9) + b".",
        "long text": b"X\xff\xff\xff\x7f.",
        "longer text": b"\x8d" + struct.pack("<Q", 2**62) + b".",
        "long bytes": b"\x8e" + struct.pack("<Q", 2**40) + b".",
        "a long number": b"\x8b\xff\xff\xff\x7f.",
        "a number of many digits": b"L" + b"9" * 1_000_000 + b"L\n.",
        "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.",
        "deep lists": b"]" * 1_000_000 + b"a" * 999_999 + b".",
        "deep tuples": b")" + b"\x85" * 1_000_000 + b".",
        "deep marks": b"(" * 2_000_000 + b".",
        "a persistent id": b"Pevil\n.",
        "an extension": b"\x82\x01.",
        "protocol 99": b"\x80\x63}.",
        "no end": b"}(",
        "nothing": b"",
        "a dot": b".",
        "a module that is no name": b"c\n\n.",
        "getattr": b"cbuiltins\ngetattr\n.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "numpy.load": b"cnumpy\nload\n.",
        "numpy.core.x": b"cnumpy.core.multiarray\nfromfile\n.",
        "memmap": b"cnumpy\nmemmap\n.",
        "_reconstruct of a type": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntU\x01btR.",
        "_reconstruct, huge": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L10000000000L\ntU\x01btR.",
        "_reconstruct, negative": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I-5\ntU\x01btR.",
        "state of text": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btRU\x01xb.",
        "a list": dumped([1, 2]),
        "text": dumped("x"),
        "a number": dumped(7),
        "None": dumped(None),
        "an empty dictionary": dumped({}),
        "other keys": dumped({"data": [1], "labels": [0]}),
        "data alone": dumped({b"data": one[b"data"]}),
        "a million keys": dumped(dict.fromkeys(range(1000000), 0)),
    }
    labels: dict[str, Any] = {
        "of text": ["x"] * 12,
        "of numbers in text": ["1"] * 12,
        "of None": [None] * 12,
        "that are NaN": [float("nan")] * 12,
        "of 1e300": [1e300] * 12,
        "of 0.5": [0.5] * 12,
        "of 10**400": [10**400] * 12,
        "negative": [-1] * 12,
        "of 99": [99] * 12,
        "of 2**31": [2**31] * 12,
        "too few": [0] * 5,
        "too many": [0] * 50,
        "none": [],
        "of lists": [[0]] * 12,
        "uneven": [[0], [0, 1]],
        "a number": 3,
        "a dictionary": {0: 1},
        "bytes": b"\0" * 12,
        "true": [True] * 12,
        "complex": np.ones(12, complex),
        "of objects": np.array([{}] * 12, object),
        "dates": np.zeros(12, "M8[s]"),
    }
    found |= {f"labels {name}": in_batch(b"fine_labels", new) for name, new in labels.items()}
    data: dict[str, Any] = {
        "floats": np.ones((12, 3072), np.float32),
        "NaN": np.full((12, 3072), np.nan),
        "of text": np.full((12, 3072), "x"),
        "too narrow": np.zeros((12, 3071), np.uint8),
        "too wide": np.zeros((12, 4000), np.uint8),
        "flat": np.zeros(12 * 3072, np.uint8),
        "empty": np.zeros((0, 3072), np.uint8),
        "a list": [[0] * 3072] * 12,
        "bytes": b"\0" * 3072 * 12,
        "text": "x",
        "None": None,
        "999": 999,
        "objects": np.array([[{}] * 3072] * 2, object),
        "int64 of 10**9": np.full((12, 3072), 10**9),
        "negative": np.full((12, 3072), -1),
        "a dictionary": {},
        "a list of 10**400": [10**400],
        "columns first": np.asfortranarray(np.zeros((12, 3072), np.uint8)),
        "records": np.zeros(12, "u1,u2"),
    }
    return found | {f"data {name}": in_batch(b"data", new) for name, new in data.items()}


def in_batch(key: bytes, new: Any) -> bytes:
    """Return an honest batch with another entry; of which type it is, pickle tells."""
    parts = {name: pickle.dumps(new, 2)[2:-1] if name == key else part(value) for name, value in batch().items()}
    return b"\x80\x02}(" + b"".join(part(name) + one for name, one in parts.items()) + b"u."


def batch(count: int = 12) -> dict[bytes, Any]:
    rng = np.random.default_rng(count)
    return {b"data": rng.integers(0, 256, (count, 3072), np.uint8), b"fine_labels": [row % 3 for row in range(count)]}


def dumped(content: Any) -> bytes:
    return pickle.dumps(content, protocol=2)


def honest_files() -> dict[str, bytes]:
    meta = {b"fine_label_names": [b"blue", b"green", b"red"]}
    # As Python 2 wrote them: its text, which Python 3 opens as bytes.
    return {"train": python2(batch(60)), "test": python2(batch(12)), "meta": python2(meta)}


def python2(content: Any) -> bytes:
    """Return a pickle as Python 2 wrote it, in protocol 2: bytes are what it called text."""
    return b"\x80\x02" + part(content) + b"."


def part(content: Any) -> bytes:
    """Return what a pickle says of one object, without its beginning and end."""
    if isinstance(content, dict):
        return b"}(" + b"".join(part(key) + part(value) for key, value in content.items()) + b"u"
    if isinstance(content, list):
        return b"](" + b"".join(map(part, content)) + b"e"
    if isinstance(content, bytes):
        return (b"U" + bytes([len(content)]) if len(content) < 256 else b"T" + struct.pack("<I", len(content))) + content
    if isinstance(content, np.ndarray):
        start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return (
            start + b"(K\x01" + b"".join(map(part, content.shape)) + b"\x86" + dtype + b"\x89" + part(content.tobytes()) + b"tb"
        )
    return b"K" + bytes([content]) if 0 <= content < 256 else b"J" + struct.pack("<i", content)
