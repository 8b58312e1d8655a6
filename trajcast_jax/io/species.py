"""From what files call their atoms to elements: symbols, types, names, masses.

A number or a name is an element only where the file's format says so. All else is asked for.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from jaxtyping import Float, Int

from trajcast_jax.io.masses import element_of, is_hydrogen, plausible
from trajcast_jax.io.options import ReadOptions, note

ISOTOPES = {"D": (1, 2.014), "T": (1, 3.016)}
"""Element and mass (Da) of symbols that are isotopes."""
_DUMMIES = "X XX DUM M MW MW1 MW2 LP LP1 LP2 LPA LPB EP EPW"
DUMMIES = frozenset(_DUMMIES.split())
"""Names of sites without mass."""
MASS_TOLERANCE = 0.05
STATED_TOLERANCE = 0.1
"""The same of a file that states the elements, whose masses may be those of isotopes."""
TOLD = 0.01
"""Share by which a stated mass differs from the element's mean where it is worth a word."""
TINY = 0.5
"""Da, the largest mass of sites that stand for none (LAMMPS allows no mass of 0)."""
IONS = {
    "NA": "Na", "NA+": "Na", "SOD": "Na", "CL": "Cl", "CL-": "Cl", "CLA": "Cl", "K": "K",
    "K+": "K", "POT": "K", "LI": "Li", "LI+": "Li", "LIT": "Li", "MG": "Mg", "MG2+": "Mg",
    "CA": "Ca", "CA2+": "Ca", "CAL": "Ca", "ZN": "Zn", "ZN2+": "Zn", "CS": "Cs", "CES": "Cs",
    "RB": "Rb", "RB+": "Rb", "F": "F", "F-": "F", "BR": "Br", "BR-": "Br", "I": "I", "I-": "I",
    "BA": "Ba", "SR": "Sr", "AR": "Ar", "NE": "Ne", "HE": "He", "KR": "Kr", "XE": "Xe",
}  # fmt: skip
"""Element of residues of a single atom, by the name that residue and atom share."""
_WATERS = "SOL HOH WAT H2O TIP TIP3 TIP3P TIP4 TIP4P TIP5 TIP5P SPC SPCE OPC"
WATERS = frozenset(_WATERS.split())
_POLYMERS = (
    "ALA ARG ASN ASP CYS CYX CYM GLN GLU GLY HIS HID HIE HIP HSD HSE HSP ILE LEU LYS LYN MET MSE "
    "PHE PRO SER THR TRP TYR VAL ACE NME NMA NH2 NAC DA DC DG DT DU A C G U T ADE CYT GUA URA THY "
    "DA5 DA3 DC5 DC3 DG5 DG3 DT5 DT3 RA RC RG RU A5 A3 C5 C3 G5 G3 U5 U3"
)
POLYMERS = frozenset(_POLYMERS.split())
"""Residues whose atoms are named by an element of one letter, then their place."""


class Elements(NamedTuple):
    """Elements and masses of atoms."""

    species: Int[np.ndarray, "atom"]  # 0: a site without mass
    masses: Float[np.ndarray, "atom"]  # Da


def from_text(symbols: Sequence[str], path: Path, masses=None) -> Elements:
    """Elements of the symbols in a file.

    Two capitals (CA, HO) are more often the name of an atom than an element, and are one only if
    the masses (Da) of the file say so.

    Raises:
      ValueError: one is no symbol, or may be none.
    """
    _ask_capitals(symbols, masses, path)
    return from_symbols(symbols, path)


def from_symbols(symbols: Sequence[str], path: Path) -> Elements:
    """Elements of chemical symbols; D and T are hydrogen, X has no mass.

    Raises:
      ValueError: one is no symbol.
    """
    known = {s: _symbol(s) for s in set(symbols)}
    for symbol, found in known.items():
        if found is None:
            raise ValueError(
                f"{path} calls atoms '{symbol}', which is no element; say what each name is by "
                f"species: --species {symbol}=Si, with the right element for Si."
            )
    pairs = [known[s] for s in symbols]
    return Elements(np.array([z for z, _ in pairs], int), np.array([m for _, m in pairs], float))


def _ask_capitals(symbols: Sequence[str], masses, path: Path) -> None:
    """A question about two capitals that masses do not tell to be an element."""
    unsure = {}
    for i, s in enumerate(symbols):
        z = atomic_numbers.get(s.capitalize(), 0)
        if len(s) < 2 or not s.isupper() or s in DUMMIES or not z:
            continue
        if masses is None or abs(masses[i] - atomic_masses[z]) > MASS_TOLERANCE * atomic_masses[z]:
            unsure[s] = s.capitalize()
    if unsure:
        names = " ".join(f"{name}={element}" for name, element in sorted(unsure.items()))
        first = min(unsure)
        raise ValueError(
            f"{path} calls atoms {', '.join(sorted(unsure))} in capitals, which may be elements "
            f"or names of atoms ({first}: {unsure[first]}, or {first[0]}?); say what each name of "
            f"the file is by species: --species {names}, with the right elements."
        )


def _symbol(text: str) -> tuple[int, float] | None:
    """(atomic number, mass) of a symbol; (0, 0) of a site without mass; None of anything else."""
    if text in ISOTOPES:
        return ISOTOPES[text]
    if text.upper() in DUMMIES:
        return 0, 0.0
    z = atomic_numbers.get(text.capitalize() if text.isupper() else text, 0)
    return (z, float(atomic_masses[z])) if z else None


def from_labels(
    labels: Sequence, options: ReadOptions, path: Path, masses=None, kind: str = "type"
) -> Elements:
    """Elements of atoms that a file gives types (1, 2, …) or names, as `options.species` says.

    Masses (Da) of the file are kept and must agree with the elements.

    Raises:
      ValueError: the options do not tell the element of each label, or masses disagree.
    """
    labels = np.asarray(labels)
    found, counts = np.unique(labels, return_counts=True)
    if not options.species:
        raise ValueError(_question(labels, found, counts, path, masses, kind))
    if any("=" in s for s in options.species):
        named = dict(s.split("=", 1) for s in options.species)
    elif len(options.species) == len(labels) and len(labels) > len(found):
        return check_masses(from_symbols(options.species, path), labels, masses, path, kind)
    elif kind == "type":
        named = _by_order(found, options, path, counts, kind)
    elif set(map(str, found)) <= set(options.species):  # these elements, which the file names
        named = {str(label): str(label) for label in found}
    else:
        raise ValueError(
            f"{path} does not number its atoms but names {kind}s, {_listed(found, counts)}, and "
            f"species are {_said(options)}; say what each name is: --species {found[0]}=O, with "
            "the right element."
        )
    if kind == "name":  # those that are not named are what they say
        plain = [str(label) for label in found if str(label) in chemical_symbols]
        named = {label: label for label in plain} | named
    missing = [str(label) for label in found if str(label) not in named]
    if missing:
        raise ValueError(
            f"{path} has the {kind}s {_listed(found, counts)}, and species ({_said(options)}) does "
            f"not tell what {', '.join(missing)} is; name every {kind} (--species)."
        )
    elements = from_symbols([named[str(label)] for label in labels], path)
    return check_masses(elements, labels, masses, path, kind)


def _by_order(found, options: ReadOptions, path: Path, counts, kind: str) -> dict[str, str]:
    """Element of each label from elements in the order of types."""
    said = options.species
    more = len(said) > len(found) or found[-1] == len(said)
    if np.issubdtype(found.dtype, np.integer) and found[0] >= 1 and found[-1] <= len(said) and more:
        return {str(i + 1): s for i, s in enumerate(said)}
    if len(said) != len(found):
        raise ValueError(
            f"{path} has {len(found)} {kind}s of atoms, {_listed(found, counts)}, but species are "
            f"{len(said)} ({_said(options)}); name one for each {kind} in order (--species)."
        )
    return {str(label): s for label, s in zip(found, said, strict=True)}


def check_masses(elements: Elements, labels, masses, path: Path, kind: str = "element") -> Elements:
    """The elements with the file's masses, if these agree."""
    if masses is None:
        return elements
    masses = np.asarray(masses, float)
    expected = np.where(elements.species > 0, elements.masses, 0.0)
    tolerance = STATED_TOLERANCE if kind == "element" else MASS_TOLERANCE
    off = ~plausible(elements.species, masses, tolerance)
    off &= np.abs(masses - expected) > tolerance * expected  # of D and T
    off &= ~((elements.species == 0) & (masses <= TINY))
    if off.any():
        i = int(np.argmax(off))
        raise ValueError(
            f"{path} gives atoms of {kind} {labels[i]} a mass of {masses[i]:.5g} Da, but "
            f"{chemical_symbols[elements.species[i]]} has {expected[i]:.5g}; name the right "
            "elements (--species)."
        )
    _say_masses(elements, masses, expected, path)
    return Elements(elements.species, np.where(elements.species > 0, masses, 0.0))


def _say_masses(elements: Elements, masses, expected, path: Path) -> None:
    """A word on masses that are not the elements' mean ones."""
    other = (elements.species > 0) & (np.abs(masses - expected) > TOLD * expected)
    if other.any():
        pairs = zip(elements.species[other], np.round(masses[other], 4), strict=True)
        told = [f"{chemical_symbols[z]} {mass:g}" for z, mass in sorted(set(pairs))]
        note(
            f"{path}: masses are those of the file, which are not the elements' mean ones: "
            f"{', '.join(told[:8])}{', …' if len(told) > 8 else ''} Da."
        )


def _question(labels, found, counts, path: Path, masses, kind: str) -> str:
    text = f"{path} numbers its atoms" if kind == "type" else f"{path} names its atoms"
    hint = ""
    if masses is not None:
        each = [f"{label}: {np.asarray(masses)[labels == label][0]:.5g} Da" for label in found]
        hint = f" ({', '.join(each[:8])})"
    return (
        f"{text} and does not tell their elements: {kind}s {_listed(found, counts)}{hint}. Say the "
        f"element of each {kind} in this order by species: --species Si O, with the right elements."
    )


def _listed(found, counts) -> str:
    each = [f"{a} ({n} atoms)" for a, n in zip(found, counts, strict=True)]
    return ", ".join(each[:12]) + (", …" if len(each) > 12 else "")


def _said(options: ReadOptions) -> str:
    return " ".join(options.species[:12])


def from_numbers(numbers, options: ReadOptions, path: Path, masses=None) -> Elements:
    """Elements of integers that a file calls species: atomic numbers, or types.

    They are atomic numbers if the masses say so. Without masses, they may be types if they count
    from 0 or 1, are all small, or have helium beside other elements.

    Raises:
      ValueError: they may be types, and the options do not tell the elements.
    """
    numbers = np.asarray(numbers).astype(int)
    found = np.unique(numbers)
    if options.species:
        return from_labels(numbers, options, path, masses)
    if found[0] >= 0 and found[-1] < len(atomic_masses):
        if masses is not None and found[0] > 0:
            masses = np.asarray(masses, float)
            agree = plausible(numbers, masses, MASS_TOLERANCE)
            if (agree & ((numbers > 1) | is_hydrogen(masses) | (masses < 1.1))).all():
                known = Elements(numbers, atomic_masses[numbers])
                return check_masses(known, numbers, masses, path)
        counting = np.array_equal(found, np.arange(len(found)) + found[0]) and found[0] <= 1
        small = found[-1] <= 5 or (2 in found and len(found) > 1)
        if masses is None and found[0] > 0 and not counting and not small:
            return Elements(numbers, atomic_masses[numbers])
    return from_labels(numbers, options, path, masses)  # asks


def from_masses(labels, masses, options: ReadOptions, path: Path) -> Elements:
    """Elements of types by the masses (Da) that a file gives them, with a word.

    Raises:
      ValueError: a mass is no element's.
    """
    if options.species:
        return from_labels(labels, options, path, masses)
    labels, masses = np.asarray(labels), np.asarray(masses, float)
    species, told = np.zeros(len(masses), int), []
    every = np.unique(masses)
    for mass in every[every != 0]:
        z = element_of(mass, every)
        if not z:  # united atoms, rounded masses, tritium or helium-3
            return from_labels(labels, options, path, masses)  # asks
        species[masses == mass] = z
        told.append(f"{mass:.5g} Da is {chemical_symbols[z]}")
    note(f"{path}: elements were taken from masses: {', '.join(told)}.")
    return Elements(species, masses)


def from_names(
    names: Sequence[str], residues: Sequence[str], options: ReadOptions, path: Path
) -> Elements:
    """Elements of atoms by their names and those of their residues (GROMACS, PDB, AMBER).

    Raises:
      ValueError: a name may mean several elements, and the options do not tell which.
    """
    said = dict(s.split("=", 1) for s in options.species if "=" in s)
    if options.species and not said:
        if len(options.species) == len(names):
            return from_symbols(options.species, path)
        return from_labels(list(names), options, path, kind="name")
    pairs = set(zip(names, residues, strict=True))
    known = {pair: said.get(pair[0]) or _named(*pair) for pair in pairs}
    unknown = sorted({name for (name, _), symbol in known.items() if symbol is None})
    if unknown:
        of = next(r for n, r in pairs if n == unknown[0])
        raise ValueError(
            f"{path} names atoms {', '.join(unknown[:12])} (of residue {of}), which may mean "
            f"several elements; say which: --species {unknown[0]}=C, with the right element for "
            f"each name, or {unknown[0]}=X for a site without mass."
        )
    elements = from_symbols([known[pair] for pair in zip(names, residues, strict=True)], path)
    shown = sorted({f"{n} of {r} as {known[n, r]}" for n, r in pairs})
    note(
        f"{path}: elements were taken from names: {', '.join(shown[:8])}"
        f"{', …' if len(shown) > 8 else ''}."
    )
    return elements


def _named(name: str, residue: str) -> str | None:
    """The element of an atom by its name and its residue's; None if that is not certain."""
    name, residue = name.strip().upper(), residue.strip().upper()
    letters = re.sub(r"[^A-Z].*", "", name.lstrip("0123456789"))
    if name in IONS and (name == residue or residue == "ION" or IONS.get(residue) == IONS[name]):
        return IONS[name]
    if name in DUMMIES:
        return "X"
    if not letters:
        return None
    if residue in WATERS or residue in POLYMERS:
        if residue == "MSE" and letters == "SE":
            return "Se"
        return letters[0] if letters[0] in "HCNOPS" else None
    first = letters[0] if letters[0] in "HBCNOFPSIK" else None
    two = letters[:2].capitalize() in chemical_symbols and len(letters) > 1
    if not two:
        return first if first in tuple("HCNOFPS") else None
    return None
