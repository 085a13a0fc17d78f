"""The named recipes: functions that return complete `Recipe`s, to train as they are or to change by flags."""

from collections.abc import Callable

from rewire.recipe import Recipe
from rewire.recipes import cifar, digits, graphs, imagenet, images, text

RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits.mlp,
    "cifar10-mlp": cifar.cifar10_mlp,
    "cifar10-mlp-chts": cifar.cifar10_mlp_chts,
    "cifar10-cnn": cifar.cifar10_cnn,
    "cifar10-resnet20": cifar.cifar10_resnet20,
    "cifar10-resnet32": cifar.cifar10_resnet32,
    "cifar10-wrn22-2": cifar.cifar10_wrn22_2,
    "cifar10-mobilenet-v2": cifar.cifar10_mobilenet_v2,
    "cifar10-vgg19": cifar.cifar10_vgg19,
    "cifar10-resnet50": cifar.cifar10_resnet50,
    "cifar100-vgg19": cifar.cifar100_vgg19,
    "cifar100-resnet50": cifar.cifar100_resnet50,
    "imagenet-resnet50": imagenet.resnet50,
    "images-resnet50": images.resnet50,
    "linkpred": graphs.linkpred,
    "gnn-gcn": graphs.gcn,
    "gnn-graphsage": graphs.graphsage,
    "shakespeare-gpt": text.shakespeare_gpt,
}
