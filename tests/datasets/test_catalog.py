"""Data sets by name: the search order, pixels known by checksum, splits and labels, binarization, users' files."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.cli.data_spec import read_data
from elbowroom.cli.terminal import UserError
from elbowroom.datasets import (
    DATASETS,
    SHAPES,
    SPLITS,
    DatasetPlace,
    binarize,
    catalog,
    cifar10,
    demo_images,
    fashion_mnist,
    find_dataset,
    load_dataset,
    load_labels,
    mnist,
    readers,
)
from elbowroom.datasets.catalog import CIFAR_ARCHIVE, CIFAR_FILES, CIFAR_FOLDER, _checked

from ..statistics import assert_mean_is
from .test_readers import batch, idx, member, tarball

STEM = "train-images-idx3-ubyte"


def pixels(seed: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)


def official(split: str = "train") -> torch.Tensor:
    try:
        return fashion_mnist(split)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, np.ndarray]:
    """Both data sets reduced to three images, known by their checksums; none of this machine's folders."""
    images = {"mnist": pixels(1), "fashion-mnist": pixels(2)}
    monkeypatch.setattr("elbowroom.datasets.catalog.SPLITS", {name: {"train": 3, "test": 3} for name in images})
    checksums = {(name, "train"): hashlib.sha256(x.tobytes()).hexdigest() for name, x in images.items()}
    monkeypatch.setattr("elbowroom.datasets.catalog.PIXELS", checksums)
    monkeypatch.setattr("elbowroom.datasets.catalog.SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ELBOWROOM_DATA", raising=False)
    return images


def put(folder: Path, images: np.ndarray, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"{STEM}.gz" if zipped else STEM)
    path.write_bytes(gzip.compress(idx(images)) if zipped else idx(images))
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_each_place_is_searched(
    tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, direct: bool
) -> None:
    expected = torch.from_numpy(tiny["mnist"].reshape(3, 784))
    for place in ("system", "cache/elbowroom", "environment", "argument"):
        path = put(tmp_path / place / ("" if direct else "mnist"), tiny["mnist"], zipped)
        monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "environment"))
        found = mnist("train", tmp_path / "argument")
        assert torch.equal(found, expected)
        path.unlink()


def test_an_earlier_place_wins(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    put(tmp_path / "system" / "mnist", tiny["mnist"])
    bad = put(tmp_path / "argument", pixels(9))
    with pytest.raises(ValueError, match="not the official images of mnist train") as caught:
        mnist("train", tmp_path / "argument")
    assert str(bad) in str(caught.value)


def test_the_other_data_set_s_files_are_passed_over(
    tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "environment", tiny["mnist"])
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "environment"))
    with pytest.raises(FileNotFoundError, match="fashion-mnist: train-images"):
        fashion_mnist("train")
    put(tmp_path / "system" / "fashion-mnist", tiny["fashion-mnist"])
    assert torch.equal(fashion_mnist(), torch.from_numpy(tiny["fashion-mnist"].reshape(3, 784)))


def test_a_missing_file_lists_every_place(
    tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "environment"))
    with pytest.raises(FileNotFoundError, match="ELBOWROOM_DATA") as caught:
        mnist("train", tmp_path / "argument")
    for place in ("argument", "environment", "cache/elbowroom", "system/mnist"):
        assert str(tmp_path / place) in str(caught.value)


def test_wrong_counts_and_splits_are_refused(tiny: dict[str, np.ndarray], tmp_path: Path) -> None:
    put(tmp_path, pixels(0, n=4))
    with pytest.raises(ValueError, match="expected 3 x 28 x 28 pixels; got 4 x 28 x 28"):
        mnist("train", tmp_path)
    with pytest.raises(ValueError, match="split must be"):
        mnist("valid", tmp_path)


def test_official_fashion_mnist() -> None:
    images = official("test")
    assert images.shape == (10_000, 784)
    assert images.dtype == torch.uint8
    assert images.double().mean().item() == pytest.approx(73.14656, abs=1e-4)  # any other images would differ


@pytest.mark.external
def test_official_mnist(external_data: Path) -> None:
    assert mnist("test", external_data).shape == (10_000, 784)
    assert load_labels("mnist", "test", external_data)[:5].tolist() == [7, 2, 1, 0, 4]
    labels = readers.read_idx(external_data / "mnist" / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(ValueError, match="expected 10000 x 28 x 28 pixels; got 10000"):
        _checked(labels, Path("x"), 10_000)


def test_threshold_at_one_half() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(binarize(every), (every.double() / 255 > 0.5).to(torch.get_default_dtype()))
    assert torch.equal(binarize(every.numpy()), binarize(every))


def test_gray_scales() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(binarize(every, "gray"), torch.linspace(0, 1, 256))
    torch.testing.assert_close(binarize(every, "gray256") * 256, torch.arange(256.0))
    assert torch.equal(binarize(every, "grey"), binarize(every, "gray"))  # the name in configs of before


def test_stochastic_pixels_have_their_probability() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    draws = binarize(every.expand(4000, 256), "stochastic", seed=0)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert draws[:, 0].max() == 0
    assert draws[:, 255].min() == 1
    middle = slice(20, 236)  # where the mean of 4,000 draws is close to normal
    assert_mean_is(draws[:, middle], every[middle].double() / 255)


def test_stochastic_draws_are_a_function_of_the_seed() -> None:
    images = torch.from_numpy(pixels(3)).reshape(3, 784)
    state = torch.get_rng_state()
    first = binarize(images, "stochastic", seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, binarize(images, "stochastic", seed=5))
    assert not torch.equal(first, binarize(images, "stochastic", seed=6))
    with pytest.raises(ValueError, match="needs a seed"):
        binarize(images, "stochastic")


def test_binarize_refuses_scaled_images_and_unknown_rules() -> None:
    with pytest.raises(ValueError, match="expects uint8 pixels"):
        binarize(torch.rand(3, 784))
    with pytest.raises(ValueError, match='how must be "threshold"'):
        binarize(torch.zeros(3, dtype=torch.uint8), "median")


# CIFAR-10, two records in a file


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """The six files, small, and known by their checksums; none of this machine's folders."""
    files = {name: batch(i, (i, 9 - i))[0] for i, name in enumerate(CIFAR_FILES)}
    monkeypatch.setattr(readers, "CIFAR_RECORDS", 2)
    monkeypatch.setattr(
        "elbowroom.datasets.catalog.CIFAR_FILES", {name: hashlib.sha256(x).hexdigest() for name, x in files.items()}
    )
    monkeypatch.setitem(SPLITS, "cifar10", {"train": 9, "valid": 1, "test": 2})
    monkeypatch.setattr("elbowroom.datasets.catalog.SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ELBOWROOM_DATA", raising=False)
    return files


def pack(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return tarball(folder / CIFAR_ARCHIVE, *(member(f"{CIFAR_FOLDER}/{name}", files[name]) for name in files))


def spread(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("how", ["archive", "folder", "direct"])
def test_cifar_splits_are_those_of_the_paper(cifar: dict[str, bytes], tmp_path: Path, how: str) -> None:
    """All but the end of the training files, their end, and the test file; each image with its label."""
    folder = tmp_path / (CIFAR_FOLDER if how == "folder" else "cifar10")
    where = pack(folder, cifar) if how == "archive" else spread(folder, cifar)
    expected = np.concatenate([np.frombuffer(x, np.uint8).reshape(2, 3073) for x in cifar.values()])
    for split, rows in {"train": slice(0, 9), "valid": slice(9, 10), "test": slice(10, 12)}.items():
        images, labels = load_dataset("cifar10", split, tmp_path), load_labels("cifar10", split, tmp_path)
        assert np.array_equal(images.numpy(), expected[rows, 1:].reshape(-1, 3, 32, 32))
        assert np.array_equal(labels.numpy(), expected[rows, 0])
        assert labels.dtype == torch.int64
    assert find_dataset("cifar10", tmp_path) == DatasetPlace(where)


def test_the_splits_add_up() -> None:
    assert SPLITS["cifar10"] == {"train": 45_000, "valid": 5_000, "test": 10_000}
    for name in ("mnist", "fashion-mnist"):
        assert SPLITS[name] == {"train": 60_000, "test": 10_000}
    assert set(SPLITS) == set(SHAPES) == set(DATASETS)


def test_other_pixels_of_cifar_are_read_and_said(cifar: dict[str, bytes], tmp_path: Path) -> None:
    other = {**cifar, "test_batch.bin": batch(99)[0]}
    where = pack(tmp_path, other)
    assert cifar10("test", tmp_path).shape == (2, 3, 32, 32)
    assert find_dataset("cifar10", tmp_path) == DatasetPlace(where, "not the official pixels")
    bits = {name: bytes([i]) + bytes(3072) + bytes([i]) + b"\xff" * 3072 for i, name in enumerate(cifar)}
    pack(tmp_path, bits)
    found = find_dataset("cifar10", tmp_path)
    assert found is not None
    assert found.note.endswith("every one is 0 or 255, thresholded already")


def test_a_damaged_cifar_is_refused(cifar: dict[str, bytes], tmp_path: Path) -> None:
    where = pack(tmp_path, {name: cifar[name] for name in list(cifar)[:3]})
    for read in (cifar10, lambda split, folder: find_dataset("cifar10", folder)):
        with pytest.raises(ValueError, match=r"holds no data_batch_4\.bin; fetch it again") as caught:
            read("train", tmp_path)
        assert str(where) in str(caught.value)


def test_a_missing_data_set_says_what_fetches_it(cifar: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`elbowroom data cifar10` fetches it") as caught:
        load_dataset("cifar10", "valid", tmp_path)
    assert str(tmp_path / "cache/elbowroom/cifar10") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert find_dataset("cifar10", tmp_path) is None
    with pytest.raises(ValueError, match='"train" or "valid" or "test" for cifar10; got'):
        load_dataset("cifar10", "heldout")
    for ask in (load_dataset, load_labels):
        with pytest.raises(ValueError, match="no data set is named 'cifar100'; there are cifar10, fashion-mnist"):
            ask("cifar100")
    assert not list(tmp_path.iterdir())


@pytest.mark.external
def test_the_copy_of_cifar_at_hand(external_data: Path) -> None:
    images = load_dataset("cifar10", "valid", external_data)
    assert images.shape == (5_000, 3, 32, 32)
    assert load_labels("cifar10", "valid", external_data).bincount().min() > 400


# Labels beside images


def label(folder: Path, values: np.ndarray, prefix: str = "train") -> Path:
    path = folder / f"{prefix}-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(values.astype(np.uint8))))
    return path


def test_labels_belong_to_their_images(
    tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.array([7, 0, 9])
    checksum = hashlib.sha256(values.astype(np.uint8).tobytes()).hexdigest()
    monkeypatch.setattr("elbowroom.datasets.catalog.LABELS", {("mnist", "train"): checksum})
    put(tmp_path, tiny["mnist"])
    with pytest.raises(FileNotFoundError, match=r"has images and no train-labels-idx1-ubyte\.gz"):
        load_labels("mnist", "train", tmp_path)
    label(tmp_path, values)
    assert load_labels("mnist", "train", tmp_path).tolist() == [7, 0, 9]
    mismatched = {
        "expected 3 labels, one for each image; got 4": np.array([7, 0, 9, 1]),
        "expected 3 labels, one for each image; got 3 x 1": values[:, None],
        "not the labels of mnist train": values[::-1],
    }
    for message, wrong in mismatched.items():
        path = label(tmp_path, wrong)
        with pytest.raises(ValueError, match=message) as caught:
            load_labels("mnist", "train", tmp_path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_find_wants_every_split(tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = pixels(5)
    monkeypatch.setitem(catalog.PIXELS, ("mnist", "test"), hashlib.sha256(test.tobytes()).hexdigest())
    put(tmp_path / "mnist", tiny["mnist"])
    assert find_dataset("mnist", tmp_path) is None
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").write_bytes(idx(test))
    assert find_dataset("mnist", tmp_path) == DatasetPlace(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").write_bytes(idx(test)[:-1])
    with pytest.raises(ValueError, match="fetch it again"):
        find_dataset("mnist", tmp_path)


# A user's file in place of a name


def test_a_user_s_file_works_where_a_name_does(tmp_path: Path) -> None:
    floats, bits = np.random.default_rng(0).normal(size=(4, 3)), np.eye(3, dtype=np.uint8)
    shades = pixels(0)
    np.save(tmp_path / "floats.npy", floats)
    np.save(tmp_path / "bits.npy", bits)
    np.savez(tmp_path / "both.npz", train=shades, test=shades[:1])
    for rule in (None, "none"):
        found = read_data(str(tmp_path / "floats.npy"), "train", None, rule, 0)
        torch.testing.assert_close(found, torch.from_numpy(floats).to(found.dtype))
        assert torch.equal(read_data(str(tmp_path / "bits.npy"), "train", None, rule), torch.eye(3))
    for rule in ("threshold", "stochastic", "gray", "gray256"):
        found = read_data(str(tmp_path / "both.npz"), "test", None, rule, 3)
        assert torch.equal(found, binarize(shades[:1], rule, 3))


def test_a_user_s_file_is_never_binarized_by_accident(tmp_path: Path) -> None:
    np.save(tmp_path / "floats.npy", np.ones((4, 3)))
    np.save(tmp_path / "bits.npy", np.eye(3, dtype=np.uint8))
    np.save(tmp_path / "shades.npy", pixels(0))
    np.save(tmp_path / "nan.npy", np.full(3, np.nan))
    np.savez(tmp_path / "train.npz", train=pixels(0), valid=pixels(1))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "shades.npy").read_bytes()[:-1])
    before = sorted(tmp_path.iterdir())
    wrong: list[tuple[str, str, str | None, type[Exception], str]] = [
        ("floats.npy", "train", "threshold", UserError, "holds float64; --binarize takes pixels as uint8"),
        ("bits.npy", "train", "threshold", UserError, "no value above 1.*leave --binarize out"),
        ("shades.npy", "train", None, UserError, "holds pixels.*threshold, stochastic, gray or gray256"),
        ("shades.npy", "train", "median", ValueError, "how must be"),
        ("shades.npy", "test", "threshold", UserError, "has no test set"),
        ("train.npz", "test", "threshold", UserError, "has no test set"),
        ("nan.npy", "train", None, ValueError, "3 of 3 values are not finite"),
        ("cut.npy", "train", "threshold", ValueError, "cannot be read as .npy"),
        ("absent.npy", "train", None, FileNotFoundError, "no such file"),
        ("cifar", "train", None, UserError, "no data set is named .*cifar10.*files ending in .npz"),
    ]
    for name, split, rule, kind, message in wrong:
        with pytest.raises(kind, match=message) as caught:
            read_data(str(tmp_path / name), split, None, rule)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_named_data_set_is_binarized_by_a_named_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    shades = torch.from_numpy(pixels(0))
    monkeypatch.setitem(DATASETS, "mnist", lambda split, folder: shades)
    assert torch.equal(read_data("mnist", "train", None, "threshold", 0), binarize(shades))
    with pytest.raises(UserError, match="mnist holds pixels from 0 to 255"):
        read_data("mnist", "train")


def test_demo_images_are_binary_and_distinct() -> None:
    images = demo_images()
    assert list(images) == ["train", "heldout"]
    for x in images.values():
        assert x.shape == (250, 784)
        assert x.dtype == torch.get_default_dtype()
        assert set(x.unique().tolist()) == {0.0, 1.0}
    assert len(torch.cat(list(images.values())).unique(dim=0)) == 500


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("heldout", "test")])
def test_demo_images_are_fashion_mnist_s(name: str, split: str) -> None:
    folder = Path(er.__file__).parent / "assets" / "fashion-mnist"
    index = np.load(folder / "images.npz", allow_pickle=False)[f"{name}_index"]
    assert torch.equal(demo_images()[name], binarize(official(split)[index]))
    assert "Zalando SE" in (folder / "LICENSE-fashion-mnist.txt").read_text()
