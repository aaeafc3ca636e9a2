"""The RGB and the temporal-gradient network side by side, each with a contrast head.

Promises one forward pass per modality over all rows it is given, so that BatchNorm sees them as one batch.  Which
rows are which, and every loss, is left to the caller; only the RGB network is meant to outlive training.
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from model.r3d import R3D18, normalize


class ModalityOutput(NamedTuple):
    """What one modality's network says about a batch of clips.

    Attributes:
        logits: (B, K) of the classifier.
        features: the features of the four stages, (B, C_i, T_i, H_i, W_i) each.
        embedding: (B, D) of the contrast head, not yet L2-normalised.
    """

    logits: Tensor
    features: list[Tensor]
    embedding: Tensor


class ContrastHead(nn.Module):
    """Map from last-stage features to the space in which the modalities are contrasted.

    Average pooling, then three times Linear - BatchNorm with ReLU between; the last BatchNorm has no weights.
    Differs from the paper, which speaks of a 3-layer MLP only: the reference code has that last BatchNorm.

    Args:
        dim: D, size of features and embedding; 788,480 parameters at 512.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, dim, bias=False),
            nn.BatchNorm1d(dim),
            nn.ReLU(inplace=True),
            nn.Linear(dim, dim, bias=False),
            nn.BatchNorm1d(dim),
            nn.ReLU(inplace=True),
            nn.Linear(dim, dim, bias=False),
            nn.BatchNorm1d(dim, affine=False),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, D, T, H, W) features of the last stage -> (B, D) embedding."""
        embedding: Tensor = self.layers(feature.mean(dim=(2, 3, 4)))
        return embedding


class DualR3D(nn.Module):
    """Two R3D-18 of the same shape, nothing shared: one sees RGB, the other temporal gradients.

    68,013,130 parameters at 101 classes and width 64.

    Args:
        num_classes: K.
        width: channels of the stems, see :class:`R3D18`; embeddings have ``8 * width`` dimensions.
        dropout: before each classifier.
    """

    def __init__(self, num_classes: int, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.rgb = R3D18(num_classes, width, dropout)
        self.tg = R3D18(num_classes, width, dropout)
        self.rgb_contrast = ContrastHead(self.rgb.feature_dim)
        self.tg_contrast = ContrastHead(self.tg.feature_dim)

    def forward(self, rgb: Tensor, tg: Tensor) -> tuple[ModalityOutput, ModalityOutput]:
        """Normalise the pixels and run each modality through its network and head.

        Args:
            rgb: (B, T, H, W, 3) uint8.
            tg: (B, T, H, W, 3) uint8, temporal gradients of the same clips.

        Returns:
            The output for RGB, the output for temporal gradients.
        """
        return self.see("rgb", rgb), self.see("tg", tg)

    def see(self, modality: Literal["rgb", "tg"], clips: Tensor) -> ModalityOutput:
        """Normalise the pixels of one modality and run them through its network and head.

        Args:
            modality: of the clips.
            clips: (B, T, H, W, 3) uint8.
        """
        network, contrast = (self.rgb, self.rgb_contrast) if modality == "rgb" else (self.tg, self.tg_contrast)
        logits, features = network(normalize(clips))
        return ModalityOutput(logits, features, contrast(features[-1]))
