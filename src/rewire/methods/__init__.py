"""The methods as values: each function returns a `Method`, with its formula and its source.

fixed          dense, static
drop_and_grow  a constant budget whose places move
density        a budget that moves
registry       all of them by name, and those of other packages
"""

from rewire.methods.density import ac_dc, gmp, granet
from rewire.methods.drop_and_grow import dst_ee, mest, rigl, rigl_itop, set_, set_itop, snfs
from rewire.methods.fixed import dense, static
from rewire.methods.registry import METHODS, Card, list_methods, method

# gmp, granet and ac_dc are no recipes yet: a record counts FLOPs at the final density, and theirs moves.
for _make in (dense, static, set_, set_itop, rigl, rigl_itop, dst_ee, snfs, mest):
    METHODS.add(_make)

__all__ = [
    "METHODS",
    "Card",
    "ac_dc",
    "dense",
    "dst_ee",
    "gmp",
    "granet",
    "list_methods",
    "mest",
    "method",
    "rigl",
    "rigl_itop",
    "set_",
    "set_itop",
    "snfs",
    "static",
]
