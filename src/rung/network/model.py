"""A Hugging Face causal model as this project uses it: its trunk, its head, its codec, and how it may be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from logging import ERROR, getLogger
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from rung.errors import InputError
from rung.kernels import rope
from rung.kernels.device import CPU
from rung.maths.products import through_onednn
from rung.network.place import Place, place
from rung.network.readers import reading, refuse_missing
from rung.network.ways import settle
from rung.text import Codec, end_tokens

T = TypeVar("T")


@dataclass
class Model:
    """hf: the causal model; codec: between its tokens and text.

    How it is run is found out by comparing each way with the model's own forward once (ways.py), not from a list of names:
    packs: known tokens run with packed attention and the head is a plain linear map; else by its own padded forward.
    decodes: by which way tokens are sampled (streams.py).
    compacts: rows that have ended can be taken out of the batch.  short_steps: decoding steps may run by `LlamaStep`.
    replays: a GPU repeats decoding steps by a graph (replay.py).
    keeps: a longer row may be read behind what is remembered of its first tokens.
    slow: what people should know about that, if anything.  limit: of rows, below what the configuration says.
    """

    hf: PreTrainedModel
    codec: Codec
    packs: bool = False
    decodes: Literal["packed", "cache", "state", "even", "whole"] = "cache"
    compacts: bool = False
    short_steps: bool = False
    replays: bool = False
    keeps: bool = False
    slow: str | None = None
    limit: int | None = None

    @property
    def device(self) -> torch.device:
        on: torch.device = self.hf.device
        return on

    def reach(self, longest: int) -> None:
        """Make room for rows of this many tokens, where how the model reads depends on it (rope.py)."""
        self.limit = rope.fix(self.hf, longest)
        self.codec = replace(self.codec, context=longest_row(self.hf, self.limit))

    def whole(self, f: Callable[..., T], *args: Any) -> T:
        """f(*args), which reads weights of the model; where they are dealt out over processes, they are whole meanwhile."""
        return f(*args)

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        layer: Any = self.hf.get_output_embeddings()
        return layer.weight, getattr(layer, "bias", None)

    def hidden(self, ids: Tensor, positions: Tensor, layout: object) -> Tensor:
        """Last hidden states [1, N, D] of packed tokens; call inside `packed_attention`."""
        trunk: Any = self.hf.get_decoder()
        out = trunk(input_ids=ids, position_ids=positions, use_cache=False, layout=layout)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        layer: Any = self.hf.get_output_embeddings()
        return layer(hidden).float()  # type: ignore[no-any-return]


def longest_row(hf: PreTrainedModel, limit: int | None = None) -> int:
    """Tokens of the longest row that the configuration, and a limit below it, allow."""
    known = int(getattr(hf.config, "max_position_embeddings", 0) or 1 << 30)
    return known if limit is None else min(known, limit)


def codec_of(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> Codec:
    """The tokenizer as this model reads it."""
    return Codec(tokenizer, ends, hf.get_input_embeddings().weight.shape[0], longest_row(hf))


def load(
    name: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False, merge: bool = False,
    device: torch.device = CPU,
) -> Model:  # fmt: skip
    """A model by its directory or hub id, on its device. Dropout is off for good: log-probabilities must not depend on a draw.

    merge: add an adapter's product to the weights that it belongs to, so that the model is a plain one.
    device: a model is brought there here, and moved nowhere else.
    """
    quiet()
    where = place(name)
    with reading(name, where):
        tokenizer = AutoTokenizer.from_pretrained(**where.tokenizer, trust_remote_code=trust_remote_code)
        hf, info = AutoModelForCausalLM.from_pretrained(
            **where.model, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
        refuse_missing(name, info)
        if "gguf_file" in where.model:
            _forget_quantization(hf)
            _take_ends(tokenizer, hf.config)
        hf = _with_adapters(hf, where, merge)
        hf.name_or_path = hf.config.name_or_path = where.name  # a new adapter writes down what it was trained on
    _refuse_pair(hf, tokenizer, f"model {name!r}", "Put the model's own tokenizer into its directory.")
    return wrap(hf.to(device), tokenizer)


def refuse_others(hf: Any, tokenizer: Any) -> None:
    """Refuse what is no causal language model with its tokenizer."""
    name = type(hf).__name__
    if not isinstance(hf, PreTrainedModel) or hf.get_output_embeddings() is None:
        raise InputError(
            f"model is a {name}, which is no causal language model of transformers. Give one that "
            "AutoModelForCausalLM makes, a name, or a path."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        what = "no tokenizer" if tokenizer is None else f"a {type(tokenizer).__name__} as its tokenizer"
        raise InputError(f"the model {name} came with {what}. Give both: model=(model, tokenizer).")


def bring(hf: Any, tokenizer: Any, device: torch.device = CPU) -> Model:
    """A model that is in memory already, with its tokenizer. It is brought to the device and made ready itself, no copy of it."""
    refuse_others(hf, tokenizer)
    _refuse_pair(hf, tokenizer, f"the model {type(hf).__name__}", "Give the model's own tokenizer.")
    return wrap(hf.to(device), tokenizer)


def _refuse_pair(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, model: str, do: str) -> None:
    rows = hf.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:  # tokens added behind may go unused: `Codec.ids` looks at those
        raise InputError(
            f"{model}: its tokenizer has {tokenizer.vocab_size} tokens, but its embedding only {rows} rows, so they do "
            f"not belong together. {do}"
        )


def quiet() -> None:
    """Without the readers' progress bars and remarks; errors still raise."""
    logging.disable_progress_bar()
    getLogger("huggingface_hub").setLevel(ERROR)


def _with_adapters(hf: PreTrainedModel, where: Place, merge: bool) -> PreTrainedModel:
    for i, adapter in enumerate(where.adapters):
        if merge or i + 1 < len(where.adapters):
            from peft import PeftModel

            hf = PeftModel.from_pretrained(hf, str(adapter)).merge_and_unload().requires_grad_(True)
        else:
            hf.load_adapter(str(adapter))
    return hf


def _forget_quantization(hf: Any) -> None:
    """The weights are floats now, but a model that calls itself quantized cannot be saved."""
    hf.hf_quantizer, hf.is_quantized = None, False
    for owner, name in ((hf, "quantization_method"), (hf.config, "quantization_config"), (hf.config, "_is_quantized")):
        if name in vars(owner):
            delattr(owner, name)


def _take_ends(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """The first and last token that the file names. transformers before 5.19 takes a GGUF file's first token for its last."""
    for name in ("bos_token_id", "eos_token_id"):
        if isinstance(told := getattr(config, name, None), int):
            setattr(tokenizer, name, told)


def wrap(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Model:
    """Make a loaded model ready: dropout off, all embeddings trainable, end tokens collected, ways to run it tried out."""
    for module in hf.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # pad == eos in many models: its gradient must not be dropped
    hf.eval()
    through_onednn(hf)
    model = Model(hf, codec_of(hf, tokenizer, end_tokens(hf.generation_config, hf.config, tokenizer)))
    model.reach(0)
    settle(model)
    return model
