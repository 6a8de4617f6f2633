"""Pictures of the token view of `rung report`, of two short runs: python docs/pictures/inspector.py

PPO with eight passes over each batch, coloured by ratio and clipping, and GRPO, coloured by advantage: what the book's chapters
10 and 11 speak of. Needs Chromium; half a minute. Nothing is picked by hand: of the last step, the answer of PPO with the most
clipped tokens, and the first of GRPO whose group differs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import rung
from rung.report import write_report

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from chromium import Chromium  # noqa: E402

RUNS = {  # picture: (recipe, its changes, what colours the tokens, the row that is shown)
    "inspector-clip": ("ppo", {"update.epochs": 8}, "ra", "(r) => (r.cl || []).filter(Boolean).length"),
    "inspector-group": ("grpo", {}, "ad", "(r) => (r.ad ? 1 : 0)"),
}
CHOOSE = """(() => {
  const set = (key, value) => { const f = document.getElementById(`f-${key}`); f.value = value;
    f.dispatchEvent(new Event("input", { bubbles: true })); };
  set("kind", "0"); set("step", "30"); set("color", "%s");
  const most = %s, rows = load("answers-data")[0].rows.filter((r) => r.k === 0 && r.s === 30);
  const best = rows.reduce((a, r, i) => (most(r) > most(rows[a]) ? i : a), 0);
  document.querySelectorAll("#answer-list .row")[best].click();
  const box = document.getElementById("answer").getBoundingClientRect();
  return [box.left + scrollX - 12, box.top + scrollY - 12, box.width + 24, box.height + 24];
})()"""


def main() -> None:
    with tempfile.TemporaryDirectory() as home, Chromium(Path(home) / "profile") as browser:
        for picture, (recipe, changes, color, most) in RUNS.items():
            run = rung.train(
                recipe=recipe, steps=30, learning_rate=1e-3, overrides=changes, out=Path(home) / picture, quiet=True
            )
            browser.screen(900)
            browser.open(write_report([run.path], Path(home) / f"{picture}.html"))
            browser.picture(HERE / f"{picture}.png", tuple(browser.run(CHOOSE % (color, most))))


if __name__ == "__main__":
    main()
