"""A step's seconds on many GPUs, each by its own equation, from data sheets and a few shares that programs get of them.

Nothing here was measured on a cluster. The shares are assumptions, each with where it comes from; the driver's seconds and
the rate of a copy were measured on one core (benchmarks/scale.py measures them again). Units: seconds, bytes, FLOP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from rung.plan.estimate import OPTIMIZER_PASSES, STEP_SECONDS, head_flops, trunk_flops
from rung.plan.machines import A_MACHINE, Gpu
from rung.plan.memory import Shape, Workload

# shares of a data sheet's peak
TRAINING = 0.35  # of products, in training: what FSDP2 gets of H100s without compilation (torchtitan, arXiv:2410.06511)
PREFILL = 0.5  # of products, in prefill: long products and no backward
STREAM = 0.6  # of memory's rate, in decoding: 130 tokens/s of one 7B answer on an H100
LINK = 0.8  # of a link's rate, in a collective of many megabytes
# seconds and rates that no data sheet has
LAYER = {
    "torch": 3e-4,
    "vllm": 3e-5,
}  # of a layer in a decoding step, to start what it computes; vllm's is a recorded graph
HOP = 5e-6  # of a message from one process of a ring to the next
HOST = 25e9  # bytes/s between a GPU and main memory: half of what PCIe 5 promises
COPY = 4e9  # bytes/s into Ray's store, by one core
SPREAD = (
    3.2e9  # bytes/s that one machine sends objects of Ray's store out with: 1 GiB to 50 in 16.9 s (Ray's release tests)
)
ANSWER = 1.5e-4  # of the driver, an answer: text to tokens and back
TOKEN = 5e-7  # of the driver, an answer token: it arrives and is laid out in rows
WRITTEN = 2e-6  # of the driver, an answer token: it is written with its numbers (--save-rollouts)
SLICES = 256  # of an integral over an answer's tokens


# -- answers that end ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Lengths:
    """Answers that end with the same chance 1 / scale at each token, and at the limit T at the latest."""

    scale: float
    T: int

    @classmethod
    @cache
    def of(cls, mean: float, T: int) -> Lengths:
        """mean = scale (1 - exp(-T / scale)), solved for scale: infinite where all answers reach the limit."""
        low, high = mean / 50, 1e3 * T
        for _ in range(100):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if -middle * math.expm1(-T / middle) < mean else (low, middle)
        return cls(high, T)

    def alive(self, t: float) -> float:
        """exp(-t / scale): the share of answers that have more than t tokens."""
        return math.exp(-t / self.scale)

    def any_alive(self, t: float, rows: float) -> float:
        """1 - (1 - alive(t))^rows: the chance that the longest of so many has more than t tokens."""
        return -math.expm1(rows * math.log1p(-min(self.alive(t), 1 - 1e-12)))

    def beyond(self, t: float) -> float:
        """scale (exp(-t / scale) - exp(-T / scale)): tokens of an answer behind its first t, on average."""
        return max(0.0, -self.scale * self.alive(t) * math.expm1((t - self.T) / self.scale))

    def longest(self, rows: float) -> float:
        """Tokens of the longest of so many answers: the integral of any_alive from 0 to T."""
        return sum(self.any_alive((i + 0.5) * self.T / SLICES, rows) for i in range(SLICES)) * self.T / SLICES


# -- sampling ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Decoder:
    """One sampler. at_once: answers that it decodes together.  refills: the next one takes the place of one that has ended
    (vllm); else so many are drawn to their end (torch).  layer: seconds of each layer in a step, whatever its size."""

    shape: Shape
    gpu: Gpu
    at_once: float
    refills: bool
    layer: float

    def step(self, rows: float, context: float) -> float:
        """max((W + rows context k) / stream, flops / peak) + layers c: one token more of each row.

        W: the trunk's and the head's bytes, read once for all rows; k = 2 layers K D_h width: keys and values of a token.
        """
        s, gpu = self.shape, self.gpu
        read = (s.products + s.V * s.D) * s.width + rows * context * token_bytes(s)
        flops = trunk_flops(s, rows, context) + head_flops(s, rows)
        return max(read / (STREAM * gpu.stream), flops / (PREFILL * gpu.peak(s.width))) + s.layers * self.layer

    def prefill(self, prompts: float, length: float) -> float:
        """flops / peak: each prompt once, whatever the number of its answers."""
        return trunk_flops(self.shape, prompts * length, length / 2) / (PREFILL * self.gpu.peak(self.shape.width))

    def decode(self, rows: float, everyone: float, prompt: float, lengths: Lengths, mean: float) -> float:
        """(rows - n) L / n step(n) + until_the_longest, n = at_once: every place taken, and then fewer and fewer.

        everyone: answers of the whole step, for it ends with the longest one of all samplers. Without refills a batch after
        the other is drawn until its own longest.
        """
        places = min(rows, self.at_once)
        rounds = 1 if self.refills else math.ceil(rows / places)
        full = (rows - places) * mean / places * self.step(places, prompt + mean) if self.refills else 0.0
        earlier = 0.0 if rounds == 1 else (rounds - 1) * self.until_the_longest(places, places, prompt, lengths)
        return full + earlier + self.until_the_longest(places, everyone, prompt, lengths)

    def until_the_longest(self, rows: float, everyone: float, prompt: float, lengths: Lengths) -> float:
        """The integral of any_alive(t) step(rows alive(t)): places that are not taken any more cost little."""
        width = lengths.T / SLICES
        return sum(
            width * lengths.any_alive(t, everyone) * self.step(max(rows * lengths.alive(t), 1.0), prompt + t)
            for t in ((i + 0.5) * width for i in range(SLICES))
        )


def token_bytes(s: Shape) -> float:
    """2 layers K D_h width: keys and values of one token."""
    return 2.0 * s.layers * s.key_heads * s.head_dim * s.width


@cache
def sampling_seconds(d: Decoder, w: Workload, samplers: int) -> float:
    """prefill + decode of the sampler with the most prompts, ceil(P / M), which all others wait for."""
    prompts = math.ceil(w.P / samplers)
    drawn = d.decode(prompts * w.G, w.P * w.G, w.prompt, Lengths.of(w.answer, w.T), w.answer)
    return d.prefill(prompts, w.prompt) + drawn


def going_on(w: Workload, rows: float, piece: int, versions: int) -> list[tuple[float, float]]:
    """(rows alive(i N), L_p + i N), i = 1 .. S - 1, i N < T: answers in pieces of N that a later version goes on with, and the
    tokens of each that it reads anew. The pieces of a step are drawn one after the other, and so are those of different steps:
    all of them together take as many steps of decoding as its longest answer has tokens, as in one piece."""
    lengths = Lengths.of(w.answer, w.T)
    return [(rows * lengths.alive(i * piece), w.prompt + i * piece) for i in range(1, versions) if i * piece < w.T]


def behind(w: Workload, staleness: int, piece: int | None) -> float:
    """S - sum of beyond(i N) / L over i = 1 .. S - 1: updates from a token's weights to those that learn from it, on average."""
    if piece is None:
        return float(staleness)
    lengths = Lengths.of(w.answer, w.T)
    return staleness - sum(lengths.beyond(i * piece) for i in range(1, staleness)) / lengths.beyond(0)


# -- learning ------------------------------------------------------------------------------------------------------
def ring(size: float, learners: int, gpu: Gpu) -> float:
    """(N - 1) / N size / link + (N - 1) hop: an all-gather, or a reduce-scatter, of so many bytes over N processes.

    The link between the GPUs of one machine, or the network where there are more than one machine holds.
    """
    if learners == 1:
        return 0.0
    rate = LINK * (gpu.link if learners <= A_MACHINE else gpu.network)
    return (learners - 1) / learners * size / rate + (learners - 1) * HOP


def micro_batches(w: Workload, learners: int, micro_tokens: int) -> int:
    """min(ceil(fed / N / micro_tokens), ceil(P G / N)): of each learner. An answer is never cut, so one is the least it takes."""
    return max(1, min(math.ceil(w.fed / learners / micro_tokens), math.ceil(w.P * w.G / learners)))


def traffic_seconds(s: Shape, parts: int, learners: int, gpu: Gpu, *, gradient: bool) -> float:
    """parts (layers + 1) (2 gathers + 1 scatter): FSDP2 brings every layer's weights together for the forward and for the
    backward and sums its gradients in float32, in each micro-batch; one gather in a pass without gradient."""
    layer, weights = s.layers + 1, s.parameters / (s.layers + 1)
    gathered = ring(weights * s.width, learners, gpu)
    if not gradient:
        return parts * layer * gathered
    return parts * layer * (2 * gathered + ring(4 * weights, learners, gpu))


def pass_seconds(flops: float, traffic: float, learners: int, peak: float) -> float:
    """max(flops / N / peak, traffic): the next layer's weights travel while this one computes. peak: FLOP/s of a GPU."""
    return max(flops / learners / (TRAINING * peak), traffic)


def optimizer_seconds(s: Shape, learners: int, gpu: Gpu) -> float:
    """18 reads and writes of 4 bytes for each number of this process's part, and Python."""
    return 4 * OPTIMIZER_PASSES * s.trainable / learners / gpu.stream + STEP_SECONDS


# -- weights to the samplers, and the driver -----------------------------------------------------------------------
def machines(processes: int) -> int:
    return math.ceil(processes / A_MACHINE)


def gather_seconds(s: Shape, learners: int, samplers: int, gpu: Gpu) -> float:
    """ring(W) + W / host + 2 W / copy [+ W / spread]: whole in the first learner, into its machine's store, to the driver and
    into its store, across the network where there are several machines."""
    size = s.parameters * s.width
    across = size / SPREAD if machines(learners + samplers) > 1 else 0.0
    return ring(size, learners, gpu) + size / HOST + 2 * size / COPY + across


def load_seconds(s: Shape, learners: int, samplers: int, gpu: Gpu) -> float:
    """W machines / spread + W / host: from the driver's machine to every machine with samplers, then into each GPU."""
    size = s.parameters * s.width
    far = machines(samplers) if machines(learners + samplers) > 1 else 0
    return far * size / SPREAD + size / HOST


def driver_seconds(w: Workload, judging: float) -> float:
    """P G (c_answer + L c_token + v): one process judges and lays out all answers. v: seconds of the verifier for one."""
    return w.P * w.G * (ANSWER + w.answer * TOKEN + judging)


def written_seconds(w: Workload) -> float:
    """P G L c_written."""
    return w.P * w.G * w.answer * WRITTEN
