"""File formats: what was written is read, and what is damaged, cut short or unsafe is refused in one line."""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from elbowroom.datasets import readers

STEM = "train-images-idx3-ubyte"
FEW = 2  # records in a file of the small CIFAR-10


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refused(path: Path, read: Callable[[Path], Any], message: str | None = None) -> None:
    """`read` raises a ValueError of one line that names the file, and leaves the folder as it was."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("examples")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**32 - 1))
def test_idx_round_trip(scratch: Path, shape: list[int], zipped: bool, seed: int) -> None:
    array, path = pixels(seed, *shape), scratch / "some-idx"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    assert np.array_equal(readers.read_idx(path).numpy(), array)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.booleans())
def test_an_idx_file_cut_anywhere_is_refused(scratch: Path, data: st.DataObject, zipped: bool) -> None:
    whole = idx(pixels(0, 3, 4, 5))
    whole = gzip.compress(whole) if zipped else whole
    path = scratch / STEM
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"fetch it again|expected an IDX file|more than the file can hold") as caught:
        readers.read_idx(path)
    assert "\n" not in str(caught.value)


WHOLE = idx(pixels(0, 3, 28, 28))
DAMAGED = {
    "gzip cut short": (gzip.compress(WHOLE)[:-200], "damaged or truncated gzip"),
    "gzip cut in its trailer": (gzip.compress(WHOLE)[:-3], "damaged or truncated gzip"),
    "gzip with a flipped bit": (
        gzip.compress(WHOLE, 0)[:500] + b"\xff\x00" + gzip.compress(WHOLE, 0)[502:],
        "damaged or truncated gzip",
    ),
    "not IDX": (gzip.compress(b"hello, world"), "expected an IDX file of unsigned bytes.*68 65 6c 6c"),
    "floats": (gzip.compress(idx(pixels(0, 3, 28, 28), kind=13)), "expected an IDX file of unsigned bytes"),
    "empty file": (b"", "expected an IDX file of unsigned bytes"),
    "header cut": (WHOLE[:10], "the header ends after 10 bytes"),
    "fewer images than promised": (WHOLE[:-1], "promises 3 x 28 x 28 = 2352 bytes, only 2351 came"),
    "more images than promised": (gzip.compress(WHOLE + b"\0"), "= 2352 bytes, more came"),
    "no images": (WHOLE[:4] + struct.pack(">3I", 0, 28, 28), "promises an empty array"),
    "absurd count": (gzip.compress(WHOLE[:4] + b"\xff" * 12), "more than the file can hold"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_idx_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    path = tmp_path / f"{STEM}.gz"
    path.write_bytes(content)
    refused(path, readers.read_idx, message)


def test_zeros_compress_well_and_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((2000, 28, 28), np.uint8))))
    assert readers.read_idx(path).shape == (2000, 28, 28)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CIFAR_RECORDS", FEW)


def batch(seed: int, labels: tuple[int, ...] = (3, 9)) -> tuple[bytes, np.ndarray]:
    """A record file by hand, label and then one plane after the other, and its images."""
    images = pixels(seed, len(labels), 3, 32, 32)
    records = b""
    for label, (red, green, blue) in zip(labels, images, strict=True):
        records += bytes([label]) + red.tobytes() + green.tobytes() + blue.tobytes()
    return records, images


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[Any, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def tarball(path: Path, *members: tuple[Any, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_records_are_read_as_documented(tmp_path: Path, packed: bool) -> None:
    first, images = batch(1)
    second, others = batch(2, (0, 5))
    path = tmp_path
    if packed:
        folder = member("cifar-10-batches-bin", kind=tarfile.DIRTYPE)
        files = [member(f"cifar-10-batches-bin/{name}.bin", x) for name, x in (("a", first), ("b", second))]
        path = tarball(tmp_path / "some.tar.gz", folder, *files, member("cifar-10-batches-bin/readme.html", b"hello"))
    else:
        (path / "a.bin").write_bytes(first)
        (path / "b.bin").write_bytes(second)
    read, labels = readers.read_cifar10(path, ["b.bin", "a.bin"])
    assert read.dtype == labels.dtype == torch.uint8
    assert np.array_equal(read.numpy(), np.concatenate([others, images]))
    assert labels.tolist() == [0, 5, 3, 9]


RECORDS = batch(0)[0]
BAD_FILES = {
    "cut short": (RECORDS[:-1], "a.bin: expected 2 records of 3073 bytes = 6146 bytes, 6145 came"),
    "a record more": (RECORDS + RECORDS[:3073], "expected 2 records"),
    "empty": (b"", "6146 bytes, 0 came"),
    "wrong label": (batch(0, (3, 10))[0], "labels must be 0 to 9; record 1 has 10"),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_cifar_files_are_refused(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.bin").write_bytes(content)
    refused(tmp_path / "folder", lambda path: readers.read_cifar10(path, ["a.bin"]), message)
    archive = tarball(tmp_path / "some.tar.gz", member("x/a.bin", content))
    message = "more than 2 records" if case == "a record more" else message
    refused(archive, lambda path: readers.read_cifar10(path, ["a.bin"]), message)


@pytest.mark.usefixtures("few")
def test_a_missing_cifar_file_is_named(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "some.tar.gz", member("x/a.bin", RECORDS))
    refused(archive, lambda path: readers.read_cifar10(path, ["a.bin", "b.bin"]), "holds no b.bin")
    (tmp_path / "x").mkdir()
    refused(tmp_path / "x", lambda path: readers.read_cifar10(path, ["b.bin"]), "holds no b.bin")
    with pytest.raises(FileNotFoundError, match="no such file"):
        readers.read_cifar10(tmp_path / "absent.tar.gz", ["a.bin"])


UNSAFE = {
    "up": (member("../escaped", b"x"), "leads out of the archive's folder"),
    "up in the middle": (member("x/../../a.bin", RECORDS), "leads out"),
    "absolute": (member("/tmp/escaped", b"x"), "leads out"),
    "drive": (member("C:\\escaped", b"x"), "leads out"),
    "backslashes": (member("x\\..\\..\\a.bin", b"x"), "leads out"),
    "symbolic link": (member("x/a.bin", kind=tarfile.SYMTYPE, link="/etc/passwd"), "a link or a device"),
    "hard link": (member("x/b.bin", kind=tarfile.LNKTYPE, link="../../b"), "a link or a device"),
    "device": (member("x/null", kind=tarfile.CHRTYPE), "a link or a device"),
    "pipe": (member("x/pipe", kind=tarfile.FIFOTYPE), "a link or a device"),
    "bomb": (member("x/zeros", bytes(10**6)), "of 1000000 bytes, more than 2 records"),
    "twice": (member("y/a.bin", RECORDS), "holds 'a.bin' twice"),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("case", UNSAFE)
def test_unsafe_archives_are_refused(tmp_path: Path, case: str) -> None:
    """Even where what was asked for is there and whole."""
    (info, content), message = UNSAFE[case]
    folder = tmp_path / "place"
    folder.mkdir()
    archive = tarball(folder / "some.tar.gz", member("x/a.bin", RECORDS), (info, content))
    refused(archive, lambda path: readers.read_cifar10(path, ["a.bin"]), message)
    assert list(tmp_path.rglob("*")) == [folder, archive]
    assert not Path("/tmp/escaped").exists()


@pytest.mark.usefixtures("few")
def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    """tarfile reads the header of a long name whole, however long it says that it is."""
    info, content = member("x/b.bin", RECORDS)
    info.pax_headers = {"comment": "a" * (readers.TAIL + 10**6)}
    archive = tarball(tmp_path / "some.tar.gz", member("x/a.bin", RECORDS), (info, content))
    refused(archive, lambda path: readers.read_cifar10(path, ["a.bin"]), "unpacks to more than CIFAR-10's files")


@pytest.mark.usefixtures("few")
def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.tar.gz"
    plain = tarball(path, member("x/a.bin", RECORDS)).read_bytes()
    half = len(plain) // 2
    contents = {
        "a page": b"<html>404</html>",
        "gzip of a page": gzip.compress(b"<html>404</html>"),
        "flipped": plain[:half] + bytes([plain[half] ^ 255]) + plain[half + 1 :],
        "a long tail": gzip.compress(gzip.decompress(plain) + bytes(2 * readers.TAIL)),
        "another after it": plain + b"<html>",
    }
    for content in contents.values():
        path.write_bytes(content)
        refused(path, lambda path: readers.read_cifar10(path, ["a.bin"]), "some.tar.gz")


def test_a_cifar_archive_cut_anywhere_is_refused(scratch: Path, few: None) -> None:
    whole = tarball(scratch / "some.tar.gz", member("x/a.bin", RECORDS), member("x/b.bin", batch(1)[0])).read_bytes()

    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, len(whole) - 1))
    def cut(kept: int) -> None:
        (scratch / "cut.tar.gz").write_bytes(whole[:kept])
        refused(scratch / "cut.tar.gz", lambda path: readers.read_cifar10(path, ["a.bin", "b.bin"]))

    cut()


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=2000))
def test_noise_as_an_archive_is_refused(scratch: Path, content: bytes) -> None:
    path = scratch / "noise.tar.gz"
    path.write_bytes(gzip.compress(content))
    refused(path, lambda path: readers.read_cifar10(path, ["a.bin"]))
    path.write_bytes(content)
    refused(path, lambda path: readers.read_cifar10(path, ["a.bin"]))


WRITERS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "x.npy": lambda path, x: np.save(path, x),
    "x.npz": lambda path, x: np.savez(path, images=x),
    "named.npz": lambda path, x: np.savez(path, other=x[:1], x=x),
    "x.safetensors": lambda path, x: save_file({"images": torch.from_numpy(x)}, path),
    "x.pt": lambda path, x: torch.save(torch.from_numpy(x), path),
    "named.pt": lambda path, x: torch.save({"x": torch.from_numpy(x), "y": torch.zeros(2)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "int64", "bool"])
def test_arrays_are_read_as_written(tmp_path: Path, name: str, kind: str) -> None:
    x = np.random.default_rng(0).integers(0, 2, (5, 3)).astype(kind)
    WRITERS[name](tmp_path / name, x)
    read = readers.load_array(tmp_path / name)
    assert read.dtype == torch.get_default_dtype()
    assert np.array_equal(read.numpy(), x.astype(float))
    assert readers.load_array(tmp_path / name, torch.float16).dtype == torch.float16
    kept = readers.load_array(tmp_path / name, pixels=True)
    assert kept.dtype == (torch.uint8 if kind == "uint8" else torch.get_default_dtype())


def test_big_endian_arrays_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=">f4").reshape(3, 2))
    assert torch.equal(readers.load_array(tmp_path / "x.npy"), torch.arange(6.0).reshape(3, 2))


def test_an_array_is_taken_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train=np.zeros(2), test=np.ones(3))
    np.save(tmp_path / "x.npy", np.zeros(2))
    assert readers.array_names(tmp_path / "x.npz") == ["test", "train"]
    assert readers.array_names(tmp_path / "x.npy") == []
    assert torch.equal(readers.load_array(tmp_path / "x.npz", name="test"), torch.ones(3))
    refused(tmp_path / "x.npz", readers.load_array, r"one named x; got \['test', 'train'\]")


BAD_ARRAYS = {
    "complex": (np.zeros(3, dtype=complex), "expected an array of real numbers; got complex128"),
    "strings": (np.array(["a", "b"]), "expected an array of real numbers; got <U1"),
    "dates": (np.array(["2020-01-01"], dtype="datetime64[D]"), "expected an array of real numbers"),
    "objects": (np.array([{}, None]), "without running code"),
    "empty": (np.zeros((0, 784)), r"one datum per row; got shape \(0, 784\)"),
    "a number": (np.array(3.0), r"one datum per row; got shape \(\)"),
    "not finite": (np.array([[0.0, np.nan], [np.inf, 1.0]]), "2 of 4 values are not finite"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    array, message = BAD_ARRAYS[case]
    path = tmp_path / "x.npy"
    np.save(path, array, allow_pickle=True)
    refused(path, readers.load_array, message)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), tmp_path / "odd.pt")
    refused(tmp_path / "odd.pt", readers.load_array, "got a sparse, nested or meta tensor|cannot be read")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(3).to(torch.float8_e4m3fn),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save(tensor, tmp_path / "odd.pt")
    refused(tmp_path / "odd.pt", readers.load_array, r"expected an array of real numbers|cannot be read")


class Trap:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_is_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"x": Trap(sprung)}, tmp_path / "x.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(sprung)))
    np.save(tmp_path / "x.npy", np.array([Trap(sprung)]), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([Trap(sprung)], dtype=object))
    for name in ("x.pt", "plain.pt", "x.npy", "x.npz"):
        refused(tmp_path / name, readers.load_array, "without running code")
    assert not sprung.exists()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Each kind of file, whole."""
    folder = tmp_path_factory.mktemp("whole")
    for name, write in WRITERS.items():
        write(folder / name, np.random.default_rng(0).normal(size=(5, 3)))
    return {name: (folder / name).read_bytes() for name in WRITERS}


@pytest.mark.parametrize("name", WRITERS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_an_array_file_cut_anywhere_is_refused(
    scratch: Path, written: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    path = scratch / name
    path.write_bytes(written[name][: data.draw(st.integers(0, len(written[name]) - 1))])
    refused(path, readers.load_array, name)


def test_the_array_must_be_unambiguous_and_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.savez(tmp_path / "none.npz")
    refused(tmp_path / "two.npz", readers.load_array, r"one named x; got \['a', 'b'\]")
    refused(tmp_path / "none.npz", readers.load_array, "one named x; got none")
    with pytest.raises(FileNotFoundError, match="no such file"):
        readers.load_array(tmp_path / "absent.npy")
    with pytest.raises(ValueError, match=r"ending in .npz, .*got .doc"):
        readers.load_array(tmp_path / "x.doc")
