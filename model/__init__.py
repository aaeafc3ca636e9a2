"""The networks: R3D-18, and the RGB + temporal-gradient pair that trains together.

This package promises networks that take clips and return logits, features and embeddings, and knows nothing of
where clips come from or what they are trained for.
"""

from model.dual import ContrastHead, DualR3D, ModalityOutput
from model.precise_bn import apply_precise_bn, precise_bn_statistics, using_precise_bn
from model.r3d import R3D18, normalize
from model.sync_batch_norm import SyncBatchNorm, synchronize_batch_norm

__all__ = [
    "R3D18",
    "ContrastHead",
    "DualR3D",
    "ModalityOutput",
    "SyncBatchNorm",
    "apply_precise_bn",
    "normalize",
    "precise_bn_statistics",
    "synchronize_batch_norm",
    "using_precise_bn",
]
