"""rewire: dynamic sparse training for PyTorch."""

from rewire.core.score import Magnitude, Random
from rewire.core.structure import NM, Block, FanIn, Unstructured
from rewire.files import load, save
from rewire.methods import METHODS, dense, dst_ee, rigl, rigl_itop, set_, set_itop, static
from rewire.sparsifier import Sparsifier, Update, sparsify

__all__ = [
    "METHODS",
    "NM",
    "Block",
    "FanIn",
    "Magnitude",
    "Random",
    "Sparsifier",
    "Unstructured",
    "Update",
    "dense",
    "dst_ee",
    "load",
    "rigl",
    "rigl_itop",
    "save",
    "set_",
    "set_itop",
    "sparsify",
    "static",
]
