"""Units of H5MD files of other programs: by their attributes, or as the options say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from trajcast_jax.io.checks import other_units
from trajcast_jax.io.options import ReadOptions
from trajcast_jax.units import ATOMIC_TIME, BOHR, LAMMPS_UNITS, VELOCITY_UNITS

LENGTHS = {"Angstrom": 1.0, "angstrom": 1.0, "Å": 1.0, "nm": 10.0, "pm": 0.01, "bohr": BOHR,
           "m": 1e10}  # fmt: skip
TIMES = {"fs": 1.0, "ps": 1e3, "ns": 1e6, "s": 1e15, "atu": ATOMIC_TIME}
SPEEDS = {
    f"{length}{form.format(time)}": LENGTHS[length] / TIMES[time]
    for form in (" {}-1", "/{}")
    for length in LENGTHS
    for time in TIMES
}


def unit_factor(data: h5py.Dataset, known: Mapping[str, float], path: Path) -> float | None:
    """Factor of the unit that a dataset states; None if it states none."""
    unit = data.attrs.get("unit")
    if unit is None:
        return None
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    if unit not in known:
        some = [name for name in known if "/" not in name]
        if known is SPEEDS:
            some = ["Angstrom fs-1", "Angstrom ps-1", "nm ps-1"]
        raise ValueError(
            f"{path} gives {data.name} in '{unit}'; it must state one of {', '.join(some)}."
        )
    return known[unit]


def require_one_unit(particles: h5py.Group, names: list[str], path: Path) -> None:
    """All groups of particles state the units of the first, or none.

    Raises:
      ValueError: one does not.
    """
    for part in ("position/value", "velocity/value", "position/time"):
        found = {}
        for name in names:
            if part in particles[name]:
                unit = particles[name][part].attrs.get("unit", "no unit")
                found[name] = unit.decode() if isinstance(unit, bytes) else str(unit)
        if len(set(found.values())) > 1:
            each = ", ".join(f"{unit} in '{name}'" for name, unit in found.items())
            raise ValueError(f"{path} gives {part} in several units ({each}); use one.")


def scales(first, groups, options: ReadOptions, path: Path, still: bool):
    """Factors of lengths, times and velocities, by the file or the options; and their name."""
    names = ("length", "time", "velocity")
    said = dict(zip(names, LAMMPS_UNITS.get(options.units, ()), strict=False))
    if options.velocity_unit in SPEEDS or options.velocity_unit == "bohr/atu":
        length, time = options.velocity_unit.split("/")
        both = {"length": LENGTHS[length], "time": TIMES[time]}
        said = {**both, **said, "velocity": VELOCITY_UNITS[options.velocity_unit]}
    found = {"length": unit_factor(first["position/value"], LENGTHS, path)}
    if not still:
        found["velocity"] = unit_factor(first["velocity/value"], SPEEDS, path)
    if "time" in first["position"] and groups[0].times is not None:
        found["time"] = unit_factor(first["position/time"], TIMES, path)
    if options.time_step is not None:  # which tells more of times than the unit of velocities
        said.pop("time", None)
    for name, value in found.items():
        if value is not None and name in said and not np.isclose(value, said[name], rtol=1e-6):
            raise ValueError(
                f"{path} states the unit of its {name}s, and it is another than what --units or "
                "--velocity-unit say; leave them out."
            )
    scale = {"time": 1.0, "velocity": 0.0} | {
        name: said.get(name) if value is None else value for name, value in found.items()
    }
    unknown = [name for name, value in scale.items() if value is None]
    if unknown == ["time"] and options.time_step is not None and len(groups[0].times) > 1:
        steps = np.diff(groups[0].times)
        scale["time"] = options.time_step / float(np.median(steps[steps > 0]))
        unknown = []
    if unknown:
        told = "" if still else _guess(groups)
        raise ValueError(
            f"{path} has no unit attribute of its {', '.join(unknown)}; say the units by units "
            f"(--units metal, real, ...) or velocity_unit (--velocity-unit nm/ps, ...).{told}"
        )
    names = {v: k for k, v in reversed(SPEEDS.items())}
    return scale, names.get(scale["velocity"], options.velocity_unit or options.units)


def _guess(groups: Sequence) -> str:
    """What the velocities would mean in several units, if masses are known."""
    if any(g.masses is None for g in groups) or not len(groups[0].velocities):
        return ""
    velocities = np.concatenate([g.velocities[:1] for g in groups], axis=1)
    return other_units(velocities, np.concatenate([g.masses for g in groups]))
