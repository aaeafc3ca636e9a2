"""The number format that networks compute in: float32, or a format of 16 bits under autocast.

Promises one rule for training and evaluation.  Parameters, BatchNorm statistics and optimizer state are float32 in any
case; that losses are too is the promise of :mod:`train.losses`.
"""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

_SHORT: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context in which networks compute in a precision."""
    return torch.autocast(device.type, dtype=_SHORT.get(precision), enabled=precision in _SHORT)


def best_precision(device_type: str) -> Precision:
    """bfloat16 on a GPU that has it, float16 on an older one; float32 on a CPU, which is slower with fewer bits."""
    if device_type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
