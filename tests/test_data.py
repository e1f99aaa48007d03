"""Data: IDX files good and damaged, the search order, binarization, users' arrays, the shipped sample."""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from elbowroom import data

from .statistics import assert_mean_is

STEM = "train-images-idx3-ubyte"


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pixels(seed: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)


def official(split: str = "train") -> torch.Tensor:
    try:
        return data.fashion_mnist(split)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, np.ndarray]:
    """Both data sets reduced to three images, known by their checksums; none of this machine's folders."""
    images = {"mnist": pixels(1), "fashion-mnist": pixels(2)}
    monkeypatch.setattr(data, "COUNTS", {"train": 3, "test": 3})
    checksums = {(name, "train"): hashlib.sha256(x.tobytes()).hexdigest() for name, x in images.items()}
    monkeypatch.setattr(data, "PIXELS", checksums)
    monkeypatch.setattr(data, "SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ELBOWROOM_DATA", raising=False)
    return images


def put(folder: Path, images: np.ndarray, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"{STEM}.gz" if zipped else STEM)
    path.write_bytes(gzip.compress(idx(images)) if zipped else idx(images))
    return path


@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_round_trip(tmp_path: Path, shape: tuple[int, ...], zipped: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "some-idx"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    assert np.array_equal(data.read_idx(path).numpy(), array)


WHOLE = idx(pixels(0))
DAMAGED = {
    "gzip cut short": (gzip.compress(WHOLE)[:-200], "damaged or truncated gzip"),
    "gzip cut in its trailer": (gzip.compress(WHOLE)[:-3], "damaged or truncated gzip"),
    "gzip with a flipped bit": (
        gzip.compress(WHOLE, 0)[:500] + b"\xff\x00" + gzip.compress(WHOLE, 0)[502:],
        "damaged or truncated gzip",
    ),
    "not IDX": (gzip.compress(b"hello, world"), "expected an IDX file of unsigned bytes.*68 65 6c 6c"),
    "floats": (gzip.compress(idx(pixels(0), kind=13)), "expected an IDX file of unsigned bytes"),
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
    with pytest.raises(ValueError, match=message) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zeros_compress_well_and_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((2000, 28, 28), np.uint8))))
    assert data.read_idx(path).shape == (2000, 28, 28)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_each_place_is_searched(
    tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, direct: bool
) -> None:
    expected = torch.from_numpy(tiny["mnist"].reshape(3, 784))
    for place in ("system", "cache/elbowroom", "environment", "argument"):
        path = put(tmp_path / place / ("" if direct else "mnist"), tiny["mnist"], zipped)
        monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "environment"))
        found = data.mnist("train", tmp_path / "argument")
        assert torch.equal(found, expected)
        path.unlink()


def test_an_earlier_place_wins(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    put(tmp_path / "system" / "mnist", tiny["mnist"])
    bad = put(tmp_path / "argument", pixels(9))
    with pytest.raises(ValueError, match="not the official images of mnist train") as caught:
        data.mnist("train", tmp_path / "argument")
    assert str(bad) in str(caught.value)


def test_the_other_data_set_s_files_are_passed_over(
    tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "environment", tiny["mnist"])
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "environment"))
    with pytest.raises(FileNotFoundError, match="fashion-mnist: train-images"):
        data.fashion_mnist("train")
    put(tmp_path / "system" / "fashion-mnist", tiny["fashion-mnist"])
    assert torch.equal(data.fashion_mnist(), torch.from_numpy(tiny["fashion-mnist"].reshape(3, 784)))


def test_a_missing_file_lists_every_place(
    tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "environment"))
    with pytest.raises(FileNotFoundError, match="ELBOWROOM_DATA") as caught:
        data.mnist("train", tmp_path / "argument")
    for place in ("argument", "environment", "cache/elbowroom", "system/mnist"):
        assert str(tmp_path / place) in str(caught.value)


def test_wrong_counts_and_splits_are_refused(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    put(tmp_path, pixels(0, n=4))
    with pytest.raises(ValueError, match="expected 3 x 28 x 28 pixels; got 4 x 28 x 28"):
        data.mnist("train", tmp_path)
    with pytest.raises(ValueError, match="split must be"):
        data.mnist("valid", tmp_path)


def test_official_fashion_mnist() -> None:
    images = official("test")
    assert images.shape == (10_000, 784)
    assert images.dtype == torch.uint8
    assert images.double().mean().item() == pytest.approx(73.14656, abs=1e-4)  # any other images would differ


@pytest.mark.external
def test_official_mnist(external_data: Path) -> None:
    assert data.mnist("test", external_data).shape == (10_000, 784)
    with pytest.raises(ValueError, match="expected 10000 x 28 x 28 pixels; got 10000"):
        data._checked(data.read_idx(external_data / "mnist" / "t10k-labels-idx1-ubyte.gz"), Path("x"), "test")


def test_threshold_at_one_half() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.binarize(every), (every.double() / 255 > 0.5).to(torch.get_default_dtype()))
    assert torch.equal(data.binarize(every.numpy()), data.binarize(every))


def test_grey_scales() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(data.binarize(every, "grey"), torch.linspace(0, 1, 256))
    torch.testing.assert_close(data.binarize(every, "grey256") * 256, torch.arange(256.0))


def test_stochastic_pixels_have_their_probability() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    draws = data.binarize(every.expand(4000, 256), "stochastic", seed=0)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert draws[:, 0].max() == 0
    assert draws[:, 255].min() == 1
    middle = slice(20, 236)  # where the mean of 4,000 draws is close to normal
    assert_mean_is(draws[:, middle], every[middle].double() / 255)


def test_stochastic_draws_are_a_function_of_the_seed() -> None:
    images = torch.from_numpy(pixels(3)).reshape(3, 784)
    state = torch.get_rng_state()
    first = data.binarize(images, "stochastic", seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, data.binarize(images, "stochastic", seed=5))
    assert not torch.equal(first, data.binarize(images, "stochastic", seed=6))
    with pytest.raises(ValueError, match="needs a seed"):
        data.binarize(images, "stochastic")


def test_binarize_refuses_scaled_images_and_unknown_rules() -> None:
    with pytest.raises(ValueError, match="expects uint8 pixels"):
        data.binarize(torch.rand(3, 784))
    with pytest.raises(ValueError, match='how must be "threshold"'):
        data.binarize(torch.zeros(3, dtype=torch.uint8), "median")


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
    read = data.load_array(tmp_path / name)
    assert read.dtype == torch.get_default_dtype()
    assert np.array_equal(read.numpy(), x.astype(float))
    assert data.load_array(tmp_path / name, torch.float16).dtype == torch.float16


def test_big_endian_arrays_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=">f4").reshape(3, 2))
    assert torch.equal(data.load_array(tmp_path / "x.npy"), torch.arange(6.0).reshape(3, 2))


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
    with pytest.raises(ValueError, match=message) as caught:
        data.load_array(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_complex_and_sparse_tensors_are_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3, dtype=torch.complex64), tmp_path / "complex.pt")
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pt")
    for name in ("complex.pt", "sparse.pt"):
        with pytest.raises(ValueError, match=r"expected (an array of )?real numbers"):
            data.load_array(tmp_path / name)


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
        with pytest.raises(ValueError, match="without running code") as caught:
            data.load_array(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not sprung.exists()


@pytest.mark.parametrize("name", WRITERS)
def test_truncated_archives_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, np.random.default_rng(0).normal(size=(50, 30)))
    whole = path.read_bytes()
    for kept in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=name) as caught:
            data.load_array(path)
        assert "\n" not in str(caught.value)


def test_the_array_must_be_unambiguous_and_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.savez(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"one named x; got \['a', 'b'\]"):
        data.load_array(tmp_path / "two.npz")
    with pytest.raises(ValueError, match="one named x; got none"):
        data.load_array(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.load_array(tmp_path / "absent.npy")
    with pytest.raises(ValueError, match=r"ending in .npz, .*got .csv"):
        data.load_array(tmp_path / "x.csv")


def test_demo_images_are_binary_and_distinct() -> None:
    images = data.demo_images()
    assert list(images) == ["train", "heldout"]
    for x in images.values():
        assert x.shape == (250, 784)
        assert x.dtype == torch.get_default_dtype()
        assert set(x.unique().tolist()) == {0.0, 1.0}
    assert len(torch.cat(list(images.values())).unique(dim=0)) == 500


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("heldout", "test")])
def test_demo_images_are_fashion_mnist_s(name: str, split: str) -> None:
    folder = Path(data.__file__).parent / "assets" / "fashion-mnist"
    index = np.load(folder / "images.npz", allow_pickle=False)[f"{name}_index"]
    assert torch.equal(data.demo_images()[name], data.binarize(official(split)[index]))
    assert "Zalando SE" in (folder / "LICENSE-fashion-mnist.txt").read_text()
