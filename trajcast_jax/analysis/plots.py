"""Plots of a report: observables of a forecast and of its reference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

FORECAST, REFERENCE, STORED, LIMIT = "#1f5fbf", "#c9ced6", "#8a93a0", "#c8501e"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
}


def plot_all(
    directory: Path,
    report: dict,
    temperatures: np.ndarray,
    forecast: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
) -> dict[str, str]:
    """Write all plots as PNG files; return their file names by subject.

    Args:
      directory: folder for the files.
      report: result of `evaluation.compare`.
      temperatures: (time,) K, of every frame of the forecast.
      forecast: observables of the forecast (`block_observables.measure`); empty if it failed
        too early.
      reference: observables of the reference.
    """
    figures = {"temperature": lambda: plot_temperature(report, temperatures)}
    if forecast and reference:
        figures |= {
            "rdf": lambda: plot_structure(forecast, reference),
            "vdos": lambda: plot_vibrations(forecast, reference, report["vdos"]),
            "msd": lambda: plot_displacements(forecast, reference),
        }
        if _shared("dihedral/", forecast, reference, but="degrees"):
            figures["dihedral"] = lambda: plot_dihedrals(forecast, reference)
    names = {}
    for what, draw in figures.items():
        names[what] = f"{what}.png"
        save(directory / names[what], draw)
    return names


def save(path: Path, draw: Callable[[], Figure]) -> None:
    """Write the figure that `draw` returns, in the common style."""
    with rc_context(STYLE):
        draw().savefig(path, dpi=150)


def plot_learning(curve: dict[str, np.ndarray], published: tuple[float, ...] = ()) -> Figure:
    """Plot one-step errors of displacements and velocities over training time and frames seen.

    Args:
      curve: `seconds`, `frames`, `displacement_error` and `velocity_error` (%), of equal length.
      published: errors of displacements and velocities (%) to draw as lines; may be empty.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    errors = curve["displacement_error"], curve["velocity_error"]
    learning_panel(panels[0], curve["seconds"] / 60, errors, published)
    learning_panel(panels[1], curve["frames"], errors, published)
    panels[0].set(xlabel="minutes of training", title="validation")
    panels[0].set(ylabel="relative error of one step / %")
    panels[1].set(xlabel="frames seen")
    panels[1].legend()
    return figure


def learning_panel(axes, x, errors, published: tuple[float, ...] = (), **style) -> None:
    """Plot errors of displacements and velocities (%) over `x`, and published ones as lines."""
    for k, (what, color) in enumerate({"displacement": FORECAST, "velocity": LIMIT}.items()):
        axes.plot(x, errors[k], color=color, label=what, **style)
        if published:
            axes.axhline(published[k], color=color, linestyle=":", label=f"{what}, published")
    axes.set(xscale="log", yscale="log")
    long = np.max(x) > 70 * np.min(x)  # minor tick labels would overlap
    for axis, form in ((axes.xaxis, "{x:,g}"), (axes.yaxis, "{x:g}")):
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_major_formatter(form)
        axis.set_minor_formatter("" if long and axis is axes.xaxis else form)


def plot_temperature(report: dict, temperatures: np.ndarray) -> Figure:
    """Plot the temperature over time with its canonical band, and its histogram."""
    part = report.get("temperature", {})
    times = np.arange(len(temperatures)) * report["time_step_fs"] * 1e-3
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    width = max(1, min(round(1 / max(times[1], 1e-9)), len(times) // 4)) if len(times) > 1 else 1
    axes.plot(times, temperatures, color=FORECAST, alpha=0.35, linewidth=0.5, label="every frame")
    if width > 1:
        smooth = np.convolve(temperatures, np.ones(width) / width, mode="valid")
        middle = times[width // 2 : width // 2 + len(smooth)]
        axes.plot(middle, smooth, color=FORECAST, label=f"mean over {width * times[1]:.1f} ps")
    used = slice(
        round(report["measured_from_ps"] / report["time_step_fs"] * 1e3),
        round(report["measured_to_ps"] / report["time_step_fs"] * 1e3),
    )
    shown = temperatures[used][np.isfinite(temperatures[used])]
    low, high = (shown.min(), shown.max()) if len(shown) else (0.0, 600.0)
    if part.get("expected_deviation_K"):
        target, sigma = part["target_K"], part["expected_deviation_K"]
        label = f"{target:g} K ± {sigma:.1f} K, canonical"
        axes.axhspan(target - sigma, target + sigma, color=REFERENCE, alpha=0.6, lw=0, label=label)
        axes.axhline(target, color="black", linewidth=0.8)
        low, high = min(low, target - 4 * sigma), max(high, target + 4 * sigma)
        kelvin = np.linspace(low, high, 200)
        bell = np.exp(-(((kelvin - target) / sigma) ** 2) / 2) / (sigma * (2 * np.pi) ** 0.5)
        side.fill_betweenx(kelvin, bell, color=REFERENCE, alpha=0.6, lw=0)
    if len(shown):
        style = {"histtype": "step", "color": FORECAST, "orientation": "horizontal"}
        side.hist(shown, bins=40, density=True, **style)
    axes.axvspan(0, report["measured_from_ps"], color="0.95", lw=0, zorder=-1, label="left out")
    if report["failure"]["time_ps"] is not None:
        axes.axvline(report["failure"]["time_ps"], color=LIMIT, label="failure")
    margin = 0.05 * (high - low) + 1e-9
    axes.set(xlabel="time (ps)", ylabel="temperature (K)", ylim=(low - margin, high + margin))
    axes.set_xlim(0, max(times[-1], 1e-3))
    axes.set_title(f"{report['name']}: temperature of the forecast")
    axes.legend(loc="upper right", ncols=3)
    side.set_xticks([])
    side.spines["bottom"].set_visible(False)
    return figure


def plot_structure(forecast: dict, reference: dict) -> Figure:
    """Plot g(r) of every pair of species with that of the reference."""
    keys = _shared("rdf/", forecast, reference, but="r")
    figure, panels = _panels(len(keys))
    for axes, key in zip(panels, keys, strict=True):
        _over(axes, forecast["rdf/r"], forecast[key], reference["rdf/r"], reference[key])
        axes.set(title=key.removeprefix("rdf/").replace("-", "–"), xlabel="r (Å)", ylabel="g(r)")
        axes.set(xlim=(0, forecast["rdf/r"][-1]), ylim=(0, None))
    _legend(panels)
    return figure


def plot_vibrations(forecast: dict, reference: dict, part: dict) -> Figure:
    """Plot the VDOS of every element with that of the reference, folded at the same limit.

    The unfolded spectrum of the reference, beyond the Nyquist limit of the stride, is added.
    """
    keys = _shared("vdos/", forecast, reference, but="wavenumbers")
    figure, panels = _panels(len(keys))
    nyquist, end = part["nyquist_cm-1"], part["nyquist_cm-1"]
    for axes, key in zip(panels, keys, strict=True):
        grids = forecast["vdos/wavenumbers"], reference["vdos/wavenumbers"]
        if part["overlap"]:
            _over(axes, grids[0], 1e3 * forecast[key], grids[1], 1e3 * reference[key])
        else:  # the reference is folded at another Nyquist limit
            axes.plot(grids[0], 1e3 * forecast[key].mean(axis=0), color=FORECAST, label="forecast")
        stored = key.replace("vdos/", "vdos_stored/")
        if stored in reference:
            wide, density = reference["vdos_stored/wavenumbers"], 1e3 * reference[stored]
            end = max(end, wide[np.flatnonzero(density > 2e-3 * density.max())[-1]])
            label = f"reference, every {float(reference['stored_every']):g} fs"
            axes.plot(
                wide, density, color=STORED, linewidth=0.9, linestyle=(0, (3, 1.5)), label=label
            )
        interval = float(forecast["time_step"])
        label = f"Nyquist limit of {interval:g} fs (above it: folded)"
        axes.axvline(nyquist, color=LIMIT, linewidth=1, linestyle=":", label=label)
        axes.set_title("all, by mass" if key == "vdos/all" else key.removeprefix("vdos/"))
        axes.set(xlabel="wavenumber (cm⁻¹)", ylabel="density (10⁻³ cm)", ylim=(0, None))
    for axes in panels:
        axes.set_xlim(0, 1.03 * end)
    _legend(panels)
    return figure


def plot_displacements(forecast: dict, reference: dict) -> Figure:
    """Plot the mean squared displacement of every element with that of the reference."""
    keys = _shared("msd/", forecast, reference, but="times")
    figure, panels = _panels(len(keys))
    for axes, key in zip(panels, keys, strict=True):
        times = forecast["msd/times"] * 1e-3, reference["msd/times"] * 1e-3
        _over(axes, times[0], forecast[key], times[1], reference[key])
        axes.set(title=key.removeprefix("msd/"), xlabel="lag (ps)", xlim=(0, times[0][-1]))
        axes.set(ylabel="mean squared displacement (Å²)", ylim=(0, None))
    _legend(panels)
    return figure


def plot_energies(forecast: np.ndarray, reference: np.ndarray) -> Figure:
    """Plot histograms of potential energies (eV) relative to the reference's mean."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    middle = reference.mean()
    both = np.concatenate([forecast, reference]) - middle
    bins = int(np.clip(min(len(forecast), len(reference)) ** 0.5, 5, 60))
    edges = np.linspace(both.min(), both.max(), bins + 1)
    axes.hist(reference - middle, edges, density=True, color=REFERENCE, label="reference")
    axes.hist(
        forecast - middle, edges, density=True, color=FORECAST, histtype="step", label="forecast"
    )
    axes.set(xlabel="potential energy − reference's mean (eV)", ylabel="density (1/eV)")
    axes.legend()
    return figure


def plot_dihedrals(forecast: dict, reference: dict) -> Figure:
    """Plot the free energy −ln p (k_B T) of every dihedral angle with that of the reference."""
    keys = _shared("dihedral/", forecast, reference, but="degrees")
    figure, panels = _panels(len(keys))
    for axes, key in zip(panels, keys, strict=True):
        degrees = forecast["dihedral/degrees"]
        curves = {"reference": (reference[key], STORED), "forecast": (forecast[key], FORECAST)}
        for label, (blocks, color) in curves.items():
            density = blocks.mean(axis=0)
            with np.errstate(divide="ignore"):
                energy = -np.log(density / density.max())
            axes.plot(degrees, np.where(density > 0, energy, np.nan), color=color, label=label)
        axes.set(title=key.removeprefix("dihedral/"), xlabel="angle (degrees)", xlim=(-180, 180))
        axes.set(ylabel="free energy (k_B T)", ylim=(0, None))
    _legend(panels)
    return figure


def _shared(prefix: str, a: dict, b: dict, but: str) -> list[str]:
    return [key for key in a if key.startswith(prefix) and key in b and key != prefix + but]


def _panels(n: int):
    """Make a figure of n panels, three per row."""
    columns = min(n, 3)
    rows = -(-n // columns)
    figure = Figure(figsize=(1.2 + 3.6 * columns, 0.5 + 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[n:]:
        axes.remove()
    return figure, panels[:n]


def _over(axes, x, ours, grid, theirs) -> None:
    """Plot the mean of the forecast (block, point) with its standard error over the reference."""
    axes.fill_between(grid, theirs.mean(axis=0), color=REFERENCE, lw=0, label="reference")
    axes.plot(x, ours.mean(axis=0), color=FORECAST, label="forecast")
    if len(ours) > 1:
        mean, error = ours.mean(axis=0), ours.std(axis=0, ddof=1) / len(ours) ** 0.5
        axes.fill_between(x, mean - error, mean + error, color=FORECAST, alpha=0.25, lw=0)


def _legend(panels) -> None:
    """Add one legend for all panels below them."""
    handles, labels = panels[0].get_legend_handles_labels()
    panels[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
