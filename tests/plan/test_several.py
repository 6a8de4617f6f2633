"""`rung plan --cluster ray` and `--gpu`: what it prints, what it proposes, and what it refuses in one sentence."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rung.cli import main
from rung.errors import typed
from rung.plan import estimate, fit, scale
from rung.plan import planned as plans
from rung.plan.here import Here
from rung.plan.machines import GPUS
from rung.plan.memory import Need, Workload
from rung.plan.planned import Planned
from rung.plan.rehearsal import Rates
from rung.plan.room import why_not
from rung.plan.several import split_row
from rung.plan.shapes import NAMED, planned_model
from rung.plan.spread import Forecast, changes
from rung.recipe_io import find
from rung.settings.cluster import Cluster
from rung.training.config import TrainConfig

WORK = Workload(P=512, G=16, prompt=200, longest=400, answer=2048, T=8192, eval_rows=256, at_once=256)
BATCH = [
    "--prompts-per-step",
    "512",
    "--samples-per-prompt",
    "16",
    "--max-new-tokens",
    "8192",
    "--answer-tokens",
    "2048",
]
SEVEN = ["--model", "qwen2.5-7b", "--dtype", "bfloat16", "--sampler", "vllm", *BATCH]


@pytest.fixture(scope="module")
def cluster():
    """64 H100s and a model of 7.6 thousand million parameters."""
    config = TrainConfig(model="qwen2.5-7b", dtype="bfloat16", sampler="vllm", recipe="dr_grpo", cluster="ray")
    return Planned(GPUS["h100"], 64, config, find("dr_grpo"), planned_model(config), WORK)


def refused(capsys, *words):
    assert main(["plan", *words]) == 2
    said = capsys.readouterr().err.strip().split("rung: ")[-1]
    assert "\n" not in said
    return said


# -- models --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "parameters"), [("qwen2.5-7b", 7_615_616_512), ("llama-3.1-70b", 70_553_706_496)])
def test_a_named_model_has_the_parameters_that_its_card_says(name, parameters):
    model = planned_model(TrainConfig(model=name, dtype="bfloat16"))
    assert sum(p.numel() for p in model.hf.parameters()) == parameters and next(model.hf.parameters()).is_meta


def test_a_configuration_alone_is_enough(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(NAMED["qwen2.5-7b"]))
    found = [
        sum(p.numel() for p in planned_model(TrainConfig(model=str(path), dtype="bfloat16")).hf.parameters())
        for path in (tmp_path, tmp_path / "config.json")
    ]
    assert found == [7_615_616_512] * 2
    (tmp_path / "config.json").write_text("{")
    assert "the configuration in " in refused(capsys, "--gpu", "h100", "--model", str(tmp_path))


# -- what a cluster takes ------------------------------------------------------------------------------------------
def test_learning_is_divided_by_the_learners_and_traffic_is_not(cluster):
    roomy = next(
        cut for cut in cluster.cuts if cut.settings == {"activation_gib": 20.0, "gradient_checkpointing": True}
    )
    eight, sixteen = (sum(roomy.passes(n)) for n in (8, 16))
    assert eight / sixteen == pytest.approx(2, rel=0.01), "bounded by products"
    cut_small = [sum(cluster.passes(n)) for n in (16, 32)]
    assert cut_small[0] > 3 * sixteen, "an answer at a time, the weights travel for each"
    alone = replace(cluster, gpus=2)
    assert alone.pass_work(alone.flops[-1], 1)[1] == 0, "and for one learner they do not"


def test_memory_is_dealt_out_but_for_what_each_must_hold(cluster):
    weights = 2 * 7_615_616_512
    two, many = (cluster.learner_bytes(Cluster(n, 1)) for n in (2, 64))
    held = (2 + 4 + 8 + 2) * 7_615_616_512  # weights, masters, moments, gradients
    assert two - many == pytest.approx(held / 2 - held / 64, rel=1e-6)
    # a learner loads the whole model, and that of a reference beside it, before it deals them out
    grpo = replace(cluster, recipe=find("grpo"), model=cluster.model)
    least = replace(grpo, config=replace(grpo.config, gradient_checkpointing=True))
    assert (
        plans.learner_bytes(replace(least.shape, micro_tokens=1), replace(WORK, T=8), find("grpo"), 10**6)
        == 2 * weights
    )
    assert cluster.sampler_bytes(Cluster(1, 8)) > 2 * weights, "the model, and vllm's"


def test_the_best_split_beats_its_neighbours(cluster):
    for staleness in (0, 1):
        best = cluster.splits(Cluster(staleness=staleness))
        n = best.spread.learners
        for other in (n - 4, n + 4):
            near = best.crew.cut(Cluster(other, 64 - other, staleness), {})
            assert near.seconds >= best.seconds * 0.99
        assert best.spread.learners + best.spread.samplers == 64
    turns, stale = Cluster(), Cluster(staleness=1)
    assert cluster.splits(stale).seconds < cluster.splits(turns).seconds
    assert "TokenTIS" in str(cluster.splits(stale).settings), "stale answers need a correction"
    assert cluster.splits(turns, learners=8).spread.learners == 8 == cluster.splits(turns, samplers=8).spread.samplers
    huge, enough = (replace(cluster, gpus=n).splits(stale) for n in (256, 128))
    assert huge.spread.learners + huge.spread.samplers <= 128, "what makes no step shorter is left out"
    assert huge.seconds == pytest.approx(enough.seconds, rel=0.01)


def test_what_to_change_first_makes_a_step_as_short_as_it_says(cluster):
    now = Forecast(cluster, Cluster(16, 48), {})
    first = changes(now)[0]
    assert first.settings["gradient_checkpointing"] and first.seconds < now.seconds / 2
    again = Forecast(replace(cluster, config=replace(cluster.config, **first.settings)), now.spread, {})
    assert again.seconds == pytest.approx(first.seconds)
    assert changes(again)[0].settings == {"cluster.staleness": 1, "recipe.correction": "TokenTIS"}
    assert all(one.seconds < 0.99 * again.seconds for one in changes(again))


def test_a_natural_step_in_bfloat16_is_planned_with_one_learner(cluster):
    small = replace(WORK, P=16, longest=300, answer=128, T=256)
    trpo = replace(cluster, gpus=4, recipe=find("trpo"), work=small, config=replace(cluster.config, sampler="torch"))
    trpo = replace(trpo, gpu=replace(GPUS["h200"], memory=1e12))
    assert trpo.splits(Cluster()).spread.learners == 1 and not trpo.fits(Cluster(learners=2))
    assert all(one.spread.learners == 1 for one in changes(Forecast(trpo, Cluster(), {})))
    tight = why_not(replace(trpo, gpu=GPUS["h100"]))
    assert tight.startswith("a learner needs at least") and "learners instead of" not in tight
    wide = replace(trpo, config=replace(trpo.config, dtype="float32"))
    assert wide.splits(Cluster()).spread.learners == 3 and not any(
        "dtype" in x.settings for x in wide.others(Cluster())
    )
    lora = replace(wide, config=replace(wide.config, lora_rank=8))
    assert any("dtype" in x.settings for x in lora.others(Cluster())), "an adapter is float32 in any model"
    assert trpo.passes(1)[-2] > 1.5 * replace(trpo, recipe=find("a2c")).passes(1)[-2]


# -- the command ---------------------------------------------------------------------------------------------------
def test_a_cluster_is_planned_by_trying_all_its_splits(capsys):
    assert main(["plan", "dr_grpo", "--gpu", "h100", "--gpus", "16", *SEVEN, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["staleness"] for row in rows] == [0, 1, 2]
    assert all(row["learners"] + row["samplers"] == 16 for row in rows)
    assert rows[0]["step, s"] == pytest.approx(rows[0]["sampling, s"] + rows[0]["learning, s"], abs=0.2)
    assert rows[1]["step, s"] == max(rows[1]["sampling, s"], rows[1]["learning, s"])
    assert "--gradient-checkpointing" in rows[0]["settings"] and rows[0]["learner, GB"] < 80


def test_a_split_that_is_given_is_planned_as_it_is(capsys):
    spread = ["--cluster", "ray", "--cluster.learners", "4", "--cluster.samplers", "4"]
    tight = ["--gpu", "a100", *SEVEN, *spread]
    assert "Give --activation-gib 1.25 --gradient-checkpointing: then it needs" in refused(capsys, "dr_grpo", *tight)
    assert main(["plan", "dr_grpo", "--gpu", "h200", *SEVEN, *spread]) == 0
    said = capsys.readouterr()
    assert "never run on such a cluster" in said.out + said.err
    for words in (
        "draw (4 samplers)",
        "learn (4 learners)",
        "with a staleness of 0",
        "share in which learners learn",
        "a sampler",
    ):
        assert words in said.out
    assert "First try --cluster.staleness 1 --recipe.correction TokenTIS: " in " ".join(said.out.split())


def test_this_machine_is_planned_from_its_own_timings(capsys):
    small = ["--prompts-per-step", "4", "--samples-per-prompt", "2", "--max-new-tokens", "4", "--eval-problems", "2"]
    spread = [
        "--cluster",
        "ray",
        "--cluster.samplers",
        "2",
        "--cluster.staleness",
        "1",
        "--recipe.correction",
        "TokenTIS",
    ]
    assert main(["plan", "grpo", *small, *spread, "--json", "-"]) == 0
    found = {(row["part"], row["what"]): row["estimate"] for row in json.loads(capsys.readouterr().out)}
    sides = found["sampling", "all of it"], found["learning", "all of it"]
    assert max(sides) * 0.99 < found["step", "with a staleness of 1"] <= sum(sides) * 1.5 + 0.01
    assert found["memory", "a sampler"] > 0.05


# -- refusals ------------------------------------------------------------------------------------------------------
def test_what_cannot_be_is_refused_in_a_sentence(capsys):
    assert "unknown GPU 'h10'. Did you mean 'h100'?" in refused(capsys, "--gpu", "h10")
    assert "Say which with --gpu" in refused(capsys, "--gpus", "8")
    assert "unknown model 'qwen2.5-70b'. Did you mean 'qwen2.5-7b'?" in refused(
        capsys, "--gpu", "h100", "--model", "qwen2.5-70b"
    )
    assert "--cluster local is one process" in refused(capsys, "--gpu", "h100", "--cluster", "local")
    assert "--gpus is 0; it must be a whole number" in refused(capsys, "--gpu", "h100", "--gpus", "0")
    stale = ["--cluster", "ray", "--cluster.staleness", "1", "--cluster.learners", "1", "--cluster.samplers", "1"]
    assert "Correct for it" in refused(capsys, "grpo", "--gpu", "h100", "--gpus", "8", *stale)


@pytest.mark.parametrize(
    ("gpus", "options", "said"),
    [
        (
            8,
            {"learners": 8},
            "--cluster.learners 8 leaves none of 8 GPUs for a sampler, and here each process is planned on a GPU",
        ),
        (8, {"samplers": 8}, "--cluster.samplers 8 leaves none of 8 GPUs for a learner"),
        (8, {"learners": 9}, "--cluster.learners 9 is more than 8 GPUs"),
        (1, {"samplers": 2}, "--cluster.samplers 2 is more than 1 GPU"),
        (8, {"learners": 5, "samplers": 5}, "5 learners, 5 samplers are more than 8 GPUs"),
    ],
)
def test_processes_without_a_gpu_are_the_cause_that_is_said(gpus, options, said, capsys):
    """And what to do: as many GPUs as it takes, or as many processes as there are GPUs for; both are tried."""
    words = ["--gpu", "h100", "--prompts-per-step", "16", "--cluster", "ray"]
    spread = [word for name, n in options.items() for word in (f"--cluster.{name}", str(n))]
    found = refused(capsys, *words, *spread, "--gpus", str(gpus))
    enough = options.get("learners", 1) + options.get("samplers", 1)
    assert said in found and f"Give --gpus {enough} or more" in found and "does not fit" not in found
    assert main(["plan", "dr_grpo", *words, *spread, "--gpus", str(enough)]) == 0
    if len(options) == 1:
        (name,) = options
        assert f"or --cluster.{name} {max(gpus, 2) - 1} at most." in found


def shape_of(said):
    """GPUs, learners and samplers that a refusal asks for."""
    numbers = re.search(
        r"from (\d+) learners? on, and a sampler from (\d+) samplers? on, so that it takes (\d+) GPUs", said
    )
    return tuple(map(int, numbers.groups()))


def test_each_side_fits_alone_and_both_do_not_is_said_as_it_is(capsys):
    """A model whose optimizer wants several learners, and a sampler whose answers want several of it."""
    words = [
        "dr_grpo",
        "--gpu",
        "a100",
        "--model",
        "qwen2.5-7b",
        "--prompts-per-step",
        "64",
        "--samples-per-prompt",
        "8",
    ]
    words += ["--max-new-tokens", "2048", "--eval-problems", "8"]
    found = refused(capsys, *words, "--gpus", "6")
    n, m, gpus = shape_of(found)
    assert "in any split of 6 GPUs" in found and n > 1 and m > 1 and n + m == gpus == 7
    assert main(["plan", *words, "--gpus", str(gpus)]) == 0
    few = refused(capsys, *words, "--gpus", "64", "--cluster", "ray", "--cluster.learners", str(n - 1))
    assert (
        f"with --cluster.learners {n - 1} on 64 GPUs: a learner needs at least" in few
        and f"Take {n} learners instead" in few
    )
    few = refused(capsys, *words, "--gpus", "64", "--cluster", "ray", "--cluster.samplers", str(m - 1))
    assert f"with --cluster.samplers {m - 1} on 64 GPUs: a sampler needs" in few and f"Take {m} samplers instead" in few


def test_several_gpus_of_this_machine_are_not_added_up_as_one(cluster, capsys):
    """Each process has a GPU of its own, or one of each kind share one."""
    work = replace(WORK, P=8, G=2, T=8, answer=8)
    room, nothing = (
        fit.Room(10 * 2**30, 2**30, "GPU memory of one"),
        Need({"Python and libraries": 0.0, "weights": 0.0}, {}, {}),
    )
    tiny = estimate.Plan(TrainConfig(), replace(cluster.shape, layers=2), work, nothing, room, Rates(1, 1), [], 0.0)
    crew = Here(tiny, plans.UNTIMED, find("dr_grpo"), cores=2, threads=1, gpus=True)
    alone, shared = Cluster(1, 1), Cluster(2, 1)
    sizes = crew.learner_bytes(alone), crew.sampler_bytes(alone)
    assert crew.fullest(alone) == ("a learner", max(sizes))
    assert crew.fullest(shared) == ("a learner and a sampler on one GPU", crew.learner_bytes(shared) + sizes[1])
    assert replace(crew, gpus=False).fullest(alone) == ("1 learner, 1 sampler", sum(sizes)), (
        "one memory holds all processes"
    )


# -- answers in pieces ---------------------------------------------------------------------------------------------
def test_pieces_are_planned_with_what_they_read_again_and_how_fresh_they_make_a_token(cluster):
    whole = Forecast(cluster, Cluster(16, 48, staleness=3), {})
    cut = Forecast(cluster, Cluster(16, 48, staleness=3, partial=1024), {})
    lengths = scale.Lengths.of(2048, 8192)
    rows = 11 * 16  # of 512 problems by 48 samplers
    read = sum(cluster.decoder(48).prefill(rows * lengths.alive(n), 200 + n) for n in (1024, 2048))
    assert {s.name: s.seconds for s in cut.drawing}["read again"] == pytest.approx(read) and read > 0
    assert cut.sides[0] == pytest.approx(whole.sides[0] + read) and cut.sides[1] == whole.sides[1]
    assert cut.seconds >= whole.seconds, "no step is shorter for it"
    assert whole.behind == 3 > cut.behind > 1
    beyond = sum(max(0.0, lengths.any_alive(t + 0.5, 1)) * (2 if t >= 2048 else 1) for t in range(1024, 8192))
    assert cut.behind == pytest.approx(3 - beyond / 2048, rel=1e-3)
    assert Forecast(cluster, Cluster(16, 48, staleness=3, partial=8192), {}).behind == 3, "none is longer than a piece"


def test_a_plan_in_pieces_tries_what_training_allows_and_refuses_the_rest(capsys):
    words = ["--gpu", "h100", "--gpus", "16", *SEVEN, "--cluster", "ray", "--cluster.partial", "512"]
    assert main(["plan", "dr_grpo", *words, "--json", "-"]) == 0
    assert [row["staleness"] for row in json.loads(capsys.readouterr().out)] == [2], "fewer have no pieces"
    assert "--cluster.partial 512 lets an answer go on" in refused(
        capsys, "dr_grpo", *words, "--cluster.staleness", "1"
    )
    assert "draws others after what those earned" in refused(capsys, "dapo", *words)
    small = ["--prompts-per-step", "2", "--samples-per-prompt", "2", "--max-new-tokens", "4", "--cluster", "ray"]
    assert "lets an answer go on" in refused(capsys, "grpo", *small, "--cluster.partial", "2")


def test_a_model_that_fits_nowhere_is_refused_with_what_would_help(capsys):
    seventy = ["--model", "llama-3.1-70b", "--dtype", "bfloat16"]
    said = refused(capsys, "--gpu", "h100", "--gpus", "64", *seventy)
    assert "holds the whole model on one GPU (141 GB of weights), and of H100 SXM 80 GB 72 GB are planned with" in said
    assert "divides no model over several" in said and "`rung export`" in said
    said = refused(capsys, "--gpu", "h200", "--model", "qwen2.5-7b", *BATCH)
    assert "--sampler vllm" in said and "--dtype bfloat16" not in said
    assert "a learner needs at least" in refused(capsys, "ppo", "--gpu", "b200", *seventy, "--max-new-tokens", "64")


def test_gpus_that_stay_idle_are_said(capsys):
    """Those of a split that is given, and those that no split makes use of: a fifth sampler has no fifth problem."""
    words = [
        "plan",
        "dr_grpo",
        "--gpu",
        "h100",
        "--model",
        "qwen2.5-7b",
        "--dtype",
        "bfloat16",
        "--max-new-tokens",
        "512",
    ]
    six = [*words, "--cluster.learners", "4", "--cluster.samplers", "2"]
    few = [
        *words[:-2],
        "--sampler",
        "vllm",
        "--prompts-per-step",
        "4",
        "--samples-per-prompt",
        "16",
        "--max-new-tokens",
        "2048",
    ]
    for asked, found in (
        ([*six, "--gpus", "8"], ["2 of 8 GPUs stay idle: 4 learners, 2 samplers are asked for"]), ([*six, "--gpus", "6"], []),
        ([*few, "--gpus", "8"], ["1 of 8 GPUs stays idle: with all of them a step is less than 1 % shorter"]),
        ([*few, "--gpus", "7"], []),
    ):  # fmt: skip
        assert main(asked) == 0
        assert re.findall(r"note: (\d of \d GPUs .*)", capsys.readouterr().err) == found


def test_a_sampler_that_is_too_large_is_told_how_many_gpus_it_takes(capsys):
    batch = ["--prompts-per-step", "512", "--samples-per-prompt", "64", "--max-new-tokens", "8192"]
    words = ["dr_grpo", "--gpu", "h100", "--model", "qwen2.5-7b", "--dtype", "bfloat16", *batch]
    found = refused(capsys, *words)
    assert "in any split of 8 GPUs (of one machine; --gpus says how many): a sampler needs" in found
    m, gpus = map(int, re.search(r"Take (\d+) samplers instead of 7 \(--gpus (\d+)\)", found).groups())
    assert main(["plan", *words, "--gpus", str(gpus)]) == 0 and f"--cluster.samplers {m} " in capsys.readouterr().out
    assert "(of one machine" not in refused(capsys, *words, "--gpus", "8")


def test_the_documented_table_is_what_the_plan_says(cluster):
    """docs/scale.md, Planned for 8 to 512 GPUs."""
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| 64 |")]
    crew = replace(cluster, work=replace(WORK, prompt=18.0, longest=18, eval_rows=235))  # the task's own
    with typed():
        for row in rows:
            assert row[1:] == list(map(str, split_row(crew.splits(Cluster(staleness=int(row[1]))))))
    assert len(rows) == 2
