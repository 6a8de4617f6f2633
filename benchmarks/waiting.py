"""A step whose rewards or tools wait for something elsewhere: seconds, one waiting `--seconds` for each answer's judge or tool.

    python benchmarks/waiting.py --groups 8 --seconds 1

No model: the answers are given. One after the other it would take the sum of the waits, which stands in the last column.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from render import markdown
from rung.evaluation.conformance import tiny
from rung.records import Completion, Rollout, SamplingLaw, Step, Task
from rung.rollout.ask import ask
from rung.rollout.draws import Draws
from rung.tasks.environments.protocol import Environment, Splits
from rung.tasks.environments.tool_class import ToolEnvironment, ToolSession
from rung.tasks.rewards.functions import judged

CALL = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'


class Problems:
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> Task:
        return Task(str(i), f"w{i % 10 + 5}")

    def score(self, group: Any) -> list[dict[str, float]]:
        return [{"own": 1.0} for _ in group.completions]


class Given:
    """Says the same to everything."""

    same_numbers = True

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tuple(tokens)

    def load(self, weights: object, version: int) -> None: ...

    def sample(self, prompts: Any, law: SamplingLaw, draws: Draws) -> list[Rollout]:
        zeros = (0.0,) * len(self.tokens)
        rows = [p for p in prompts for _ in range(draws.each(len(prompts)))]
        return [Rollout(tuple(p), self.tokens, zeros, zeros, "stop") for p in rows]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--groups", type=int, default=8)
    flags.add_argument("--samples", type=int, default=4)
    flags.add_argument("--seconds", type=float, default=1.0)
    args = flags.parse_args()
    codec = replace(tiny("llama").codec, context=1 << 20)

    async def judge(completions: list[str], **more: object) -> list[float]:
        await asyncio.sleep(args.seconds)
        return [1.0] * len(completions)

    class Shop:
        def reset(self, **row: object) -> None: ...

        async def look(self) -> str:
            await asyncio.sleep(args.seconds)
            return "5"

        def get_reward(self) -> float:
            return 1.0

    class Calls(ToolSession):
        """Whatever was said is taken for two calls."""

        def begin(self, completion: Completion) -> Callable[[], Step]:
            return super().begin(replace(completion, text=CALL * 2))

    class Shopping(ToolEnvironment):
        def session(self, task: Task) -> ToolSession:
            return Calls(task, Shop())

    def timed(env: Environment, waits: int) -> list[object]:
        law = SamplingLaw(max_new_tokens=4, max_turns=1)
        given = Given([*codec.ids("w5"), *codec.end_ids])
        start = time.perf_counter()
        ask(env, codec, given, law, [env[i] for i in range(args.groups)], Draws.whole(0, args.groups * args.samples))
        return [f"{time.perf_counter() - start:.2f}", f"{waits * args.seconds:g}"]

    problems = Problems()
    rewards: Callable[[], Environment] = lambda: judged(Splits("p", problems, problems), [(judge, 1.0)], "stop").train  # noqa: E731
    what = f"{args.groups} groups"
    lines = [
        [f"a coroutine as the reward of {what}", *timed(rewards(), args.groups)],
        [f"two calls of a tool in each of {args.groups * args.samples} conversations",
         *timed(Shopping(problems, Shop), 2 * args.groups * args.samples)],
    ]  # fmt: skip
    print(markdown("Waiting", ["what waits", "seconds", "one after the other"], lines))


if __name__ == "__main__":
    main()
