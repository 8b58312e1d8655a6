"""Criteria of a verdict for what is compared with the reference: structure and motion."""

from collections.abc import Iterator

from trajcast_jax.analysis.bonds import BROKEN
from trajcast_jax.analysis.criteria import Criterion, Score, Unchecked, held

STRUCTURE = 5.0
"""Largest deviation of g(r), %."""
SPECTRUM = 0.9
"""Smallest overlap of the vibrational densities of states of an element."""
DIFFUSION = 25.0
"""Largest deviation of the mean squared displacement at the longest lag, %, in a fluid."""
LENGTH = 1.0
"""Largest deviation of a mean bond length, %."""
ANGLE = 1.0
"""Largest deviation of a mean angle, degrees."""
WIDTH = 10.0
"""Largest deviation of the width of a bond length or angle, %. It grows as √T: 20 % of T."""
TORSION = 0.5
"""Largest mean deviation of the free energy of a dihedral angle, k_B T."""


def structure(report: dict) -> Criterion:
    """Judge g(r)."""
    scores = {
        pair: Score.of(own, "deviation_percent", STRUCTURE)
        for pair, own in report.get("rdf", {}).items()
    }
    return held("g(r)", scores, report, "{0:.1f}{2} % off")


def spectrum(report: dict) -> Criterion:
    """Judge the vibrational spectra of elements."""
    scores = {}
    overlaps = report.get("vdos", {}).get("overlap", {})
    for name, own in overlaps.items():
        alike = own["overlap_among_reference"]
        noise = None if alike is None else 1 - alike
        if name != "all" or len(overlaps) == 1:
            scores[name] = Score(1 - own["overlap"], own["overlap_error"], noise, 1 - SPECTRUM)
    return held("vibrational spectrum", scores, report, "{1:.3f}{2} overlap")


def diffusion(report: dict) -> Iterator[Criterion | Unchecked]:
    """Judge the mean squared displacements of elements that diffuse in the reference."""
    part = report.get("msd", {})
    name = "mean squared displacement"
    if not report["reference"]:
        yield Unchecked(name, "there is no reference")
        return
    scores = {
        symbol: Score.of(own, "deviation_percent", DIFFUSION, widened=True)
        for symbol, own in part.items()
        if isinstance(own, dict) and own.get("diffuses")
    }
    if scores:
        after = f"after {part['lag_ps']:.3g} ps"
        row = held(name, scores, report, "{0:+.1f}{2} % off")
        yield row._replace(found=f"{row.found} {after}")


def molecules(report: dict) -> Iterator[Criterion | Unchecked]:
    """Judge bonds, angles and torsions, as far as bonds last in the reference."""
    part = report.get("molecules", {})
    for name in part.get("unmatched", ()):
        yield Unchecked(name, "the reference was measured without; measure it anew")
    if not part:
        return
    if (part.get("reference_stretch") or 0.0) > BROKEN:
        yield Unchecked("bonds and angles", "bonds of the first frame do not last in the reference")
    else:
        yield from _bonds(part, report)
    scores = {
        chain: Score.of(own, "deviation_kT", TORSION, widened=True)
        for chain, own in part["dihedrals"].items()
    }
    if scores:
        yield held("torsions", scores, report, "{0:.2f}{2} k_B T off")


def _bonds(part: dict, report: dict) -> Iterator[Criterion]:
    lengths = {
        name: Score.of(own, "difference_A", LENGTH, widened=True).scaled(
            100 / own["reference_mean_A"]
        )
        for name, own in part["bonds"].items()
    }
    angles = {
        name: Score.of(own, "difference_degrees", ANGLE, widened=True)
        for name, own in part["angles"].items()
    }
    widths = {
        name: Score.of(own, "deviation_percent", WIDTH, widened=True)
        for name, own in part.get("widths", {}).items()
    }
    for name, scores, words in (
        ("bond lengths", lengths, "{0:+.2f}{2} % off"),
        ("angles", angles, "{0:+.2f}{2}° off"),
        ("widths of bonds and angles", widths, "{0:+.1f}{2} % off"),
    ):
        if scores:
            yield held(name, scores, report, words)
