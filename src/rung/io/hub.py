"""A trained model to the Hugging Face hub, with a card that says how it was trained and what it reached."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.errors import InputError

OURS = [  # of a checkpoint, to go on with the training
    "state.safetensors", "state.json", "progress.safetensors", "progress.json", "COMPLETE",
]  # fmt: skip


def push(folder: Path, repo: str, card: str, *, private: bool | None = None, token: str | None = None) -> str:
    """The files of a checkpoint but for the training's state, and the card as README.md, in one commit; returns its address.

    repo: NAME or OWNER/NAME, which is made if it is not there.  token: None: the one that `hf auth login` stored, or HF_TOKEN.

    Raises:
        InputError: no token, or one that may not write there; the hub's own words, and what to do.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name not in (*OURS, "README.md"))
    parts = [CommitOperationAdd(p.name, str(p)) for p in files] + [CommitOperationAdd("README.md", card.encode())]
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        done = api.create_commit(made.repo_id, parts, commit_message="Trained with rung")
    except HFValidationError as error:
        raise InputError(f"push_to_hub({repo!r}): {error} Give NAME or OWNER/NAME.") from error
    except OfflineModeIsEnabled as error:
        raise InputError(
            f"push_to_hub({repo!r}): HF_HUB_OFFLINE is set, so nothing leaves this machine ({str(error).splitlines()[0]}). "
            "Unset it before Python starts."
        ) from error
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 401
        if status not in (401, 403):
            raise
        raise InputError(
            f"push_to_hub({repo!r}): the hub did not let this be written ({str(error).splitlines()[0]}). Log in with "
            "`hf auth login`, or give token=... of an account that may write there."
        ) from error
    return str(done.commit_url).partition("/commit/")[0]


def card(
    title: str, facts: Sequence[tuple[str, str]], base: str, tags: Sequence[str], config: Mapping[str, Any]
) -> str:
    """README.md of the model: what the hub reads, then the facts, then how to train it again."""
    known = [f"base_model: {base}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists() else []
    head = ["---", "library_name: transformers", *known, "tags:", *(f"- {tag}" for tag in tags), "---"]
    rows = [f"| {name} | {value} |" for name, value in facts]
    settings = "\n".join(f"{k} = {v!r}" for k, v in config.items() if not isinstance(v, Mapping))
    return "\n".join(
        [
            *head,
            f"# {title}",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            "Settings of the run:",
            "",
            "```",
            settings,
            "```",
            "",
        ]
    )
