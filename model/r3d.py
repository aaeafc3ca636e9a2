"""R3D-18, the video network of one modality, and the normalisation of the clips it takes.

Promises the architecture of mmaction's ``ResNet3d`` of depth 18, which differs from torchvision's ``r3d_18`` in its
two poolings, its BatchNorm epsilon, its dropout and its initialisation: 33,166,272 parameters before the classifier
at width 64.  Every operation keeps channels_last_3d.  Synchronising BatchNorm over GPUs is left to the trainer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Per channel R, G, B on the 0..255 scale; temporal gradients are normalised with the same numbers.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

BATCH_NORM_EPS = 1e-3


def normalize(clip: Tensor) -> Tensor:
    """Turn pixels into the network's input: (x - mean) / std per channel.

    The layout stays as it is in memory: channels-last pixels become a channels_last_3d tensor by a change of
    strides.

    Args:
        clip: (B, T, H, W, 3) uint8, RGB or temporal gradient.

    Returns:
        (B, 3, T, H, W) float32.
    """
    assert clip.dtype == torch.uint8, f"pixels are uint8, got {clip.dtype}"
    mean = _per_channel(PIXEL_MEAN, clip.device)
    std = _per_channel(PIXEL_STD, clip.device)
    return (clip.permute(0, 4, 1, 2, 3).float() - mean) / std


def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Constants as (3, 1, 1, 1).  Filled on the device: a copy from the host would make the host wait each step."""
    return torch.stack([torch.full((1, 1, 1), value, device=device) for value in values])


class Conv3x3x3(nn.Conv3d):
    """Padded 3x3x3 convolution without bias that spares itself the thirds of the kernel which see nothing but padding.

    That is two of three wherever a volume has one frame, as those of the last two stages for clips of 8.  On a CPU it
    is more than the arithmetic: PyTorch copies the gradient of a channels-last weight twice, 206 ms for 512 to 512
    channels and 3 clips of 4x4, 45 ms this way.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: in T, H and W.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T', H', W'), each size divided by the stride, rounded up."""
        if x.shape[2] > 1:
            return super().forward(x)
        # Sliced with the channels moved last, because the gradient of a slice is contiguous in the order it sees.
        middle = self.weight.movedim(1, -1)[:, 1:2].movedim(-1, 1)
        return F.conv3d(x, middle, None, self.stride, (0, 1, 1))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions around a shortcut: relu(x + conv(relu(conv(x)))), BatchNorm after each convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution in T, H and W; the shortcut is projected wherever a shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPS)
        self.conv2 = Conv3x3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPS)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPS),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T', H', W'), each size divided by the stride, rounded up."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x), inplace=True)


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1))


class R3D18(nn.Module):
    """R3D-18 classifier of one modality, trained from scratch.

    Args:
        num_classes: K, size of the logits.
        width: channels of the stem; the stages have 1, 2, 4 and 8 times as many.  64 is R3D-18, less is for small
            runs on a CPU.
        dropout: probability of dropping a pooled feature before the classifier.
    """

    def __init__(self, num_classes: int, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.feature_dim = 8 * width
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width, eps=BATCH_NORM_EPS)
        self.pool1 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.layer1 = _stage(width, width, stride=1)
        self.pool2 = nn.MaxPool3d((2, 1, 1))
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """Kaiming-normal over fan-out for convolutions, N(0, 0.01) for the classifier; BatchNorm is 1 and 0 already."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Classify clips.

        Args:
            clip: (B, 3, T, H, W) float, normalised; T >= 2.  An odd T loses its last feature frame in pool2.

        Returns:
            Logits (B, K), and the features of the four stages after their ReLU; those of the first stage are taken
            after pool2.  For 8x224x224 clips at width 64 they are (B, 64, 4, 56, 56), (B, 128, 2, 28, 28),
            (B, 256, 1, 14, 14) and (B, 512, 1, 7, 7).

        Raises:
            ValueError: the clip is of another shape, or too short for pool2.
        """
        if clip.ndim != 5 or clip.shape[1] != 3:
            raise ValueError(f"R3D18 takes clips of shape (B, 3, T, H, W), got {tuple(clip.shape)}: use normalize()")
        if clip.shape[2] < 2:
            raise ValueError(f"R3D18 halves time after its first stage: clips need 2 frames, got T={clip.shape[2]}")
        x = self.pool1(F.relu(self.bn1(self.conv1(clip)), inplace=True))
        features = [self.pool2(self.layer1(x))]
        for layer in (self.layer2, self.layer3, self.layer4):
            features.append(layer(features[-1]))
        logits: Tensor = self.classifier(self.dropout(_pool(features[-1])))
        return logits, features

    def classify(self, feature: Tensor) -> Tensor:
        """(B, C, T, H, W) features of the last stage -> logits (B, K) without dropout, in training too."""
        logits: Tensor = self.classifier(_pool(feature))
        return logits


def _pool(feature: Tensor) -> Tensor:
    return feature.mean(dim=(2, 3, 4))


def num_last_positions(clip_len: int, size: int) -> int:
    """Positions (T, H and W) of the last stage's features, of each of which BatchNorm takes a value per clip.

    Args:
        clip_len: frames of the clip.
        size: its height and width in pixels.
    """
    side = -(-size // 32)  # five strides of 2, each rounding up
    return -(-(clip_len // 2) // 8) * side**2
