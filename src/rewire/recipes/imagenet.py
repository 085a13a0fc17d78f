"""ImageNet; under torchrun as many processes as there are GPUs share each batch.

From RigL's code: SGD with Nesterov's momentum 0.9, a learning rate of 0.1 for each 256 images of a batch, weight decay
1e-4, label smoothing 0.1 (rigl/imagenet_resnet/imagenet_train_eval.py in github.com/google-research/rigl). From ITOP's
command line: 100 epochs, a warm-up over 5, and an update every 4000 batches of 128, which are 2000 of 256; RigL's 100
of 4096 would be 1600 (README of github.com/Shiweiliuiiiiiii/In-Time-Over-Parameterization). Other than theirs: the
learning rate falls along a cosine (RigL's has x0.1 at epochs 30, 70 and 90, ITOP's at 30, 60 and 90), 2 % of the
training images are held out, and forward passes are in bfloat16.
"""

from rewire.recipe import Recipe


def resnet50() -> Recipe:
    """Returns ResNet-50 on ImageNet at 80 %: 100 epochs, 244 updates; streamed from --data DIR, or by name.

    Batches of 256 are those of all processes together; for larger ones the learning rate has to be as much larger.
    """
    return Recipe(
        task="imagenet",
        model="resnet50_imagenet",
        sparsity=0.8,
        every=2000,
        lr=0.1,
        weight_decay=1e-4,
        warmup_epochs=5.0,
        epochs=100,
        batch_size=256,
        label_smoothing=0.1,
        validation=0.02,  # 25 600 images, of which an accuracy has a standard error of 0.3 points
        bf16=True,
        channels_last=True,
    )
