"""The embedded default: scikit-learn's handwritten digits, 8 x 8 pixels, on one core in seconds."""

from rewire.recipe import Recipe


def mlp() -> Recipe:
    """Returns an MLP 64-256-256-10 on the digits: 1600 steps, 31 topology updates."""
    return Recipe(
        task="digits",
        model="mlp",
        hidden=(256, 256),
        every=50,
        lr=0.1,
        weight_decay=1e-4,
        epochs=40,
        label_smoothing=0.1,
        batch_size=32,
    )
