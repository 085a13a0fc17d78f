"""Text, a character at a time."""

from rewire.recipe import Recipe


def shakespeare_gpt() -> Recipe:
    """Returns the baby GPT of nanoGPT on tiny Shakespeare: 6 layers, 384 channels, 82 epochs, 5002 steps.

    Optimizer and schedule are nanoGPT's too: AdamW with betas 0.9 and 0.99, weight decay 0.1, gradients clipped at 1,
    learning rate 1e-3 after 100 steps of warm-up, falling to 1e-4 along a cosine (which starts at step 0 here, and at
    step 100 there).

    Reference: config/train_shakespeare_char.py and train.py in https://github.com/karpathy/nanoGPT
    """
    return Recipe(
        task="shakespeare",
        model="gpt",
        every=100,
        optimizer="adamw",
        beta2=0.99,
        lr=1e-3,
        weight_decay=0.1,
        end_lr=1e-4,
        warmup_epochs=1.64,
        clip=1.0,
        epochs=82,
        batch_size=64,
        bf16=True,
    )
