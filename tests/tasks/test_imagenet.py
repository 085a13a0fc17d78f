"""ImageNet, or any folder of images like it, as a task; and the whole path of its recipe on images of CIFAR-10."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import rewire
from rewire import assembly, planning, record
from rewire.processes import Processes
from rewire.recipe import Recipe, Runtime
from rewire.recipes import RECIPES
from rewire.tasks import imagenet, kind
from rewire.tasks.cifar import cifar10
from rewire.tasks.image_files import image_files
from rewire.tasks.imagenet import StreamedImages, share_of_cores, without_images
from rewire.training import Run

torch.set_num_threads(1)

RECIPE = replace(RECIPES["imagenet-resnet50"](), validation=0.1, image_size=8, width=0.05, batch_size=10, epochs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 images to train and 7 to test by, of which the n-th has grey level n; of two classes, odd and even."""
    place = tmp_path_factory.mktemp("images")
    for part, count in (("train", 50), ("val", 7)):
        for number in range(count):
            path = place / part / ("even", "odd")[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number,) * 3).save(path)
    return place


def task(folder: Path, **options: object) -> StreamedImages:
    images = image_files(folder, validation=0.1, seed=0)
    settings = {"batch_size": 10, "size": 8, "workers": 0} | options
    return StreamedImages(images, lambda: nn.Flatten(), **settings)  # type: ignore[arg-type]


class Parity(nn.Module):
    """Knows odd from even, but takes every third image for the other kind."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red = images[:, 0, 0, 0] * 58.395 + 123.675
        numbers = red.round().long()
        return nn.functional.one_hot((numbers + (numbers % 3 == 0)) % 2, 2).float()


def test_scores_are_shares_of_each_part(folder: Path) -> None:
    one = task(folder)
    assert one.score(Parity(), "test", "cpu") == {"accuracy": 4 / 7}  # 0, 3 and 6 are wrong
    assert isinstance(one.images, imagenet.ImageFiles)
    held = [int(Path(name).stem) for name in one.images.validation.names]
    assert one.score(Parity(), "validation", "cpu") == {"accuracy": sum(n % 3 > 0 for n in held) / 5}


class Shifted(Parity):
    """Takes odd for even where its buffer, as of running statistics, is 1."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return super().forward(images).roll(int(self.shift), 1)


def _scores(rank: int, place: Path, folder: Path, found: multiprocessing.Queue) -> None:
    torch.distributed.init_process_group("gloo", f"file://{place}", rank=rank, world_size=2)
    model = Shifted(rank)
    with torch.inference_mode():
        found.put((rank, task(folder).score(model, "test", "cpu")["accuracy"], model.seen))
    torch.distributed.destroy_process_group()


def test_two_processes_measure_a_share_each_of_the_first_one_s_model(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    arguments = (tmp_path / "store", folder, found)
    processes = [context.Process(target=_scores, args=(n, *arguments), daemon=True) for n in (0, 1)]
    for process in processes:
        process.start()
    results = sorted(found.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert results == [(0, 4 / 7, 4), (1, 4 / 7, 3)]


def test_the_loss_is_smoothed_cross_entropy_by_hand(folder: Path) -> None:
    output, target = torch.tensor([[0.0, 0.0], [0.0, 100.0]]), torch.tensor([0, 1])
    assert task(folder).loss(output, target).item() == pytest.approx(torch.tensor(2.0).log().item() / 2)
    assert task(folder, label_smoothing=0.1).loss(output, target).item() == pytest.approx(
        (torch.tensor(2.0).log().item() + 5.0) / 2  # half of 0.1 falls on a class that is 100 below
    )


def test_sizes_are_those_of_batches(folder: Path) -> None:
    one = task(folder, channels_last=True)
    ((seen, labels), *_) = one.source("cpu").epoch(0)
    images, made_up = one.example(7)
    assert one.steps == len(one.source("cpu")) == 4
    assert images.shape == (7, *seen.shape[1:])
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in (images, seen))
    assert {*made_up.tolist(), *labels.tolist()} == {0, 1}


def test_the_sample_is_not_augmented_and_the_same_at_every_call(folder: Path) -> None:
    found = task(folder).sample(3, "cpu")
    assert [len(y) for _, y in found] == [10] * 3
    assert len({x[0, 0, 0].item() for batch, _ in found for x in batch}) == 30
    assert len(task(folder, batch_size=20).sample(3, "cpu")) == 2, "the rest is no whole batch"
    assert all(torch.equal(x, u) for (x, _), (u, _) in zip(found, task(folder).sample(3, "cpu"), strict=True))


# ---- the recipe


def test_the_recipe_makes_the_task_of_a_folder(folder: Path) -> None:
    made = assembly.build_task(RECIPE, folder, workers=3)
    assert isinstance(made, StreamedImages)
    assert (made.steps, made.batch_size, made.label_smoothing, made.workers) == (4, 10, 0.1, 3)
    loader = made.source("cpu").loader
    assert (loader.size, loader.workers, loader.channels_last) == (8, 3, True)
    assert made.model()(made.example(2)[0]).shape == (2, 2)
    assert assembly.build_task(replace(RECIPE, model="mlp"), folder).model()(made.example(2)[0]).shape == (2, 2)


def test_the_recipe_reads_its_image_size_and_no_augmentation() -> None:
    assert kind("imagenet") == "images"
    identity = RECIPE.identity()
    assert (identity["image_size"], identity["augment"], identity["label_smoothing"]) == (8, None, 0.1)
    assert Recipe.of(identity) == RECIPE


def test_a_plan_needs_no_image() -> None:
    """100 epochs of 4904 steps: 2 % of 1 281 167 images, 25 623, are held out; an update every 2000 steps."""
    recipe = replace(RECIPES["imagenet-resnet50"](), width=0.05, image_size=32)
    plan = planning.plan(recipe)
    assert (plan.steps, plan.updates) == (490_400, 244)
    assert without_images(0.02).count == 1_281_167 - 25_623
    assert assembly.build_task(recipe, None, outline=True).model().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_too_few_images_are_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^batch_size=46 gives no batch: there are 45 images to train on\. Use a batch"
    ):
        assembly.build_task(replace(RECIPE, batch_size=46), folder)
    with pytest.raises(
        ValueError, match=r"^validation=0\.005 of 50 training images is not one image, .*=0\.02, or more"
    ):
        assembly.build_task(replace(RECIPE, validation=0.005), folder)


def test_workers_are_a_matter_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    assert share_of_cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert share_of_cores() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert share_of_cores() == 1
    with pytest.raises(ValueError, match=r"^workers=-1 is no number of processes\. Use 0 to decode without any\.$"):
        Runtime(workers=-1)


def test_the_runtime_says_how_many_processes_decode(folder: Path, tmp_path: Path) -> None:
    with Processes.join("cpu") as processes:
        run = Run(replace(RECIPE, method="static"), Runtime(data=folder, workers=2), tmp_path, processes)
    assert isinstance(run.task, StreamedImages)
    assert run.task.workers == 2


# ---- the whole path


@pytest.fixture(scope="module")
def cifar_folder(cifar10_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 training and 40 test images of CIFAR-10, as JPEG files."""
    place, data = tmp_path_factory.mktemp("cifar"), cifar10(cifar10_folder)
    parts = (("train", data.train_images, data.train_labels, 200), ("val", data.test_images, data.test_labels, 40))
    for part, images, labels, count in parts:
        for number in range(count):
            path = place / part / f"class{labels[number]}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number].permute(1, 2, 0).numpy()).save(path, quality=95)
    return place


WORDS = (
    *("train", "imagenet-resnet50", "--method", "dst_ee", "--image-size", "32", "--width", "0.125", "--epochs", "4"),
    *("--batch-size", "20", "--every", "5", "--validation", "0.1", "--warmup-epochs", "1", "--threads", "1"),
)


@contextmanager
def torchrun(data: Path, out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Two processes of `rewire train`, each with others that decode for it; they end with the block."""
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "rewire.cli")
    process = subprocess.Popen(
        [*launch, *WORDS, "--data", str(data), "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.slow  # three times two processes that import torch
def test_two_processes_that_are_stopped_go_on_as_if_they_had_not_been(cifar_folder: Path, tmp_path: Path) -> None:
    """As a cluster stops them: torchrun passes SIGTERM on to every process, those that decode images too."""
    with torchrun(cifar_folder, tmp_path / "parts") as process:
        assert process.stdout is not None
        said = ""
        while "epoch 1/4" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        time.sleep(0.5)  # until images are being decoded again
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=300)[0]
    stopped = re.search(r"Stopped by SIGTERM after (\d+) of 36 steps", said)
    assert stopped, said
    assert int(stopped[1]) % 9, "within an epoch"
    for name, more in (("parts", ["--resume"]), ("whole", [])):
        with torchrun(cifar_folder, tmp_path / name, *more) as process:
            said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said
        assert (f"resumed after {stopped[1]} of 36 steps" in said) == (name == "parts")
    (parts,), (whole,) = (record.read(tmp_path / name / "records.jsonl") for name in ("parts", "whole"))
    assert (whole.result["steps"], whole.result["updates"]) == (36, 6)
    assert parts.curves == whole.curves
    of_the_machine = {"seconds": None, "peak_memory": None}
    assert parts.result | of_the_machine == whole.result | of_the_machine
    models = [next((tmp_path / name).glob("*/model.safetensors")) for name in ("parts", "whole")]
    assert models[0].read_bytes() == models[1].read_bytes()

    # What two processes measured together is what one measures of the model that they wrote.
    recipe = Recipe.of(whole.recipe)
    task = assembly.build_task(recipe, cifar_folder, workers=0)
    model = rewire.load(models[0], task.model()).eval()
    with torch.inference_mode(), assembly.autocast(recipe, torch.device("cpu")):
        for part in ("validation", "test"):
            assert task.score(model, part, "cpu")["accuracy"] == whole.result[f"{part}_accuracy"]  # type: ignore[arg-type]
