"""The values that a Python file assigns, worked out without running it.

Only what parameter files are made of is understood: numbers, texts, lists, ranges, sums of them, simple comprehensions,
arrays of numpy, names assigned before. Nothing is ever imported or called.
"""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: No list of ids is longer; a longer one would only fill the memory.
_LONGEST = 100_000
_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}
#: Names that every program has; Python 2 had `xrange`, which is read as `range`.
_BUILT_IN = frozenset((*dir(builtins), "__file__", "xrange"))
#: Stands for any name, where what is set cannot be told.
_ANYTHING = "*"
#: In these not everything is looked at by Python.
_CONDITIONAL = (ast.BoolOp, ast.IfExp, ast.Lambda, ast.NamedExpr)
_COLLECTIONS = (list, tuple, range, set)


class Array(tuple[Any, ...]):
    """The elements of a numpy array, which is no list."""


class NotUnderstood(Exception):
    """An expression that is more than a parameter file needs."""


class Fails(NotUnderstood):
    """An expression that Python itself refuses."""


@dataclass
class Script:
    """What a Python file assigns at its top level.

    Parameters
    ----------
    values : dict of name to value
        Those that were understood; numpy arrays as `Array`.
    problems : dict of name to (str, bool)
        Why others were not, with their line; and whether Python would fail there.
    failures : list of str
        Where Python would fail, or end the program, and why; all of them, whatever they would set.
    """

    values: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, tuple[str, bool]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def read_script(text: str) -> Script:
    """Work out what a Python file assigns.

    Raises
    ------
    SyntaxError
        It is no Python 3.
    ValueError
        It holds null bytes.
    """
    script = Script()
    _run(ast.parse(text).body, script, set())
    return script


def _run(statements: list[ast.stmt], script: Script, known: set[str]) -> None:
    """Go through statements; `known` are the names that earlier ones may have given a value, and grows."""
    for statement in statements:
        try:
            _check_names(statement, known)
            _statement(statement, script, known)
        except NotUnderstood as error:
            why = f"line {statement.lineno}: {error}"
            if isinstance(error, Fails):
                script.failures.append(why)
            for name in _names_changed(statement):
                script.values.pop(name, None)
                script.problems[name] = (why, isinstance(error, Fails))
        known |= _names_bound(statement)


def _check_names(statement: ast.stmt, known: set[str]) -> None:
    """Python fails on a name that nothing above has set."""
    if _ANYTHING in known or not isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.If)):
        return
    expression: ast.AST = statement.test if isinstance(statement, ast.If) else statement
    nodes = list(ast.walk(expression))
    if any(isinstance(node, _CONDITIONAL) for node in nodes):
        return
    inner = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        # what is set here has no value yet, unless a comprehension sets it
        inner = {name for name in inner if any(isinstance(node, ast.comprehension) for node in nodes)}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        used.add(statement.target.id)
    missing = sorted(used - known - inner - _BUILT_IN)
    if missing:
        raise Fails(f"{missing[0]} is not defined above")


def _names_bound(statement: ast.stmt) -> set[str]:
    """Names that may have a value after a statement: all that it sets, however deep."""
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Name) and node.id in ("exec", "globals", "locals", "vars"):
            names.add(_ANYTHING)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {_ANYTHING if one.name == "*" else one.asname or one.name.split(".")[0] for one in node.names}
        elif isinstance(node, ast.Match):
            names.add(_ANYTHING)  # patterns
    return names


def _statement(statement: ast.stmt, script: Script, known: set[str]) -> None:
    if isinstance(statement, ast.Assign):
        value = _value(statement.value, script.values)
        for target in statement.targets:
            _assign(target, value, script)
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        _assign(statement.target, _value(statement.value, script.values), script)
    elif isinstance(statement, ast.AugAssign):
        target = statement.target
        if not isinstance(target, ast.Name):
            raise NotUnderstood(ast.unparse(statement))
        old = _value(ast.Name(target.id, ast.Load()), script.values)
        new = _value(statement.value, script.values)
        if isinstance(old, list) and isinstance(statement.op, ast.Add) and isinstance(new, _COLLECTIONS):
            new = list(new)  # a list takes anything in place
        _assign(target, _combined(statement.op, old, new, statement), script)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        _method(statement.value, script)
    elif isinstance(statement, ast.If):
        _run(statement.body if _value(statement.test, script.values) else statement.orelse, script, known)
    elif isinstance(statement, ast.Raise):
        raise Fails(f"{ast.unparse(statement)} ends it")
    elif isinstance(statement, ast.Assert):
        if not _value(statement.test, script.values):
            raise Fails(f"{ast.unparse(statement)} fails")
    elif list(_names_changed(statement)):
        raise NotUnderstood(f"set inside a {type(statement).__name__.lower()} statement")


def _assign(target: ast.expr, value: Any, script: Script) -> None:
    if isinstance(target, ast.Name):
        script.values[target.id] = value
        script.problems.pop(target.id, None)
    elif isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (list, tuple)):
        if len(target.elts) != len(value):
            raise Fails(f"{ast.unparse(target)} cannot hold {len(value)} values")
        for part, element in zip(target.elts, value, strict=True):
            _assign(part, element, script)
    else:
        raise NotUnderstood(ast.unparse(target))


def _method(call: ast.Call, script: Script) -> None:
    """``ids.append(5)`` and the like; other calls change no value."""
    function = call.func
    if ast.unparse(function) in ("exit", "quit", "sys.exit", "os._exit"):
        raise Fails(f"{ast.unparse(call)} ends it")
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return
    old = script.values.get(function.value.id)
    if not isinstance(old, list):
        return
    arguments = [_value(argument, script.values) for argument in call.args]
    new = list(old)
    if function.attr not in ("append", "extend", "remove", "insert", "sort") or call.keywords:
        raise NotUnderstood(ast.unparse(call))
    try:
        getattr(new, function.attr)(*arguments)
    except (TypeError, ValueError) as error:
        raise Fails(f"{ast.unparse(call)} fails ({error})") from error
    script.values[function.value.id] = _short(new)


def _names_changed(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement may give another value; bodies of functions and classes change none."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if isinstance(node.func.value, ast.Name):
                yield node.func.value.id


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        if node.id in names:
            return names[node.id]
        raise NotUnderstood(f"{node.id} is not known")
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_elements(node.elts, names))
    if isinstance(node, ast.UnaryOp):
        return _negated(node, _value(node.operand, names))
    if isinstance(node, ast.BinOp):
        return _combined(node.op, _value(node.left, names), _value(node.right, names), node)
    if isinstance(node, ast.BoolOp):
        values = [_value(part, names) for part in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare):
        values = [_value(part, names) for part in (node.left, *node.comparators)]
        return all(_combined(op, a, b, node) for op, a, b in zip(node.ops, values[:-1], values[1:], strict=True))
    if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
        found = _short([_value(node.elt, inner) for inner in _loop(node.generators, dict(names))])
        return set(found) if isinstance(node, ast.SetComp) else found
    if isinstance(node, ast.Subscript):
        return _part(node, names)
    if isinstance(node, ast.Call):
        return _call(node, names)
    raise NotUnderstood(f"{ast.unparse(node)} is not understood")


def _elements(nodes: list[ast.expr], names: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, ast.Starred):
            found += _iterated(_value(node.value, names), node)
        else:
            found.append(_value(node, names))
    return _short(found)


def _negated(node: ast.UnaryOp, value: Any) -> Any:
    if isinstance(node.op, ast.Not):
        return not value
    if isinstance(node.op, (ast.USub, ast.UAdd)) and isinstance(value, (int, float)):
        return -value if isinstance(node.op, ast.USub) else value
    raise NotUnderstood(f"{ast.unparse(node)} is not understood")


def _combined(op: ast.AST, left: Any, right: Any, node: ast.AST) -> Any:
    function = _OPERATORS.get(type(op))
    if function is None:
        raise NotUnderstood(f"{ast.unparse(node)} is not understood")
    if isinstance(left, Array) or isinstance(right, Array):
        raise NotUnderstood(f"{ast.unparse(node)} adds arrays element by element")
    try:
        result = function(left, right)
    except TypeError as error:
        raise Fails(f"{ast.unparse(node)} fails ({error})") from error
    return _short(result) if isinstance(result, list) else result


def _iterated(value: Any, node: ast.AST) -> list[Any]:
    if not isinstance(value, (*_COLLECTIONS, str)):
        raise Fails(f"{ast.unparse(node)}: {type(value).__name__} is no list")
    return list(_short(value))


def _short(value: Any) -> Any:
    if len(value) > _LONGEST:
        raise NotUnderstood(f"a list of {len(value)} elements is too long")
    return value


def _loop(generators: list[ast.comprehension], names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The names as they are in each turn of a comprehension."""
    if not generators:
        yield names
        return
    first = generators[0]
    if not isinstance(first.target, ast.Name):
        raise NotUnderstood(f"{ast.unparse(first)} is not understood")
    for element in _iterated(_value(first.iter, names), first.iter):
        inner = {**names, first.target.id: element}
        if all(_value(condition, inner) for condition in first.ifs):
            yield from _loop(generators[1:], inner)


def _part(node: ast.Subscript, names: Mapping[str, Any]) -> Any:
    """An element or a slice; ``numpy.r_[2, 10:20]`` too."""
    if ast.unparse(node.value) in ("np.r_", "numpy.r_"):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        found: list[Any] = []
        for part in parts:
            found += _short(_range_of(part, names)) if isinstance(part, ast.Slice) else [_value(part, names)]
        return Array(_short(found))
    value = _value(node.value, names)
    if isinstance(node.slice, ast.Slice):
        edges = (node.slice.lower, node.slice.upper, node.slice.step)
        index: Any = slice(*(None if edge is None else _value(edge, names) for edge in edges))
    else:
        index = _value(node.slice, names)
    try:
        return value[index]
    except (TypeError, IndexError, KeyError) as error:
        raise Fails(f"{ast.unparse(node)} fails ({error})") from error


def _range_of(part: ast.Slice, names: Mapping[str, Any]) -> range:
    first, end, step = (
        default if edge is None else _value(edge, names)
        for edge, default in ((part.lower, 0), (part.upper, 0), (part.step, 1))
    )
    return range(first, end, step)


def _call(node: ast.Call, names: Mapping[str, Any]) -> Any:
    """Calls that make collections and paths."""
    name = ast.unparse(node.func)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "tolist" and not node.args:
        return list(_iterated(_value(node.func.value, names), node))
    if node.keywords and not name.startswith(("np.", "numpy.")):
        raise NotUnderstood(f"{ast.unparse(node)} is not understood")
    arguments = _elements(node.args, names)
    short = name.removeprefix("builtins.").removeprefix("numpy.").removeprefix("np.")
    try:
        if short in ("range", "xrange"):
            return _short(range(*arguments))
        if name in ("list", "tuple", "set", "sorted") and len(arguments) <= 1:
            kinds: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "sorted": sorted}
            return kinds[name](_iterated(arguments[0], node) if arguments else [])
        if name in ("int", "str", "len") and len(arguments) == 1:
            simple: dict[str, Callable[[Any], Any]] = {"int": int, "str": str, "len": len}
            return simple[name](arguments[0])
        if short in ("array", "asarray") and name != short and arguments:
            return Array(_iterated(arguments[0], node))
        if short == "arange" and name != short:
            return Array(_short(range(*arguments)))
        if name in ("os.path.join", "path.join") and all(isinstance(part, str) for part in arguments):
            return "/".join(arguments)
    except (TypeError, ValueError, OverflowError) as error:
        raise Fails(f"{ast.unparse(node)} fails ({error})") from error
    raise NotUnderstood(f"{ast.unparse(node)} is not understood")
