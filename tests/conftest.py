"""Options and fixtures: `pytest --dtype float32 --device cuda` runs the same suite elsewhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import elbowroom as er

from .shared_runs import make_images, measured_whole

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("elbowroom")
    group.addoption("--dtype", choices=sorted(DTYPES), default="float64", help="floating type of the tests")
    group.addoption("--device", default="cpu", help="torch device of the tests, such as cpu or cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The floating type under test; also torch's default type while a test runs."""
    return DTYPES[request.config.getoption("--dtype")]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device under test. Nothing moves there by itself: a test puts its model and data on it."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def torch_settings(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` torch's default for one test, and draws without a generator the same in whatever order tests run;
    afterwards put back default type and thread count.
    """
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small matrices: two threads on a busy machine are many times slower than one
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


@pytest.fixture
def single_precision(torch_settings: None) -> Iterator[None]:
    """torch's usual default type, for models that other people write, whatever --dtype says."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def external_data() -> Path:
    """The folder that ELBOWROOM_DATA names; the test skips, saying so, where there is none."""
    folder = os.environ.get("ELBOWROOM_DATA")
    if not folder:
        pytest.skip("ELBOWROOM_DATA is not set: it names the folder with mnist/, cifar10/ and external/")
    if not Path(folder).is_dir():
        pytest.skip(f"ELBOWROOM_DATA={folder} is not a folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the images of the runs that many processes share."""
    return make_images(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def whole_run(images: Path) -> er.Gaps:
    """What is measured of them in one process."""
    return measured_whole(images)
