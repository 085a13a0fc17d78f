"""rewire: dynamic sparse training for PyTorch."""

from rewire.core.budget import ConstantDensity, CubicDensity
from rewire.core.method import Keep, Method, Proportional, Ranked
from rewire.core.schedule import Constant, Cosine, Cubic, Every, Exponential, Linear, Never
from rewire.core.score import Absolute, Exploration, Gradient, GradientMean, Magnitude, Random
from rewire.core.structure import NM, Block, FanIn, Unstructured
from rewire.files import load, save
from rewire.methods import METHODS, dense, dst_ee, rigl, rigl_itop, set_, set_itop, static
from rewire.sparsifier import Sparsifier, Update, sparsify

__all__ = [
    "METHODS",
    "NM",
    "Absolute",
    "Block",
    "Constant",
    "ConstantDensity",
    "Cosine",
    "Cubic",
    "CubicDensity",
    "Every",
    "Exploration",
    "Exponential",
    "FanIn",
    "Gradient",
    "GradientMean",
    "Keep",
    "Linear",
    "Magnitude",
    "Method",
    "Never",
    "Proportional",
    "Random",
    "Ranked",
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
