"""A step on many GPUs: each equation at its limits and by hand, and the schedule against the sums that it must come to."""

from dataclasses import replace
from itertools import pairwise

import pytest

from rung.errors import InputError
from rung.plan import machines, scale
from rung.plan.memory import Shape, Workload
from rung.plan.pipeline import Stage, closed_form, simulate, step_seconds
from rung.plan.scale import Decoder, Lengths

# As in test_plan.py: two layers of width 4, F = 8, 2 heads of 2 (1 key head), vocabulary 10, bfloat16.
SHAPE = Shape(
    parameters=348, trainable=348, products=288, layers=2, D=4, F=8, heads=2, key_heads=1, head_dim=2, V=10,
    width=2, micro_tokens=256,
)  # fmt: skip
WORK = Workload(P=8, G=4, prompt=5, longest=6, answer=10, T=40, eval_rows=6)
GPU = machines.Gpu("made up", flops=1e4, single=1e3, stream=1e3, memory=1e6, link=800.0, network=80.0)


# -- the schedule --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("staleness", [0, 1, 2, 5])
@pytest.mark.parametrize(("a", "b"), [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (1.0, 0.0)])
def test_a_step_takes_what_the_closed_form_says(a, b, staleness):
    drawing, learning = (Stage("draw", 0.75 * a, 4), Stage("judge", 0.25 * a)), (Stage("learn", b, 2),)
    found = step_seconds(drawing, learning, staleness)
    assert found == pytest.approx(closed_form(a, b, staleness))
    if staleness == 0:
        assert found == pytest.approx(a + b), "they take turns"
    else:
        assert found == pytest.approx(max(a, b)), "they work side by side"


@pytest.mark.parametrize("places", [1, 2, 3, float("inf")])
def test_staleness_never_makes_a_step_longer_and_one_place_gains_nothing_by_it(places):
    drawing, learning = (Stage("draw", 2.0, 2), Stage("judge", 1.0)), (Stage("learn", 2.5, 1), Stage("write", 0.5))
    taken = [step_seconds(drawing, learning, s, places) for s in range(4)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(taken))
    work = 2 * 2.0 + 1.0 + 2.5 + 0.5
    assert all(seconds >= work / places - 1e-9 for seconds in taken), "no work is lost"
    if places == 1:
        assert taken == pytest.approx([work] * 4), "one core does all of it, in whatever order"


def test_answers_are_never_older_than_the_bound_and_each_step_is_drawn_and_learned_once():
    for staleness in (0, 1, 3):
        spans = simulate((Stage("draw", 1.0),), (Stage("learn", 1.7),), staleness, 9)
        assert len(spans) == 9
        for k, span in enumerate(spans):
            done = sum(other.learned <= span.drawing + 1e-9 for other in spans)
            assert done >= k - staleness, "the weights of version k - S are there when step k is drawn"
            assert span.drawing < span.drawn <= span.learning + 1e-9 < span.learned
        assert all(a.drawn <= b.drawing + 1e-9 and a.learned <= b.learning + 1e-9 for a, b in pairwise(spans))


def test_four_processes_on_two_cores_take_twice_as_long():
    assert step_seconds((Stage("draw", 1.0, 4),), (Stage("learn", 1.0, 2),), 0, places=2) == pytest.approx(3.0)
    # side by side: the six of them share two cores, and all of their work is six core seconds
    assert step_seconds((Stage("draw", 1.0, 4),), (Stage("learn", 1.0, 2),), 1, places=2) == pytest.approx(3.0)


# -- answers -------------------------------------------------------------------------------------------------------
def test_lengths_have_the_mean_that_they_were_made_of():
    for mean, T in ((10, 40), (2048, 8192), (1, 8), (40, 40)):
        lengths = Lengths.of(mean, T)
        slices = 100_000
        found = sum(lengths.alive((i + 0.5) * T / slices) for i in range(slices)) * T / slices
        assert found == pytest.approx(mean, rel=2e-3)
        assert lengths.longest(1) == pytest.approx(mean, rel=0.01), "the longest of one is one"
        assert lengths.longest(1) <= lengths.longest(16) + 1e-9 <= lengths.longest(4096) + 2e-9 <= T + 1e-6


# -- sampling ------------------------------------------------------------------------------------------------------
def test_a_decoding_step_is_bounded_by_reading_or_by_products():
    d = Decoder(SHAPE, GPU, at_once=64, refills=True, layer=0.25)
    # weights (288 + 40) x 2 bytes, keys and values 2 x 2 x 1 x 2 x 2 = 16 bytes a token of 3 rows x 7; two layers to start
    assert d.step(3, 7) == pytest.approx((656 + 3 * 7 * 16) / (scale.STREAM * 1e3) + 0.5)
    slow = replace(GPU, flops=10.0)
    products = 3 * (2 * 288 + 4 * 7 * 2 * 2 * 2 + 2 * 10 * 4)
    assert replace(d, gpu=slow).step(3, 7) == pytest.approx(products / (scale.PREFILL * 10) + 0.5)
    # an answer alone reads the weights once a token, all answers at the limit make as many steps as it has tokens
    alone = d.decode(1, 1, 5, Lengths.of(40, 40), 40)
    assert alone == pytest.approx(sum(d.step(1, 5 + t + 0.5) for t in range(40)), rel=0.01)
    started = replace(d, layer=10.0, gpu=replace(GPU, stream=1e9, flops=1e9))
    mean = started.decode(1, 1, 5, Lengths.of(10, 40), 10)
    assert mean == pytest.approx(10 * 2 * 10.0, rel=0.02), "one answer takes as many steps as it has tokens on average"


def test_twice_the_samplers_halve_the_sampling_where_answers_bound_it_and_not_where_the_longest_does():
    many = replace(WORK, P=4096)
    busy = Decoder(SHAPE, replace(GPU, flops=50.0), at_once=16, refills=True, layer=0.0)
    seconds = [scale.sampling_seconds(busy, many, m) for m in (8, 16, 32)]
    assert seconds[0] / seconds[1] == pytest.approx(2, rel=0.05) and seconds[1] / seconds[2] == pytest.approx(
        2, rel=0.05
    )
    few = Decoder(SHAPE, GPU, at_once=64, refills=True, layer=10.0)
    long, longer = (scale.sampling_seconds(few, WORK, m) for m in (8, 4))
    assert longer < 1.1 * long, "steps that take the same whatever they hold: the longest answer alone counts"
    filled, batches = (
        scale.sampling_seconds(replace(busy, gpu=GPU, layer=1.0, refills=r), many, 8) for r in (True, False)
    )
    assert batches > 1.5 * filled, "a batch drawn to its end waits for its longest answer"


# -- learning and the weights' way ---------------------------------------------------------------------------------
def test_weights_travel_over_the_link_of_a_machine_and_the_network_beyond_it():
    assert scale.ring(1000.0, 1, GPU) == 0
    assert scale.ring(1000.0, 4, GPU) == pytest.approx(0.75 * 1000 / (0.8 * 800) + 3 * scale.HOP)
    assert scale.ring(1000.0, 16, GPU) == pytest.approx(15 / 16 * 1000 / (0.8 * 80) + 15 * scale.HOP)
    assert scale.ring(1000.0, 8, GPU) < 2 < 13 < scale.ring(1000.0, 9, GPU), "eight GPUs see each other in one machine"
    # two layers and the rest: two gathers of 2 bytes and a scatter of 4 for every weight, in each of 3 micro-batches
    found = scale.traffic_seconds(SHAPE, 3, 4, GPU, gradient=True)
    assert found == pytest.approx(3 * 0.75 * 348 * 8 / 640 + 3 * 3 * 3 * 3 * scale.HOP)
    assert scale.traffic_seconds(SHAPE, 3, 4, GPU, gradient=False) == pytest.approx(
        3 * 0.75 * 348 * 2 / 640 + 27 * scale.HOP
    )
    assert scale.traffic_seconds(SHAPE, 3, 1, GPU, gradient=True) == 0, "one learner has all of them"


def test_a_pass_is_the_longer_of_its_products_and_its_traffic():
    assert scale.pass_seconds(700.0, 0.0, 2, 1e3) == pytest.approx(1.0)
    assert scale.pass_seconds(700.0, 3.0, 2, 1e3) == 3.0
    assert scale.pass_seconds(700.0, 0.0, 4, 1e3) == pytest.approx(scale.pass_seconds(700.0, 0.0, 2, 1e3) / 2)


def test_an_answer_is_never_cut():
    fed = WORK.fed  # 8 x (5 + 4 x 9)
    assert scale.micro_batches(WORK, 2, 41) == 4 == fed / 2 / 41
    assert scale.micro_batches(WORK, 2, 1) == 16, "one answer at a time, however little a micro-batch may hold"
    assert scale.micro_batches(WORK, 2, 10**9) == 1


def test_one_machine_sends_nothing_over_a_network():
    near, far = (scale.gather_seconds(SHAPE, 4, m, GPU) for m in (4, 5))
    assert far == pytest.approx(near + 348 * 2 / scale.SPREAD)
    assert scale.load_seconds(SHAPE, 4, 4, GPU) == pytest.approx(696 / scale.HOST)
    assert scale.load_seconds(SHAPE, 8, 17, GPU) == pytest.approx(3 * 696 / scale.SPREAD + 696 / scale.HOST)
    assert scale.driver_seconds(WORK, 0.5) == pytest.approx(32 * (scale.ANSWER + 10 * scale.TOKEN + 0.5))


# -- the table -----------------------------------------------------------------------------------------------------
def test_a_gpu_that_nobody_knows_is_answered_with_the_nearest():
    assert machines.gpu("H100").memory == 80e9
    with pytest.raises(InputError, match=r"unknown GPU 'h1000'. Did you mean 'h100'"):
        machines.gpu("h1000")


def test_every_gpu_computes_faster_than_it_reads_and_reads_faster_than_it_sends():
    for gpu in machines.GPUS.values():
        assert gpu.peak(2) > gpu.peak(4) > gpu.stream > gpu.link > gpu.network
        assert 40e9 < gpu.memory < 300e9
