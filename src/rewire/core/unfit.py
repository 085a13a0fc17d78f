"""The error of a method that does not go with what it was given, where another one may."""


class UnfitError(ValueError):
    """A method does not go with a network, its structure or its sparsity; a comparison goes on without that run."""
