"""Rules for the lengths and numbers of reference runs, and for the pairs that are taken from them.

A run has to be so long that parts of the reference agree better with each other than a forecast
must agree with them (`analysis/structural_criteria.py`), if the engine is fast enough for that.
"""

import dataclasses
import math
import os

from trajcast_jax.analysis.structural_criteria import SPECTRUM, STRUCTURE
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference.structure import build_structure, is_crystal
from trajcast_jax.workflow.campaign.rules import (
    LONGEST_VDOS,
    SHARE_OF_HOURS,
    Choice,
    Known,
    budget,
    run_time,
)

ATOM_TIME = 1e7
"""fs, length of a run times its number of atoms: 50 ps for 200."""
SHORTEST, LONGEST = 2e4, 5e5
"""fs, of runs, where the engine is fast enough."""
SPECTRUM_NOISE = {"solid": 0.15, "molecule": 0.18, "fluid": 0.05}
"""1 − overlap of the spectrum of an element in one run with that in the others, times
√(ns · all atoms), with windows of 5 ps. The elements of a molecule share its modes and their noise.
Quartz 0.034 (1,296 atoms, 15 ps); silicon 0.049 (216 atoms, 20 ps); paracetamol 0.13 (100 ps) and,
canonical, 0.18 (25 ps); water 0.015 (192 atoms, 50 ps); argon 0.009 (256 atoms, 20 ps)."""
STRUCTURE_NOISE = {"solid": 3.0, "molecule": 5.0, "fluid": 3.0}
"""Deviation (%) of g(r) of one run from the others, of the worst pair of elements, times
√(ns · atoms of the rarest element). Paracetamol 9.6 (100 ps), 4.9 (canonical, 1 ns); silicon 1.1
(216 atoms, 20 ps); argon 0.9 (256 atoms, 20 ps)."""
RUNS, RUNS_OF_MOLECULES = 6, 20
"""Stiff vibrations of molecules keep their energy during a run, so that many are drawn."""
FEWEST_RUNS = 3
PIECE = 5_000.0
"""fs, shortest piece that a trajectory is cut to, where it is long enough for three."""
HELD_OUT = 8
"""One run of so many is for validation, and one for the test."""
NPT, NVT, GAP = 10_000.0, 20_000.0, 2_000.0
"""fs, at constant pressure, of equilibration, and between runs."""
SHORT_GAP, BATH = 500.0, 50.0
"""fs, the same between runs if time is short, and the time constant of the bath of molecules."""
EQUILIBRATION, GAPS = 0.15, 0.1
"""Largest shares of the reference for its equilibration and between runs, if time is short."""
LARGEST_BYTES = 1e9
"""Of all frames of a reference."""
BYTES_OF_AN_ATOM = 24
"""In a stored frame: position and velocity."""
FEWEST_STRIDES = 20
"""In a run, whatever the engine."""
TRAIN_PAIRS, TEST_PAIRS = 15_000, 1_000
BYTES_OF_A_PAIR = 772
"""For each atom, and as many for the mirrored pair: 5 GB for 30,000 pairs of 216 atoms."""
MEMORY = 5e9
"""Bytes for training pairs, or a third of the machine's memory if that is less."""


def runs(known: Known) -> list[Choice]:
    """Number of runs, and which of them train, validate and test."""
    number, because = _number_of_runs(known)
    if "reference.runs" in known.stated and not _many_brought(known):
        number = known.experiment.reference.runs
    found = [Choice("reference.runs", number, because)]
    parts = ("test", "validation", "train")
    own = {part: getattr(known.experiment.data, f"{part}_runs") for part in parts}
    free = [part for part in parts if f"data.{part}_runs" not in known.stated]
    taken = {run for part in parts if part not in free for run in own[part]}
    left = [run for run in range(number) if run not in taken]
    held = max(1, number // HELD_OUT)
    if len(left) < len(free):  # too few for all: validation and test share
        shared = (left or [number - 1])[-1:]
        rest = left[:-1] or shared
        chosen = {part: rest if part == "train" else shared for part in free}
        words = f"only {number} {'run' if number == 1 else 'runs'}: some are used twice; bring more"
    else:
        chosen, words = {}, f"whole runs, of {number}"
        for others, part in zip(range(len(free) - 1, -1, -1), free, strict=True):
            size = len(left) if part == "train" else min(held, len(left) - others)
            chosen[part] = left[len(left) - size :]
            left = left[: len(left) - size]
    return [*found, *(Choice(f"data.{p}_runs", tuple(r), words) for p, r in chosen.items())]


def _many_brought(known: Known) -> bool:
    return known.imported and len(known.findings.durations) > 1


def _number_of_runs(known: Known) -> tuple[int, str]:
    durations = known.findings.durations
    number, because = len(durations), "the trajectories that were brought"
    if not known.imported:
        if known.findings.kind == "molecule":
            return RUNS_OF_MOLECULES, "a molecule: stiff vibrations keep their energy for a run"
        return RUNS, "four to train on, one for validation, one for the test"
    if number == 1:
        number = int(min(RUNS, max(FEWEST_RUNS, durations[0] // PIECE)))
        because = (
            f"one trajectory of {durations[0] * 1e-3:.3g} ps, cut in time with gaps: its parts are "
            "less independent than runs"
        )
    if doubts := undecided(known, sum(durations) / number):
        because += f"; perhaps not to be decided: {doubts}"
    return number, because


def times(known: Known) -> list[Choice]:
    """How long the reference is equilibrated, and how long its runs are."""
    if known.imported:
        return []
    f, s = known.findings, known.experiment.reference
    crystal = is_crystal(s) and f.kind == "solid" and not s.calculator
    npt = NPT if crystal else 0.0
    why = "a crystal finds its volume at that pressure" if crystal else "the cell is given"
    found = [Choice("reference.npt_time", npt, why)]
    if f.kind == "molecule":
        alone = "a molecule: its vibrations hardly exchange energy"
        found += [
            Choice("reference.redraw", True, alone),
            Choice("reference.time_constant", BATH, alone),
        ]
    if not is_crystal(s):
        found.append(Choice("reference.minimize", True, "the start is no crystal"))
    npt, stated = (s.npt_time if "reference.npt_time" in known.stated else npt), known.stated
    number = s.runs
    wanted, because = wanted_time(known)
    most = budget(known)
    nvt, gap = NVT, GAP
    if npt + nvt + number * (gap + wanted) > most:
        nvt, gap = min(NVT, EQUILIBRATION * most), min(SHORT_GAP, GAPS * most / number)
    nvt = s.nvt_time if "reference.nvt_time" in stated else _whole(nvt, s.save_every)
    gap = s.gap_time if "reference.gap_time" in stated else _whole(gap, s.save_every)
    possible = (most - npt - nvt) / number - gap
    least = FEWEST_STRIDES * known.experiment.data.time_step
    length = _whole(max(least, min(wanted, possible)), s.save_every)
    if "reference.nve_time" in stated:
        length = s.nve_time
    total = npt + nvt + number * (gap + length)
    because += f"; {_cost(known, total)}"
    if possible < wanted and known.engine:
        because += f", and no more than {known.hours * SHARE_OF_HOURS:.2g} h are for it"
    if doubts := undecided(known, length):
        because += f"; perhaps not to be decided: {doubts}"
    return [
        *found,
        Choice("reference.nvt_time", nvt, "equilibration"),
        Choice("reference.gap_time", gap, "between runs"),
        Choice("reference.nve_time", length, because),
    ]


def preflight(settings: ReferenceSettings, length: float = 2_000.0) -> ReferenceSettings:
    """Settings of a preflight: two short runs of `length` fs at the volume of the start structure.

    Frames are 1 fs apart, so that every vibration is resolved. Only physics is kept of the
    settings: structure, forces, temperature and bath.
    """
    structure = build_structure(settings)
    molecule = not structure.pbc.any()
    return dataclasses.replace(
        settings,
        time_step=0.5 if (structure.numbers == 1).any() else 1.0,
        save_every=1.0,
        npt_time=0.0,
        nvt_time=length,
        nve_time=length,
        gap_time=SHORT_GAP,
        time_constant=BATH,
        runs=2,
        redraw=molecule,
        minimize=settings.minimize or not is_crystal(settings),
        ensemble="nve",
    )


def wanted_time(known: Known) -> tuple[float, str]:
    """Length (fs) of a run for which all criteria can be decided, and why; at most `LONGEST`."""
    f, s = known.findings, known.experiment.reference
    rarest = f.counts[f.rarest]
    structure = (STRUCTURE_NOISE[f.kind] / STRUCTURE) ** 2 * 1e6 / rarest
    spectrum = (SPECTRUM_NOISE[f.kind] / (1 - SPECTRUM)) ** 2 * 1e6 / f.n_atoms
    wanted = min(LONGEST, max(SHORTEST, ATOM_TIME / f.n_atoms, structure, spectrum))
    because = f"{f.n_atoms} atoms, {rarest} of {f.rarest}, want {wanted * 1e-3:.0f} ps a run"
    stored = LARGEST_BYTES / (BYTES_OF_AN_ATOM * f.n_atoms * s.runs) * s.save_every
    if stored < wanted:
        because += f", and 1 GB holds {stored * 1e-3:.0f} ps"
    return min(wanted, stored), because


def undecided(known: Known, length: float) -> str:
    """Criteria of a verdict for which runs of `length` fs are probably too noisy, in words."""
    f = known.findings
    rarest, window = f.counts[f.rarest], math.sqrt(min(1.0, length / 5 / LONGEST_VDOS))
    structure = STRUCTURE_NOISE[f.kind] / math.sqrt(length * 1e-6 * rarest)
    spectrum = window * SPECTRUM_NOISE[f.kind] / math.sqrt(length * 1e-6 * f.n_atoms)
    found = []
    if structure > 1.1 * STRUCTURE:
        noise = f"{min(100.0, structure):.0f} % of {STRUCTURE:g} %"
        found.append(f"g(r) of {f.rarest} (noise {noise} allowed)")
    if spectrum > 1.1 * (1 - SPECTRUM):
        noise = f"{min(1.0, spectrum):.2f} of {1 - SPECTRUM:.1f}"
        found.append(f"the spectrum (noise {noise} allowed)")
    return ", ".join(found)


def _cost(known: Known, total: float) -> str:
    text = f"{total * 1e-3:.0f} ps in all"
    if not known.engine:
        return f"{text}, by an engine of unknown speed"
    speed = known.engine["ns_per_day"]
    return f"{text}, {total * 1e-6 / speed * 24:.2g} h at {speed:.3g} ns/day"


def _whole(time: float, spacing: float) -> float:
    """The longest time of whole frames that is at most `time`; ps beyond 10 ps."""
    if time > 1e4 and abs(1_000 / spacing - round(1_000 / spacing)) < 1e-9:
        spacing = 1_000.0
    return round(max(1, math.floor(time / spacing + 1e-9)) * spacing, 6)


def pairs(known: Known) -> list[Choice]:
    """How many pairs the runs give and the memory holds."""
    data, f = known.experiment.data, known.findings
    spacing = f.interval if known.imported else known.experiment.reference.save_every
    run = 0.9 * run_time(known) if known.imported else run_time(known)
    starts = max(1, math.floor((run - data.time_step) / spacing) - 1)
    bytes_of = BYTES_OF_A_PAIR * f.n_atoms * (2 if data.time_reversal else 1)
    memory = min(MEMORY, _memory() / 3)
    held = max(1, int(memory / bytes_of))
    there = {p: starts * len(getattr(data, f"{p}_runs")) for p in ("train", "validation", "test")}
    train = min(TRAIN_PAIRS, held, there["train"])
    because = f"of {there['train']:,} in the runs"
    if train == held:
        because += f"; {memory * 1e-9:.2g} GB hold no more"
    validation = min(256, max(64, round(64 * 200 / f.n_atoms)), there["validation"])
    words = f"{f.n_atoms} atoms each, of {there['validation']:,}"
    test = min(TEST_PAIRS, there["test"])
    return [
        Choice("data.train_pairs", train, because),
        Choice("data.validation_pairs", validation, words),
        Choice("data.test_pairs", test, f"of {there['test']:,}"),
    ]


def _memory() -> float:
    """Bytes of memory of this machine."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 3 * MEMORY
