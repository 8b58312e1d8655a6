"""Roofline model: arithmetic and memory traffic of compiled functions, and the machine's limits.

At a given arithmetic intensity, the performance of a function is limited by the roofline. A
function far below it could be faster (Williams, Waterman, Patterson, Commun. ACM 52, 65 (2009),
doi:10.1145/1498765.1498785).
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from trajcast_jax.analysis import plots

INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*?)\)(.*)$")
COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
NAME = re.compile(r"%([\w.\-]+)")
ARRAY = re.compile(r"(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"}
"""Instructions that move no data: they rename existing data, or the compiler folds them."""
SELECTING = {"dynamic-slice", "slice", "gather"}
"""Instructions that read only the selected part of their first operand."""
UPDATING = "dynamic-update-slice"
"""Instruction that writes its second operand into its first, without reading the first."""


def multiplications(function: Callable, *arguments) -> float:
    """Floating-point operations of all matrix products in `function`, including all iterations.

    Elementwise operations, which XLA fuses, are not counted.
    """

    def walk(jaxpr) -> float:
        total = 0.0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                (contract, _), _ = eqn.params["dimension_numbers"]
                inner = np.prod([eqn.invars[0].aval.shape[k] for k in contract])
                total += 2.0 * inner * np.prod(eqn.outvars[0].aval.shape)
            times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            inside = [x for p in eqn.params.values() for x in (p if isinstance(p, tuple) else (p,))]
            bodies = [getattr(x, "jaxpr", x) for x in inside if hasattr(x, "eqns")
                      or hasattr(getattr(x, "jaxpr", None), "eqns")]  # fmt: skip
            total += times * sum(walk(body) for body in bodies)
        return total

    return walk(jax.make_jaxpr(function)(*arguments).jaxpr)


class Instruction(NamedTuple):
    """One line of a compiled program."""

    name: str
    size: int  # bytes of the result
    operation: str
    inside: str  # the parentheses
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return NAME.findall(self.inside)

    def called(self, key: str) -> str:
        """Name of the computation in the attribute `key`."""
        return re.search(rf"{key}=%([\w.\-]+)", self.attributes).group(1)


def traffic(program: str) -> float:
    """Bytes that the kernels of a compiled program read and write, including all iterations.

    `program` is `compiled.as_text()`. A kernel is an instruction or a fusion of several. It reads
    its operands, or the selected parts of them, and writes its result. Data that stay in a cache
    between kernels count like data from memory, so the rate can exceed the memory bandwidth.
    Loops of unknown length count once.
    """
    computations, entry = _parsed(program)
    known: dict[str, float] = {}

    def whole(name: str) -> float:
        if name not in known:
            sizes = {one.name: one.size for one in computations[name]}
            known[name] = sum(moved(one, sizes) for one in computations[name])
        return known[name]

    def moved(one: Instruction, sizes: dict[str, int]) -> float:
        if one.operation in FREE:
            return 0.0
        if one.operation == "while":
            count = re.search(r'known_trip_count":\{"n":"(\d+)"', one.attributes)
            return (int(count.group(1)) if count else 1) * whole(one.called("body"))
        if one.operation == "call":
            return whole(one.called("to_apply"))
        if one.operation == "conditional":
            branches = [name for name in NAME.findall(one.attributes) if name in computations]
            return max(whole(name) for name in branches)
        if one.operation == "fusion":
            return _touched(computations[one.called("calls")], one.size)
        read = [
            Instruction(name, sizes.get(name, 0), "parameter", "", "")
            for name in dict.fromkeys(one.operands)
        ]
        return _touched([*read, one], one.size)

    return whole(entry)


def _parsed(program: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions of every computation, and the name of the entry computation."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in program.splitlines():
        if begin := COMPUTATION.match(line):
            current = begin.group(2)
            computations[current] = []
            entry = current if begin.group(1) else entry
        elif found := INSTRUCTION.match(line):
            name, shape, *rest = found.groups()
            computations[current].append(Instruction(name, _size(shape), *rest))
    return computations, entry


def _size(shape: str) -> int:
    """Total bytes of the arrays in a shape such as (f32[16,3]{1,0}, pred[])."""
    total = 0
    for kind, bits, lengths in ARRAY.findall(shape):
        width = 1 if kind == "pred" else max(int(bits) // 8, 1)
        total += width * math.prod(int(n) for n in lengths.split(",") if n)
    return total


def _touched(body: list[Instruction], written: int) -> float:
    """Bytes that one kernel reads from its parameters and writes."""
    sizes = {one.name: one.size for one in body}
    origin: dict[str, str] = {}  # a bitcast is another name for the same bytes
    users: dict[str, list[tuple[int, Instruction]]] = {}  # (operand number, user) of each name
    for one in body:
        operands = [origin.get(name, name) for name in one.operands]
        if one.operation == "bitcast":
            origin[one.name] = operands[0]
            continue
        for place, name in enumerate(operands):
            users.setdefault(name, []).append((place, one))
    read = 0
    for parameter in (one for one in body if one.operation == "parameter"):
        uses = users.get(parameter.name, [])
        if any(place or one.operation not in {*SELECTING, UPDATING} for place, one in uses):
            read += parameter.size
            continue
        for _, one in uses:
            if one.operation == UPDATING:  # in place: only the slice is written
                written -= one.size - sizes[one.operands[1]]
            else:
                read += one.size
    return read + max(written, 0)


def plot(results: dict) -> Figure:
    """Plot GFlop/s of every case over its operations per byte, with the machine's rooflines."""
    machine = results["machine"]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    intensity = np.geomspace(0.1, 1000, 200)
    for key, style in {"peak_gb_per_s": "-", "cache_gb_per_s": "--"}.items():
        roof = np.minimum(machine["peak_gflops"], machine[key] * intensity)
        where = "in memory" if style == "-" else "within the cache"
        axes.loglog(
            intensity, roof, style, color=plots.STORED, label=f"matrix product, copy {where}"
        )
    # Labels of forecasts are on the right, of training steps on the left, without overlaps.
    styles = {
        "forecast": (plots.FORECAST, "left", 1.1),
        "training step": (plots.LIMIT, "right", 1 / 1.1),
    }
    for what, (color, side, away) in styles.items():
        lowest = np.inf
        rows = [(name, case["rows"].get(what, {})) for name, case in results["cases"].items()]
        rows = sorted((r["gflops"], r["gb_per_s"], name) for name, r in rows if "gb_per_s" in r)
        for k, (gflops, moved, name) in enumerate(rows[::-1]):
            point = gflops / moved, gflops
            axes.plot(*point, "o", color=color, label=what if k == 0 else None)
            lowest = min(gflops, lowest / 1.25)
            axes.text(
                away * point[0], lowest, Path(name.split(" / ")[0]).stem,
                horizontalalignment=side, verticalalignment="center", fontsize=8,
            )  # fmt: skip
    axes.set(
        xlabel="operations of matrix products per byte that kernels move",
        ylabel="GFlop/s", xlim=(0.3, 300), ylim=(1, 2 * machine["peak_gflops"]), title="Roofline",
    )  # fmt: skip
    axes.legend(loc="lower right")
    return figure
