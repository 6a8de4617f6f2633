"""A plan that is made beside other programs: the same seconds, and how busy the machine is in its first sentence."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rung.cli import main
from rung.models import starter
from rung.plan import estimate as plan
from rung.plan import fit, memory, rehearsal
from rung.plan.memory import Workload
from rung.plan.rehearsal import Rates, Took
from rung.rollout.samplers import SAMPLERS
from rung.training.config import TrainConfig


@pytest.mark.parametrize(
    ("times", "best", "busy"),
    [
        ([5.0, 0.05, 0.05], 0.05, False),  # one slow call, such as the first, which loads something: not believed
        ([5.0, 5.0, 0.05], 0.05, True),  # the shortest is believed, and that it was alone is said
        ([0.3, 0.3, 0.3], 0.3, False), ([1.0, 1.1, 1.9], 1.0, False),
        ([0.01] * 5 + [0.001] + [0.01] * 3, 0.001, True),  # short ones are timed more often
        ([(3.0, 0.3)] * 3, 0.3, True),  # the core was others' for nine tenths of it
    ],
)  # fmt: skip
def test_the_shortest_of_several_timings_is_taken_and_a_busy_machine_is_said(times, best, busy):
    rehearsal.timed.clear()
    left = [Took(*t) if isinstance(t, tuple) else Took(t, t) for t in times]
    assert rehearsal._shortest(lambda: left.pop(0)) == best and not left
    said = rehearsal.busy(rehearsal.crowding())
    assert (said is not None and said.startswith("this machine is busy: ")) == busy


SMALL = {
    "prompts_per_step": 2,
    "samples_per_prompt": 2,
    "eval_problems": 2,
    "max_new_tokens": 8,
    "threads": 1,
    "steps": 9,
}
SPIN = "while True: pass"


@pytest.fixture
def one_core():
    """This process on one core, and a way to let others compute there too."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no process is bound to a core here")
    before, others = os.sched_getaffinity(0), []
    os.sched_setaffinity(0, {min(before)})
    try:
        yield lambda n: others.extend(subprocess.Popen([sys.executable, "-Sc", SPIN]) for _ in range(n))
    finally:
        for other in others:
            other.kill()
            other.wait()
        os.sched_setaffinity(0, before)


def test_a_busy_core_makes_no_plan_longer_and_is_said_in_its_first_sentence(one_core, monkeypatch):
    """The same seconds within 2, where the clock shows more than twice as many; and both, for people and programs."""
    monkeypatch.setattr(rehearsal, "PROBE_FLOPS", 2e9)
    alone = plan.plan(TrainConfig(**SMALL))
    one_core(4)
    beside = plan.plan(TrainConfig(**SMALL))
    assert 0.5 < beside.step_seconds / alone.step_seconds < 2 and 0.5 < beside.rates.gemm / alone.rates.gemm < 2
    assert beside.crowding > 2, "so much longer did it take"
    said = plan.verdict_on(beside)
    assert "if this machine does nothing else, and about" in said and "as busy as this machine is now" in said
    rows = {(part, what): value for part, what, value, *_ in plan._times(beside)}
    for part, what in (("step", "whole step"), ("run", "9 steps and evaluations")):
        both = rows[part, f"{what}, as busy as this machine is now"] / rows[part, what]
        assert both == pytest.approx(beside.crowding, rel=0.1)
    assert rows["machine", "beside what else runs, times as long"] == round(beside.crowding, 2)
    assert any(note.startswith("this machine is busy") for note in beside.notes)


def test_the_rate_of_products_on_two_threads_is_no_waiting_of_one_for_the_other():
    """Three others to each core: a thread that waits for its neighbour's turn counts on, and products it does not make."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if cores < 2:
        pytest.skip("two threads want two cores")
    shape = memory.Shape.of(memory.sketch(str(starter.path()), "float32"), TrainConfig())
    before, others = torch.get_num_threads(), []
    try:
        torch.set_num_threads(1)
        one = rehearsal.machine_rates(shape, torch.float32, torch.device("cpu")).gemm
        torch.set_num_threads(2)
        others += [subprocess.Popen([sys.executable, "-Sc", SPIN]) for _ in range(3 * cores)]
        two = rehearsal.machine_rates(shape, torch.float32, torch.device("cpu")).gemm
        assert torch.get_num_threads() == 2, "as many as before"
    finally:
        torch.set_num_threads(before)
        for other in others:
            other.kill()
            other.wait()
    assert 0.5 < two / (2 * one) < 2


def test_no_part_takes_less_than_the_bound_of_its_products(monkeypatch):
    """However slow a product was when it was timed alone: a rate that a part of the step reaches, the machine has."""
    monkeypatch.setattr(plan, "machine_rates", lambda *_: Rates(1e6, 1e10))
    found = plan.plan(TrainConfig(**SMALL))
    rows = [row for row in plan._times(found) if row[0] == "step" and row[4] is not None]
    assert len(rows) > 2 and all(bound <= seconds for _, _, seconds, _, bound in rows)
    assert found.rates.gemm == max(p.flops / p.seconds for p in found.phases if p.seconds) > 1e6
    assert Rates(5.0, 1.0).reached([(8.0, 2.0), (1.0, 0.0)]) == Rates(5.0, 1.0), "and a faster one stays"


def test_a_machine_that_does_nothing_else_is_given_one_time():
    rates, shape = Rates(1.0, 1.0), memory.Shape.of(memory.sketch(str(starter.path()), "float32"), TrainConfig())
    work = Workload(P=2, G=3, prompt=5, longest=6, answer=4, T=4, eval_rows=6)
    found = plan.Plan(
        TrainConfig(steps=2, prompts_per_step=2, eval_every=0),
        shape,
        work,
        memory.Need({}, {}, {}),
        fit.Room(1, 1, ""),
        rates,
        [plan.PhaseCost("a", 1, 5)],
        0.0,
    )
    assert "about 10 seconds for 2 steps." in plan.verdict_on(found) and "busy" not in plan.verdict_on(found)
    assert not [what for _, what, *_ in plan._times(found) if "busy" in what]
    crowded = plan.verdict_on(replace(found, crowding=6.0))
    assert "about 10 seconds for 2 steps if this machine does nothing else, and about 1 minute as busy as" in crowded


def test_a_plan_of_several_processes_says_how_busy_the_machine_is_too(monkeypatch, capsys):
    monkeypatch.setattr(plan, "crowding", lambda: 7.0)
    words = [w for n, v in SMALL.items() for w in (f"--{n.replace('_', '-')}", str(v))]
    for json_to in ([], ["--json", "-"]):
        assert main(["plan", "dr_grpo", *words, "--cluster", "ray", *json_to]) == 0
        out = " ".join(capsys.readouterr().out.split())
        if json_to:
            rows = {row["what"]: row["estimate"] for row in json.loads(out)}
            assert rows["as busy as this machine is now"] == pytest.approx(7 * rows["with a staleness of 0"], abs=0.01)
            assert rows["beside what else runs, times as long"] == 7
        else:
            assert re.match(
                r"about \S+ s a step if this machine does nothing else, and about \S+ s as busy as this machine is now:",
                out,
            )


def test_another_sampler_than_the_one_that_is_timed_is_said(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "vllm", replace(SAMPLERS["vllm"], usable=lambda: None))
    said = plan.plan(TrainConfig(**SMALL, sampler="vllm")).notes
    assert any("timed with the torch sampler, and vllm draws at another pace" in note for note in said)
    assert not any("torch sampler" in note for note in plan.plan(TrainConfig(**SMALL)).notes)
