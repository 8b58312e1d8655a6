"""Rules that choose settings: each takes what is `Known` and gives choices with their reasons."""

import math
from typing import NamedTuple

from trajcast_jax.config import Experiment
from trajcast_jax.data.pairs import stride as frames_of
from trajcast_jax.units import BOLTZMANN, FS_PER_DAY_TO_NS, KINETIC_TO_EV
from trajcast_jax.workflow.campaign.findings import Findings

SHARE_OF_PERIOD = 0.7
"""Stride over the period of the stiffest vibration. Quartz learned 1.1 by hand, paracetamol 0.77,
water 0.55; with 1.5 and more only paracetamol did (experiments/results/strides.md)."""
LONGEST_STRIDE = 30.0
"""fs; nobody has tried longer ones."""
FRAMES_A_PERIOD = 2.2
"""Stored frames per period of the stiffest vibration, so that its spectrum is not folded."""
MOST_FRAMES = 6
"""Largest number of stored frames of a stride, where an engine makes few strides."""
ENOUGH_FRAMES = 20_000
"""Frames of all runs, with which no more have to be stored of a stride."""
SHARE_OF_HOURS = 0.25
"""Share of all hours for reference dynamics."""
STEPS = ((15.0, 0.5), (60.0, 1.0), (math.inf, 2.0))
"""Longest period (fs) of the stiffest vibration, and the integration step (fs) for it."""
SUBSTEPS_A_PERIOD = 10
LARGEST_SUBSTEPS = 16
SHORTEST_CUTOFF, LONGEST_CUTOFF = 4.4, 7.0
"""Å."""
CUTOFF_OF_MOLECULES = 4.5
"""Å."""
NEIGHBOURS = 18
"""Mean number of neighbours that a cutoff has to hold: two to three shells."""
NEIGHBOURS_AT_MINIMUM = 17
"""The same where a cutoff is moved to a minimum of g(r)."""
TO_MINIMUM = 0.4
"""Å, largest distance to a minimum of g(r) to which a cutoff is moved."""
SPEEDS = 4.0
"""Range of the speed basis in RMS components of the lightest element."""
FASTEST = 4.25
"""RMS components; forecasts of molecules exploded beyond (experiments/results/training.md)."""
ATOMS_A_BATCH = 160
LARGEST_BATCH = 16
SKINS = {"solid": 1.3, "fluid": 0.8, "molecule": 1.0}
"""Å. Solids then rebuild their lists hardly ever, fluids in half of the strides and molecules in a
quarter (experiments/results/speed.md)."""
NS_ATOMS_OF_FORECAST = 4.0
"""ns, length of a forecast times the number of atoms of the rarest element, for the mean
temperature of this element to be known to 5 K. Three atoms had 4 to 9 K in 1 ns."""
LONGEST_VDOS, LONGEST_MSD = 5_000.0, 10_000.0
"""fs."""
LARGEST_RDF = 8.0
"""Å."""
BIN = 0.05
"""Å, of g(r)."""


class Choice(NamedTuple):
    """A setting that was chosen."""

    setting: str
    """Table and name: "model.cutoff"."""
    value: object
    because: str
    """The measurement that it follows from."""


class Known(NamedTuple):
    """What a rule may look at."""

    experiment: Experiment
    """With the choices of earlier rules."""
    stated: frozenset[str]
    findings: Findings
    hours: float
    engine: dict | None
    imported: bool

    @property
    def period(self) -> float:
        """Period (fs) of the stiffest vibration."""
        return self.findings.vibration.period


def temperatures(known: Known) -> list[Choice]:
    """The temperature of the reference is measured if its trajectories were brought."""
    f, found = known.findings, []
    asked = known.experiment.reference.temperature
    if known.imported:
        digits = 0 if f.temperature >= 100 else 1
        measured = f"the trajectories are at {f.temperature:.4g} ± {f.temperature_error:.2g} K"
        found.append(Choice("reference.temperature", round(f.temperature, digits), measured))
        if "reference.temperature" not in known.stated:
            asked = round(f.temperature, digits)
    because = "that of the reference"
    if known.imported and abs(f.temperature - asked) > 0.05 * asked:
        because += f"; but its trajectories are at {f.temperature:.4g} K, another temperature"
    return [*found, Choice("rollout.temperature", asked, because)]


def stride(known: Known) -> list[Choice]:
    """Integration step, stride and time between stored frames, which fit each other."""
    experiment, period = known.experiment, known.period
    target = min(SHARE_OF_PERIOD * period, LONGEST_STRIDE)
    v = known.findings.vibration
    words = f"the stiffest vibration ({v.atoms}) has a period of {period:.3g} fs"
    if not v.resolved:
        words = (
            f"frames {known.findings.interval:g} fs apart do not resolve the stiffest vibration "
            f"({100 * v.folded:.0f} % of the motion is folded); its period is about {period:.3g} fs"
        )
    step = next(step for longest, step in STEPS if period < longest)
    if "H" in known.findings.counts:
        step = min(step, 0.5)
    if "reference.time_step" in known.stated:
        step = experiment.reference.time_step
    if known.imported:
        return _stride_of_frames(known, target, step, words)
    if {"data.time_step", "reference.save_every"} <= known.stated:
        length, spacing = experiment.data.time_step, experiment.reference.save_every
        step = _divisor(spacing, step)
    elif "data.time_step" in known.stated:
        length = experiment.data.time_step
        step = _divisor(length, step)
        spacing = _spacing(length, step, period)
    elif "reference.save_every" in known.stated:
        spacing = experiment.reference.save_every
        step = _divisor(spacing, step)
        length = spacing * max(1, round(target / spacing))
    else:
        frames = max(2, math.ceil(target / (period / FRAMES_A_PERIOD)))
        while frames < MOST_FRAMES and budget(known) * frames / target < ENOUGH_FRAMES:
            frames += 1  # correlated, but better than none
        spacing = step * max(1, math.floor(target / frames / step + 1e-9))
        length = frames * spacing
    frames_of(length, spacing)  # says so if they do not fit
    return [
        Choice("reference.time_step", step, f"{words}; {period / step:.0f} steps each"),
        Choice("data.time_step", length, f"{words}; {length / period:.2f} of it"),
        Choice(
            "reference.save_every",
            spacing,
            f"{period / spacing:.1f} frames a period, and {length / spacing:.0f} a stride",
        ),
    ]


def _stride_of_frames(known: Known, target: float, step: float, words: str) -> list[Choice]:
    """A stride of whole frames, for trajectories that were brought."""
    interval = round(known.findings.interval, 6)
    n = max(1, round(target / interval))
    if n > 1 and n * interval > known.period:
        n -= 1
    length = n * interval
    if "data.time_step" in known.stated:
        length = known.experiment.data.time_step
    frames_of(length, interval)
    share = f"{words}; {length / known.period:.2f} of it, and {length / interval:.0f} frames"
    return [
        Choice("data.time_step", length, share),
        Choice("reference.save_every", interval, "the frames that were brought"),
        Choice("reference.time_step", _divisor(length, step), "for labels; divides a stride"),
        Choice("reference.npt_time", 0.0, "the trajectories were brought"),
    ]


def _divisor(length: float, longest: float) -> float:
    """The largest part of a length that is at most `longest`."""
    return round(length / max(1, math.ceil(length / longest - 1e-9)), 9)


def _spacing(length: float, step: float, period: float) -> float:
    """The largest part of a stride that is a multiple of the step and resolves the period."""
    steps = round(length / step)
    parts = [k for k in range(1, steps + 1) if steps % k == 0]
    wanted = max(2, math.ceil(length / (period / FRAMES_A_PERIOD) - 1e-9))
    return step * steps / next((k for k in parts if k >= wanted), steps)


def substeps(known: Known) -> list[Choice]:
    """About ten substeps per period of the stiffest vibration."""
    periods = known.experiment.data.time_step / known.period
    wanted = math.ceil(SUBSTEPS_A_PERIOD * periods - 1e-9)
    because = f"{SUBSTEPS_A_PERIOD} a period of {known.period:.3g} fs"
    return [Choice("model.substeps", min(LARGEST_SUBSTEPS, max(2, wanted)), because)]


def cutoff(known: Known) -> list[Choice]:
    """Two to three shells of neighbours; in solids the end of a shell."""
    f, around = known.findings, known.findings.neighbours
    if f.kind == "molecule":
        because = f"a molecule; {around.within(CUTOFF_OF_MOLECULES):.0f} neighbours on average"
        return [Choice("model.cutoff", CUTOFF_OF_MOLECULES, because)]
    base = min(LONGEST_CUTOFF, max(SHORTEST_CUTOFF, around.radius_of(NEIGHBOURS)))
    ends = [
        r
        for r in around.minima
        if abs(r - base) <= TO_MINIMUM and around.within(r) >= NEIGHBOURS_AT_MINIMUM
    ]
    value, where = base, ""
    if f.kind == "solid" and ends:
        value = min(ends, key=lambda r: abs(r - base))
        where = ", at a minimum of g(r)"
    value = round(value, 2)
    because = f"{around.within(value):.0f} neighbours on average{where}"
    return [Choice("model.cutoff", value, because)]


def model(known: Known) -> list[Choice]:
    """Speeds, far field and conservation laws of the network."""
    f, kelvin = known.findings, known.experiment.rollout.temperature
    speed = math.sqrt(BOLTZMANN * kelvin / (KINETIC_TO_EV * f.masses[f.lightest]))
    found = [
        Choice(
            "model.max_speed",
            float(f"{SPEEDS * speed:.3g}"),
            f"{SPEEDS:g} √(k_B T/m) of {f.lightest}, at {kelvin:g} K",
        )
    ]
    far = f.polar and f.kind != "solid"
    polar = f"electronegativities differ by {f.polarity:.2f}"
    if far:
        because = f"{polar}, in a {f.kind}"
    elif f.polar:
        because = f"{polar}, but models of crystals with one fail in larger cells"
    else:
        because = f"{polar}, too little for charges"
    found.append(Choice("model.far_field", far, because))
    if f.kind == "molecule":
        isolated = "an isolated molecule"
        found.append(Choice("model.conserve_angular", True, isolated))
        fast = f"{isolated}: two models exploded at atoms faster than they had learned"
        found.append(Choice("model.speed_limit", FASTEST, fast))
    return found


def training(known: Known) -> list[Choice]:
    """Frames a batch."""
    n_atoms = known.findings.n_atoms
    batch = min(LARGEST_BATCH, max(1, round(ATOMS_A_BATCH / n_atoms)))
    return [Choice("training.batch_size", batch, f"{batch * n_atoms} atoms a batch")]


def rollout(known: Known) -> list[Choice]:
    """Length of a forecast and what its list of neighbours and its end need."""
    f, kelvin = known.findings, known.experiment.rollout.temperature
    rarest = f.counts[f.rarest]
    length = min(1e6, max(1e5, 1e6 * NS_ATOMS_OF_FORECAST / rarest))
    return [
        Choice(
            "rollout.duration",
            round(length, -3),
            f"{rarest} {'atom' if rarest == 1 else 'atoms'} of {f.rarest}: their mean temperature "
            "needs so long",
        ),
        Choice("rollout.skin", SKINS[f.kind], f"a {f.kind}"),
        Choice(
            "rollout.max_temperature",
            round(max(3 * kelvin, kelvin + 1000.0), 1),
            f"three times {kelvin:g} K, at least 1,000 K more",
        ),
    ]


def thermostat(known: Known) -> list[Choice]:
    """CSVR alone: a friction is tried only if forecasts need one."""
    length = known.experiment.data.time_step
    return [
        Choice("rollout.time_constant", max(2.5 * length, 50.0), "2.5 strides, at least 50 fs"),
        Choice("rollout.friction_time", 0.0, "none; tried if forecasts need it"),
    ]


def evaluation(known: Known) -> list[Choice]:
    """Ranges of g(r), spectra and displacements."""
    f, run, length = known.findings, run_time(known), known.experiment.data.time_step
    if f.heights is None:
        farthest, because = f.extent + 0.3, f"the molecule is {f.extent:.1f} Å long"
    else:
        farthest = max(4.0, min(LARGEST_RDF, min(f.heights) / 2))
        because = f"half of the smallest height of the cell, {min(f.heights):.1f} Å"
    farthest = round(max(2.0, farthest), 1)
    strides = max(16, math.floor(min(LONGEST_VDOS, run / 5) / length))
    found = [
        Choice("evaluation.rdf_max", farthest, because),
        Choice("evaluation.rdf_bins", round(farthest / BIN), f"of {BIN:g} Å"),
        Choice("evaluation.vdos_segment", strides * length, f"a fifth of {run * 1e-3:.3g} ps"),
        Choice(
            "evaluation.msd_time",
            length * max(4, math.floor(min(LONGEST_MSD, run / 4) / length)),
            f"a quarter of {run * 1e-3:.3g} ps",
        ),
    ]
    if f.torsions:
        found.append(Choice("evaluation.dihedrals", f.torsions, "bonds that can turn"))
    return found


def budget(known: Known) -> float:
    """Time (fs) that the engine simulates in its share of all hours; inf if nobody knows."""
    if not known.engine:
        return math.inf
    per_second = known.engine["ns_per_day"] / FS_PER_DAY_TO_NS
    return SHARE_OF_HOURS * known.hours * 3600 * per_second


def run_time(known: Known) -> float:
    """Length (fs) of the shortest reference run, made or brought."""
    if not known.imported:
        return known.experiment.reference.nve_time
    if len(known.findings.durations) == 1:  # it will be cut in runs
        return known.findings.durations[0] / known.experiment.reference.runs
    return min(known.findings.durations)
