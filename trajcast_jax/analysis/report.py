"""Render a report of `evaluation.write_report` as Markdown."""

from collections.abc import Sequence
from statistics import fmean, stdev

from trajcast_jax.analysis.comparison import HIGHEST
from trajcast_jax.analysis.verdict import worst
from trajcast_jax.analysis.verdict_tables import render_joint, render_verdict, table


def render(report: dict) -> str:
    """Render a report as Markdown."""
    parts = [f"# {report['name']}: the forecast against the reference"]
    if "verdict" in report:
        parts.append(render_verdict(report["verdict"]))
    parts.append(_summary(report))
    if "one_step" in report:
        parts.append(render_one_step(report["one_step"]))
    if "temperature" in report:
        plots = report.get("plots", {})
        sections = {"temperature": _temperature(report["temperature"])}
        if report["reference"]:
            sections |= {
                "rdf": _structure(report["rdf"]),
                "vdos": _vibrations(report["vdos"]),
                "msd": _displacements(report["msd"]),
            }
        if any(report.get("molecules", {}).get(kind) for kind in ("bonds", "angles", "dihedrals")):
            sections["dihedral"] = _molecules(report["molecules"])
        if report.get("modes", {}).get("bands"):
            sections["modes"] = _modes(report["modes"])
        for name, text in sections.items():
            parts.append(text + (f"\n\n![{name}]({plots[name]})" if name in plots else ""))
        parts.append(_speeds(report["speed"], report["momentum"]))
    run = {k: v for k, v in report.items() if isinstance(v, str | int | float) and k not in TOLD}
    if run:
        parts.append("## The run\n\n" + table(["", ""], [[k, _plain(v)] for k, v in run.items()]))
    return "\n\n".join(parts) + "\n"


TOLD = (
    "name",
    "n_atoms",
    "frames",
    "time_step_fs",
    "duration_ps",
    "measured_from_ps",
    "measured_to_ps",
    "planned_ps",
)
"""Keys that the summary shows, so they are not repeated in the section "The run"."""


def _plain(x) -> str:
    return f"{x:.5g}" if isinstance(x, float) else str(x)


def _number(part: dict, name: str, digits: str, absent: str = "–") -> str:
    """Format a value of the report with its error as "x ± error"."""
    value, error = part.get(name), part.get(f"{name}_error")
    if value is None:
        return absent
    unsigned = digits.lstrip("+")
    return f"{value:{digits}}" + ("" if error is None else f" ± {error:{unsigned}}")


def _summary(report: dict) -> str:
    failure, reference = report["failure"], report["reference"]
    lines = [
        f"{report['frames']:,} frames of {report['n_atoms']:,} atoms, "
        f"{report['time_step_fs']:g} fs apart: {report['duration_ps']:.1f} ps."
    ]
    if failure["time_ps"] is not None:
        lines.append(f"It failed after {failure['time_ps']:.2f} ps: {failure['reason']}.")
    lines.append(f"A failure is {failure['criterion']}.")
    if "temperature" not in report:
        lines.append("What came before is too short to be compared.")
        return " ".join(lines)
    against = (
        f"against {reference['duration_ps']:.0f} ps of reference dynamics in {reference['blocks']} "
        f"blocks, stored every {reference['stored_every_fs']:g} fs"
        if reference
        else "without a reference"
    )
    measured = (
        f"Measured from {report['measured_from_ps']:.1f} to {report['measured_to_ps']:.1f} ps, "
        f"{against}. ± is one standard error, from blocks of time."
    )
    return " ".join(lines) + "\n\n" + measured


def render_one_step(errors: dict) -> str:
    """Render one-step errors as Markdown."""
    rows = [
        [
            name,
            _number(part["displacements"], "mae", ".2e"),
            _number(part["displacements"], "relative_percent", ".2f"),
            f"{part['displacements']['persistence_percent']:.1f}",
            _number(part["velocities"], "mae", ".2e"),
            _number(part["velocities"], "relative_percent", ".2f"),
            f"{part['velocities']['persistence_percent']:.1f}",
        ]
        for name, part in errors.items()
        if isinstance(part, dict)
    ]
    head = ["atoms", "d, Å", "d, %", "d = vΔt, %", "v, Å/fs", "v, %", "v' = v, %"]
    return (
        f"## One step of {errors['time_step']:g} fs\n\nMean absolute error per component on "
        f"{errors['n_pairs']:,} test pairs; % of the mean |x| of the targets. Beside it the error "
        f"of going straight on.\n\n{table(head, rows)}"
    )


def _temperature(part: dict) -> str:
    def kelvin(name, digits=".2f"):
        return _number(part, name, digits)

    rows = [
        ["mean", kelvin("mean_K"), kelvin("target_K"), kelvin("reference_mean_K")],
        [
            "standard deviation",
            kelvin("deviation_K"),
            kelvin("expected_deviation_K"),
            kelvin("reference_deviation_K"),
        ],
        ["drift, K/ps", kelvin("drift_K_per_ps", ".3f"), "0", "–"],
    ]
    for symbol, own in part["by_species"].items():
        mean, reference = _number(own, "mean_K", ".2f"), _number(own, "reference_mean_K", ".2f")
        rows.append([f"mean, {symbol}", mean, kelvin("target_K"), reference])
    return (
        "## Temperature, K\n\nExpected standard deviation: T √(2/N_f) with "
        f"N_f = {part['degrees_of_freedom']}, where one temperature was held; at constant energy "
        "it is smaller.\n\n" + table(["", "forecast", "expected", "reference"], rows)
    )


def _two_columns(part: dict, names: tuple[str, str], digits: str, head: Sequence[str]) -> str:
    """Make a table with a row for each entry of `part`, and two of its values with errors."""
    rows = [[key, *(_number(own, name, digits) for name in names)] for key, own in part.items()]
    return table(head, rows)


def _structure(part: dict) -> str:
    names = ("deviation_percent", "deviation_percent_among_reference")
    head = ["pair", "deviation, %", "one reference block from the others, %"]
    return (
        "## Structure\n\nDeviation of g(r): Σ|g − g_ref| / Σ g_ref over all bins from the first "
        "that is not empty.\n\n" + _two_columns(part, names, ".1f", head)
    )


def _vibrations(part: dict) -> str:
    text = (
        "## Vibrations\n\nOverlap of the vibrational densities of states, 1 − Σ|a − b| / Σ(a + b). "
        f"Frames {part['time_step_fs']:g} fs apart resolve up to the Nyquist limit of "
        f"{part['nyquist_cm-1']:.0f} cm⁻¹; what is above it is folded below, in the forecast "
        f"and in the reference alike. Resolution: {part['resolution_cm-1']:.1f} cm⁻¹.\n\n"
    )
    if not part["overlap"]:
        return text + "The reference was measured at another interval of frames: no overlap."
    names = ("overlap", "overlap_among_reference")
    head = ["element", "overlap", "one reference block with the others"]
    return text + _two_columns(part["overlap"], names, ".3f", head)


def _displacements(part: dict) -> str:
    rows = [
        [
            symbol,
            _number(own, "msd_A2", ".4f"),
            _number(own, "reference_msd_A2", ".4f"),
            _number(own, "diffusion_cm2_per_s", ".1e"),
            _number(own, "reference_diffusion_cm2_per_s", ".1e"),
        ]
        for symbol, own in part.items()
        if isinstance(own, dict)
    ]
    head = ["element", "forecast, Å²", "reference, Å²", "D, cm²/s", "reference D, cm²/s"]
    return (
        f"## Mean squared displacement after {part['lag_ps']:.1f} ps\n\nThe diffusion coefficient "
        "D is a sixth of the slope over the second half of the lags; in a crystal it is what "
        "oscillations leave.\n\n" + table(head, rows)
    )


def _molecules(part: dict) -> str:
    rows = [
        [
            name,
            _number(own, f"mean_{unit}", digits),
            _number(own, f"reference_mean_{unit}", digits),
            _number(own, f"difference_{unit}", f"+{digits}"),
        ]
        for kind, unit, digits in (("bonds", "A", ".4f"), ("angles", "degrees", ".2f"))
        for name, own in part[kind].items()
    ]
    text = (
        "## Bonds, angles and torsions\n\nMeans, in Å and degrees; what is bonded in the first "
        "frame.\n\n" + table(["", "forecast", "reference", "difference"], rows)
    )
    if not part["dihedrals"]:
        return text
    names = ("deviation_kT", "deviation_kT_among_reference")
    head = ["torsion", "deviation", "one reference block from the others"]
    return (
        f"{text}\n\nMean absolute deviation of the free energy of torsions, in k_B T, up to "
        f"{HIGHEST:g} k_B T above the reference's minimum.\n\n"
        + _two_columns(part["dihedrals"], names, ".2f", head)
    )


MEANS = ("mean_K", "reference_mean_K")


def _modes(part: dict) -> str:
    rows = [
        [band, str(own["modes"]), *(_number(own, name, ".1f") for name in MEANS)]
        for band, own in part["bands"].items()
    ]
    return "## Temperatures of modes, K\n\n" + table(
        ["band, cm⁻¹", "modes", "forecast", "reference"], rows
    )


def _speeds(speeds: dict, momentum: dict) -> str:
    names = ("distance_percent", "reference_distance_percent")
    head = ["element", "forecast, %", "reference, %"]
    return (
        "## Speeds and momentum\n\nLargest distance of the cumulative distribution of speeds from "
        "Maxwell and Boltzmann's at the mean temperature.\n\n"
        + _two_columns(speeds, names, ".2f", head)
        + f"\n\nLargest total momentum: {momentum['largest_momentum']:.1e} Da·Å/fs, a speed of the "
        f"centre of mass of {momentum['largest_center_of_mass_speed']:.1e} Å/fs."
    )


FIGURES = (
    "mean_K", "deviation_K", "drift_K_per_ps", "deviation_percent", "overlap",
    "diffusion_cm2_per_s", "distance_percent", "difference_A", "difference_degrees", "deviation_kT",
)  # fmt: skip
"""Names of the values that `summarize` collects from reports."""


def summarize(reports: Sequence[dict]) -> dict:
    """Summarise several runs of one system: means and standard errors over runs.

    Runs that failed too early for a comparison enter `failed_after_ps` only. A run without a
    value for a figure, such as a rarely sampled dihedral angle, has None there.
    """
    compared = [figures(report) for report in reports if "temperature" in report]
    summary = {
        "name": reports[0]["name"],
        "runs": len(reports),
        "duration_ps": [report["duration_ps"] for report in reports],
        "failed_after_ps": [report["failure"]["time_ps"] for report in reports],
        "verdicts": [report["verdict"]["sentence"] for report in reports if "verdict" in report],
        "passed": worst([report["verdict"] for report in reports if "verdict" in report]),
        "figures": {},
    }
    for name in dict.fromkeys(name for found in compared for name in found):
        runs = [found.get(name) for found in compared]
        values = [value for value in runs if value is not None]
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        summary["figures"][name] = {"mean": fmean(values), "mean_error": error, "runs": runs}
    return summary


def figures(report: dict) -> dict[str, float]:
    """Collect the FIGURES of a report by "section/…/name"."""

    def walk(part: dict, trail: str):
        for name, value in part.items():
            if isinstance(value, dict):
                yield from walk(value, f"{trail}{name}/")
            elif name in FIGURES and isinstance(value, int | float):
                yield f"{trail}{name}", value

    return dict(walk(report, ""))


def render_summary(summary: dict) -> str:
    """Render a summary as Markdown."""
    failed = sum(time is not None for time in summary["failed_after_ps"])
    each = lambda values: ", ".join(_number({"run": x}, "run", ".4g") for x in values)  # noqa: E731
    rows = [
        [name, _number(part, "mean", ".4g"), each(part["runs"])]
        for name, part in summary["figures"].items()
    ]
    return (
        f"# {summary['name']}: {summary['runs']} forecasts against the reference\n\n"
        + (f"{render_joint(summary['verdict'])}\n\n" if "verdict" in summary else "")
        + "\n".join(f"{k + 1}. {text}" for k, text in enumerate(summary["verdicts"]))
        + f"\n\n{failed} of {summary['runs']} failed. ± is one standard error over the runs.\n\n"
        + table(["figure", "mean", "each run"], rows)
        + "\n"
    )
