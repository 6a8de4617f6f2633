"""Any reasoning-gym dataset as a task, with training and evaluation problems that are disjoint by construction.

reasoning-gym seeds item i with seed + i, so that the seeds 42 and 43 share 499 of 500 problems. Here each item has its
own seed, a hash of (task, split, seed, index, draw), and the text of a question decides on which side it lies: one in
four is for evaluation, whatever the seed, and draws are repeated until they fall on the right side. One in four and
not fewer, because small worlds (two hundred sums of two digits) would leave too few problems to see a difference.

Three datasets (isomorphic_strings, polynomial_multiplication, ransom_note) also depend on Python's hash seed: set
PYTHONHASHSEED to draw the same problems in another process. Their splits are disjoint in any case.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from rung.advice import installed
from rung.errors import InputError, printable, unknown
from rung.records import Completion, Group, Task
from rung.tasks.environments.protocol import Splits
from rung.tasks.sandbox.pool import Pool
from rung.tasks.sources.gym_guard import refused
from rung.tasks.verify.extract import marked, spoken, uncut
from rung.tasks.verify.formula import MAX_ANSWER
from rung.tasks.verify.probes import in_forms
from rung.tasks.verify.quantity import foreign_digit, number
from rung.tasks.verify.verifiers import Numeric

SplitName = Literal["train", "eval"]
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
}
TAGS = "Give the final answer between <answer> and </answer>."  # for answers that are more than one number
RAISED = -1.0  # gym_score.py: the scorer raised
PATIENCE = 2000  # draws without a new evaluation problem, after which the world is taken to be exhausted
FRESH = {"acre", "survo"}  # these draw their items in the constructor, so a new seed needs a new dataset

# Scorers of these datasets pass the answer to Python's eval, or to sympy's parser, which evals. Only answers that can
# do no harm reach them: literals, or formulas of known names with small powers (and these in a killable process).
EVALUATES_LITERALS = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
EVALUATES_FORMULAS = {
    "countdown",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
}
_FORMULA = re.compile(
    r"(?:[0-9]+(?:\.[0-9]+)?(?![\w.])|\b(?:[A-Za-z]|sin|cos|tan|exp|log|sqrt|asin|acos|atan)\b|[-+*/() ,])*"
)
_POWER = re.compile(r"\*\*(?!\s*\(?\s*-?[0-9]{1,2}\)?(?![0-9.]|\s*\*\*))")


def names() -> list[str]:
    """The names of all reasoning-gym datasets; empty if reasoning-gym is not installed."""
    if not installed("reasoning_gym"):
        return []
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})  # composite has no problems of its own


@dataclass(frozen=True)
class ReasoningGym:
    """Problems of one split; the reward `correct` is the dataset's own score of the last answer.

    credit: "exact" counts a score of 1 only; "partial" passes the dataset's score on.
    raised: kinds of errors of the dataset's scorer, at answers that are then wrong.
    instruction: stands below each question; says where the answer is looked for.
    """

    name: str
    split: SplitName
    size: int
    options: Mapping[str, object]
    seed: int = 0
    credit: Literal["exact", "partial"] = "exact"
    instruction: str = ""
    raised: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    def __len__(self) -> int:
        return self.size if self.split == "train" else len(self._unique)

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(f"problem {index} of a split of {len(self)}")
        draw = self._unique[index] if self.split == "eval" else self._train_draw(index)
        item = self._item(draw)
        data = {"question": item["question"], "answer": item["answer"], "metadata": item["metadata"]}
        prompt = [{"role": "user", "content": f"{item['question']}\n{self.instruction}".rstrip("\n")}]
        return Task(id=f"{self.name}-{self.split}-{self.seed}-{index}", prompt=prompt, data=data)

    def extract(self, task: Task, completion: Completion) -> str | None:
        """The last number where the answer is a number, else the last marked text, else all that was said."""
        if number(str(task.data["answer"])) is not None:
            return Numeric().extract(uncut(completion), task.data["question"])
        said = spoken(uncut(completion), task.data["question"])
        place = marked(said)
        return (said if place is None else place).strip() or None

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{"correct": self._score(group.task, self.extract(group.task, c))} for c in group.completions]

    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        """The gold answer, if there is a single one, and answers that hold it as a model may write it (`rung verify`)."""
        gold = task.data["answer"]
        if not isinstance(gold, str) or not gold:
            return None, []
        numeric = number(gold) is not None
        return gold, in_forms(gold) if numeric else [f"<answer>{gold}</answer>", f"<answer>\n{gold}\n</answer>"]

    def _score(self, task: Task, answer: str | None) -> float:
        gold = number(str(task.data["answer"]))
        if not answer or (gold is not None and number(answer) is None) or not _harmless(self.name, answer):
            return 0.0
        if gold is not None and number(answer) == gold:
            return 1.0
        if foreign_digit(answer) or refused(self.name, answer, task.data):
            return 0.0
        value = self._own_score(task, answer)
        return float(value >= 1.0) if self.credit == "exact" and value == value else value

    def _own_score(self, task: Task, answer: str) -> float:
        """The dataset's own score; 0 where its scorer raises, which is counted and said once: it takes its own gold."""
        if self.name in EVALUATES_FORMULAS:
            # the entry travels, not its seed: some items also depend on Python's per-process hash seed
            entry = json.dumps(dict(task.data), default=str)
            value = _formula_pool().map([(self.name, dict(self.options), entry, answer)])[0]
            raised = "an error" if value == RAISED else ""
        else:
            try:
                value, raised = float(self._dataset.score_answer(answer, task.data)), ""
            except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's scorer, somebody else's answer
                value, raised = RAISED, f"{type(error).__name__}: {error}"
        if not raised:
            return value
        self.raised[raised.partition(":")[0]] += 1
        if self.raised.total() == 1:
            warnings.warn(
                f"reasoning-gym's scorer of {self.name} raised {printable(raised[:80])} at the answer {answer[:40]!r}. Such "
                "answers are counted as wrong.",
                stacklevel=2,
            )
        return 0.0

    @property
    def least(self) -> float | None:
        return 0.0 if self.credit == "exact" else None

    @property
    def most(self) -> float | None:
        return 1.0 if self.credit == "exact" else None

    @property
    def counters(self) -> Mapping[str, float]:
        """scorer_raised: answers of this split at which the dataset's scorer raised."""
        return {"scorer_raised": float(self.raised.total())}

    @cached_property
    def _dataset(self) -> Any:
        import reasoning_gym

        return reasoning_gym.create_dataset(self.name, size=1, seed=0, **self.options)

    def _item(self, draw: int) -> dict[str, Any]:
        if self.name in FRESH:
            import reasoning_gym

            return dict(reasoning_gym.create_dataset(self.name, size=1, seed=draw, **self.options)[0])
        self._dataset.seed = draw
        return dict(self._dataset[0])

    def _draw_seed(self, index: int, attempt: int) -> int:
        text = f"{self.name}/{self.split}/{self.seed}/{index}/{attempt}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1  # some need less than 2**32

    def _train_draw(self, index: int) -> int:
        for attempt in range(PATIENCE):
            draw = self._draw_seed(index, attempt)
            if side(self._item(draw)["question"]) == "train":
                return draw
        raise InputError(f"{self.name} has no training problems with the options {dict(self.options)}; widen them.")

    @cached_property
    def _unique(self) -> list[int]:
        """Draws of different questions on the evaluation side: `size` of them, or as many as the world holds."""
        found: dict[str, int] = {}
        fruitless = attempt = 0
        while len(found) < self.size and fruitless < PATIENCE:
            draw = self._draw_seed(0, attempt)
            question = self._item(draw)["question"]
            attempt, fruitless = attempt + 1, fruitless + 1
            if question not in found and side(question) == "eval":
                found[question], fruitless = draw, 0
        if not found:
            raise InputError(
                f"{self.name} has too few different problems to hold any back for evaluation with the options "
                f"{dict(self.options)}; widen them."
            )
        return list(found.values())


def side(question: str) -> SplitName:
    """The split that a question belongs to, from its text alone."""
    return "eval" if hashlib.sha256(question.encode()).digest()[0] % 4 == 0 else "train"


def _harmless(name: str, answer: str) -> bool:
    """Whether the answer may be shown to the dataset's own scorer."""
    if name in EVALUATES_LITERALS and not _literal(answer[: 20 * MAX_ANSWER]):
        return False
    if name in EVALUATES_FORMULAS:
        nested = answer.count(")**") + answer.count(") **")
        small = len(answer) < MAX_ANSWER and nested < 3 and not _POWER.search(answer)
        return small and _FORMULA.fullmatch(answer) is not None
    return len(answer) < 20 * MAX_ANSWER


def _literal(answer: str) -> bool:
    """Whether Python's eval would meet a literal, a single name, or text that is no Python: 9**9**9 has no brackets either."""
    try:
        if isinstance(ast.parse(answer.strip(), mode="eval").body, ast.Name):
            return True
        ast.literal_eval(answer.strip())
    except (SyntaxError, ValueError) as error:  # a ValueError: null bytes, or Python that is no literal
        return isinstance(error, SyntaxError) or "\x00" in answer
    except (RecursionError, MemoryError):
        return False
    return True


def _first(train: ReasoningGym) -> Task:
    """The first problem. What the dataset says against the options is the user's affair, an error without options is not."""
    where = f"the options {dict(train.options)} of {train.name}"
    try:
        train._dataset  # noqa: B018  makes it
    except (AssertionError, TypeError, ValueError) as error:
        if not train.options:
            raise
        raise InputError(f"reasoning-gym refuses {where}: {error or 'out of range'}.") from error
    try:
        return train[0]
    except InputError:
        raise
    except Exception as error:
        if not train.options:
            raise
        raise InputError(f"reasoning-gym makes no problem with {where}: {type(error).__name__}: {error}.") from error


@cache
def _formula_pool() -> Pool:
    return Pool(Path(__file__).with_name("gym_score.py"), "score")


def _refuse_gold(train: ReasoningGym, task: Task) -> None:
    """Refuse a dataset whose scorer raises at its own gold answer: then every answer would be wrong for no fault of its."""
    gold = task.data["answer"]
    if isinstance(gold, str) and gold:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train._score(task, gold)
        if train.raised:
            raise InputError(
                f"reasoning-gym's scorer of {train.name} raised {', '.join(train.raised)} at its own gold answer {gold[:60]!r}, "
                "so no answer could be right. Check the options, or another version of reasoning-gym."
            )


def splits(name: str, options: Mapping[str, object]) -> Splits:
    """The task of that name. Options: seed, train_size, eval_size, credit, and the fields of the dataset's config."""
    from reasoning_gym.factory import DATASETS

    own: dict[str, Any] = {"seed": 0, "train_size": 65_536, "eval_size": 200, "credit": "exact"}
    config = {field.name for field in fields(DATASETS[name][1])} - {"seed", "size"}
    for option in options:
        if option not in config and option not in own:
            raise unknown(f"option of {name}", option, [*config, *own])
    own |= {key: value for key, value in options.items() if key in own}
    if own["credit"] not in ("exact", "partial"):
        raise unknown("credit", str(own["credit"]), ["exact", "partial"])
    chosen = {**DEFAULTS.get(name, {}), **{key: value for key, value in options.items() if key not in own}}
    common = {"name": name, "options": chosen, "seed": int(own["seed"]), "credit": own["credit"]}
    train = ReasoningGym(split="train", size=int(own["train_size"]), **common)
    held_out = ReasoningGym(split="eval", size=int(own["eval_size"]), **common)
    first = _first(train)
    _refuse_gold(train, first)
    numeric = number(str(first.data["answer"])) is not None
    if not numeric:
        train, held_out = (replace(split, instruction=TAGS) for split in (train, held_out))
    return Splits(name, train, held_out, max_new_tokens=64 if numeric else 512)
