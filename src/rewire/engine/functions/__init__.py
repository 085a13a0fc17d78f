"""What torch's functions do with a blocked activation, where they can stay in the layout.

A function stays where it works image by image (no lane meets another) and keeps finite numbers finite, since lanes past
the last image hold some. Sums over the batch, products of matrices and reordered dimensions leave the layout.
"""

from rewire.engine.functions import elementwise, layers, properties, shapes

__all__ = ["elementwise", "layers", "properties", "shapes"]
