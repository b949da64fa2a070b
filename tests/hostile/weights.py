"""Files of weights, HDF5, that lead elsewhere, mean terabytes, or hold no numbers."""

import io
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from case import Place, payloads
from tamper import flipped, npz


def hdf5(honest: bytes) -> dict[str, Callable[[Place], bytes]]:
    """Return hostile files of weights by name."""

    def edited(edit: Callable[[h5py.File, str, Place], Any]) -> Callable[[Place], bytes]:
        def make(place: Place) -> bytes:
            stream = io.BytesIO(honest)
            with h5py.File(stream, "a") as file:
                names: list[str] = []
                file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
                edit(file, max(names, key=lambda name: file[name].size), place)
            return stream.getvalue()

        return make

    def replaced(**options: Any) -> Callable[[Place], bytes]:
        def edit(file: h5py.File, name: str, place: Place) -> None:
            del file[name]
            file.create_dataset(name, **options)

        return edited(edit)

    def swapped(change: Callable[[np.ndarray], Any]) -> Callable[[Place], bytes]:
        def edit(file: h5py.File, name: str, place: Place) -> None:
            array = file[name][()]
            del file[name]
            file[name] = change(array)

        return edited(edit)

    def linked(link: Callable[[Place, str], Any]) -> Callable[[Place], bytes]:
        def edit(file: h5py.File, name: str, place: Place) -> None:
            del file[name]
            file[name] = link(place, name)

        return edited(edit)

    def virtual(file: h5py.File, name: str, place: Place) -> None:
        layout = h5py.VirtualLayout((8, 8), "f4")
        layout[:] = h5py.VirtualSource(str(place.victim / "letter.txt"), "x", (8, 8))
        del file[name]
        file.create_virtual_dataset(name, layout)

    def group_elsewhere(file: h5py.File, name: str, place: Place) -> None:
        del file["layers"]
        file["layers"] = h5py.ExternalLink(str(place.victim / "letter.txt"), "/")

    def many(file: h5py.File, name: str, place: Place) -> None:
        for number in range(20_000):
            file.create_group(f"layers/x{number}")

    def deep(file: h5py.File, name: str, place: Place) -> None:
        file.create_group("layers/" + "a/" * 3000)

    huge = {"shape": (10**6, 10**6), "dtype": "f4", "chunks": (1000, 1000)}
    flips = {
        f"flipped {number}": (lambda place, number=number: flipped(honest, number)) for number in range(6)
    }  # fmt: skip
    return flips | {
        "a link to a file elsewhere": linked(lambda place, name: h5py.ExternalLink(str(place.victim / "letter.txt"), "/x")),
        "a link to /dev/zero": linked(lambda place, name: h5py.ExternalLink("/dev/zero", "/x")),
        "a link to nothing": linked(lambda place, name: h5py.SoftLink("/nowhere")),
        "a link to itself": linked(lambda place, name: h5py.SoftLink("/" + name)),
        "a link to a group": linked(lambda place, name: h5py.SoftLink("/layers")),
        "all a link elsewhere": edited(group_elsewhere),
        "a virtual array": edited(virtual),
        "bytes of another file": replaced(shape=(8, 8), dtype="f4", external=[("/etc/passwd", 0, 256)]),
        "bytes of /dev/zero": replaced(shape=(8, 8), dtype="f4", external=[("/dev/zero", 0, 256)]),
        "4 TB that are not there": replaced(**huge),
        "40 GB that are not there": replaced(shape=(10**5, 10**5), dtype="f4", chunks=(1000, 1000)),
        "4 GB, compressed": replaced(shape=(10**9,), dtype="f4", chunks=(10**6,), compression="gzip", fillvalue=1),
        "a chunk of 1 GB": replaced(shape=(1, 250_000_000), dtype="f4", chunks=(1, 250_000_000), compression="gzip"),
        "growing": replaced(shape=(8, 8), maxshape=(None, None), dtype="f4"),
        "objects": replaced(shape=(8,), dtype=h5py.string_dtype()),
        "references": replaced(shape=(8,), dtype=h5py.ref_dtype),
        "records": replaced(shape=(8,), dtype=np.dtype("f4,i8")),
        "text": replaced(data=b"evil"),
        "no values": replaced(data=h5py.Empty("f4")),
        "a number": replaced(data=1.0),
        "NaN": swapped(lambda array: np.full_like(array, np.nan)),
        "infinite": swapped(lambda array: np.full_like(array, np.inf)),
        "3e38": swapped(lambda array: np.full_like(array, 3e38)),
        "zeros": swapped(np.zeros_like),
        "flat": swapped(np.ravel),
        "an axis more": swapped(lambda array: array[None]),
        "a row less": swapped(lambda array: array[..., :-1]),
        "float64": swapped(lambda array: array.astype("f8")),
        "complex": swapped(lambda array: array.astype("c8")),
        "uint8": swapped(lambda array: array.astype("u1")),
        "bool": swapped(lambda array: array.astype("?")),
        "one missing": edited(lambda file, name, place: file.__delitem__(name)),
        "all missing": edited(lambda file, name, place: file.__delitem__("layers")),
        "an array instead of layers": edited(
            lambda file, name, place: [file.__delitem__("layers"), file.__setitem__("layers", 1)]
        ),
        "20,000 groups": edited(many),
        "3,000 levels": edited(deep),
        "more arrays": edited(lambda file, name, place: file.__setitem__("layers/evil/vars/0", 1)),
        "empty": lambda place: b"",
        "cut": lambda place: honest[: len(honest) // 2],
        "zeros only": lambda place: bytes(len(honest)),
        "a pickle": lambda place: payloads(place.marker)["exec"],
        "a head alone": lambda place: honest[:8] + bytes(1000),
        "addresses outside": lambda place: honest[:24] + b"\xf0" * 8 + honest[32:],
        "an npz": lambda place: npz(np.zeros(3)),
    }
