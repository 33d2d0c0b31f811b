"""Networks for CIFAR of three PyTorch libraries, written from their definitions.

- akamaster/pytorch_resnet_cifar10: shortcuts pad the channels on both sides.
- chenyaofo/pytorch-cifar-models: shortcuts are convolutions.
- pytorchcv (osmr/imgclsmob): shortcuts are convolutions; with SE blocks or pre-activation, too.

Modules have the names of the libraries, so that state dicts have theirs.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import pad, relu

WIDTHS = (16, 32, 64)


def build(library: str, name: str, num_classes: int = 1000) -> nn.Module:
    """Returns a network, for example ("pytorchcv", "seresnet20")."""
    kind, depth = name.rstrip("bn0123456789"), int("".join(c for c in name if c.isdigit()))
    if library == "pytorchcv":
        return PytorchcvResNet(kind, depth, num_classes)
    return PlainResNet(depth, num_classes, both_sides=library == "akamaster")


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class PlainUnit(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, both_sides: bool):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.padding = (width - inputs) // 2
        self.downsample = None
        if inputs != width and not both_sides:
            self.downsample = nn.Sequential(conv1x1(inputs, width, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.downsample:
            x = self.downsample(x)
        elif self.padding:
            x = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return relu(x + y)


class PlainResNet(nn.Module):
    def __init__(self, depth: int, num_classes: int, both_sides: bool):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, 16), nn.BatchNorm2d(16)
        inputs = 16
        for i, width in enumerate(WIDTHS, start=1):
            units = []
            for j in range((depth - 2) // 6):
                units.append(PlainUnit(inputs, width, 2 if i > 1 and j == 0 else 1, both_sides))
                inputs = width
            setattr(self, f"layer{i}", nn.Sequential(*units))
        self.classifier = "linear" if both_sides else "fc"
        setattr(self, self.classifier, nn.Linear(64, num_classes))

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return getattr(self, self.classifier)(x.mean((2, 3)))


class ConvBlock(nn.Module):
    """A convolution with batch norm and ReLU after it, or before it."""

    def __init__(self, conv: nn.Conv2d, before: bool = False, activate: bool = True):
        super().__init__()
        self.conv, self.before, self.activate = conv, before, activate
        self.bn = nn.BatchNorm2d(conv.in_channels if before else conv.out_channels)

    def forward(self, x):
        if self.before:
            return self.conv(relu(self.bn(x)))
        y = self.bn(self.conv(x))
        return relu(y) if self.activate else y


class SEBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 16, 1)
        self.conv2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(relu(self.conv1(x.mean((2, 3), keepdim=True)))))


class PytorchcvUnit(nn.Module):
    def __init__(self, kind: str, inputs: int, outputs: int, stride: int, bottleneck: bool):
        super().__init__()
        self.preact = kind == "preresnet"
        inner = outputs // 4
        convs = [conv3x3(inputs, outputs, stride), conv3x3(outputs, outputs)]
        if bottleneck:
            convs = [conv1x1(inputs, inner), conv3x3(inner, inner, stride), conv1x1(inner, outputs)]
        blocks = {
            f"conv{i}": ConvBlock(conv, self.preact, activate=i < len(convs))
            for i, conv in enumerate(convs, start=1)
        }
        self.body = nn.Sequential(OrderedDict(blocks))
        self.se = SEBlock(outputs) if kind == "seresnet" else nn.Identity()
        self.identity_conv = None
        if inputs != outputs:
            conv = conv1x1(inputs, outputs, stride)
            self.identity_conv = conv if self.preact else ConvBlock(conv, activate=False)

    def forward(self, x):
        y, shortcut = self.se(self.body(x)), x
        if self.identity_conv and self.preact:
            shortcut = self.identity_conv(relu(self.body.conv1.bn(x)))
        elif self.identity_conv:
            shortcut = self.identity_conv(x)
        return y + shortcut if self.preact else relu(y + shortcut)


class PytorchcvResNet(nn.Module):
    def __init__(self, kind: str, depth: int, num_classes: int):
        super().__init__()
        bottleneck = depth == 164
        stem = conv3x3(3, 16)
        modules = {"init_block": stem if kind == "preresnet" else ConvBlock(stem)}
        inputs = 16
        for i, width in enumerate(WIDTHS, start=1):
            units, outputs = {}, 4 * width if bottleneck else width
            for j in range(1, (depth - 2) // (9 if bottleneck else 6) + 1):
                stride = 2 if i > 1 and j == 1 else 1
                units[f"unit{j}"] = PytorchcvUnit(kind, inputs, outputs, stride, bottleneck)
                inputs = outputs
            modules[f"stage{i}"] = nn.Sequential(OrderedDict(units))
        if kind == "preresnet":
            norm = OrderedDict(bn=nn.BatchNorm2d(inputs), activ=nn.ReLU())
            modules["post_activ"] = nn.Sequential(norm)
        self.features = nn.Sequential(OrderedDict(modules))
        self.output = nn.Linear(inputs, num_classes)

    def forward(self, x):
        return self.output(self.features(x).mean((2, 3)))
