"""A name that stands twice in one table of a file is refused by its name: one of its two values would be lost in silence."""

import json

import pytest
import yaml

from rung.cli import main
from rung.compat.scripts import TrlParser
from rung.errors import InputError
from rung.evaluation import spec
from rung.export.from_trl import from_trl
from rung.export.from_verl import from_verl
from rung.settings.documents import from_yaml
from rung.shell.arguments import literal


def as_a_script(path):
    return TrlParser().parse_args_and_config(["--config", str(path)])


FILES = [
    (from_trl, "config.yaml", "beta: 0.1\nepsilon: 0.2\nbeta: 0.2\n", r"'beta' stands twice in one table \(line 3\)"),
    (from_trl, "config.yaml", "chat_template_kwargs: {a: 1, a: 1}\n", r"'a' stands twice in one table \(line 1\)"),
    (from_trl, "config.json", '{"beta": 0.1, "epsilon": 0.2, "beta": 0.2}', "'beta' stands twice in one table"),
    (from_trl, "train.py", "GRPOConfig(beta=0.1, epsilon=0.2, beta=0.2)", "GRPOConfig is given beta twice"),
    (from_verl, "c.yaml", "algorithm:\n  gamma: 1.0\n  lam: 1.0\n  gamma: 0.5\n", r"'gamma' stands twice in one table \(line 4\)"),
    (from_verl, "c.yaml", "algorithm: {gamma: 1.0}\nalgorithm.gamma: 0.5\n", r"algorithm\.gamma stands twice, as 1\.0 and as 0\.5"),
    (from_verl, "c.json", '{"algorithm": {"gamma": 1.0}, "algorithm": {"lam": 1.0}}', "'algorithm' stands twice in one table"),
    (from_verl, "run.sh", "python x.py algorithm.kl_ctrl='{kl_coef: 0.1,kl_coef: 0.2}'", "'kl_coef' stands twice"),
    (spec.read, "x.spec.json", '{"format": 1, "task": "a", "task": "b"}', "'task' stands twice in one table"),
    (as_a_script, "c.yaml", "a: 1\na: 2\n", r"'a' stands twice in one table \(line 2\)"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(FILES)))
def test_a_name_that_stands_twice_is_refused_by_its_name(case, tmp_path):
    read, name, text, message = FILES[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_a_value_of_a_flag_is_a_file_of_one_line(capsys):
    assert literal('{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2} and literal("{a") == "{a"
    with pytest.raises(InputError, match="'b' stands twice"):
        literal('{"a": {"b": 1, "b": 2}}')
    task = ["train", "--task", "chain_sum", "--steps", "1", "--task-options.config"]
    assert main([*task, json.dumps({"a": 1})[:-1] + ', "a": 2}']) == 2
    assert "the name 'a' stands twice in one table" in " ".join(capsys.readouterr().err.split())


def test_what_yaml_brings_from_another_table_may_be_written_over():
    text = "a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}\nd: [{x: 1}, {x: 2}]\n"
    assert from_yaml(text) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "d": [{"x": 1}, {"x": 2}]}
    chain = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\n"
    assert from_yaml(chain) == yaml.safe_load(chain), "whatever PyYAML makes of it"
