"""Accelerators that a cluster may be planned with, as their makers' data sheets have them.

Read in November 2026. Peaks are of dense products, not of the doubled ones with sparsity; links count one way. What a program
gets of them is in scale.py. NVIDIA data sheets: "A100 80GB" (2021), "H100 Tensor Core GPU", "H200 Tensor Core GPU", "DGX B200";
networks are those of DGX A100 (eight links of 200 Gb/s), DGX H100, DGX H200 and DGX B200 (eight of 400 Gb/s).
"""

from __future__ import annotations

from dataclasses import dataclass

from rung.errors import unknown

A_MACHINE = 8  # GPUs that see each other by their own links


@dataclass(frozen=True)
class Gpu:
    """flops: FLOP/s of bfloat16 products; single: of float32 ones.  stream: bytes/s of its memory.  memory: bytes.

    link: bytes/s to another GPU of its machine.  network: bytes/s to another machine, of each GPU.
    """

    name: str
    flops: float
    single: float
    stream: float
    memory: float
    link: float
    network: float

    def peak(self, width: int) -> float:
        """FLOP/s of products of numbers of so many bytes."""
        return self.flops if width < 4 else self.single


GPUS = {
    "a100": Gpu("A100 SXM 80 GB", 312e12, 19.5e12, 2.039e12, 80e9, 300e9, 25e9),
    "h100": Gpu("H100 SXM 80 GB", 989e12, 67e12, 3.35e12, 80e9, 450e9, 50e9),
    "h200": Gpu("H200 SXM 141 GB", 989e12, 67e12, 4.8e12, 141e9, 450e9, 50e9),
    "b200": Gpu("B200 SXM 180 GB", 2250e12, 80e12, 8.0e12, 180e9, 900e9, 50e9),
}


def gpu(name: str) -> Gpu:
    """The accelerator of this name.

    Raises:
        InputError: there is none in the table.
    """
    known = name.lower()
    if known not in GPUS:
        raise unknown("GPU", name, GPUS)
    return GPUS[known]
