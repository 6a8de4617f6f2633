"""A language model as the judge: a reward from any server that speaks OpenAI's chat completions.

    reward = parse(the model's reply to the template, with the problem and the answer in it)

    from rung.tasks.rewards.judge import Judge, out_of

    helpful = Judge("http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B", "Question: {prompt}\nAnswer: {completion}\n"
                    "How good is the answer, from 0 to 10? End with the number.", parse=out_of(10), name="helpful")

    rung train --task rows.jsonl --reward judge.py:helpful

Replies are kept on disk, by everything that they depend on. What fails (a deadline, a server that is down or busy, a reply
without a number) is not scored, and counted; what is wrong with the request itself (no such model, no key) ends the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from rung.errors import InputError, printable, unknown
from rung.settings.paths import path_of

CACHE = Path("~/.cache/rung/judge")
BUSY = (408, 409, 425, 429)  # of the answers that blame the asker, those that blame the moment
FIRST_PAUSE = 0.5  # seconds before the second try; each further pause is twice as long
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SLOT = re.compile(r"\{(\w+)\}")


def last_number(reply: str) -> float | None:
    """The last number in a reply; None if it has none."""
    found = _NUMBER.findall(reply)
    return float(found[-1]) if found else None


def out_of(most: float) -> Callable[[str], float | None]:
    """The last number in a reply as a share of the most that there is; None where it lies outside."""

    def share(reply: str) -> float | None:
        value = last_number(reply.replace(f"/{most:g}", ""))
        return value / most if value is not None and 0 <= value <= most else None

    return share


class _Failed(Exception):
    """One try without a reply; another one may succeed."""


@dataclass(eq=False)
class Judge:
    """A reward function: call it, or give it as --reward FILE.py:NAME.

    url:         of the server, up to /v1.
    template:    what is asked about each answer, with {prompt}, {completion} and {COLUMN} of the row in it.
    parse:       from the reply (without its thoughts) to the reward; None: it does not say.
    cache:       a directory; None: nothing is kept. With a temperature above 0 an answer keeps its first reply.
    deadline:    seconds that one call may take.  retries: further tries, after pauses.  concurrency: calls at a time.
    key:         the environment variable with the server's key, if it wants one.
    body:        further fields of the request, such as {"seed": 0}.
    counts:      asked, cached, retried, failed (no reply), unread (no reward in it).
    """

    url: str
    model: str
    template: str
    parse: Callable[[str], float | None] = last_number
    name: str = "judge"
    system: str | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    cache: Path | None = CACHE
    deadline: float = 60.0
    retries: int = 2
    concurrency: int = 16
    key: str = "OPENAI_API_KEY"
    body: Mapping[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(
                f"the judge's url {self.url!r} is none. Write it up to /v1, as in http://127.0.0.1:8000/v1."
            )
        if "completion" not in _SLOT.findall(self.template):
            raise InputError("the judge's template has no {completion}, so it would judge every answer alike.")
        if self.deadline <= 0 or self.concurrency < 1 or self.retries < 0:
            raise InputError(
                "the judge's deadline lies above 0, its concurrency is at least 1, its retries at least 0."
            )
        self.waits = True  # all groups of a step are asked about at once, each with this limit for all of them
        self.__name__ = self.name  # what its rewards are reported as
        self._slots = threading.BoundedSemaphore(self.concurrency)
        self._lock = threading.Lock()
        self._reached = False

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float | None]:
        requests = [
            self._request({k: v[i] for k, v in columns.items() if isinstance(v, list)} | {"prompt": p, "completion": c})
            for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
        ]
        different = {_digest(request): request for request in requests}  # equal answers are asked about once
        with ThreadPoolExecutor(min(self.concurrency, max(len(different), 1))) as pool:
            try:
                replies = dict(zip(different, pool.map(self._reply, different, different.values()), strict=True))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self._reward(replies[_digest(request)]) for request in requests]

    def _request(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that a reply depends on."""

        def slot(found: re.Match[str]) -> str:
            if found[1] not in values:
                raise unknown("column in the judge's template:", found[1], values)
            return _text(values[found[1]])

        asked = [{"role": "user", "content": _SLOT.sub(slot, self.template)}]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        own = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens, **self.body}
        return {"url": self.url.rstrip("/"), "body": {**own, "messages": [*system, *asked]}}

    def _reward(self, reply: str | None) -> float | None:
        value = None if reply is None else self.parse(reply.rpartition("</think>")[2])
        self._count("unread" if reply is not None and value is None else "")
        return value

    # -- one reply --------------------------------------------------------------------------------------------------
    def _reply(self, digest: str, request: Mapping[str, Any]) -> str | None:
        """From the cache, else from the server; None where the last try failed too."""
        kept = None if self.cache is None else path_of(self.cache) / digest[:2] / f"{digest}.json"
        if kept is not None and (reply := _kept(kept)) is not None:
            self._count("cached")
            return reply
        self._count("asked")
        why = ""
        for number in range(self.retries + 1):
            if number:
                self._count("retried")
                time.sleep(FIRST_PAUSE * 2 ** (number - 1))
            try:
                with self._slots:
                    reply = self._in_time(request)
            except _Failed as error:
                why = str(error)
                continue
            if kept is not None:
                _keep(kept, {"reply": reply, **request})
            return reply
        self._give_up(why)
        return None

    def _give_up(self, why: str) -> None:
        if not self._reached:
            raise InputError(
                f"the judge {self.name!r} at {self.url} gave no reply at all: {why}. Start the server, or correct the url."
            )
        self._count("failed")
        if self.counts["failed"] == 1:
            said = f"the judge {self.name!r} gave no reply: {why}. Such answers are not scored."
            warnings.warn(printable(said), stacklevel=2)

    def _in_time(self, request: Mapping[str, Any]) -> str:
        """One try, left alone when its time is up: no timeout of a socket covers a server that sends a byte a second."""
        out: list[Any] = []

        def attempt() -> None:
            try:
                out.append(self._ask(request))
            except Exception as error:  # noqa: BLE001  raised where it is waited for
                out.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(self.deadline)
        if not out:
            raise _Failed(f"no reply within {self.deadline:g} s")
        if isinstance(out[0], Exception):
            raise out[0]
        return str(out[0])

    def _ask(self, request: Mapping[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {token}"
        where = f"{request['url']}/chat/completions"
        call = urllib.request.Request(where, json.dumps(request["body"]).encode(), headers)
        try:
            with urllib.request.urlopen(call, timeout=2 * self.deadline) as response:
                document = json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(2000).decode(errors="replace").split())[:300]
            if 400 <= error.code < 500 and error.code not in BUSY:
                raise InputError(
                    f"the judge's server refuses the request ({error.code} {error.reason}): {said}. Correct its url, model, or "
                    f"the key in {self.key}."
                ) from error
            raise _Failed(f"the server says {error.code} {error.reason}: {said}") from error
        except (OSError, HTTPException, ValueError) as error:  # a broken connection, no HTTP, no JSON
            raise _Failed(str(getattr(error, "reason", error))) from error
        with self._lock:
            self._reached = True
        try:
            return str(document["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise _Failed(f"no choices[0].message.content ({error!r}) in {str(document)[:200]}") from error

    def _count(self, name: str) -> None:
        if name:
            with self._lock:
                self.counts[name] += 1


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _kept(path: Path) -> str | None:
    """The reply that `_keep` wrote; None where there is none, or a damaged one, which is asked for again."""
    try:
        return str(json.loads(path.read_bytes())["reply"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _keep(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all: several processes may keep the same reply."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    part.write_text(json.dumps(value), encoding="ascii")  # half characters too
    part.replace(path)


def _text(value: Any) -> str:
    """A prompt, a completion or a column as text; of several messages with their roles."""
    if isinstance(value, list) and value and all(isinstance(m, dict) and "content" in m for m in value):
        if len(value) == 1:
            return str(value[0]["content"])
        return "\n".join(f"{m.get('role', '')}: {m['content']}" for m in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
