"""Text and tokens: letters nobody knows, tags that are special tokens, answers that the prompt has begun, templates."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as kinds
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

import rung
from rung.compat import GRPOConfig
from rung.errors import InputError
from rung.evaluation.conformance import BOS, EOS, TURN, tiny, tokenizer
from rung.models import starter
from rung.network import model as models
from rung.network.model import codec_of
from rung.records import Completion, Group, Rollout, SamplingLaw, Step, Task
from rung.rollout.ask import ask
from rung.rollout.draws import Draws
from rung.tasks.environments import tools
from rung.text import Codec, whole_by
from rung.training.setup import unread_letters

torch.set_num_threads(1)
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>")


@pytest.fixture(scope="module")
def model():
    return models.load(str(starter.path()))


def letters(kind, unk=None):
    """A tokenizer of single letters a and b, of every kind that can lack a token."""
    vocab = {"a": 0, "b": 1, "<u>": 2}
    inner = {
        "WordLevel": lambda: kinds.WordLevel(vocab, unk_token=unk or "none"),
        "WordPiece": lambda: kinds.WordPiece(vocab, unk_token=unk or "none"),
        "BPE": lambda: kinds.BPE(vocab, [], unk_token=unk),
        "Unigram": lambda: kinds.Unigram([(x, -1.0) for x in vocab], unk_id=2 if unk else None, byte_fallback=False),
    }[kind]()
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(inner), eos_token="b", unk_token=unk)


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_letters_without_a_token_are_one_message(model, kind):
    lacking = replace(model.codec, tokenizer=letters(kind))
    with pytest.raises(
        InputError,
        match=r"no token for 'z', '\?' in 'z\?z'.*It knows only .*a b.*in letters that this model knows, or a model",
    ) as found:
        lacking.encode("z?z")
    assert len(str(found.value).splitlines()) == 1 and found.value.__cause__ is not None
    assert lacking.encode("a") == [0]


def test_another_failure_of_a_tokenizer_is_not_called_an_unknown_letter(model):
    class Broken:
        def __call__(self, text, **more):
            if len(text) > 1:
                raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        replace(model.codec, tokenizer=Broken()).ids("ab")


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "BPE", "Unigram"])
def test_letters_read_as_the_unknown_token_are_said_once(model, kind):
    reading = replace(model.codec, tokenizer=letters(kind, "<u>"))
    assert reading.encode("z") == [2] and reading.unread("a") == [] and reading.unread("z") == ["z"]
    note = unread_letters(reading, [Task("0", "a"), Task("1", "z")], [Task("2", "b")])
    assert note and "1 of 3 prompts contain 'z'" in note and "'<u>'" in note
    assert unread_letters(reading, [Task("0", "a")]) is None


def test_text_and_tokens_meet_in_one_place():
    """Whoever makes a tokenizer may use it, to make and to measure the model that it belongs to; files are tried."""
    source = Path(rung.__file__).parent
    crossing = re.compile(r"tok(enizer)?(\.(decode|encode|batch_decode|apply_chat_template)\(|\()|Tokenizer\.from_file")
    loading = r"def _?\w*tokenizer\(|build_tokenizer\(\)|_tokenizer\(\w+\)|[,=] tokenizer\((run)?\)"
    files = {str(p.relative_to(source)): p.read_text(encoding="utf-8") for p in source.rglob("*.py")}
    found = {name for name, text in files.items() if any(
        crossing.search(line) and not re.search(loading, line)
        for line in text.splitlines()
    )}  # fmt: skip
    assert found == {"text.py", "models/starter/make.py", "network/readers.py"}


def test_a_report_reads_tokens_as_the_codec_does(model, tmp_path):
    model.codec.save(tmp_path)
    ids = [*model.codec.encode("1+2="), *model.codec.end_ids]
    assert whole_by(tmp_path / "tokenizer.json")(ids) == model.codec.whole(ids) == "1+2=<eos>"


def test_the_default_model_meets_an_english_prompt(tmp_path):
    rows = [f'{{"prompt": "what is {i}+2?", "answer": "{i + 2}"}}\n' for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    with pytest.raises(InputError, match=r"has no token for 'w', 'h', 'a', 't'.*It knows only # \* \+ - 0 1"):
        rung.train(task=str(tmp_path / "rows.jsonl"), steps=1, prompts_per_step=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_larger_than_the_embedding_is_refused_with_numbers(model, tmp_path):
    model.hf.save_pretrained(tmp_path)
    bigger = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(kinds.WordLevel({f"w{i}": i for i in range(500)}, unk_token="w0")), eos_token="w1"
    )
    bigger.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="500 tokens, but its embedding only 19 rows"):
        models.load(str(tmp_path))


def test_a_token_that_was_added_without_an_embedding_is_refused_where_it_is_used(model):
    added = models.load(str(starter.path()))
    added.codec.tokenizer.add_tokens(["<think>"])
    assert added.codec.encode("1+1=") == model.codec.encode("1+1=")
    with pytest.raises(InputError, match=r"gives '<think>' the ids 19, but the model's embedding has only 19 rows"):
        added.codec.encode("1+<think>")


# -- special tokens --------------------------------------------------------------------------------------------------
@pytest.fixture
def tagged():
    """The codec of a byte-level tokenizer with tags as special tokens, and pad, begin and end tokens."""
    alphabet = {c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}
    inner = Tokenizer(kinds.BPE(alphabet, []))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    from tokenizers.decoders import ByteLevel as Decoder

    inner.decoder = Decoder()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>", bos_token="<s>")
    fast.add_special_tokens({"additional_special_tokens": list(TAGS)})
    ready = tiny("llama")
    ready.hf.resize_token_embeddings(len(fast))
    return codec_of(ready.hf, fast, frozenset({fast.eos_token_id}))


def test_only_what_frames_an_answer_is_dropped(tagged):
    tok = tagged.tokenizer
    said = "<think>\n2 + 2\n</think> <answer>4"
    ids = tagged.ids(said)
    assert sum(i in tok.all_special_ids for i in ids) == 3
    pad, bos, end = tok.pad_token_id, tok.bos_token_id, tok.eos_token_id
    for framed in ([*ids, end], ids, [bos, *ids, end, pad, pad], [pad, bos, *ids, pad]):
        assert tagged.decode(tuple(framed)) == said
    assert tagged.decode((ids[0], end, ids[1])) == "<think><end>\n", "an end token inside is what was said"
    assert tagged.decode((end,)) == "" == tagged.decode(())


def test_a_tool_is_called_by_tags_that_are_special_tokens(tagged):
    text = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
    said = tagged.decode((*tagged.ids(text), tagged.tokenizer.eos_token_id))
    (call,) = tools.parse(said)
    assert call.error is None and tools.begin({"add": lambda a, b: a + b}, call, beside=False)() == (True, "3")


# -- an answer that the prompt has begun -------------------------------------------------------------------------------
CHAT = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6 w7"}]


class Says:
    """A sampler that says the same to everybody."""

    def __init__(self, ids):
        self.ids, self.asked = tuple(ids), []

    def sample(self, prompts, law, draws):
        self.asked += [tuple(p) for p in prompts]
        zeros = (0.0,) * len(self.ids)
        return [
            Rollout(tuple(p), self.ids, zeros, zeros, "stop") for p in prompts for _ in range(draws.each(len(prompts)))
        ]


def test_the_models_turn_goes_on_and_is_not_closed():
    model = tiny("llama")
    ids, opened = model.codec.encode(CHAT), model.codec.encode(CHAT[:1])
    assert ids == [*opened, *model.codec.ids("w6 w7")], "up to the assistant's header it is the usual prompt"
    assert ids.count(TURN) == opened.count(TURN) and ids[0] == BOS
    shouting = tokenizer()
    shouting.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(InputError, match="changes or drops that message"):
        replace(model.codec, tokenizer=shouting).encode(CHAT)


class Judge(list):
    """Rewards 1, and remembers what it was asked to judge."""

    def score(self, group: Group):
        self.seen = [c.text for c in group.completions]
        return [{"correct": 1.0} for _ in group.completions]


def test_the_whole_message_is_judged():
    model = tiny("llama")
    env = Judge([Task("0", CHAT)])
    ((scored,),) = ask(
        env,
        model.codec,
        Says([*model.codec.ids("w8"), EOS]),
        SamplingLaw(max_new_tokens=4),
        list(env),
        Draws.whole(0, 1),
    )
    assert env.seen == [scored.text] and scored.text.split() == ["w6", "w7w8"]
    assert scored.rollout.tokens == (*model.codec.ids("w8"), EOS), "only what the model has said is trained"


class Once:
    """A session that answers the first turn and ends with the second."""

    def __init__(self):
        self.heard = []

    def reset(self):
        return CHAT

    def step(self, completion: Completion):
        self.heard.append(completion.text)
        done = len(self.heard) == 2
        return Step([] if done else [{"role": "user", "content": "w9"}], done=done)


class Talking(Judge):
    def session(self, task):
        self.last = Once()
        return self.last


def test_a_conversation_may_begin_inside_the_models_turn():
    model = tiny("llama")
    env, sampler = Talking([Task("0", CHAT)]), Says([*model.codec.ids("w8"), TURN])
    ((scored,),) = ask(env, model.codec, sampler, SamplingLaw(max_new_tokens=8), list(env), Draws.whole(0, 1))
    assert [x.split() for x in env.last.heard] == [["w6", "w7w8"], ["w8"]], "the second turn is the model's alone"
    roles = [m["role"] for m in scored.episode.messages]
    assert roles == ["user", "assistant", "user", "assistant"]
    again = [*CHAT[:1], {"role": "assistant", "content": "w6 w7 w8"}, {"role": "user", "content": "w9"}]
    assert list(sampler.asked[1]) == model.codec.encode(again), "token by token what the template writes"


# -- arguments of the template -------------------------------------------------------------------------------------------
def test_arguments_reach_the_template_and_unknown_ones_are_refused(tmp_path):
    model = tiny("llama")
    plain = model.codec.encode(CHAT[:1])
    model.codec.tokenizer.chat_template += "{% if enable_thinking is defined and not enable_thinking %}w4{% endif %}"
    assert model.codec.encode(CHAT[:1]) == plain
    model.codec = model.codec.using({"enable_thinking": False})
    assert model.codec.encode(CHAT[:1]) == [*plain, *model.codec.ids("w4")]
    for wrong, hint in (("enable_thinkin", "Did you mean 'enable_thinking'"), ("messages", "Known: enable_thinking")):
        with pytest.raises(InputError, match=hint):
            model.codec = model.codec.using({wrong: False})
    model.codec.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template that could read it"):
        model.codec = model.codec.using({"enable_thinking": False})


def test_a_run_keeps_them_and_its_evaluation_uses_them(tmp_path, monkeypatch):
    model = tiny("llama")
    model.codec.tokenizer.chat_template += "{% if short is defined %}w4{% endif %}"
    model.hf.save_pretrained(tmp_path / "model")
    model.codec.tokenizer.save_pretrained(tmp_path / "model")
    rows = [f'{{"prompt": [{{"role": "user", "content": "w{i}"}}], "answer": "1"}}\n' for i in range(4, 12)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    from rung.cli import main
    from rung.io.run_dir import RunDir

    flags = ["--model", str(tmp_path / "model"), "--task", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "run")]
    small = ["--steps", "1", "--prompts-per-step", "1", "--samples-per-prompt", "2", "--max-new-tokens", "4"]
    assert main(["train", *flags, *small, "--eval-problems", "1", "--template-options.short", "true"]) == 0
    run = RunDir.open(tmp_path / "run")
    assert run.config()["template_options"] == {"short": True}
    used = []
    monkeypatch.setattr(Codec, "using", lambda self, options: used.append(dict(options)) or self)
    assert main(["eval", str(run.path), "--problems", "1", "--max-new-tokens", "4"]) == 0
    assert used == [{"short": True}]
    assert GRPOConfig(max_steps=1, chat_template_kwargs={"short": 1}).settings()["template_options"] == {"short": 1}


@pytest.mark.parametrize("flag", [("--chat",), ("--system", "Be brief.")])
@pytest.mark.parametrize("command", ["train", "plan", "eval", "data", "variance"])
def test_the_flag_that_made_messages_is_named_and_a_model_that_reads_them(command, flag, capsys):
    """The starter has no chat template: the task is not to blame."""
    from rung.cli import main

    words = {"train": ["train", "--dry-run"], "plan": ["plan"], "eval": ["eval", "starter", "--problems", "2"],
             "data": ["data", "chained_arithmetic", "--model", "starter"],
             "variance": ["variance", "starter"]}[command]  # fmt: skip
    assert main([*words, *flag]) == 2
    said = capsys.readouterr().err
    assert f"rung: {flag[0]} makes messages of the problems" in said and "the task's prompts" not in said
    assert "--model smollm2" in said and "rung smollm2` fetches it" in said


def test_what_a_model_cannot_read_names_one_that_can(tmp_path, capsys):
    from rung.cli import main

    for name, row in (("rows", '"How %d?"'), ("chat", '[{"role": "user", "content": "%d+1="}]')):
        lines = [f'{{"prompt": {row % i}, "answer": "2"}}\n' for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    for name, what in (("rows", "has no token for 'H', 'o', 'w'"), ("chat", "the task's prompts are chat messages")):
        assert main(["train", "--dry-run", "--task", str(tmp_path / f"{name}.jsonl")]) == 2
        said = capsys.readouterr().err
        assert what in said and "--model smollm2" in said and "smollm2` fetches it" in said
