"""Functions of Python's standard library as trees: which return a value, which nothing, and which are generators.

The source is what the running Python brings (PSF licence), its tests left out; or any folder of Python source. Versions
of Python differ, so the digest is of the files that were read.

What is to be told can't be read off: `return x` and `yield x` both stand in the tree as the bare expression `x`, and
`return` alone as `pass`. What remains is how a function is built: a value that nobody takes, in a place where a call
would be expected. A node shows its kind of syntax and its parent: no name, no literal, no operator, no annotation and
no decorator. Splits are by module, and a tree that an earlier split has is left out of a later one; functions that are
the same tree are one sample, with what most of them do.
"""

import ast
import hashlib
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from training.data import Dataset, Split
from training.error import DataInvalid, DataNotFound

LABELS = ("returns a value", "returns nothing", "generator")
NUM_LEVELS, LEVEL_WIDTH = 10, 24  # seven in eight functions are no deeper and no wider
# 0 is where no node is, 1 a kind that isn't in the list: later Pythons have more.
EMPTY, UNKNOWN = 0, 1
KINDS = (
    "AnnAssign", "Assert", "Assign", "AsyncFor", "AsyncFunctionDef", "AsyncWith", "Attribute", "AugAssign", "Await",
    "BinOp", "BoolOp", "Break", "Call", "ClassDef", "Compare", "Constant", "Continue", "Delete", "Dict", "DictComp",
    "ExceptHandler", "Expr", "For", "FormattedValue", "FunctionDef", "GeneratorExp", "Global", "If", "IfExp", "Import",
    "ImportFrom", "JoinedStr", "Lambda", "List", "ListComp", "Match", "Name", "NamedExpr", "Nonlocal", "Pass", "Raise",
    "Set", "SetComp", "Slice", "Starred", "Subscript", "Try", "TryStar", "Tuple", "UnaryOp", "While", "With", "alias",
    "arg", "comprehension", "keyword", "match_case", "withitem",
)  # fmt: skip
NUM_KINDS = len(KINDS) + 2
_ID = {kind: UNKNOWN + 1 + at for at, kind in enumerate(KINDS)}

SHARES = (0.7, 0.1)  # of the modules, to learn from and to watch; the rest is to judge
SPLIT_SEED = 1503

_NOT_READ = {"site-packages", "test", "tests", "idle_test"}
_HOLDS_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)
_NOT_SHOWN = (ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Tree:
    """A function level by level: each node's kind, and the place of its parent in the level above."""

    kinds: tuple[tuple[int, ...], ...]
    parents: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, function: Function) -> Self | None:
        """The function's tree; None for one that is deeper or wider than the network's."""
        level: list[tuple[int, ast.AST]] = [(0, function)]
        kinds: list[tuple[int, ...]] = []
        parents: list[tuple[int, ...]] = []
        while level:
            if len(kinds) == NUM_LEVELS or len(level) > LEVEL_WIDTH:
                return None
            kinds.append(tuple(_ID.get(_kind(node), UNKNOWN) for _, node in level))
            parents.append(tuple(parent for parent, _ in level))
            level = [(at, child) for at, (_, node) in enumerate(level) for child in children(node)]
        return cls(tuple(kinds), tuple(parents))


def load(data_dir: Path | None) -> Dataset:
    """About 7,000 trees to learn from, 700 to watch, 2,000 to judge; raises DataNotFound or DataInvalid."""
    sources = read(data_dir or Path(sysconfig.get_path("stdlib")))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(sources))
    modules = [list(sources.values())[at] for at in order]
    first, second = (round(share * len(modules)) for share in np.cumsum(SHARES))
    known: set[Tree] = set()
    splits = [_split(part, known) for part in (modules[:first], modules[first:second], modules[second:])]
    return Dataset(
        name="standard library's functions",
        sha256=_digest(sources),
        train=splits[0],
        validation=splits[1],
        test=splits[2],
    )


def read(folder: Path) -> dict[str, bytes]:
    """Every module below a folder by its path, sorted, the tests left out; raises DataNotFound when there is none."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    wanted = sorted(name for name in found if not _NOT_READ & set(name.split("/")))
    if not wanted:
        raise DataNotFound(f"{folder}: expected Python source, got none: name a folder that holds some with --data")
    return {name: found[name].read_bytes() for name in wanted}


def functions(source: bytes) -> Iterator[Function]:
    """Every function in a module; none in what isn't Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old modules' escapes: not ours to mend
        try:
            module = ast.parse(source)
        except (SyntaxError, ValueError):
            return
    todo: list[ast.AST] = [module]
    while todo:
        node = todo.pop()
        if isinstance(node, Function):
            yield node
        todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, _HOLDS_STATEMENTS)]


def label(function: Function) -> int:
    """What a function does, itself and not the functions in it; index into LABELS."""
    own, todo = [], list[ast.AST](function.body)
    while todo:
        node = todo.pop()
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            own.append(node)
            todo += ast.iter_child_nodes(node)
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own):
        return 2
    return 0 if any(isinstance(node, ast.Return) and node.value is not None for node in own) else 1


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes right below, in the order of the source, with nothing in them that gives the label away."""
    if isinstance(node, Function):
        arguments = node.args
        named = (*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg)
        below: Sequence[ast.AST | None] = (*named, *node.body)
    elif isinstance(node, ast.arg):
        below = ()
    elif isinstance(node, ast.AnnAssign):
        below = (node.target, node.value)
    else:
        below = list(ast.iter_child_nodes(node))
    return [_bare(child) for child in below if child is not None and not isinstance(child, _NOT_SHOWN)]


def _bare(node: ast.AST) -> ast.AST:
    """What is yielded in the place of the yield."""
    while isinstance(node, ast.Yield | ast.YieldFrom):
        node = node.value or ast.Constant(value=None)
    return node


def _kind(node: ast.AST) -> str:
    if isinstance(node, ast.Return):
        return "Pass" if node.value is None else "Expr"
    return type(node).__name__


def _split(modules: Sequence[bytes], known: set[Tree]) -> Split:
    """The trees that aren't known yet, and know them."""
    seen: defaultdict[Tree, Counter[int]] = defaultdict(Counter)
    for source in modules:
        for function in functions(source):
            if (tree := Tree.of(function)) is not None and tree not in known:
                seen[tree][label(function)] += 1
    if not seen:
        raise DataInvalid("expected functions in every tenth of the modules, got none: name a folder with more of them")
    known.update(seen)
    kinds_NLW, parents_NLW = (np.zeros((len(seen), NUM_LEVELS, LEVEL_WIDTH), np.int32) for _ in range(2))
    for at, tree in enumerate(seen):
        for level, (kinds, parents) in enumerate(zip(tree.kinds, tree.parents, strict=True)):
            kinds_NLW[at, level, : len(kinds)], parents_NLW[at, level, : len(parents)] = kinds, parents
    labels = [min(count, key=lambda each: (-count[each], each)) for count in seen.values()]
    return Split(inputs={"kinds": kinds_NLW, "parents": parents_NLW}, targets=np.array(labels, np.int64))


def _digest(sources: dict[str, bytes]) -> str:
    lines = [f"{hashlib.sha256(source).hexdigest()}  {name}\n" for name, source in sources.items()]
    lines.append(f"levels={NUM_LEVELS} width={LEVEL_WIDTH} shares={SHARES} seed={SPLIT_SEED}")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
