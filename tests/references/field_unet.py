"""The padded U-Net under the names that most public checkpoints of it have, layer by layer."""

import torch
from torch import Tensor, nn


def _double(channels: int, middle: int, out: int) -> nn.ModuleDict:
    def conv(c: int, d: int) -> nn.Conv2d:
        return nn.Conv2d(c, d, 3, padding=1, bias=False)

    layers = nn.Sequential(
        conv(channels, middle),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        conv(middle, out),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )
    return nn.ModuleDict({"double_conv": layers})


class FieldUNet(nn.Module):
    def __init__(self, channels: int, classes: int, widths: list[int], *, bilinear: bool) -> None:
        super().__init__()
        half = 2 if bilinear else 1
        self.inc = _double(channels, widths[0], widths[0])
        last = len(widths) - 1
        for i in range(1, len(widths)):
            out = widths[i] // (half if i == last else 1)
            pool = nn.Sequential(nn.MaxPool2d(2), _double(widths[i - 1], out, out))
            self.add_module(f"down{i}", nn.ModuleDict({"maxpool_conv": pool}))
        for i in range(1, len(widths)):
            wide, skip = widths[last - i + 1], widths[last - i]
            up: nn.Module = (
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
                if bilinear
                else nn.ConvTranspose2d(wide, wide // 2, 2, stride=2)
            )
            out = skip // half if i < last else skip
            conv = _double(wide, wide // 2 if bilinear else out, out)
            self.add_module(f"up{i}", nn.ModuleDict({"up": up, "conv": conv}))
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(widths[0], classes, 1)})
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.inc["double_conv"](x)
        skips = [x]
        for i in range(1, self.last + 1):
            pool, double = getattr(self, f"down{i}")["maxpool_conv"]
            x = double["double_conv"](pool(x))
            skips.append(x)
        skips.pop()
        for i in range(1, self.last + 1):
            block, skip = getattr(self, f"up{i}"), skips.pop()
            x = block["up"](x)
            x = nn.functional.pad(x, (0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]))
            x = block["conv"]["double_conv"](torch.cat([skip, x], dim=1))
        return self.outc["conv"](x)
