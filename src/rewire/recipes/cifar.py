"""CIFAR-10 and CIFAR-100.

VGG-19 and ResNet-50 follow the recipe behind the published tables: 160 epochs, batch 128, SGD Nesterov 0.9, learning
rate 0.1, weight decay 5e-4, x0.1 at one half and at three quarters. Their update interval is 1000 steps, as in
DST-EE's code. The others are sized for a CPU; each makes at least 20 topology updates.
"""

from dataclasses import replace

from rewire.recipe import Recipe


def cifar10_mlp() -> Recipe:
    """Returns an MLP 3072-512-512-10: 8 epochs, 2808 steps, 27 updates. The CHTs paper's is `cifar10-mlp-chts`."""
    return Recipe(
        task="cifar10",
        model="mlp",
        hidden=(512, 512),
        every=100,
        lr=0.05,
        weight_decay=2e-3,
        epochs=8,
        label_smoothing=0.1,
        augment="flip",
        bf16=True,
    )


def cifar10_cnn() -> Recipe:
    """Returns a small convolutional network: 8 epochs, 2808 steps, 27 updates."""
    return Recipe(
        task="cifar10", model="cnn", every=100, lr=0.1, epochs=8, augment="crop_flip", bf16=True, channels_last=True
    )


def cifar10_resnet20() -> Recipe:
    """Returns ResNet-20: 30 epochs, 10 530 steps, 51 updates."""
    return Recipe(
        task="cifar10",
        model="resnet20",
        every=200,
        lr=0.1,
        epochs=30,
        warmup_epochs=1.0,
        augment="crop_flip",
        bf16=True,
        channels_last=True,
    )


def cifar10_mlp_chts() -> Recipe:
    """Returns the MLP of the CHTs paper at 99 %: 3072, three sparse layers of 6144, a dense one of 10; 100 epochs.

    Settings are those of the authors' command line (batch 32, learning rate 0.025 falling along a line, weight decay
    5e-4, an update every epoch, hidden layers twice as wide as the input); whether those are the ones of the table's
    CIFAR-10 row is not known. Use --engine cpu: the dense weights alone take 0.4 GB.
    """
    return Recipe(
        task="cifar10",
        model="mlp_chts",
        sparsity=0.99,
        exclude=("fc4",),
        every=1400,
        lr=0.025,
        weight_decay=5e-4,
        schedule="linear",
        epochs=100,
        batch_size=32,
    )


def cifar10_resnet32() -> Recipe:
    """Returns `cifar10_resnet20` with 32 layers."""
    return replace(cifar10_resnet20(), model="resnet32")


def cifar10_wrn22_2() -> Recipe:
    """Returns WRN-22-2: 100 epochs; the first convolution stays dense, as in RigL's code."""
    return replace(cifar10_resnet20(), model="wrn22_2", exclude=("conv1",), every=1000, weight_decay=5e-4, epochs=100)


def cifar10_mobilenet_v2() -> Recipe:
    """Returns MobileNet-v2: 200 epochs; the first convolution and the depthwise ones stay dense, 3 % of the weights."""
    dense = ("conv1", "blocks.*.depthwise")
    return replace(cifar10_wrn22_2(), model="mobilenet_v2", exclude=dense, epochs=200)


def _published(task: str, model: str) -> Recipe:
    return Recipe(
        task=task,
        model=model,
        every=1000,
        lr=0.1,
        weight_decay=5e-4,
        schedule="steps",
        epochs=160,
        batch_size=128,
        augment="crop_flip",
        channels_last=True,
    )


def cifar10_vgg19() -> Recipe:
    """Returns VGG-19, 16 convolutions with batch norm and one linear layer, over 160 epochs."""
    return _published("cifar10", "vgg19")


def cifar10_resnet50() -> Recipe:
    """Returns ResNet-50 with the stem for small images, over 160 epochs."""
    return _published("cifar10", "resnet50")


def cifar100_vgg19() -> Recipe:
    """Returns `cifar10_vgg19` for 100 classes."""
    return replace(cifar10_vgg19(), task="cifar100")


def cifar100_resnet50() -> Recipe:
    """Returns `cifar10_resnet50` for 100 classes."""
    return replace(cifar10_resnet50(), task="cifar100")
