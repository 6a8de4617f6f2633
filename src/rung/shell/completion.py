"""`rung completion SHELL`: a script that completes commands, their flags, choices and recipes; everything else is a file's name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rung.shell.help import Flag, flags_of, more_of

Commands = Mapping[str, tuple[Any, str]]  # {name: (the dataclass of its flags, what it is for)}
TAKES_RECIPES = ("train", "plan", "explain", "diff", "export", "audit", "why")


def script(shell: str, commands: Commands, recipes: Sequence[str]) -> str:
    """For bash, zsh or fish."""
    if shell == "fish":
        return _fish(commands, recipes)
    bash = _bash(commands, recipes)
    return bash if shell == "bash" else f"autoload -Uz bashcompinit && bashcompinit\n{bash}"


def _flags(spec: Any, name: str) -> list[Flag]:
    """A command's flags, without those that go on with a name of the user's."""
    found = [*flags_of(spec).values(), *more_of(spec, name)]
    named = [replace(flag, name=name) for flag in found for name in flag.name.split(", ")]  # --chat, --no-chat
    return [flag for flag in named if not (flag.positional or "." in flag.name)]


def _bash(commands: Commands, recipes: Sequence[str]) -> str:
    cases, choices = [], []
    for name, (spec, _) in commands.items():
        flags = _flags(spec, name)
        words = [*(flag.name for flag in flags), *(recipes if name in TAKES_RECIPES else ()), *_positional(spec)]
        cases.append(f'    {name}) words="{" ".join(words)} --help" ;;')
        choices += [f'    {name}:{f.name}) words="{" ".join(f.choices)}" ;;' for f in flags if f.choices]
    return f"""_rung() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words="{" ".join(commands)} --help --version"
  if [ "$COMP_CWORD" -gt 1 ]; then case "${{COMP_WORDS[1]}}" in
{chr(10).join(cases)}
    *) words="" ;;
  esac; fi
  case "${{COMP_WORDS[1]}}:${{COMP_WORDS[COMP_CWORD-1]}}" in
{chr(10).join(choices)}
    *:--recipe) words="{" ".join(recipes)}" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _rung rung"""


def _positional(spec: Any) -> list[str]:
    return [choice for flag in flags_of(spec).values() if flag.positional for choice in flag.choices]


def _fish(commands: Commands, recipes: Sequence[str]) -> str:
    lines = []
    for name, (spec, about) in commands.items():
        lines.append(f"complete -c rung -n __fish_use_subcommand -f -a {name} -d {shlex.quote(about)}")
        here = f"complete -c rung -n '__fish_seen_subcommand_from {name}'"
        for flag in _flags(spec, name):
            takes = f" -x -a {shlex.quote(' '.join(flag.choices))}" if flag.choices else " -r" if flag.takes else ""
            long = flag.name.removeprefix("--")
            lines.append(f"{here} -l {shlex.quote(long)}{takes} -d {shlex.quote(flag.text)}")
        words = [*(recipes if name in TAKES_RECIPES else ()), *_positional(spec)]
        if words:
            lines.append(f"{here} -a {shlex.quote(' '.join(words))}")
    return "\n".join(lines)
