"""Any folder of images, train/CLASS/*.jpg."""

from rewire.recipe import Recipe


def resnet50() -> Recipe:
    """Returns ResNet-50 with the stem for large images: 100 epochs, label smoothing 0.1, bf16.

    All images are held in memory, 150 kB each at 224 pixels: for folders of some ten thousand images. For more, up to
    ImageNet, there is `imagenet-resnet50`, which decodes them as they are needed.
    """
    return Recipe(
        task="folder",
        model="resnet50_imagenet",
        every=1000,
        lr=0.1,
        weight_decay=1e-4,
        warmup_epochs=5.0,
        epochs=100,
        batch_size=256,
        label_smoothing=0.1,
        augment="crop_flip",
        bf16=True,
        channels_last=True,
    )
