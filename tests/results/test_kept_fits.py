"""Fits as they are kept: what is read is what was written, or nothing."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from elbowroom.results import Columns, KeptFits

RNG = np.random.default_rng(0)
COLUMNS: Columns = {
    "mean": RNG.normal(size=(5, 3)).astype(np.float32),
    "lower": np.tril(RNG.normal(size=(5, 3, 3)), -1),
    "steps": np.array([1, 2, 0, 4, 5]),
    "nothing": np.zeros((5, 2)),
    "not finite": np.array([[np.nan], [np.inf], [0], [0], [0]]),
}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    KeptFits(tmp_path, {"seed": 0}).save(3, COLUMNS)
    found = KeptFits(tmp_path, {"seed": 0}).load(3)
    assert found.keys() == COLUMNS.keys()
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(found[name], column)
        assert (found[name].dtype, found[name].shape) == (column.dtype, column.shape)


def test_a_later_write_replaces_the_earlier(tmp_path: Path) -> None:
    fits = KeptFits(tmp_path, {})
    fits.save(0, COLUMNS)
    fits.save(0, {**COLUMNS, "mean": COLUMNS["mean"] + 1})
    assert len(list((tmp_path / "fits").iterdir())) == 1
    np.testing.assert_array_equal(fits.load(0)["mean"], COLUMNS["mean"] + 1)


def test_fits_of_another_identity_or_number_are_nothing(tmp_path: Path) -> None:
    KeptFits(tmp_path, {"seed": 0}).save(0, COLUMNS)
    assert not KeptFits(tmp_path, {"seed": 1}).load(0)
    assert not KeptFits(tmp_path, {"seed": 0}).load(1)


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_damaged_file_is_nothing(tmp_path: Path, cut: int) -> None:
    fits = KeptFits(tmp_path, {})
    fits.save(0, COLUMNS)
    (path,) = (tmp_path / "fits").iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    assert not fits.load(0)


def test_a_place_that_cannot_be_written_to_loses_fits_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "fits").write_text("a file where the folder would be")
    fits = KeptFits(tmp_path, {})
    fits.save(0, COLUMNS)
    assert not fits.load(0)


def test_a_disk_with_little_room_is_left_to_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = KeptFits(tmp_path, {})
    usage = SimpleNamespace(total=10**9, used=10**9 - 10**5, free=10**5)
    with monkeypatch.context() as patch:
        patch.setattr("elbowroom.results.kept_fits.disk_usage", lambda folder: usage)
        fits.save(0, COLUMNS)
    fits.save(1, COLUMNS)  # nor is it tried again
    assert not (tmp_path / "fits").exists()
    KeptFits(tmp_path, {}).save(1, COLUMNS)
    assert len(list((tmp_path / "fits").iterdir())) == 1
