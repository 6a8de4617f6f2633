"""Memory that runs out in a step: the step is computed again in smaller micro-batches, and comes out the same."""

import pytest
import torch

import rung
from rung.errors import RunFailed, memory_ran_out
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import find, override
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training import critic, policy
from rung.training.learner import Hyper, LocalLearner
from rung.training.micro import Micro

LAW = SamplingLaw(max_new_tokens=12)
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
)  # fmt: skip
KINDS = {
    "grpo": find("grpo"), "trpo": find("trpo"), "ppo": find("ppo"), "ppo_kl": find("ppo_kl"), "reinforce": find("reinforce"),
    "two steps": override(find("ppo_kl"), {"update.minibatches": 2, "update.epochs": 2}),
    "reference": override(find("grpo"), {"kl": "FullKL", "kl.coef": 0.1}),
    "shared": override(find("ppo"), {"credit.critic.shared": True}),
}  # fmt: skip


def fresh(recipe):
    torch.manual_seed(0)
    model = models.load(str(starter.path()))
    learner = LocalLearner(recipe, model, Hyper(learning_rate=1e-3, max_new_tokens=LAW.max_new_tokens))
    env, greedy = registry.load("chained_arithmetic").train, "greedy" in recipe.needs
    collector = Collector(env, model.codec, TorchSampler(model), LAW, recipe.data, 3, 4, 0, greedy=greedy)
    return learner, collector.collect(0, learner.state)


def fed(tokens):
    return sum(map(len, tokens.prompts)) + int(tokens.length_B.sum())


class Machine:
    """One that holds `room` tokens with their gradient, and four times as many without. Backward fails when all is done."""

    def __init__(self, monkeypatch, room, errors=ERRORS[:1]):
        self.room, self.errors, self.failed, self.largest = room, errors, 0, 0
        states, backward = policy.predicting_states, torch.Tensor.backward

        def predicting_states(model, tokens, *more):
            self.now = fed(tokens)
            if self.now > 4 * self.room:
                self.fail()
            return states(model, tokens, *more)

        def then_fails(tensor, *args, **named):
            backward(tensor, *args, **named)
            if self.now > self.room:
                self.fail()
            self.largest = max(self.largest, self.now)

        for module in (policy, critic):
            monkeypatch.setattr(module, "predicting_states", predicting_states)
        monkeypatch.setattr(torch.Tensor, "backward", then_fails)

    def fail(self):
        self.failed += 1
        raise self.errors[self.failed % len(self.errors)]


def everything(learner):
    return torch.cat([x.detach().double().flatten() for x in learner._saved()])


@pytest.mark.parametrize("name", KINDS)
def test_the_step_is_computed_again_in_smaller_parts_and_comes_out_the_same(name, monkeypatch):
    learner, collected = fresh(KINDS[name])
    wanted = learner.step(collected).metrics
    single, collected = fresh(KINDS[name])
    single.micro.tokens = 1
    single.step(collected)
    again, collected = fresh(KINDS[name])
    row = max(fed(collected.batch.tokens.rows(torch.tensor([b]))) for b in range(12))
    machine = Machine(monkeypatch, row, ERRORS)
    found = again.step(collected).metrics
    assert machine.failed == found["update/halved"] >= 2 and wanted["update/halved"] == 0
    assert machine.largest <= row and again.micro.tokens == 1
    if not {"values", "ref_logp"} & KINDS[name].needs:  # those come from fewer rows at a time
        assert torch.equal(everything(again), everything(single)), "as if it had begun so"
    apart = (everything(again) - everything(learner)).abs()
    assert apart.max() < 1e-3 and (apart > 1e-5).float().mean() < 1e-4, (
        "Adam makes a whole step of a gradient that is rounding"
    )
    for key in set(wanted) - {"update/halved", "sampling/logp_gap_mean", "sampling/logp_gap_max", "sampling/kl"}:
        assert found[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-6, nan_ok=True), key
    again.step(collected)
    assert again.micro.halved == machine.failed == found["update/halved"], "what fits is known from then on"


@pytest.mark.parametrize("name", KINDS)
def test_a_row_that_does_not_fit_by_itself_is_said_and_changes_nothing(name, monkeypatch):
    learner, collected = fresh(KINDS[name])
    before, marks = everything(learner), learner.marks()
    Machine(monkeypatch, 1)
    with pytest.raises(
        RunFailed, match=r"one answer at a time, of \d+ tokens .*CUDA out of memory.*gradient_checkpointing"
    ):
        learner.step(collected)
    assert torch.equal(everything(learner), before) and learner.marks() == marks


def test_other_errors_are_no_shortage():
    micro = Micro(1000)
    for error in (RuntimeError("CUDA error: an illegal memory access was encountered"), ValueError("out of memory")):

        def attempt(error=error):
            raise error

        with pytest.raises(type(error), match=str(error)):
            micro.tried(attempt, fresh(KINDS["grpo"])[1].batch.tokens)
    assert micro == Micro(1000) and all(map(memory_ran_out, ERRORS))


def test_a_run_says_once_what_happened_and_what_to_set(tmp_path, monkeypatch, capsys):
    made, learners = LocalLearner.__post_init__, []
    monkeypatch.setattr(LocalLearner, "__post_init__", lambda self: (made(self), learners.append(self))[0])
    machine = Machine(monkeypatch, 10_000)
    step = LocalLearner.step

    def shrinks(self, collected):
        machine.room = 20 if self.version == 1 else machine.room
        return step(self, collected)

    monkeypatch.setattr(LocalLearner, "step", shrinks)
    run = rung.train(
        "grpo",
        steps=3,
        prompts_per_step=2,
        samples_per_prompt=4,
        eval_problems=2,
        max_new_tokens=8,
        out=tmp_path / "run",
    )
    halved = [row["update/halved"] for row in run.metrics if "update/halved" in row]
    assert halved[0] == halved[2] == 0 < halved[1] == machine.failed
    said = capsys.readouterr().out.split("memory ran out in step 2: it was computed again")
    assert len(said) == 2 and f"activation_gib={1.25 / 2 ** halved[1]:.2g}" in " ".join(said[1].split())
