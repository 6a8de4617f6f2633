"""Between the turns of a conversation keys and values are kept: each token is read once, and nothing else changes."""

from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
import torch

from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.kernels.replay import Replay
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import find
from rung.records import SamplingLaw, State, Step, Task
from rung.rollout.ask import ask
from rung.rollout.collect import Collector
from rung.rollout.draws import Draws
from rung.rollout.kept import Kept, shared
from rung.rollout.sampler import Keeps, keeping
from rung.rollout.torch_sampler import TorchSampler
from rung.training.metrics import reward_metrics

torch.set_num_threads(1)
LAW = SamplingLaw(max_new_tokens=200, max_turns=5)
TEXTS = ("1+2+3=", "4*5-6*7=", "9-9+9*9-1=")


@pytest.fixture(scope="module")
def model():
    return models.load(str(starter.path()))


@dataclass
class Session:
    """Goes on for `turns` turns and tells something else in each."""

    task: Task
    turns: int
    told: tuple = ("3*4-2=", "8+8=", "7-2*2+1=", "5=")
    count: int = 0

    def reset(self):
        return self.task.prompt

    def step(self, completion):
        self.count += 1
        if self.count >= self.turns:
            return Step([], done=True, reward=float(len(completion.text)))
        told = self.told[(self.count + len(completion.text)) % len(self.told)]
        return Step([{"role": "user", "content": told}], done=False)


@dataclass
class Talks:
    turns: tuple = (5, 5, 5)
    prompts: tuple = TEXTS
    told: tuple = Session.told

    def __len__(self):
        return len(self.prompts)

    def __getitem__(self, i):
        return Task(str(i), self.prompts[i])

    def session(self, task):
        return Session(task, self.turns[int(task.id)], self.told)

    def score(self, group):
        return [{} for _ in group.completions]


@dataclass
class Anew:
    """A sampler that cannot keep anything, around one that could."""

    inner: TorchSampler
    same_numbers = True

    def load(self, weights, version):
        self.inner.load(weights, version)

    def sample(self, prompts, law, draws):
        return self.inner.sample(prompts, law, draws)


def held(sampler, env, samples=2, law=LAW, seed=3):
    tasks = [env[i] for i in range(len(env))]
    draws = Draws.whole(seed, len(tasks) * samples)
    return [row.rollout for group in ask(env, sampler_codec(sampler), sampler, law, tasks, draws) for row in group]


def sampler_codec(sampler):
    return (sampler.inner if isinstance(sampler, Anew) else sampler).model.codec


def assert_same(kept, anew, atol=1e-5):
    assert [(r.tokens, r.actions, r.stop) for r in kept] == [(r.tokens, r.actions, r.stop) for r in anew]
    for a, b in zip(kept, anew, strict=True):
        assert a.logp == pytest.approx(b.logp, abs=atol) and a.entropy == pytest.approx(b.entropy, abs=atol)


def whole(rollouts):
    return sum(len(r.prompt) + len(r.tokens) for r in rollouts)


# -- the measure ------------------------------------------------------------------------------------------------------
def test_a_conversation_of_five_turns_reads_each_token_once(model):
    """Its prompt, what it was told, and the end of each turn, which nobody has read yet; a turn's other tokens are its own."""
    fed = []  # the short decoding step does not pass here

    def read(sampler):
        fed.clear()
        return held(sampler, Talks(), 1), sum(fed)

    embedding = model.hf.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, args, out: fed.append(args[0].numel()))
    kept, anew = read(TorchSampler(model)), read(Anew(TorchSampler(model)))
    handle.remove()
    assert_same(kept[0], anew[0])
    assert kept[1] == sum(r.read for r in kept[0]) and anew[1] == sum(r.read for r in anew[0])
    assert all(sum(1 for a, b in zip(r.actions, r.actions[1:], strict=False) if b and not a) == 4 for r in kept[0])
    sampled = sum(r.sampled for r in kept[0])
    assert kept[1] <= 1.1 * whole(kept[0]) < 2.5 * whole(kept[0]) < anew[1]
    assert kept[1] + sampled - 5 * len(TEXTS) == whole(kept[0]) - len(TEXTS), "all but the very last token, once"


def test_the_metric_says_so_and_a_sampler_that_does_not_count_leaves_it_out(model):
    def measured(sampler):
        collector = Collector(Talks(), model.codec, sampler, LAW, find("grpo").data, 3, 2, 0)
        return reward_metrics(collector.collect(0, State()), 2)

    assert measured(TorchSampler(model))["turns/prefill_ratio"] < 1.1
    assert measured(Anew(TorchSampler(model)))["turns/prefill_ratio"] > 2.5

    class Mute(Anew):
        def sample(self, *args):
            return [replace(r, read=None) for r in super().sample(*args)]

    assert "turns/prefill_ratio" not in measured(Mute(TorchSampler(model)))


# -- the same answers -------------------------------------------------------------------------------------------------
def test_conversations_that_end_at_different_times_are_the_same(model):
    env = Talks(turns=(1, 5, 3))
    sampler = TorchSampler(model)
    kept = held(sampler, env, samples=4)
    assert_same(kept, held(Anew(sampler), env, samples=4))
    assert len({len(r.tokens) for r in kept}) > 6
    small = held(TorchSampler(model, max_batch=5), env, samples=4)
    assert_same(small, kept)
    assert sum(r.read for r in kept) < sum(r.read for r in small) < sum(r.read for r in held(Anew(sampler), env, 4))


def test_conversations_in_a_memory_that_stays_still_are_the_same(model, monkeypatch):
    """As on a GPU, but for the graph (device/test_cuda.py)."""
    monkeypatch.setattr(Replay, "__call__", lambda self, run, token_B, alike: run(token_B))
    env = Talks(turns=(1, 5, 3))
    still = held(TorchSampler(replace(model, replays=True)), env, samples=4)
    assert_same(still, held(TorchSampler(model), env, samples=4))


KINDS = {  # whether its keys are kept
    "llama": True, "mistral": True, "gpt2": True, "gemma3_text": True, "deepseek_v3": True,
    "stablelm": True, "bloom": True, "gemma2": False, "mamba2": False,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_says_the_same(kind):
    model = tiny(kind)
    model.reach(100)
    env = Talks((1, 4, 3), ("w5 w6 w7", "w10 w11", "w4 w4 w4 w4 w12"), ("w9 w8 w7", "w20", "w6 w6 w6 w6 w6", "w13 w14"))
    law = SamplingLaw(max_new_tokens=24, max_turns=4)
    kept, anew = (held(s, env, 3, law) for s in (TorchSampler(model), Anew(TorchSampler(model))))
    assert_same(kept, anew, atol=2e-4)
    assert model.keeps == KINDS[kind] == (sum(r.read for r in kept) < sum(r.read for r in anew))
    assert max(len(r.tokens) for r in kept) > 14 and any(r.stop == "stop" for r in kept)


def test_the_trainer_reads_a_kept_conversation_with_the_samplers_numbers(model):
    for rollout in held(TorchSampler(model), Talks(), 2):
        row = torch.tensor([[*rollout.prompt, *rollout.tokens]])
        logp = model.hf(input_ids=row).logits[0, :-1].log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0]
        mine = torch.tensor(rollout.actions)
        at = logp[len(rollout.prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(rollout.logp)[mine], at[mine], rtol=0, atol=2e-5)


# -- the beginning that is kept ---------------------------------------------------------------------------------------
def test_a_row_whose_beginning_is_rewritten_is_read_from_there_on(model):
    law, first = replace(LAW, max_new_tokens=12), [model.codec.encode(x) for x in TEXTS]
    draws = Draws.whole(1, 3)
    with keeping(TorchSampler(model)) as sampler:
        said = sampler.sample(first, law, draws)
        rows = [list(r.prompt + r.tokens) for r in said]
        more = model.codec.encode("2*2=")
        turned = [rows[0] + more, rows[1][:4] + more + rows[1][4:], more]  # goes on; rewritten; another one
        again = sampler.sample(turned, law, draws.turn(1))
        shorter = sampler.sample([turned[0][:3], turned[1], turned[2] + more], law, draws.turn(2))
    anew = TorchSampler(model)
    for got, asked, turn in ((again, turned, 1), (shorter, [turned[0][:3], turned[1], turned[2] + more], 2)):
        for a, b in zip(got, anew.sample(asked, law, draws.turn(turn)), strict=True):
            assert a.tokens == b.tokens and a.logp == pytest.approx(b.logp, abs=1e-5)
    assert [r.read for r in again] == [
        len(more) + 1,
        len(turned[1]) - shared(turned[1], rows[1]),
        len(more) - shared(more, rows[2]),
    ]
    assert shorter[0].read == 1 and shorter[1].read == 1, "a row that is wholly known reads its last token"


def test_the_longest_common_beginning():
    assert [shared(a, (1, 2, 3)) for a in ((), (1, 2, 3, 4), (1, 2), (1, 9, 3), (9,))] == [0, 3, 2, 1, 0]


# -- its end ----------------------------------------------------------------------------------------------------------
def test_what_is_kept_is_bounded_and_gone_at_the_end_and_after_an_error(model, monkeypatch):
    most, made = [], []
    put = Kept.put
    monkeypatch.setattr(
        Kept, "put", lambda self, *args: (put(self, *args), made.append(self), most.append(len(self.rows)))
    )
    held(TorchSampler(model, max_batch=4), Talks(), 4)
    assert max(most) == 4 and not made[-1].rows
    most.clear()
    held(TorchSampler(model), Talks(turns=(1, 2, 5)), 4)
    assert max(most[-4:]) == 4 and max(most) == 12 and not made[-1].rows, "a conversation that is over is forgotten"
    broken = Talks()
    broken.session = lambda task: Broken(task, 5)
    with pytest.raises(InputError, match="RuntimeError"):
        held(TorchSampler(model), broken, 2)
    with suppress(KeyboardInterrupt), keeping(TorchSampler(model)) as sampler:
        sampler.sample([model.codec.encode("1+2=")], LAW, Draws.whole(0, 1))
        assert sampler.kept.rows
        raise KeyboardInterrupt
    assert not any(kept.rows for kept in made)


class Broken(Session):
    def step(self, completion):
        if self.count:
            raise RuntimeError("torn")
        return super().step(completion)


def test_the_ability_is_asked_for(model):
    assert isinstance(TorchSampler(model), Keeps) and not isinstance(Anew(TorchSampler(model)), Keeps)
    plain = TorchSampler(model)
    assert plain.kept is None and plain.sample([model.codec.encode("1+2=")], LAW, Draws.whole(0, 2))
    with keeping(Anew(plain)) as same:
        assert isinstance(same, Anew)
    with keeping(TorchSampler(tiny("rwkv"))) as whole_rows:
        assert whole_rows.kept is None
