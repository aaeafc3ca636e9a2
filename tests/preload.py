"""What :mod:`tests.forks` loads before it forks."""

import torch._dynamo

import train.report
import train.train  # noqa: F401

torch.set_num_threads(1)
