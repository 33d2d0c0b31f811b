"""The same networks in PyTorch: ResNet-20 is written here, the others are timm's."""

import torch
import torch.nn.functional as F
from torch import nn

from experiments.peers import torchvision_operators  # noqa: F401  timm imports torchvision

TIMM = {
    "resnet50": "resnet50",
    "se_resnet50": "seresnet50",
    "efficientnet_b0": "tf_efficientnet_b0",
}


class SE(nn.Module):
    """The block as in the paper's figure 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Linear(channels, max(1, channels // 16))
        self.expand = nn.Linear(max(1, channels // 16), channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the output."""
        y = F.relu(self.reduce(x.mean((2, 3))))
        return x * torch.sigmoid(self.expand(y))[:, :, None, None]


class Unit(nn.Module):
    """A residual unit."""

    def __init__(self, inputs: int, width: int, stride: int, se: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SE(width) if se else nn.Identity()
        self.stride, self.more = stride, width - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the output."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(x + y)


def network(name: str) -> nn.Module:
    """Returns a network with random weights, in channels-last memory."""
    if name in TIMM:
        import timm

        return timm.create_model(TIMM[name]).to(memory_format=torch.channels_last)
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for width in (16, 32, 64):
        for unit in range(3):
            stride = 2 if unit == 0 and width > 16 else 1
            layers.append(Unit(inputs, width, stride, name.startswith("se_")))
            inputs = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)
