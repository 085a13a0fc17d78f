"""rewire: dynamic sparse training for PyTorch."""

from rewire.core.budget import Alternating, ConstantDensity, CubicDensity
from rewire.core.method import Keep, Method, Proportional, Ranked
from rewire.core.schedule import Constant, Cosine, Cubic, Every, Exponential, Linear, Never
from rewire.core.score import Absolute, Exploration, Gradient, GradientMean, Magnitude, Random
from rewire.core.structure import NM, Block, FanIn, Unstructured
from rewire.files import load, save
from rewire.methods import (
    METHODS,
    ac_dc,
    dense,
    dst_ee,
    gmp,
    granet,
    list_methods,
    mest,
    method,
    rigl,
    rigl_itop,
    set_,
    set_itop,
    snfs,
    static,
)
from rewire.sparsifier import Sparsifier, Update, sparsify

__all__ = [
    "METHODS",
    "NM",
    "Absolute",
    "Alternating",
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
    "ac_dc",
    "dense",
    "dst_ee",
    "gmp",
    "granet",
    "list_methods",
    "load",
    "mest",
    "method",
    "rigl",
    "rigl_itop",
    "save",
    "set_",
    "set_itop",
    "snfs",
    "sparsify",
    "static",
]
