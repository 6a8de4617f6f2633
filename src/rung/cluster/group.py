"""The processes that share a step, over torch.distributed: whose rows are whose, sums, and weights dealt out.

Weights, gradients and what the optimizer keeps of them lie in equal parts in all processes (FSDP2: `fully_shard`); a layer is
whole only while it is computed. Numbers of a step are summed in main memory (gloo), whatever the weights travel by.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rung.kernels.device import CPU
from rung.network.model import Model
from rung.records import Tokens

T = TypeVar("T")
Owners = Callable[[Tokens, Tensor, int], Tensor]  # (tokens, rows, processes) -> the process of each row


def meet(rank: int, size: int, where: str, device: torch.device = CPU, timeout: float = 600.0) -> None:
    """Join the processes of a step, which all call this. where: tcp://HOST:PORT, the same in all, or file:///SHARED/NEW_FILE."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))


def leave() -> None:
    """The end of `meet`."""
    dist.destroy_process_group()


def fair(tokens: Tokens, rows: Tensor, size: int) -> Tensor:
    """The process of each row, int[n]: about as many tokens for each, and a prompt's rows together but for those at a border."""
    group_n, prompt_P = tokens.group_B[rows], torch.tensor([len(prompt) for prompt in tokens.prompts])
    share_n = prompt_P[group_n] / torch.bincount(group_n, minlength=len(prompt_P))[group_n]
    order = group_n.argsort(stable=True)
    cost = (tokens.length_B[rows] + share_n).double()[order]
    middle = (cost.cumsum(0) - cost / 2) / cost.sum()
    owner = torch.empty_like(rows)
    owner[order] = (middle * size).long().clamp(max=size - 1)
    return owner


def local(x: Tensor) -> Tensor:
    """The part of a dealt out tensor that lies here."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """All of a dealt out tensor, which all processes ask for at once."""
    return x.full_tensor() if isinstance(x, DTensor) else x


class Dealt(Model):
    """A model whose weights are dealt out, and brought together layer by layer while they are read."""

    def whole(self, f: Callable[..., T], *args: Any) -> T:
        return cast(T, self.hf.whole_(f, *args))


@dataclass
class Group:
    """All processes that have met. device: of this one's weights.  owners: which process sees which rows."""

    device: torch.device = CPU
    owners: Owners = fair
    mesh: DeviceMesh = field(init=False)
    again: bool = False

    def __post_init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.mesh = init_device_mesh(self.device.type, (self.size,))

    # -- weights ----------------------------------------------------------------------------------------------------
    def copy(self, hf: PreTrainedModel) -> PreTrainedModel:
        """Of a model with an adapter too: no weight can be dealt out as part of two models."""
        return copy.deepcopy(hf)

    def hold(self, model: Model) -> None:
        hf: Any = model.hf
        for part in hf.get_decoder().children():
            for layer in part if isinstance(part, nn.ModuleList) else ():
                self.share(layer)
        self.share(hf)
        hf.whole_ = _call
        register_fsdp_forward_method(hf, "whole_")
        model.__class__ = Dealt

    def share(self, module: nn.Module) -> None:
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        # True: by default the outermost module's weights stay whole until a backward, and after a forward without one, such as
        # a scoring, they would be those of before the next step of the optimizer.
        dealt: FSDPModule = fully_shard(module, mesh=self.mesh, mp_policy=policy, reshard_after_forward=True)
        dealt.set_gradient_divide_factor(1.0)  # a sum: the denominators are those of the whole step
        dealt.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums

    # -- rows -------------------------------------------------------------------------------------------------------
    def own(self, tokens: Tokens, rows: Tensor) -> Tensor:
        return rows[self.owners(tokens, rows, self.size) == self.rank]

    def even(self, parts: list[T], blank: Callable[[], T]) -> list[T]:
        most = max(self.every([len(parts)]))
        return parts + [blank() for _ in range(most - len(parts))]

    # -- numbers ----------------------------------------------------------------------------------------------------
    def total(self, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    def every(self, things: list[T]) -> list[T]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, things)
        return [thing for part in found for thing in part]

    def norm(self, gradients: Sequence[Tensor]) -> float:
        squares = [local(g).float().norm().double().square() for g in gradients]
        mine = torch.stack(squares).sum().cpu() if squares else torch.zeros((), dtype=torch.float64)
        return math.sqrt(float(self.total(mine)))


def _call(f: Callable[..., T], *args: Any) -> T:
    return f(*args)
