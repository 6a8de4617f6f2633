"""Conversations: tokens only grow, observations carry nothing, and every turn of all conversations is one batch."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch

from rung.errors import InputError
from rung.evaluation.conformance import BOS, TURN, tiny, tokenizer
from rung.recipe_io import find
from rung.records import Rollout, SamplingLaw, State, Step, Task
from rung.rollout.ask import ask
from rung.rollout.collect import Collector
from rung.rollout.conversation import extension
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.training.learner import Hyper, LocalLearner
from rung.training.metrics import reward_metrics

torch.set_num_threads(1)
MODEL = tiny("llama")
PROMPT = [{"role": "user", "content": "w5 w6"}]
HINT = [{"role": "user", "content": "w9 w8"}]
LAW = SamplingLaw(max_new_tokens=12, max_turns=3)


@dataclass
class Echo:
    """Pays 1, 2, 4 ... for the turns and ends after `turns` of them."""

    task: Task
    turns: int = 3
    opening: object = field(default_factory=lambda: PROMPT)
    said: list = field(default_factory=list)
    closed: bool = False

    def reset(self):
        return self.opening

    def step(self, completion) -> Step:
        self.said.append(completion)
        return Step(HINT, done=len(self.said) >= self.turns, reward=2.0 ** (len(self.said) - 1))

    def close(self):
        self.closed = True


@dataclass
class World:
    session_of: object = Echo
    problems: int = 3
    outcome: dict = field(default_factory=dict)
    sessions: list = field(default_factory=list)

    def __len__(self):
        return self.problems

    def __getitem__(self, i):
        return Task(str(i), PROMPT)

    def session(self, task):
        self.sessions.append(self.session_of(task))
        return self.sessions[-1]

    def score(self, group):
        return [dict(self.outcome) for _ in group.completions]


@dataclass
class Script:
    """Says what it is told to, turn by turn, and remembers what it was asked."""

    turns: tuple
    same_numbers: ClassVar = True
    calls: list = field(default_factory=list)
    drawn: list = field(default_factory=list)

    def sample(self, prompts, law, draws):
        samples = draws.each(len(prompts))
        self.drawn.append(draws)
        tokens = self.turns[min(len(self.calls), len(self.turns) - 1)]
        self.calls.append(([tuple(p) for p in prompts], samples, law.max_new_tokens))
        stop = "stop" if tokens[-1] == TURN else "length"
        one = Rollout((), tokens, (-0.5,) * len(tokens), (0.7,) * len(tokens), stop, version=4)
        return [replace(one, prompt=tuple(p)) for p in prompts for _ in range(samples)]


def talk(sampler, env=None, law=LAW, samples=2, tasks=1):
    env = env or World()
    return ask(env, MODEL.codec, sampler, law, [env[i] for i in range(tasks)], Draws.whole(0, tasks * samples))


def test_tokens_grow_to_what_the_template_would_have_written():
    row = talk(Script(((7, 8, TURN),)))[0][0]
    whole = [*PROMPT, {"role": "assistant", "content": "w7 w8"}, *HINT]
    whole += [{"role": "assistant", "content": "w7 w8"}, *HINT]
    assert row.rollout.prompt + row.rollout.tokens == (*MODEL.codec.encode(whole), 7, 8, TURN)
    assert row.rollout.tokens.count(BOS) == 0, "no second BOS"


def test_what_was_sampled_is_never_encoded_again():
    strange = (0, 0, BOS, TURN)  # unknown words and a BOS: none of them survives decoding and encoding
    sampler = Script((strange,))
    row = talk(sampler)[0][0]
    mine = [t for t, own in zip(row.rollout.tokens, row.rollout.actions, strict=True) if own]
    assert tuple(mine) == strange * 3
    rows = [prompts[0] for prompts, _, _ in sampler.calls]
    whole = row.rollout.prompt + row.rollout.tokens
    assert all(whole[: len(x)] == x for x in rows) and len(set(map(len, rows))) == 3, "each turn extends the one before"


def test_observations_have_no_logp_no_entropy_no_reward_and_do_not_count():
    env = World()
    collector = Collector(env, MODEL.codec, Script(((7, 8, TURN),)), LAW, find("grpo").data, 2, 2, 0)
    got = collector.collect(0, State())
    batch, row = got.batch, got.scored[0]
    said = torch.tensor([1] * 3 + [0] * 7 + [1] * 3 + [0] * 7 + [1] * 3).bool()
    assert batch.mask_BT[0].tolist() == said.tolist()
    assert row.rollout.sampled == 9 and len(row.rollout.tokens) == 23
    assert (batch.behavior_logp_BT[:, ~said] == 0).all() and (batch.behavior_logp_BT[:, said] == -0.5).all()
    ends = {2: 1.0, 12: 2.0, 22: 4.0}
    assert batch.reward_BT[0].tolist() == [ends.get(t, 0.0) for t in range(23)], "each turn's reward on its last token"
    assert row.reward == 7.0 and row.rewards == {"turns": 7.0}
    metrics = reward_metrics(got, 2)
    assert metrics["completions/mean_length"] == 9 and metrics["entropy"] == pytest.approx(0.7)
    assert metrics["turns/mean"] == 3 and metrics["turns/observation_tokens"] == 14
    assert got.batch.tokens.length_B.tolist() == [23] * 4, "the model reads them all the same"
    assert all(s.closed for s in env.sessions)


def test_the_outcome_comes_to_the_turns_rewards():
    env = World(outcome={"right": 0.5})
    got = Collector(env, MODEL.codec, Script(((7, TURN),)), LAW, find("grpo").data, 2, 2, 0).collect(0, State())
    assert got.scored[0].reward == 7.5 and got.batch.reward_BT[0].sum() == 7.5
    assert got.batch.reward_BT[0, -1] == 4.5 and got.batch.reward_BT[0, 1] == 1.0
    unknown = Collector(
        World(outcome={"right": float("nan")}), MODEL.codec, Script(((7, TURN),)), LAW, find("grpo").data, 2, 2, 0
    )
    assert not unknown.collect(0, State()).batch.valid_B.any()


def test_every_turn_of_all_conversations_is_one_batch_and_the_first_shares_its_prompt():
    env = World(session_of=lambda task: Echo(task, turns=1 if task.id == "0" else 3))
    sampler = Script(((7, TURN),))
    talk(sampler, env, samples=2, tasks=3)
    assert [(len(prompts), samples) for prompts, samples, _ in sampler.calls] == [(3, 2), (4, 1), (4, 1)]


class Chance(Script):
    """Each row says as many words as its own chance tells it."""

    def sample(self, prompts, law, draws):
        said = super().sample(prompts, law, draws)
        words = [1 + int(5 * u) for u in draws.chance(law.max_new_tokens)[0].tolist()]
        tokens = [(*[7] * n, TURN) for n in words]
        return [replace(r, tokens=t, logp=(-0.5,) * len(t), entropy=(0.7,) * len(t)) for r, t in zip(said, tokens)]  # noqa: B905


def test_a_conversation_is_the_same_whoever_holds_the_others_and_when_they_end():
    env = World(session_of=lambda task: Echo(task, turns=1 if task.id == "0" else 3))
    tasks, law, draws = [env[i] for i in range(3)], replace(LAW, max_new_tokens=24), Draws.whole(5, 6)

    def held(sampler, tasks, draws):
        return [row.rollout.tokens for group in ask(env, MODEL.codec, sampler, law, tasks, draws) for row in group]

    sampler = Chance(((7, TURN),))
    whole = held(sampler, tasks, draws)
    assert [list(d.rows) for d in sampler.drawn] == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [2, 3, 4, 5]]
    assert len({d.seed for d in sampler.drawn}) == 3 and len(set(whole)) > 3
    apart = [held(Chance(((7, TURN),)), tasks[a : a + 1], draws.part([2 * a, 2 * a + 1])) for a in (2, 0, 1)]
    assert [*apart[1], *apart[2], *apart[0]] == whole


def test_a_turn_without_entropies_leaves_the_conversation_without():
    class Silent(Script):
        def sample(self, prompts, law, draws):
            said = super().sample(prompts, law, draws)
            return [replace(r, entropy=None) for r in said] if len(self.calls) == 2 else said

    (one, _), (two, _) = talk(
        Silent(((7, TURN),)), World(session_of=lambda task: Echo(task, 1 + 2 * int(task.id))), tasks=2
    )
    assert one.rollout.entropy == (0.7, 0.7) and two.rollout.entropy is None
    assert len(two.rollout.logp) == len(two.rollout.tokens)


@pytest.mark.parametrize(
    ("law", "turns", "tokens", "cut", "stops"),
    [
        (replace(LAW, max_turns=2), 9, 6, "turns", ["stop", "stop"]),
        (replace(LAW, max_new_tokens=5), 9, 5, "tokens", ["stop", "length"]),
        (replace(LAW, max_turn_tokens=2), 9, 2, "tokens", ["length"]),
        (replace(LAW, max_total_tokens=8 + 3 + 7), 9, 3, "tokens", ["stop"]),
        (LAW, 1, 3, "", ["stop"]),
    ],
)
def test_limits_end_a_conversation_and_say_so(law, turns, tokens, cut, stops):
    assert len(MODEL.codec.encode(PROMPT)) == 8
    row = talk(Script(((7, 8, TURN),)), World(session_of=lambda task: Echo(task, turns)), law)[0][0]
    assert (row.rollout.sampled, row.episode.cut, list(row.episode.stops)) == (tokens, cut, stops)
    assert row.rollout.stop == ("length" if cut else "stop")
    assert row.rollout.actions[-1], "an observation that nobody answered is not in the row"


def test_a_verifier_reads_the_last_turn_and_not_what_the_model_was_told():
    seen = []
    env = World()
    env.score = lambda group: seen.extend(group.completions) or [{} for _ in group.completions]
    talk(Script(((7, TURN), (8, TURN), (10, TURN))), env, samples=1)
    assert seen[0].text == "w10" and seen[0].session is env.sessions[0]
    assert [m["role"] for m in seen[0].messages] == ["user", "assistant"] * 3 + ["user"]
    assert seen[0].prompt_messages == 1


TEMPLATES = {
    "qwen": "{% for m in messages %}<t> {{ m['role'] }} {{ m['content'] }} <t> {% endfor %}",
    "drops thoughts": "{% for m in messages %}<t> {{ m['role'] }} {% if m['role'] == 'assistant' and loop.last %}w30 {% endif %}"
    "{{ m['content'] }} <t> {% endfor %}",
    "no tools": "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<t> {{ m['role'] }} {{ m['content'] }} <t> {% endfor %}",
    "silent end": "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("role", ["user", "tool"])
def test_only_the_text_behind_an_answer_is_encoded(name, role):
    tok = tokenizer()
    tok.chat_template = TEMPLATES[name] + "{% if add_generation_prompt %}<t> assistant {% endif %}"
    codec = replace(MODEL.codec, tokenizer=tok)
    ids = extension(codec, PROMPT, [{"role": role, "content": "w9"}], TURN)
    text = tok.convert_ids_to_tokens(ids)
    assert "w9" in text and text[-2:] == ["<t>", "assistant"] and "w5" not in text and "rung-answer" not in text
    if name != "silent end":
        assert text[0] == "<t>" and text[1] in ("user", "tool"), "the end of turn that the model said is not said again"
        assert extension(codec, PROMPT, [{"role": role, "content": "w9"}], 7)[0] == TURN, (
            "but is where it did not say it"
        )


def test_a_template_that_rewrites_answers_is_refused():
    tok = tokenizer()
    kept = "{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] }} {% endif %}"
    tok.chat_template = "{% for m in messages %}" + kept + "{% endfor %}"
    with pytest.raises(InputError, match="drops an answer"):
        extension(replace(MODEL.codec, tokenizer=tok), PROMPT, HINT, TURN)


def test_plain_text_goes_on_as_plain_text():
    assert extension(MODEL.codec, "w5", [{"role": "user", "content": "w9 w8"}], TURN) == [9, 8]


def broken(task):
    session = Echo(task)
    session.step = lambda completion: 1 / 0
    return session


def mute(task):
    session = Echo(task)
    session.step = lambda completion: Step([], done=False)
    return session


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (broken, "ZeroDivisionError"),
        (mute, "gave no message and did not end"),
        (
            lambda task: Echo(task, opening=[{"role": "user", "content": f"w{5 + torch.randint(30, ()).item()}"}]),
            "different",
        ),
    ],
)
def test_environments_that_break_the_contract_are_named(session, message):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=message):
        talk(Script(((7, TURN),)), World(session_of=session), samples=8)


class Gone(Exception):
    """Nothing that we know: it must come out as it is, or as the cause of what comes out."""


@pytest.mark.parametrize("error", [InputError("refused"), Gone("torn"), KeyboardInterrupt("asked")], ids=repr)
@pytest.mark.parametrize("stage", ["session", "reset", "sample", "step", "score", None])
@pytest.mark.parametrize("closes", [True, False], ids=["close works", "close fails"])
def test_every_session_is_closed_once_whatever_ends_the_conversations(stage, error, closes):
    """The error that ended them is the one that is raised, also where closing fails behind it."""
    closed = []

    def fail(now):
        if stage == now and len(env.sessions) == 3:
            raise error

    class Fragile(Echo):
        reset = lambda self: (fail("reset"), super().reset())[1]  # noqa: E731
        step = lambda self, said: (fail("step"), super().step(said))[1]  # noqa: E731

        def close(self):
            closed.append(id(self))
            if not closes:
                raise OSError("the engine is gone")

    class Env(World):
        session = lambda self, task: (fail("session"), super().session(task))[1]  # noqa: E731
        score = lambda self, group: (fail("score"), super().score(group))[1]  # noqa: E731

    class Mouth(Script):
        sample = lambda self, *args: (fail("sample"), super().sample(*args))[1]  # noqa: E731

    env = Env(session_of=Fragile)
    if stage is None and closes:
        talk(Mouth(((7, TURN),)), env, samples=1, tasks=3)
    else:
        message = "Closing a session must not fail" if stage is None else str(error)
        with pytest.raises(BaseException, match=message) as found:
            talk(Mouth(((7, TURN),)), env, samples=1, tasks=4 if stage == "session" else 3)
        assert stage is None or error in (found.value, found.value.__cause__)
    assert sorted(closed) == sorted(map(id, env.sessions)) and len(closed) == 3


def learner(name):
    torch.manual_seed(0)
    recipe = find(name)
    step = LocalLearner(recipe, tiny("llama"), Hyper(learning_rate=1e-2, max_new_tokens=LAW.max_new_tokens))
    needs = {"greedy": "greedy" in recipe.needs, "steps": "steps" in recipe.needs}
    collector = Collector(World(), step.model.codec, TorchSampler(step.model), LAW, recipe.data, 3, 4, 1, **needs)
    return step, collector.collect(0, step.state)


def test_turns_are_the_steps_of_a_process_reward():
    """Turns that pay 1, 2, 4 end steps at their last tokens; GRPO's process credit sums what comes after them."""
    recipe = find("grpo_process")
    collector = Collector(
        World(), MODEL.codec, Script(((7, 8, TURN), (7, TURN))), LAW, recipe.data, 1, 2, 0, steps=True
    )
    batch = collector.collect(0, State()).batch
    ends = batch.step_end_BT[0].nonzero().flatten().tolist()
    own = batch.mask_BT[0]
    turns = [t for t in range(len(own)) if own[t] and (t + 1 == len(own) or not own[t + 1])]
    assert ends == turns and len(turns) == 3
    assert batch.reward_BT[0, ends].tolist() == [1.0, 2.0, 4.0]
    credit_BT = recipe.credit(batch)
    assert credit_BT.isfinite().all() and (credit_BT[~batch.mask_BT] == 0).all()


@pytest.mark.parametrize("name", ["dr_grpo", "ppo", "trpo", "remax", "grpo_process"])
def test_a_step_does_not_look_at_what_stands_on_observations(name):
    after = []
    for junk in (0.0, 123.0):
        step, got = learner(name)
        off = ~got.batch.mask_BT
        assert off.any() and got.batch.mask_BT.any(1).all()
        batch = replace(
            got.batch,
            behavior_logp_BT=got.batch.behavior_logp_BT + junk * off,
            old_logp_BT=got.batch.old_logp_BT + junk * off,
        )
        metrics = step.step(replace(got, batch=batch)).metrics
        assert metrics["sampling/logp_gap_max"] < 1e-4, "sampler and trainer agree behind an observation as well"
        assert metrics["loss_tokens"] == got.batch.mask_BT.sum()
        after.append(torch.cat([p.detach().flatten() for p in step.model.hf.parameters()]))
    assert torch.equal(*after)


def test_the_gradient_is_that_of_the_models_own_forward_on_the_models_own_tokens():
    step, got = learner("reinforce")
    tokens, mask = got.batch.tokens, got.batch.mask_BT
    seen = []
    step.optimizer.step = lambda *_: seen.append(torch.cat([p.grad.flatten() for p in step.parameters])) or 0.0
    total_B = got.batch.reward_BT.sum(1)
    step.step(got)
    J = 0.0
    for p in step.parameters:
        p.grad = None
    for b, row in enumerate(got.scored):
        ids = torch.tensor([*row.rollout.prompt, *row.rollout.tokens])
        log_p = step.model.hf(input_ids=ids[None]).logits[0].log_softmax(-1)
        at = torch.arange(len(row.rollout.prompt), len(ids))[mask[b, : len(row.rollout.tokens)]]
        J = J + total_B[b] * log_p[at - 1, ids[at]].sum() / len(got.scored)
    (-J).backward()
    truth = torch.cat([p.grad.flatten() for p in step.parameters])
    assert tokens.length_B.max() > mask.sum(1).max()
    cosine = torch.nn.functional.cosine_similarity(seen[0], truth, dim=0)
    assert cosine > 1 - 1e-6
