"""Data sets by name, their file formats and downloads, and rules that turn gray pixels into data."""

from .binarize import binarize, demo_images
from .catalog import (
    DATASETS,
    SHAPES,
    SPLITS,
    DatasetPlace,
    cache_directory,
    cifar10,
    fashion_mnist,
    find_dataset,
    load_dataset,
    load_labels,
    look_in,
    mnist,
    places,
)
from .fetch import SOURCES, Source, fetch
from .readers import SUFFIXES, array_names, load_array, read_cifar10, read_idx, times

__all__ = [
    "DATASETS",
    "DatasetPlace",
    "SHAPES",
    "SOURCES",
    "SPLITS",
    "SUFFIXES",
    "Source",
    "array_names",
    "binarize",
    "cache_directory",
    "cifar10",
    "demo_images",
    "fashion_mnist",
    "fetch",
    "find_dataset",
    "load_array",
    "load_dataset",
    "load_labels",
    "look_in",
    "mnist",
    "places",
    "read_cifar10",
    "read_idx",
    "times",
]
