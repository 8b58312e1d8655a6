"""LAMMPS dumps of a thermal crystal with known motion, in the forms that LAMMPS writes."""

import gzip

import numpy as np

from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

MASSES = {"Si": 28.085, "O": 15.999}
SYMBOLS = np.array(["Si", "O", "O"] * 18)
TYPES = np.where(SYMBOLS == "Si", 1, 2)
TRICLINIC = np.array([[9.0, 0, 0], [-2.0, 9.5, 0], [1.0, 0.5, 10.0]])
STEP = 10
"""Integration steps of 1 fs between frames."""


def motion(n_frames=30, cell=TRICLINIC, drift=0.004, seed=0, h=10.0):
    """Positions (time, atom, 3) in Å, unwrapped, and velocities in Å/fs, about 300 K."""
    random = np.random.default_rng(seed)
    grid = np.array([(i, j, k) for i in range(3) for j in range(3) for k in range(6)])
    sites = (grid / [3, 3, 6] + [0.05, 0.1, 0.02]) @ cell
    mass = np.array([MASSES[s] for s in SYMBOLS])[:, None]
    frequency = 2 * np.pi / random.uniform(80, 400, size=sites.shape)
    amplitude = np.sqrt(2 * BOLTZMANN * 300 / (mass * KINETIC_TO_EV)) / frequency
    amplitude = np.minimum(amplitude, 0.25)
    phase = random.uniform(0, 2 * np.pi, size=sites.shape)
    t = np.arange(n_frames)[:, None, None] * h
    angle = t * frequency + phase
    velocity = np.array([drift, 0, 0])
    positions = sites + amplitude * np.cos(angle) + t * velocity
    return positions, -amplitude * frequency * np.sin(angle) + velocity


def wrapped(positions, cell):
    """Positions in the cell, and image flags."""
    images = np.floor(positions @ np.linalg.inv(cell))
    return positions - images @ cell, images.astype(int)


def bounds(cell, form="restricted", origin=(0.0, 0.0, 0.0)):
    """The lines of BOX BOUNDS, and the words after it."""
    origin = np.array(origin)
    if form == "general":
        rows = [[*vector, o] for vector, o in zip(cell, origin, strict=True)]
        return rows, "abc origin"
    lo, hi = origin.copy(), origin + np.diag(cell)
    xy, xz, yz = cell[1, 0], cell[2, 0], cell[2, 1]
    if not np.any([xy, xz, yz]):
        return np.column_stack([lo, hi]).tolist(), ""
    lo[0] += min(0, xy, xz, xy + xz)
    hi[0] += max(0, xy, xz, xy + xz)
    lo[1] += min(0, yz)
    hi[1] += max(0, yz)
    return np.column_stack([lo, hi, [xy, xz, yz]]).tolist(), "xy xz yz"


def write_dump(path, columns="id type element x y z ix iy iz vx vy vz", **change):
    """Write a dump; `change` says how it differs from a plain one in units metal."""
    c = {"cell": TRICLINIC, "form": "restricted", "flags": "pp pp pp", "rows": None, "speed": 1e3,
         "units": "", "time": False, "shuffle": True, "steps": None, "scale": 1.0,
         "origin": (0.0, 0.0, 0.0), "symbols": SYMBOLS, "n_frames": 30} | change  # fmt: skip
    cell, random = c["cell"], np.random.default_rng(1)
    r, v = motion(c["n_frames"], cell)
    inside, images = wrapped(r, cell)
    rows = range(len(r)) if c["rows"] is None else c["rows"]
    box, words = bounds(c["scale"] * cell, c["form"], c["origin"])
    open_ = gzip.open if str(path).endswith(".gz") else open
    with open_(path, "wt") as file:
        for number, i in enumerate(rows):
            if c["units"] and not number:
                file.write(f"ITEM: UNITS\n{c['units']}\n")
            if c["time"]:
                file.write(f"ITEM: TIME\n{i * 0.01:.10g}\n")
            step = i * STEP if c["steps"] is None else c["steps"][number]
            file.write(f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(SYMBOLS)}\n")
            file.write(f"ITEM: BOX BOUNDS {words} {c['flags']}".rstrip() + "\n")
            file.writelines(" ".join(f"{x:.16g}" for x in row) + "\n" for row in box)
            file.write(f"ITEM: ATOMS {columns}\n")
            scaled = inside[i] @ np.linalg.inv(cell)
            tables = {
                "x": inside[i] + np.array(c["origin"]),
                "xs": scaled,
                "xu": r[i] + np.array(c["origin"]),
                "xsu": r[i] @ np.linalg.inv(cell),
            }
            order = random.permutation(len(SYMBOLS)) if c["shuffle"] else range(len(SYMBOLS))
            for a in order:
                known = {
                    "id": a + 1,
                    "type": TYPES[a],
                    "element": c["symbols"][a],
                    "mass": MASSES[SYMBOLS[a]],
                }
                for name, table in tables.items():
                    factor = c["scale"] if name in ("x", "xu") else 1.0
                    for k, axis in enumerate("xyz"):
                        known[name.replace("x", axis, 1)] = f"{factor * table[a, k]:.8g}"
                for k, axis in enumerate("xyz"):
                    known[f"i{axis}"] = images[i, a, k]
                    known[f"v{axis}"] = f"{c['speed'] * v[i, a, k]:.8g}"
                file.write(" ".join(str(known[name]) for name in columns.split()) + "\n")
    return path, r, v
