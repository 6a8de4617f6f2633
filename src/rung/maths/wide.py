"""float64, where the device has it. Apple's MPS does not: what is counted there is counted in float32."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}


def wide(x: Tensor) -> Tensor:
    return x.to(torch.float32 if x.device.type in WITHOUT_FLOAT64 else torch.float64)
