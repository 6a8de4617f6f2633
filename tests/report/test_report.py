"""`rung report`: what it reads from a run, that nothing of it becomes markup, and that it stays one small file."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rung import report
from rung.cli import main
from rung.errors import InputError
from rung.io.definitions import as_html, definition, definitions
from rung.io.run_dir import RunDir
from rung.report import write_report
from rung.report.browser import QUANTITIES, browser
from rung.report.charts import _cut
from rung.report.collect import collect
from rung.report.completions import HEAD, TAIL, _shown, collect_completions, token_pieces
from rung.report.markup import Markup, number, script_json, table, tag
from rung.report.numbers import running, thin, tick_labels, ticks
from rung.report.outcome import _verdict
from rung.report.page import render
from rung.statistics import Change, change


class Page(HTMLParser):
    """Elements and texts of a page, as a browser splits them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.data: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        name, attributes = self.tags[-1] if self.tags else ("", {})
        if name == "script" and attributes.get("type") == "application/json":
            self.data[str(attributes["id"])] = self.data.get(str(attributes["id"]), "") + data
        elif name not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def page_of(*paths: Path) -> Page:
    return Page(render(collect(paths), [str(p) for p in paths]))


# -- what is read --------------------------------------------------------------------------------------------------
def test_a_run_is_read_whole(report_run):
    run = collect([report_run])["runs"][0]
    assert run["steps"] == 24 and run["before"]["eval/accuracy"] == 0.25 and run["after"]["eval/accuracy"] == 0.75
    counts = {"gained": 4, "lost": 0, "right": 2, "wrong": 2, "total": 8}
    assert run["kind"] == "accuracy" and run["changes"] == {
        "change": Change(0.5, 0.0, 1.0, 8, 0.125, "exact McNemar"),
        **counts,
    }
    assert run["train"]["completions/mean_length_wrong"][:3] == [None, None, pytest.approx(4.0 + 0.14112, abs=1e-4)]
    assert run["recipe"]["parent"] == "trpo" and "NaturalStep" in run["recipe"]["changed"]["update"]
    assert run["completions"]["shown"] == run["completions"]["total"] == 24 * 8 + 2 * 8


def test_answers_keep_what_is_stored_of_each_token(report_run):
    rows = collect([report_run])["runs"][0]["completions"]["rows"]
    row = next(r for r in rows if r["k"] == 0 and r["s"] == 3 and r["g"] == 1 and r["w"])
    assert "".join(row["t"]).startswith("5>3#5") and row["ad"] == 0.5 and len(row["lp"]) == len(row["t"]) == row["n"]
    assert row["ra"][1] == 1.1 and row["cl"][1:4] == [1, 2, 3]
    assert [r["k"] for r in rows] == sorted(r["k"] for r in rows)


def test_each_number_of_a_token_leads_to_the_chapter_that_derives_it(report_run, other_run):
    """Of what is stored, and only of that; the chapter is there and speaks of it."""
    shown = {name: re.findall(r"<td>([^<]*)</td><td>[^<]*</td><td><code>([^<]*)</code>", str(browser([collect([run])["runs"][0]])))
             for name, run in (("ppo", report_run), ("none", other_run))}  # fmt: skip
    assert [name for name, _ in shown["ppo"]] == ["advantage", "surprise", "ratio", "clip"]
    for _, name, _, page in QUANTITIES:
        text = (Path(__file__).parents[2] / "docs" / "book" / f"{page}.md").read_text(encoding="utf-8").lower()
        assert {"surprise": "entropy"}.get(name, name.lower()) in text
    assert all((Path(__file__).parents[2] / page).is_file() for pages in shown.values() for _, page in pages)


def test_without_a_tokenizer_answers_are_shown_as_text(other_run):
    found = collect([other_run])["runs"][0]["completions"]
    assert found["pieces"] is False and all("a" in row and "t" not in row for row in found["rows"])


def test_a_sample_is_of_whole_groups_from_everywhere_and_says_so(report_run):
    found = collect([report_run], completions=40_000)["runs"][0]["completions"]
    assert 8 * 6 <= found["shown"] < found["total"] == 24 * 8 + 2 * 8
    training = [row for row in found["rows"] if row["k"] == 0]
    assert {row["s"] for row in training} >= {1, 24}
    sizes = {key: sum((r["s"], r["g"]) == key for r in training) for key in {(r["s"], r["g"]) for r in training}}
    assert set(sizes.values()) == {4}
    assert f"{found['shown']} of 208 stored answers" in Page(render(collect([report_run], 40_000))).text


def test_answers_of_steps_that_are_not_read_still_count(report_run, monkeypatch):
    run = RunDir.open(report_run)
    whole = collect_completions(run, 10_000_000, True)
    monkeypatch.setattr("rung.report.completions.STEPS", 5)
    few = collect_completions(run, 10_000_000, True)
    assert few["total"] == whole["total"] and few["shown"] < whole["shown"] == whole["total"]


def test_a_character_of_several_tokens_stands_at_its_last():
    text = "a€b🙂".encode()
    decode = lambda ids: bytes(ids).decode(errors="replace")  # noqa: E731
    assert token_pieces(decode, list(text)) == ["a", "", "", "€", "b", "", "", "", "🙂"]
    assert "".join(token_pieces(decode, list("né".encode())[:2])) == "n\ufffd"


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_pieces_of_any_bytes_are_the_text(width):
    """Tokens of one to three bytes, cut without regard to characters; whole text, garbage, and a torn end."""
    draw = random.Random(width)
    for _ in range(60):
        text = "".join(draw.choice("a é€🙂漢字\u0300") for _ in range(30)).encode()
        raw = bytearray(text[: len(text) - draw.randrange(3)])
        for _ in range(draw.randrange(4)):
            raw.insert(draw.randrange(len(raw)), draw.randrange(128, 256))
        tokens = [bytes(raw[i : i + width]) for i in range(0, len(raw), width)]
        decode = lambda ids: b"".join(ids).decode(errors="replace")  # noqa: E731
        assert "".join(token_pieces(decode, tokens)) == decode(tokens)


@pytest.mark.parametrize("answer", ["ab€", "\ufffd", "🙂"], ids=["text", "no characters", "four bytes each"])
def test_an_answers_length_costs_at_most_its_share(answer):
    """The work, counted in decoded tokens: twice the length, twice the work for one row; in the page a long answer no
    more than a window's."""
    work = 0

    def decode(ids):
        nonlocal work
        work += len(ids)
        return bytes(ids).decode(errors="replace")

    def cost(run, n):
        nonlocal work
        work = 0
        run(list((answer.encode() if answer != "\ufffd" else b"\x80") * n)[:n])
        return work

    pieces = lambda ids: token_pieces(decode, ids)  # noqa: E731
    assert cost(pieces, 2000) <= 2.1 * cost(pieces, 1000)
    row = lambda ids: _shown(pieces, ids)  # noqa: E731
    assert cost(row, 1001) <= 1.1 * cost(row, 1000) and cost(row, 30_000) == cost(row, 1001)


def test_a_windows_pieces_are_the_whole_answers():
    text = list(("a€b🙂漢" * 200).encode())
    pieces = lambda ids: token_pieces(lambda part: bytes(part).decode(errors="replace"), ids)  # noqa: E731
    whole = pieces(text)
    assert _shown(pieces, text) == [*whole[:HEAD], *whole[-TAIL:]] and len(text) > HEAD + TAIL


def test_a_run_that_has_only_begun_still_has_a_report(tmp_path):
    with RunDir.create(None, "x", tmp_path / "run") as run:
        run.write_config({"recipe": "grpo", "expanded_recipe": {"name": "future", "credit": {"part": "Unheard"}}})
    text = page_of(tmp_path / "run").text
    assert "holds no evaluation" in text and "another version" in text and "Unheard" in text


# -- numbers -------------------------------------------------------------------------------------------------------
def test_a_running_mean_has_the_interval_of_its_window():
    mean, low, high = running([1.0, 2.0, 3.0, None, 5.0], 3)
    assert mean == [1.5, 2.0, 2.5, 4.0, 5.0]
    assert low[1] == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3) and high[1] == pytest.approx(4 - low[1])
    assert low[0] is None and running([1.0, 2.0, 3.0], 1)[1] == [None] * 3


def test_long_curves_become_means_of_bins():
    x, y = thin(list(range(10_000)), [float(i) for i in range(10_000)])
    assert len(x) == len(y) == 200 and x[0] == y[0] == 24.5 and y[-1] == 9974.5


def test_ticks_are_round():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and ticks(-0.03, 0.041) == [-0.02, 0, 0.02, 0.04]
    assert ticks(5, 5) == [5]


def test_labels_of_an_axis_differ_and_have_no_digit_too_many():
    for low, high in [
        (0, 1),
        (1.2e-6, 1.7e-6),
        (0, 3e-5),
        (-0.03, 0.041),
        (1.00001, 1.00004),
        (0, 1.5e6),
        (4e-4, 4.1e-4),
    ]:
        marks = ticks(low, high)
        labels = tick_labels(marks)
        assert len(marks) > 2 and len(set(labels)) == len(labels)
        assert [float(x.replace("−", "-").replace(",", "")) for x in labels] == pytest.approx(
            marks, rel=1e-9, abs=1e-15
        )
    assert tick_labels([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"] and tick_labels([0, 2e-6, 4e-6]) == [
        "0",
        "2e-6",
        "4e-6",
    ]
    assert tick_labels(ticks(5, 5)) == ["5"]


def test_numbers_for_people():
    cases = [0.7578, 31.24, 1347.0, 6.9e-14, 0.0, 1.0, None, 2.0147, float("nan")]
    assert [number(v) for v in cases] == ["0.758", "31.2", "1,347", "6.9e-14", "0", "1", "–", "2.01", "–"]
    assert [number(v) for v in (4e-4, 0.00041234, 5e-3, 3e-5, -2e-5, 0.01)] == [
        "0.0004", "0.000412", "0.005", "3e-5", "-2e-5", "0.010",
    ]  # fmt: skip


# -- nothing becomes markup ----------------------------------------------------------------------------------------
def test_texts_are_escaped_unless_made_here():
    made = tag("p", "<b>", Markup("<i>x</i>"), ['"', None, 3], title='"><script>')
    assert made == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;<i>x</i>&quot;3</p>'
    assert "<script>" not in table(["<script>"], [["<script>", 1.5]])


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028", "\u2029", "]]>", "&", "\x00", "\ud800"])
def test_json_in_a_script_cannot_leave_it(text):
    out = script_json({"a": text})
    assert json.loads(out)["a"] == text and out.isascii()
    assert not re.search(r"[<>&]", out)


def test_a_page_holds_only_the_elements_that_we_wrote(report_run, other_run, ladder_dir):
    page = page_of(report_run, other_run, ladder_dir)
    scripts = [attributes for name, attributes in page.tags if name == "script"]
    assert [s.get("id") for s in scripts] == ["charts", "answers-data", None]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert not {"img", "link", "iframe", "object", "base"} & {name for name, _ in page.tags}
    policy = next(a["content"] for n, a in page.tags if n == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    rows = json.loads(page.data["answers-data"])[0]["rows"]
    assert any("</script>" in row.get("a", "") for row in rows)


def test_no_address_of_another_machine_is_on_the_page(report_run):
    text = render(collect([report_run]))
    text = re.sub(r"<script type=.*?</script>", "", text, flags=re.DOTALL)  # data
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {"http://www.w3.org/2000/svg"}


# -- what is shown -------------------------------------------------------------------------------------------------
def test_the_outcome_is_said_in_words(report_run):
    text = page_of(report_run).text
    assert "on 8 problems. 95 % intervals: 0.150 to 0.350 before, 0.650 to 0.850 after." in text
    assert "Change over the same 8 problems: +0.5 (95 % interval +0 to +1): the interval holds 0, so this" in text
    assert "4 went from wrong to right" in text and "0 from right to wrong" in text


def test_every_chart_says_its_values_in_words(report_run):
    page = page_of(report_run)
    labels = [a["aria-label"] for n, a in page.tags if n == "svg"]
    assert any(re.match(r"Entropy\. \d\.\d+ at step 1, 0\.0\d+ at step 24\.", str(label)) for label in labels)
    charts = json.loads(page.data["charts"])
    assert len(charts) >= 6 and all(
        len(s["x"]) == len(s["px"]) == len(s["y"]) for c in charts.values() for s in c["series"]
    )


def test_what_never_moved_has_no_chart_but_is_named(report_run):
    text = page_of(report_run).text
    assert re.search(r"Never moved.*clip_ratio/low_mean 0\.010", text)


def test_memory_and_time_stand_by_phase(report_run):
    text = page_of(report_run).text
    assert re.search(r"sample 0\.500 50% 0\.50", text) and re.search(r"update 0\.400 40% 0\.75", text)


def test_runs_side_by_side_begin_with_their_differences(report_run, other_run):
    page = page_of(report_run, other_run)
    text = page.text
    assert "2 runs side by side" in text and "What is not the same in all of them" in text
    assert re.search(r"recipe\.credit Value\(.*?GroupMean", text)
    labels = [str(a["aria-label"]) for n, a in page.tags if n == "svg"]
    assert labels[0].startswith("Held-out accuracy. first: 0.250 at step 0, 0.750 at step 24. second: ")
    assert "first, before: 0.250, interval 0.150 to 0.350" in labels[1] and "second, after: 0.750" in labels[1]
    assert any("first: " in label and "second: " in label for label in labels if label.startswith("Entropy"))


def test_rewards_on_a_scale_of_their_own_are_no_accuracy_and_no_answer_is_right_or_wrong(graded_run, report_run):
    for paths in ([graded_run], [report_run, graded_run]):
        page = page_of(*paths)
        text = page.text
        assert "Held-out mean reward" in text and ("Mean reward on held-out problems" in text) == (len(paths) > 1)
        assert "Rewards have a scale: no answer is right or wrong." in text
        assert not re.search("ccuracy on held-out|eld-out accuracy|wrong to right", text), (
            "one kind for all runs of a page"
        )
        assert not any("w" in row for run in json.loads(page.data["answers-data"]) for row in run["rows"])
        assert "f-right" not in [a.get("id") for _, a in page.tags]
    text = page_of(graded_run).text
    assert (
        "Held-out mean reward after 24 steps, on 8 problems. 95 % intervals: -1 to 1 before, 11.5 to 13.5 after" in text
    )
    assert (
        "Change over the same 8 problems: +12.5" in text and "2 answers could not be scored and are in no mean." in text
    )


def test_training_answers_that_are_paid_on_another_scale_are_not_marked(tmp_path, make):
    """`reward_offset` pays 1 and 2 in training, 0 and 1 in evaluation."""
    run = make(tmp_path / "run", "grpo", steps=2, pay=lambda right: right + 1.0)
    rows = collect([run])["runs"][0]["completions"]["rows"]
    assert all("w" in row for row in rows if row["k"] == 1) and not any("w" in row for row in rows if row["k"] == 0)


def test_a_penalty_for_length_makes_no_answer_wrong(tmp_path, make):
    run = make(tmp_path / "run", "dapo", steps=2, fine=-0.75)
    rows = [row for row in collect([run])["runs"][0]["completions"]["rows"] if row["k"] == 0]
    assert {(row["r"], row["w"]) for row in rows} == {(0.25, True), (-0.75, False)}


def test_a_ladder_says_what_was_not_shown(ladder_dir):
    text = page_of(ladder_dir).text
    assert "not shown grpo against ppo: not shown. p = 0.400" in text.replace("\xa0", " ")
    assert "shown dr_grpo against grpo: +0.050 p = 0.003" in text.replace("\xa0", " ")
    for heading in (
        "What each step buys",
        "Results",
        "Curves",
        "Accuracy over step sizes",
        "Quality of the gradient",
    ):
        assert heading in text
    assert "Made by rung ladder --recipes grpo,dr_grpo" in text


@pytest.mark.parametrize(
    "content",
    [{}, {"title": "x"}, *({key: [{}]} for key in ("rows", "verdicts", "curves", "robustness", "gradient"))],
)
def test_every_part_of_a_ladder_may_be_missing(tmp_path, content):
    (tmp_path / "why.json").write_text(json.dumps(content))
    assert "rung report" in page_of(tmp_path).text


@pytest.mark.parametrize("content", ["[]", "{", '{"rows": 3}', '{"curves": ["x"]}'])
def test_a_broken_ladder_is_refused(tmp_path, content):
    (tmp_path / "ladder.json").write_text(content)
    with pytest.raises(InputError, match="Make it again"):
        collect([tmp_path])


# -- the file ------------------------------------------------------------------------------------------------------
def test_the_command_writes_beside_the_run_and_may_do_so_again(tmp_path, report_run, ladder_dir, capsys):
    out = tmp_path / "a.html"
    assert main(["report", str(report_run), "--out", str(out)]) == 0 and capsys.readouterr().out.strip() == str(out)
    first = out.read_text(encoding="utf-8")
    assert main(["report", str(report_run), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8")[:200] == first[:200]
    assert write_report([ladder_dir]) == ladder_dir / "report.html" and (ladder_dir / "report.html").is_file()


def test_no_other_file_is_replaced(tmp_path, report_run, ladder_dir, capsys):
    precious = tmp_path / "report.html"
    precious.write_text("<!DOCTYPE html>mine")
    for target, why in ((precious, "no report of ours"), (tmp_path, "directory")):
        assert main(["report", str(report_run), "--out", str(target)]) == 2
        assert why in capsys.readouterr().err
    assert precious.read_text() == "<!DOCTYPE html>mine"
    write_report([ladder_dir], tmp_path / "l.html")
    with pytest.raises(InputError, match="on something else"):
        write_report([report_run], tmp_path / "l.html")


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_a_page_that_would_be_too_large_shows_fewer_answers(tmp_path, report_run, monkeypatch):
    full = len(write_report([report_run], tmp_path / "full.html").read_bytes())
    monkeypatch.setattr(report, "LIMIT", full - 1)
    small = write_report([report_run], tmp_path / "small.html").read_bytes()
    assert len(small) < full and b" of 208 stored answers" in small
    monkeypatch.setattr(report, "LIMIT", 1000)
    with pytest.raises(InputError, match="MB"):
        write_report([report_run], tmp_path / "none.html")


# -- definitions ---------------------------------------------------------------------------------------------------
def test_the_docs_repeat_the_definitions_word_for_word():
    ours = Path(report.__file__).parents[1] / "io" / "metrics.md"
    docs = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert docs.read_text(encoding="utf-8") == ours.read_text(encoding="utf-8"), (
        "edit src/rung/io/metrics.md, then copy it"
    )
    assert len(definitions()) > 50 and definition("rewards/anything/mean") is definitions()["rewards/NAME/mean"]


def test_formulas_are_set_in_letters_and_nothing_of_tex_is_left():
    assert as_html(r"mean of $\lvert A \rvert$, `a<b`") == 'mean of <span class="tex">|A|</span>, <code>a&lt;b</code>'
    sums = as_html(r"$e^{\sum_t \ell_t}$")
    assert sums == '<span class="tex">e<sup>Σ<sub>t</sub> ℓ<sub>t</sub></sup></span>'
    for metric in definitions().values():
        text = as_html(metric.formula) + as_html(metric.healthy) + as_html(metric.catches)
        assert not re.search(r"[\\$^{}]|\bgt\b|\blt\b", re.sub(r"&lt;|&gt;", "", text)), metric.name


def test_rewards_of_different_functions_share_no_axis_and_get_no_verdict(tmp_path, make, report_run):
    """The second is better by its own rule, which is not the first's."""
    other = make(tmp_path / "other", "ppo")
    assert "other minus first, over the same 8 held-out problems" in page_of(report_run, other).text, (
        "of one rule they are"
    )
    config = other / "config.toml"
    config.write_text('reward = "rew.py:mine"\n' + config.read_text())
    text = page_of(report_run, other).text
    assert "rewards are of different functions, not compared (reward none and rew.py:mine)" in text
    assert "minus first" not in text and text.count("Accuracy on held-out problems, 95 % intervals") >= 2
    assert "Held-out accuracy, other" in text and "Reward while training, other" in text


def test_answers_drawn_otherwise_get_no_verdict(tmp_path, make, report_run):
    other = make(tmp_path / "other", "ppo")
    config = other / "config.toml"
    config.write_text(config.read_text().replace("temperature = 1.0", "temperature = 0.5"))
    text = page_of(report_run, other).text
    assert "answers were drawn in different ways, not compared (temperature 1.0 and 0.5)" in text


def test_a_long_name_keeps_its_end():
    assert _cut("dr_grpo-starter-12") != _cut("dr_grpo-starter-13") and _cut("dr_grpo-starter-12").endswith("-12")
    assert _cut("short") == "short" and len(_cut("x" * 40)) == 16


def test_one_problem_shows_nothing():
    found = change({"a": 0.0}, {"a": 2.5}, False)
    assert "is better" not in _verdict(found, "one", "two") and "no difference is shown" in _verdict(
        found, "one", "two"
    )
    assert found.words == "one problem alone does not show a change"
