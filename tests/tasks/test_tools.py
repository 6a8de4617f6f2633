"""Tool calls: what is found in an answer, what a wrong one is told, and that nothing is evaluated or raised."""

import json

import pytest

from rung.tasks.environments.tools import Call, begin, describe, parse, schema


def run(tools, call):
    return begin(tools, call, beside=False)()


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    More about it.

    Args:
        a: the first
        b (int): the second
    """
    return a + b


async def later(text: str):
    return {"heard": text}


def fails():
    raise KeyError("gone")


TOOLS = {"add": add, "later": later, "fails": fails}


def block(value) -> str:
    return f"<tool_call>\n{value if isinstance(value, str) else json.dumps(value)}\n</tool_call>"


def test_calls_are_found_in_order_between_other_text():
    text = "Let me see. " + block({"name": "add", "arguments": {"a": 1}}) + "and" + block({"name": "fails"})
    assert [(c.name, dict(c.arguments), c.error) for c in parse(text)] == [("add", {"a": 1}, None), ("fails", {}, None)]
    assert parse("no call, </tool_call> only its end") == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{'name': 'add'}", "not valid JSON"),
        ("__import__('os').system('true')", "not valid JSON"),
        ("[" * 9000, "not valid JSON"),
        ("1" * 20_000, "longer than"),
        ("[1, 2]", "an object with"),
        ('{"name": 3}', "an object with"),
        ('{"name": "add", "arguments": [1]}', "must be an object"),
        ('{"name": "sub", "arguments": {}}', "there is no tool 'sub'; the tools are add, later, fails"),
        ('{"name": "__init__", "arguments": {}}', "there is no tool"),
        ('{"name": "add", "arguments": {}}', "missing a required argument: 'a'"),
        ('{"name": "add", "arguments": {"a": 1, "c": 2}}', "unexpected keyword argument 'c'"),
        ('{"name": "add", "arguments": {"a": "1"}}', "must be of type integer"),
        ('{"name": "add", "arguments": {"a": true}}', "must be of type integer"),
        ('{"name": "fails", "arguments": {}}', "KeyError"),
    ],
)
def test_what_is_wrong_is_told_to_the_model(body, told):
    (call,) = parse(block(body))
    worked, text = run(TOOLS, call)
    assert not worked and told in json.loads(text)["error"]


def test_a_block_that_does_not_end_is_an_error():
    (call,) = parse('<tool_call>{"name": "add", "arguments": {"a": 1}}')
    assert "does not end" in call.error and not run(TOOLS, call)[0]


def test_results_are_text_or_json_and_tools_may_be_async():
    assert run(TOOLS, Call("add", {"a": 1, "b": 2})) == (True, "3")
    assert run(TOOLS, Call("later", {"text": "é"})) == (True, '{"heard": "é"}')
    assert run({"f": lambda: object()}, Call("f")) == (
        False,
        '{"error": "TypeError: Object of type object is not JSON serializable"}',
    )


def test_a_tool_is_described_by_its_signature_and_docstring():
    function = schema(add)["function"]
    assert function["name"] == "add" and function["description"] == "Add two numbers."
    assert function["parameters"]["required"] == ["a"]
    assert function["parameters"]["properties"] == {
        "a": {"type": "integer", "description": "the first"},
        "b": {"type": "integer", "description": "the second"},
    }
    assert json.dumps(schema(add)) in describe([add])
