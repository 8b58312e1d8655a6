"""Read trajectories that need a second file for their atoms, by MDAnalysis (extra `formats`)."""

import contextlib
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import Recording, decide_cell, select, without_massless
from trajcast_jax.io.species import Elements, check_masses, from_masses, from_names, from_symbols
from trajcast_jax.io.times import rounding
from trajcast_jax.io.xdr import require_sound
from trajcast_jax.units import VELOCITY_UNITS

TRAJECTORIES = (".trr", ".xtc", ".nc", ".ncdf", ".mdcrd", ".dcd", ".tng")
WITHOUT_VELOCITIES = {
    ".xtc": "let GROMACS write a .trr (nstxout = nstvout in the .mdp file)",
    ".mdcrd": "let AMBER write a NetCDF file with velocities (ioutfm = 1, ntwv = -1)",
    ".dcd": "let the program write velocities; OpenMM: see the guide, its velocities may lag",
}
"""Formats that have no velocities, and what to write instead."""
PS = 1e3  # fs


def read_with_topology(
    path: Path, selection: slice | int, options: ReadOptions, still: bool = False
) -> Recording:
    """Read coordinates and velocities of `path`, and the atoms of `options.topology`.

    Without a topology `options.species` must name the element of each atom.

    Raises:
      ModuleNotFoundError: MDAnalysis is not installed.
      IndexError: there is no such frame.
      ValueError: the file has no velocities, or the elements of its atoms are left open.
    """
    suffix = path.suffix.lower()
    if suffix in WITHOUT_VELOCITIES and not still:
        raise ValueError(
            f"{path} has no velocities, as no {suffix} file has: {WITHOUT_VELOCITIES[suffix]}."
        )
    if options.topology is None and not options.species:
        raise ValueError(
            f"{path} does not tell the elements of its atoms; give the file that does by topology "
            "(--topology FILE: .tpr, .gro, .pdb, .prmtop, .psf)."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms = _topology(options.topology) if options.topology else None
        number, rows = _read(path, selection, atoms, still)
    elements = _elements(atoms, options, path, rows["positions"].shape[1])
    cells = rows["cells"]
    if len(cells) and np.abs(cells - cells[0]).max() > 1e-4 * max(np.abs(cells[0]).max(), 1e-9):
        raise ValueError(
            f"The cell changes along {path} (constant pressure?); only constant volume can be used."
        )
    factor = VELOCITY_UNITS["angstrom/ps"]
    cell = cells[0] if len(cells) else np.zeros((3, 3))
    recording = Recording(
        positions=rows["positions"],
        velocities=factor * rows["velocities"],
        species=elements.species,
        masses=elements.masses,
        cell=decide_cell(cell, True if np.any(cell) else None, options, path),
        index=number,
        velocity_unit="" if still else "angstrom/ps, to which MDAnalysis converts",
        steps=rows["steps"] if len(rows["steps"]) == len(number) else None,
        times=PS * rows["times"],
        rounding=PS * rounding(rows["times"]),
        factor=factor,
        unit_hint="check the file.",
    )
    return without_massless(recording, path)


def _mdanalysis():
    try:
        import MDAnalysis
        import MDAnalysis.coordinates.core
    except ImportError as error:
        raise ModuleNotFoundError(
            "Files of GROMACS and AMBER are read by MDAnalysis, which is not installed: "
            'pip install "trajcast_jax[formats]".'
        ) from error
    return MDAnalysis


def _topology(path: Path):
    mda = _mdanalysis()
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no topology {path}; check the path.")
    try:
        return mda.Universe(str(path), to_guess=()).atoms
    except Exception as error:  # MDAnalysis raises many types of errors
        with _silent_deletion():
            traceback.clear_frames(error.__traceback__)
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(
            f"MDAnalysis cannot read the topology {path} ({type(error).__name__}: {reason})."
        ) from error


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the many types of errors that MDAnalysis raises into one."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        with _silent_deletion():
            traceback.clear_frames(error.__traceback__)
        cure = "is it complete, and of the atoms of its topology?"
        if isinstance(error, NotImplementedError):
            cure = "of LAMMPS, give a text dump (dump custom ... id element x y z vx vy vz)."
        raise ValueError(
            f"MDAnalysis cannot read {path} ({type(error).__name__}: {error}); {cure}"
        ) from error


@contextlib.contextmanager
def _silent_deletion() -> Iterator[None]:
    """Say nothing of what goes wrong where a half-built reader is deleted."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _read(path: Path, selection: slice | int, atoms, still: bool):
    """Numbers of the frames and their arrays: Å, Å/ps, ps."""
    found = {"positions": [], "velocities": [], "times": [], "steps": [], "cells": []}
    numbers, without = [], 0
    known = {} if atoms is None else {"n_atoms": len(atoms)}
    require_sound(path)
    with _readable(path):
        reader = _mdanalysis().coordinates.core.get_reader_for(str(path))(str(path), **known)
        length = len(reader)
    chosen = select(range(length), selection, path)
    with _readable(path):
        for i in chosen:
            frame = reader[i]
            if (not still and not frame.has_velocities) or not frame.has_positions:
                without += 1
                continue
            numbers.append(i)
            found["positions"].append(np.array(frame.positions, np.float64))
            moving = np.array(frame.velocities, np.float64) if not still else 0.0
            found["velocities"].append(moving + np.zeros_like(found["positions"][-1]))
            found["times"].append(float(frame.time))
            if "step" in frame.data:
                found["steps"].append(int(frame.data["step"]))
            cell = frame.dimensions
            cell = np.zeros((3, 3)) if cell is None else frame.triclinic_dimensions
            found["cells"].append(np.array(cell, np.float64))
    if not numbers:
        raise ValueError(
            f"{path} has no frames with positions and velocities among those asked for; write both "
            "at the same steps (GROMACS: nstxout = nstvout; AMBER: ntwv = -1)."
        )
    if without:
        note(f"{path}: {without} frames without positions or velocities were left out.")
    return np.array(numbers), {name: np.array(value) for name, value in found.items()}


def _elements(atoms, options: ReadOptions, path: Path, n_atoms: int) -> Elements:
    """Elements that a topology states, else by mass, else by the names of atoms and residues."""
    if atoms is None:
        if len(options.species) != n_atoms:
            raise ValueError(
                f"{path} has {n_atoms} atoms, but species names {len(options.species)}; without a "
                "topology (--topology) name the element of each atom."
            )
        return from_symbols(options.species, path)
    where = Path(options.topology)
    if len(atoms) != n_atoms:
        raise ValueError(f"{path} has {n_atoms} atoms, but {where} {len(atoms)}; give its own.")
    stated = getattr(atoms, "elements", None)
    masses = getattr(atoms, "masses", None)
    names = getattr(atoms, "names", None)
    if stated is not None and all(stated) and not options.species:
        symbols = [str(s).capitalize() for s in stated]
        heavy = masses is not None and np.any(np.asarray(masses) > 0)
        return check_masses(from_symbols(symbols, where), symbols, masses if heavy else None, where)
    if masses is not None and np.any(masses > 0) and not options.species:
        return from_masses(names if names is not None else masses, masses, options, where)
    if names is None:
        raise ValueError(f"{where} tells neither elements, masses nor names of the atoms.")
    residues = getattr(atoms, "resnames", [""] * n_atoms)
    return from_names([str(x) for x in names], [str(x) for x in residues], options, where)
