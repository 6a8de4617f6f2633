"""What tests of programs may be, and how they are prepared: statements of Python whose assertions can fail.

Read twice, and executed by neither reader: when a task is loaded (`refusal`), and in the process of the judge.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from types import CodeType

HELPERS = ("bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "random", "re", "string", "sys")
CHANGE, MARK, NEXT, ZIP = "_rung_change", "_rung_mark", "_rung_next", "_rung_zip"
FIXTURES = {"candidate"}  # HumanEval's check(candidate)


def refusal(sources: Sequence[str]) -> str | None:
    """Why these tests cannot judge a program, or None."""
    if not sources:
        return "there are no tests"
    try:
        trees = [ast.parse(source) for source in sources]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"they are no Python: {error}"
    whole = ast.Module([statement for tree in trees for statement in tree.body], [])
    if not any(_can_fail(tree) for tree in trees):
        return "they hold no assertion, so that any program would pass"
    if missing := [name for name in _imported(whole) if not _installed(name)]:
        return f"they import {missing[0]}, which is not installed"
    if why := _uncalled(whole):
        return why
    if not asked_of_program(sources):
        return "they call nothing that a program has to define, or only names of Python's own (sum, list, math)"
    return _function_handed(whole, sources) or _compared_with_itself(trees)


def _uncalled(tree: ast.Module) -> str | None:
    """A definition whose assertions nobody reaches."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _can_fail(node) and node.name not in used:
            return (
                f"the class {node.name} is used by nothing (classes of unittest are not run; write assert statements)"
            )
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _can_fail(node) and node.name not in used:
            if isinstance(node, ast.FunctionDef) and _is_test(node):
                continue
            hint = f"; add {node.name}(NAME)" if {arg.arg for arg in node.args.args} & FIXTURES else ""
            return f"nothing calls {node.name}{hint}"
    return None


def _function_handed(tree: ast.Module, sources: Sequence[str]) -> str | None:
    """A function of the tests that the program is to call: it would have to leave the tests' process."""
    made = _made_by(tree, set(asked_of_program(sources)))
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {name for name in dir(builtins) if callable(getattr(builtins, name))} - made
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and _loads(call.func) & made:
            for part in (*call.args, *(word.value for word in call.keywords)):
                if isinstance(part, ast.Lambda) or (isinstance(part, ast.Name) and part.id in own):
                    return f"{ast.unparse(call)[:60]} hands the program a function; only plain data can be handed over"
    return None


def _can_fail(tree: ast.AST) -> bool:
    return any(isinstance(node, (ast.Assert, ast.Raise)) or _raises(node) for node in ast.walk(tree))


def _raises(node: ast.AST) -> bool:
    """`with pytest.raises(...)`."""
    if not isinstance(node, ast.With):
        return False
    calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
    return any(isinstance(call.func, ast.Attribute) and call.func.attr == "raises" for call in calls)


def _is_test(node: ast.FunctionDef) -> bool:
    """A function as pytest calls it."""
    return node.name.startswith("test") and not node.args.args and not node.args.posonlyargs


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def _installed(name: str) -> bool:
    return name in sys.stdlib_module_names or (bool(name) and PathFinder.find_spec(name) is not None)


# -- names -------------------------------------------------------------------------------------------------------------
def asked_of_program(sources: Iterable[str]) -> list[str]:
    """Names that the tests read and neither define nor have from Python: what a program must define."""
    read: set[str] = set()
    own = {*dir(builtins), *HELPERS}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            own |= _bound(node)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                read.add(node.id)
    return sorted(name for name in read - own if not name.startswith("__"))


def _bound(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return {node.id}
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.arg):
        return {node.arg}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ExceptHandler) and node.name:
        return {node.name}
    return set()


# -- arguments that a call may change ----------------------------------------------------------------------------------
def _alone(tree: ast.AST) -> Iterator[tuple[ast.Expr | ast.Assign, ast.Call]]:
    """Calls that are a whole statement, f(x), or the whole right side of one, y = f(x)."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Expr, ast.Assign)) and isinstance(node.value, ast.Call):
            yield node, node.value


def _loads(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _stores(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _made_by(tree: ast.Module, program: set[str]) -> set[str]:
    """Names of the program, of parameters (a function may be handed one), and of what calls of these gave."""
    made = program | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for statement, call in _alone(tree):
        if isinstance(statement, ast.Assign) and _loads(call) & made:
            made |= {name for target in statement.targets for name in _stores(target)}
    return made


def _handed(call: ast.Call, made: set[str]) -> set[str]:
    """Variables that a call into the program is given, if it is one."""
    if not _loads(call.func) & made:
        return set()
    return {name for part in (*call.args, *(word.value for word in call.keywords)) for name in _loads(part)} - made


def _other_names(tree: ast.Module, names: set[str]) -> set[str]:
    """With the variables that are the same object by a plain `a = b`."""
    pairs = [
        {target.id, node.value.id}
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    for pair in pairs * len(pairs):
        names = names | pair if names & pair else names
    return names


def _two_sided(tree: ast.Module, made: set[str]) -> set[str]:
    """Handed variables that an assertion has on each of its sides, without a side that the program had no hand in.

    `y = f(x); assert y == sum(x)`: a program that empties x would decide on both.
    """
    handed = {name for _, call in _alone(tree) for name in _handed(call, made)}
    handed = _other_names(tree, handed) - made
    found: set[str] = set()
    for sides in _sides(tree):
        loads = [_loads(side) for side in sides]
        if len(loads) > 1 and all(names & (made | handed) for names in loads):
            found |= {name for names in loads for name in names & handed}
    return _other_names(tree, found)


def _sides(tree: ast.AST) -> Iterator[list[ast.expr]]:
    for check in ast.walk(tree):
        for node in ast.walk(check.test) if isinstance(check, ast.Assert) else ():
            if isinstance(node, ast.Compare):
                yield [node.left, *node.comparators]
            elif isinstance(node, ast.Call):
                yield list(node.args)


def _compared_with_itself(trees: Sequence[ast.Module]) -> str | None:
    program = set(asked_of_program(ast.unparse(tree) for tree in trees))
    for tree in trees:
        made = _made_by(tree, program)
        both = _two_sided(tree, made)
        for statement, call in _alone(tree):
            if isinstance(statement, ast.Expr) and (names := _handed(call, made) & both):
                name = min(names)
                return (
                    f"{ast.unparse(statement)[:60]} may change {name}, and an assertion compares {name} with what is made of "
                    f"{name}; write the expected value out"
                )
    return None


# -- preparation -------------------------------------------------------------------------------------------------------
class _Prepare(ast.NodeTransformer):
    """Marks each assertion that is reached, calls that may change their arguments, and where iteration may end too early.

    next(it) that is at its end would end a `map` around it; zip(f(x), [1, 2]) would not see that f gave too few.
    """

    def __init__(self, kept: set[str], made: set[str]) -> None:
        self.kept, self.made, self.marks, self.guarded = kept, made, 0, 0

    def _mark(self, like: ast.AST) -> ast.stmt:
        self.marks += 1
        return ast.copy_location(ast.Expr(ast.Call(ast.Name(MARK, ast.Load()), [], [])), like)

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        self.generic_visit(node)
        return [node, self._mark(node)]

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        self.generic_visit(node)
        node.body.insert(0, self._mark(node))
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.keywords or any(isinstance(p, ast.Starred) for p in node.args):
            return node
        if node.func.id == "next" and len(node.args) == 1 and not self.guarded:
            node.func.id = NEXT
        known = [not _loads(part) & self.made for part in node.args]
        if node.func.id == "zip" and any(known) and not all(known):
            node.func.id = ZIP
            node.args.insert(0, ast.Tuple([ast.Constant(one) for one in known], ast.Load()))
        return node

    def visit_Try(self, node: ast.Try) -> ast.Try:
        self.guarded += 1
        self.generic_visit(node)
        self.guarded -= 1
        return node

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        self.guarded += 1
        self.generic_visit(node)
        self.guarded -= 1
        return [node, self._mark(node)] if _raises(node) else node

    def _alone(self, node: ast.Expr | ast.Assign) -> ast.stmt:
        self.generic_visit(node)
        call = node.value
        spread = isinstance(call, ast.Call) and any(isinstance(part, ast.Starred) for part in call.args)
        if isinstance(call, ast.Call) and not spread and not _handed(call, self.made) & self.kept:
            node.value = ast.copy_location(
                ast.Call(ast.Name(CHANGE, ast.Load()), [call.func, *call.args], call.keywords), call
            )
        return node

    visit_Expr = visit_Assign = _alone


def prepared(source: str, name: str) -> tuple[CodeType, bool, list[str]]:
    """The code, whether it holds assertions that must be reached, and the functions to be called as pytest does."""
    tree = ast.parse(source)
    made = _made_by(tree, set(asked_of_program([source])))
    prepare = _Prepare(_two_sided(tree, made), made)
    called = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and _is_test(node) and node.name not in _loads(tree)
    ]
    code = compile(ast.fix_missing_locations(prepare.visit(tree)), name, "exec", dont_inherit=True)
    return code, prepare.marks > 0, called
