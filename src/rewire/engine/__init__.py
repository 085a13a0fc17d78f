"""The CPU engine: sparse layers that hold and compute their active weights alone."""
