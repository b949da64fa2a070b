"""A PyTorch loop as in "Transfer Learning for Computer Vision Tutorial" (pytorch.org/tutorials), and a ResNet-50 for it.

Kept from the tutorial: `model.train()`, SGD at 0.001 with momentum 0.9, StepLR, the loop with its running loss and
count of correct ones, a random flip. Ours: the data set, its size, the batch, no worker processes (they would only
take the cores from the network), and the network, since torchvision is not needed for it.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import timed
from headstart.config import Config
from headstart.model.preprocessing import CAFFE_MEAN, IMAGENET_MEAN, IMAGENET_STD

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}  # of conv2 to conv5
Layers = dict[str, tuple[list[np.ndarray], int]]


class ResNet50(nn.Module):
    """ResNet-50 (He et al. 2016) without top, from the arrays of Keras' one, wherever that has its strides.

    Args:
        layers: (weights, stride) by Keras' layer names, `conv1_conv`, `conv2_block1_1_conv`, ...
        classes: outputs of the last layer, `fc`.
    """

    def __init__(self, layers: Layers, classes: int) -> None:
        super().__init__()
        self.stem = convolution(layers, "conv1")
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        names = [f"conv{stage}_block{block + 1}" for stage, blocks in BLOCKS.items() for block in range(blocks)]
        self.blocks = nn.Sequential(*(Bottleneck(layers, name) for name in names))
        self.fc = nn.Linear(2048, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the pooled features (B, 2048) of normalised images (B, 3, H, W)."""
        return self.blocks(self.pool(self.stem(images).relu())).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(images))


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut, which is a convolution too where the shape changes."""

    def __init__(self, layers: Layers, name: str) -> None:
        super().__init__()
        self.reduce, self.spatial, self.expand = (convolution(layers, f"{name}_{number}") for number in (1, 2, 3))
        self.shortcut = convolution(layers, f"{name}_0") if f"{name}_0_conv" in layers else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.expand(self.spatial(self.reduce(x).relu()).relu()) + self.shortcut(x)).relu()


def convolution(layers: Layers, name: str) -> nn.Sequential:
    """Return a convolution without bias, as torchvision has it, and its batch norm, which takes the bias of Keras' one."""
    ((kernel, *bias), stride), ((gamma, beta, mean, variance), _) = layers[f"{name}_conv"], layers[f"{name}_bn"]
    side, _, channels_in, channels_out = kernel.shape
    conv = nn.Conv2d(channels_in, channels_out, side, stride, padding=side // 2, bias=False)
    norm = nn.BatchNorm2d(channels_out, eps=1.001e-5)
    arrays = (kernel.transpose(3, 2, 0, 1), gamma, beta, mean - (bias[0] if bias else 0), variance)
    places = (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    with torch.no_grad():
        for place, array in zip(places, arrays, strict=True):
            place.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return nn.Sequential(conv, norm)


class Source(torch.utils.data.Dataset):
    """The tutorial's transforms on images in memory: resized, mirrored at random, normalised."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, size: int, preprocess: str, flip: bool) -> None:
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(np.int64(labels))
        self.size, self.preprocess, self.flip = size, preprocess, flip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[index].permute(2, 0, 1).float()
        image = nn.functional.interpolate(image[None], (self.size, self.size), mode="bilinear")[0]
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(2)
        return normalised(image, self.preprocess), self.labels[index]


def normalised(image: torch.Tensor, preprocess: str) -> torch.Tensor:
    """Return images (..., 3, H, W), RGB, 0..255, as the network was trained."""
    if preprocess == "caffe":
        return image.flip(-3) - image.new_tensor(CAFFE_MEAN)[:, None, None]
    if preprocess == "torch":
        return (image / 255 - image.new_tensor(IMAGENET_MEAN)[:, None, None]) / image.new_tensor(IMAGENET_STD)[:, None, None]
    raise ValueError(f"a ResNet-50 is not fed {preprocess!r}")


def prepare_fine_tuning(
    config: Config, backbone: dict[str, Any], images: np.ndarray, labels: np.ndarray, fast: bool, compiled: bool = False
) -> Callable[[], dict[str, Any]]:
    """Return what measures one epoch of fine-tuning; see `benchmarks.steps`.

    Args:
        backbone: of `benchmarks.keras_guide.prepare_export`.
        fast: channels-last memory and bfloat16 autocast.
        compiled: `torch.compile` the network.
    """
    torch.manual_seed(0)
    model = ResNet50(backbone["layers"], int(labels.max()) + 1)
    features = pooled_features(model, images[: config.batch_size], config, backbone["preprocess"])
    if fast:
        model = model.to(memory_format=torch.channels_last)
    network = torch.compile(model) if compiled else model
    images = Source(images, labels, config.image_size, backbone["preprocess"], config.flip)
    loader = torch.utils.data.DataLoader(images, batch_size=config.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    train_epoch(network, loader, optimizer, scheduler, fast)

    def measure() -> dict[str, Any]:
        begin = time.perf_counter()
        train_epoch(network, loader, optimizer, scheduler, fast)
        return {"seconds": time.perf_counter() - begin, "features": features}

    return measure


def train_epoch(
    model: nn.Module, loader: torch.utils.data.DataLoader, optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler, fast: bool,
) -> tuple[float, float]:  # fmt: skip
    """Train for one epoch, as the tutorial's `train_model` does, and return loss and accuracy."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    running_loss, running_corrects = 0.0, 0
    for inputs, labels in loader:
        if fast:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            outputs = model(inputs)
            _, predicted = torch.max(outputs, 1)
            loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * inputs.size(0)
        running_corrects += int(torch.sum(predicted == labels))
    scheduler.step()
    return running_loss / len(loader.dataset), running_corrects / len(loader.dataset)


def pooled_features(model: ResNet50, images: np.ndarray, config: Config, preprocess: str) -> np.ndarray:
    """Return the pooled features, float32 (N, 2048), of uint8 images."""
    model.eval()
    images = Source(images, np.zeros(len(images)), config.image_size, preprocess, flip=False)
    with torch.no_grad():
        return model.features(torch.stack([image for image, _ in images])).numpy()


class FromBytes(nn.Module):
    """A network that takes uint8 images (B, H, W, 3): channels last, as they lie in memory."""

    def __init__(self, network: nn.Module, preprocess: str) -> None:
        super().__init__()
        self.network, self.preprocess = network, preprocess

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(normalised(images.permute(0, 3, 1, 2).float(), self.preprocess))


def rates(
    config: Config, backbone: dict[str, Any], images: np.ndarray, labels: np.ndarray, repeats: int, held: bool, mode: str
) -> Iterator[dict[str, Any]]:
    """Measure epochs of fine-tuning as fast as PyTorch users have it, then the forward pass; see `benchmarks.gpu`.

    The network is compiled, with channels last and bfloat16 autocast, the optimizer is fused, and the images stay on the
    device, of the network's size. Nothing is augmented, and nothing is read from the device before the end of an epoch.

    Args:
        backbone: of `benchmarks.keras_guide.exported`.
        held: batch norm in inference mode.
        mode: of `torch.compile`.

    Yields:
        What `benchmarks.common.timed` yields.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TensorFloat-32 for what is not bfloat16, as JAX has it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = FromBytes(ResNet50(backbone["layers"], int(labels.max()) + 1), backbone["preprocess"])
    model = model.to(device, memory_format=torch.channels_last)
    network = torch.compile(model, mode=mode)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    criterion = nn.CrossEntropyLoss()
    pixels, classes = torch.from_numpy(images).to(device), torch.from_numpy(np.int64(labels)).to(device)

    def train() -> None:
        model.train()
        if held:
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(classes), device=device).split(config.batch_size):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16):
                loss = criterion(network(pixels[rows]), classes[rows])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        float(total)  # waits for the device

    def forward() -> None:
        model.eval()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            outputs = [network(batch) for batch in pixels.split(config.batch_size)]
            float(outputs[-1][0, 0])  # waits for the device, which works in order

    yield from timed("training", train, len(images), repeats)
    yield from timed("forward", forward, len(images), repeats)
