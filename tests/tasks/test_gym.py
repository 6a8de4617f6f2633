"""reasoning-gym tasks: disjoint splits whatever the seed, small worlds, scores, and no answer is ever evaluated."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import InputError
from rung.records import Completion, Group, Task
from rung.tasks.environments.protocol import Counts, Environment
from rung.tasks.registry import load
from rung.tasks.sources import gym, gym_guard

pytest.importorskip("reasoning_gym")


def questions(environment: Environment, limit: int = 300) -> list[str]:
    return [environment[i].data["question"] for i in range(min(limit, len(environment)))]


def scores(environment: Environment, task: Task, *texts: str) -> list[float]:
    return [reward["correct"] for reward in environment.score(Group(task, [Completion(text) for text in texts]))]


@settings(max_examples=8, deadline=None)
@given(
    first=st.integers(0, 10**6), second=st.integers(0, 10**6), name=st.sampled_from(["chain_sum", "products", "gcd"])
)
def test_no_training_problem_is_ever_an_evaluation_problem(first: int, second: int, name: str) -> None:
    train = load(name, options={"seed": first}).train
    held_out = load(name, options={"seed": second, "eval_size": 60}).eval
    assert set(questions(train, 100)).isdisjoint(questions(held_out))


def test_neighbouring_seeds_share_no_order() -> None:
    first, second = (questions(load("gcd", options={"seed": seed}).train, 200) for seed in (42, 43))
    assert len(set(first) & set(second)) < 20
    assert first == questions(load("gcd", options={"seed": 42}).train, 200)


def test_a_small_world_is_held_back_completely_and_once() -> None:
    splits = load("chain_sum")
    held_out = questions(splits.eval)
    assert 30 <= len(held_out) == len(set(held_out)) <= 70  # a quarter of the 200 sums and differences of two digits
    assert held_out[0].startswith("State the final answer to the following arithmetic problem: ")
    assert sorted(held_out) == sorted(questions(load("chain_sum", options={"seed": 9}).eval))
    assert splits.train[0].prompt == [{"role": "user", "content": questions(splits.train, 1)[0]}]
    assert len({splits.train[i].id for i in range(100)}) == 100


def test_a_world_too_small_to_divide_is_refused() -> None:
    one = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    environment = gym.ReasoningGym("chain_sum", "eval", 5, one)
    assert len(environment) == 5
    with pytest.raises(InputError, match="widen"):
        len(gym.ReasoningGym("coin_flip", "eval", 0, {}))


def test_the_last_number_is_scored() -> None:
    splits = load("chain_sum")
    task = splits.train[3]
    gold = task.data["answer"]
    question = task.data["question"]
    texts = [gold, f"{question} {gold}", f"It is {gold}.0", f"{gold} or 77", question, "", f"77 or {gold}", f"{gold}1"]
    assert scores(splits.train, task, *texts) == [1, 1, 1, 0, 0, 0, 0, 0]
    assert (
        splits.train.extract(task, Completion(f"It is {gold}", stop="length")) is None
    )  # may be cut within the number


def test_text_answers_and_partial_credit() -> None:
    exact, partial = (load("spell_backward", options={"credit": credit}) for credit in ("exact", "partial"))
    task = exact.train[0]
    assert all("<answer>" in split[0].prompt[0]["content"] for split in (exact.train, exact.eval)), "the model is told"
    gold = task.data["answer"]
    assert scores(exact.train, task, gold, f"Well: <answer>{gold}</answer>", f"{gold} {gold}", "") == [1, 1, 0, 0]
    assert 0 < scores(partial.train, task, f"<answer>{gold[:-1]}x</answer>")[0] < 1


@pytest.mark.parametrize("name", sorted(gym.EVALUATES_FORMULAS))
@pytest.mark.parametrize(
    "attack", ["__import__('os')", "(1).__class__", "open('f')", "lambda: 1", "9**9**9", "9**(9**9)", "x.evalf()"]
)
def test_no_answer_reaches_a_parser_that_evaluates(name: str, attack: str) -> None:
    assert not gym._harmless(name, attack)


@pytest.mark.parametrize("name", sorted(gym.EVALUATES_LITERALS))
def test_only_literals_reach_eval(name: str) -> None:
    assert gym._harmless(name, '["A", "B"]')
    assert not gym._harmless(name, "[__import__('os').getpid()]")
    assert gym._harmless(name, "A B\nC D") and gym._harmless(name, "ABC")
    assert not gym._harmless(name, "9**9**9**9")
    assert not gym._harmless(name, "__import__('os')")


@pytest.mark.parametrize("name", sorted(gym.EVALUATES_FORMULAS))
def test_formulas_are_scored_in_a_worker(name: str) -> None:
    splits = load(name)
    task = splits.train[0]
    gold = task.data["answer"]
    assert scores(splits.train, task, f"<answer>{gold}</answer>", "<answer>0</answer>") == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_term": 2}, "unknown option of chain_sum 'min_term'. Did you mean 'min_terms'"),
        ({"min_terms": 5, "max_terms": 2}, "refuses the options"),
        ({"credit": "half"}, "unknown credit 'half'"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        load("chain_sum", options=options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("game_of_life_halting", "no idea"),
        ("coin_flip", "0"),
        ("complex_arithmetic", "nan"),
        ("puzzle24", "(1 + 1) * 12 * 1"),
    ],
)
def test_wrong_answers_that_a_scorer_pays_in_full_are_refused(name: str, said: str) -> None:
    train = load(name).train
    for i in range(3):
        gold = train[i].data["answer"]
        assert scores(train, train[i], f"<answer>{said}</answer>", f"<answer>{gold}</answer>") == [0, 1]


def test_numbers_of_another_sign_and_digits_of_another_script_are_wrong() -> None:
    train = load("gsm_symbolic").train
    gold = train[0].data["answer"]
    assert scores(train, train[0], gold, f"-{gold}") == [1, 0]
    train = load("prime_factorization").train
    gold = train[0].data["answer"]
    assert scores(train, train[0], gold, gold.translate({48 + d: 0x660 + d for d in range(10)})) == [1, 0]


@pytest.mark.parametrize(
    ("name", "said"), [("prime_factorization", "two and three"), ("boxnet", "42"), ("game_of_life", "{}")]
)
def test_an_answer_at_which_a_scorer_raises_is_wrong_and_counted(name: str, said: str) -> None:
    train = load(name).train
    with pytest.warns(UserWarning, match=f"scorer of {name} raised"):
        assert scores(train, train[0], f"<answer>{said}</answer>") == [0]
    assert scores(train, train[1], f"<answer>{said}</answer>") == [0]
    assert isinstance(train, Counts) and train.counters == {"scorer_raised": 2.0}


def test_a_scorer_that_raises_at_its_own_gold_is_refused() -> None:
    class Broken:
        def score_answer(self, answer: str, entry: object) -> float:
            raise KeyError("answer")

    train = load("spell_backward").train
    vars(train)["_dataset"] = Broken()
    with pytest.raises(InputError, match="raised KeyError at its own gold answer"):
        gym._refuse_gold(train, Task("0", "spell", {"question": "spell", "answer": "abc"}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(gym_guard.GUARDS))
def test_guards_let_every_gold_answer_pass_and_nothing_around_it(name: str) -> None:
    train = load(name).train
    for i in range(6):
        gold = train[i].data["answer"]
        hedge = f"<answer>{gold} or {gold}q</answer>"
        assert scores(train, train[i], f"<answer>{gold}</answer>", hedge) == [1, 0], gold
