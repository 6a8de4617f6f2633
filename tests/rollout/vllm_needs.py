"""What vLLM's CPU build needs besides torch, a line each for pip: `python vllm_needs.py WHEEL`.

Its metadata also ask for torchvision, torchaudio and torchcodec, which text does not need and which bring another torch.
"""

import sys
import zipfile
from email.parser import Parser

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}


def needs(wheel: str) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    asked = [Requirement(line) for line in lines]
    here = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [
        f"{r.name}{'[' + ','.join(r.extras) + ']' if r.extras else ''}{r.specifier}"
        for r in here
        if r.name not in LEFT_OUT
    ]


if __name__ == "__main__":
    print("\n".join(needs(sys.argv[1])))
