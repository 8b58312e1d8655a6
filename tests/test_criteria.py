"""Criteria of a verdict beyond g(r): what is right passes, what is wrong is missed by its name."""

import dataclasses
import json
import math

import numpy as np
import pytest
from salt import SETTINGS, salt
from test_molecular_observables import peroxide, torsions
from test_verdict import report

from trajcast_jax.analysis import comparison
from trajcast_jax.analysis.bands import compare_bands, find_bands
from trajcast_jax.analysis.evaluation import compare, reference_observables
from trajcast_jax.analysis.observables import cut
from trajcast_jax.analysis.verdict import judge, shortfall
from trajcast_jax.analysis.verdict_tables import render_verdict
from trajcast_jax.config import EvaluationSettings, RolloutSettings
from trajcast_jax.units import (
    BOLTZMANN,
    KINETIC_TO_EV,
    WAVENUMBER_PER_INVERSE_FEMTOSECOND,
)

MOVED = "mean squared displacement"
NAMES = (
    "failure", "mean temperature", "temperatures of elements", "temperatures of modes", "g(r)",
    "vibrational spectrum", MOVED, "bond lengths", "angles",
    "widths of bonds and angles", "torsions", "potential energy",
)  # fmt: skip


def scored(name: str, value, noise, error=0.01) -> dict:
    return {name: value, f"{name}_error": error, f"{name}_among_reference": noise}


def full(**changes) -> dict:
    """A good report in which everything can be judged; of 100 ps, like a block of reference."""
    v = {
        "msd": 8.0, "msd_noise": 5.0, "msd_error": 3.0, "diffuses": True, "bond": 0.002,
        "bond_noise": 0.001, "angle": -0.2, "angle_noise": 0.1, "width": 2.0, "width_noise": 1.0,
        "torsion": 0.2, "torsion_noise": 0.1, "band": 310.0, "band_error": 3.0, "band_ref": 301.0,
        "energy": 0.01, "energy_error": 0.001, "stretch": 1.2,
    } | {k: x for k, x in changes.items() if k in DEFAULTS}  # fmt: skip
    thermal = 10 * BOLTZMANN * 300.0
    return report(**{k: x for k, x in changes.items() if k not in DEFAULTS}) | {
        "n_atoms": 10,
        "msd": {
            "lag_ps": 10.0,
            "O": scored("deviation_percent", v["msd"], v["msd_noise"], v["msd_error"])
            | {"diffuses": v["diffuses"]},
        },
        "molecules": {
            "bonds": {"O–H": {"reference_mean_A": 1.0}
                      | scored("difference_A", v["bond"], v["bond_noise"], 1e-4)},
            "angles": {"H–O–H": scored("difference_degrees", v["angle"], v["angle_noise"])},
            "widths": {"O–H": scored("deviation_percent", v["width"], v["width_noise"])},
            "dihedrals": {"C–C–O–H": scored("deviation_kT", v["torsion"], v["torsion_noise"])},
            "unmatched": [],
            "reference_stretch": v["stretch"],
        },
        "modes": {
            "reference_K": 300.0,
            "bands": {"10–50": {"mean_K": v["band"], "mean_K_error": v["band_error"],
                                "reference_mean_K": v["band_ref"]}},
        },
        "potential_energy_eV": v["energy"] * thermal - 100.0,
        "potential_energy_eV_error": v["energy_error"] * thermal,
        "reference_potential_energy_eV": -100.0,
        "reference_potential_energy_eV_error": 0.001 * thermal,
    }  # fmt: skip


DEFAULTS = {
    "msd", "msd_noise", "msd_error", "diffuses", "bond", "bond_noise", "angle", "angle_noise",
    "width", "width_noise", "torsion", "torsion_noise", "band", "band_error", "band_ref", "energy",
    "energy_error", "stretch",
}  # fmt: skip


def test_everything_is_judged_and_a_good_forecast_passes():
    verdict = judge(full())
    assert verdict["passed"] is True, verdict["sentence"]
    assert tuple(row["name"] for row in verdict["criteria"]) == NAMES
    assert verdict["unchecked"] == []
    assert all(0 <= row["ratio"] <= 1 for row in verdict["criteria"])
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict


MISSED = {
    MOVED: [{"msd": 60.0}, {"msd": -40.0}],
    "bond lengths": [{"bond": 0.03}, {"bond": -0.03}],
    "angles": [{"angle": 3.0}, {"angle": -3.0}],
    "widths of bonds and angles": [{"width": -15.0}],
    "torsions": [{"torsion": 1.0}, {"torsion": None}],
    "temperatures of modes": [{"band": 365.0}, {"band": 200.0}, {"band": 400.0, "band_ref": 250.0}],
    "potential energy": [{"energy": 0.1}, {"energy": -0.1}],
}


@pytest.mark.parametrize(
    ("name", "changes"), [(n, c) for n, cases in MISSED.items() for c in cases]
)
def test_what_is_off_is_missed_by_its_name(name, changes):
    verdict = judge(full(**changes))
    assert [row["name"] for row in verdict["criteria"] if row["passed"] is False] == [name]
    ratios = {row["name"]: row["ratio"] for row in verdict["criteria"]}
    assert ratios[name] is None or ratios[name] > 1
    assert verdict["shortfall"] > judge(full())["shortfall"]


UNDECIDED = {
    MOVED: [
        {"msd": 60.0, "msd_noise": 30.0},
        {"msd": 26.0, "msd_error": 5.0},
    ],
    "bond lengths": [{"bond_noise": 0.02}],
    "torsions": [{"torsion_noise": None}, {"torsion": None, "torsion_noise": 0.6}],
    "temperatures of modes": [{"band_error": 60.0}, {"band": 400.0, "band_ref": 380.0}],
    "potential energy": [{"energy_error": 0.2}],
}


@pytest.mark.parametrize(
    ("name", "changes"), [(n, c) for n, cases in UNDECIDED.items() for c in cases]
)
def test_what_noise_hides_is_not_decided(name, changes):
    verdict = judge(full(**changes))
    assert [row["name"] for row in verdict["criteria"] if row["passed"] is not True] == [name]
    assert verdict["passed"] is None
    assert name in verdict["sentence"]


def test_a_limit_is_never_tighter_than_three_times_the_noise():
    assert judge(full(bond=0.015, bond_noise=0.006))["passed"] is True
    assert judge(full(bond=0.015, bond_noise=0.001))["passed"] is False
    row = judge(full(msd=40.0, msd_noise=15.0))["criteria"][NAMES.index(MOVED)]
    assert row["passed"]
    assert "45.0 %" in row["limit"]
    assert "+40.0 ± 3 % off after 10 ps" in row["found"]


def test_what_could_not_be_checked_is_said_and_why():
    verdict = judge(full(stretch=2.0, diffuses=False))
    assert {MOVED, "bond lengths"} & {row["name"] for row in verdict["criteria"]} == set()
    assert [part["name"] for part in verdict["unchecked"]] == ["bonds and angles"]
    bare = {k: x for k, x in full().items() if k not in ("modes", "potential_energy_eV")}
    bare["molecules"] = {"bonds": {}, "angles": {}, "dihedrals": {}, "unmatched": ["angles"]}
    verdict = judge(bare)
    names = {part["name"] for part in verdict["unchecked"]}
    assert names == {"angles", "temperatures of modes", "potential energy"}
    assert verdict["passed"] is True
    assert "Not checked: temperatures of modes (there are no reference" in render_verdict(verdict)
    why = {"bands": {}, "why": "a fluid has no normal modes"}
    assert judge(full() | {"modes": why})["unchecked"][0]["why"] == why["why"]


# One number


def early(time: float, **changes) -> dict:
    """A report of a forecast of 100 ps that failed too early to be compared."""
    short = {k: x for k, x in report(failed=time, **changes).items() if k != "temperature"}
    return judge(short | {"planned_ps": 100.0})


def test_the_shortfall_grows_with_every_deviation_and_with_every_failure():
    values = [
        shortfall([judge(full(bond=bond))]) for bond in (0.0, 0.002, 0.01, 0.02, 0.05, 0.2, 5.0)
    ]
    assert values[:-1] == sorted(set(values[:-1]))
    assert values[-1] == values[-2]  # clipped
    good, late = judge(full()), judge(full(failed=90.0) | {"planned_ps": 100.0})
    assert late["survived"] == pytest.approx(0.9)
    worse = [
        [good, good, good], [good, good, late], [good, good, early(2.0)],
        [good, early(2.0), early(2.0)], [early(2.0)] * 3, [early(1.0)] * 3,
    ]  # fmt: skip
    found = [shortfall(verdicts) for verdicts in worse]
    assert found == sorted(set(found))
    assert all(math.isfinite(x) for x in found)
    assert found[-1] < 12 * 10 + 21


# Trajectories


@pytest.mark.slow
def test_bonds_that_are_three_per_cent_too_long_are_missed():
    """Of H–O–O–H with a torsion; parts of one run pass against each other."""
    chosen = EvaluationSettings(
        rdf_max=4.0, rdf_frames=50, n_blocks=4, dihedrals=(("H", "O", "O", "H"),),
        vdos_segment=500.0, msd_time=100.0, equilibration=0.0,
    )  # fmt: skip
    free = RolloutSettings(ensemble="nve")  # at no given temperature
    settings = dataclasses.replace(SETTINGS, evaluation=chosen, rollout=free)
    rng = np.random.default_rng(3)

    def run(seed, length, barrier=2.0):
        made = peroxide(torsions(seed, barrier, frames=20_000), length)
        trembling = made.positions + rng.normal(scale=0.02, size=made.positions.shape)
        return made.replace(positions=trembling.astype(np.float32))

    whole = run(0, 1.45)
    first, second = cut(whole, slice(None, 10_000)), cut(whole, slice(10_000, None))
    reference = reference_observables([first], 1.0, 1.0, settings)
    names = {"bond lengths", "angles", "widths of bonds and angles", "torsions"}
    assert reference["bond_width/O–O"].mean() == pytest.approx(0.02 * 2**0.5, rel=0.1)

    def states(forecast):
        rows = judge(compare(forecast, reference, settings, 1.0)[0])["criteria"]
        return {row["name"]: row["passed"] for row in rows if row["name"] in names}

    assert states(second) == dict.fromkeys(names, True)
    assert states(run(1, 1.45 * 1.03)) == dict.fromkeys(names, True) | {"bond lengths": False}
    assert states(run(1, 1.45, barrier=5.0))["torsions"] is False


def test_an_element_that_moves_apart_diffuses_and_a_crystal_does_not():
    lags = np.arange(101.0) * 10
    noise = 0.01 * np.sin(lags)
    measured = {"msd/times": lags, "msd/O": (0.02 * lags)[None], "msd/Si": (0.3 + noise)[None]}
    measured["msd/Ar"] = (1e-4 * lags)[None]  # a slow vibration
    assert comparison.diffusing(measured) == ["O"]


def test_a_band_that_is_hot_is_missed_at_the_right_mean_temperature():
    whole = salt(3, 10.0, 4_000)
    halves = [cut(whole, slice(None, 2_000)), cut(whole, slice(2_000, None))]
    bands = find_bands(halves)
    assert sum(len(members) for members in bands.members) == 21

    def verdict(run):
        part = compare_bands(run, bands, 4)
        rows = judge(report() | {"modes": part, "n_atoms": 8})["criteria"]
        return next(row for row in rows if row["name"] == "temperatures of modes")

    assert verdict(halves[1])["passed"] is True
    weights = np.repeat(np.sqrt(np.asarray(whole.masses, np.float64)), 3)
    velocities = np.asarray(halves[1].velocities, np.float64).reshape(2_000, -1) * weights
    chosen = bands.modes.vectors[:, bands.members[4]]
    hot = velocities + 0.3 * (velocities @ chosen) @ chosen.T
    made = (hot / weights).reshape(2_000, 8, 3).astype(np.float32)
    row = verdict(halves[1].replace(velocities=made))
    assert row["passed"] is False
    low, high = bands.modes.wavenumbers[bands.members[4][[0, -1]]]
    assert row["found"].startswith(f"{low:.0f}–{high:.0f} cm⁻¹: ")
    with pytest.raises(ValueError, match="10 frames of reference are too few"):
        find_bands([cut(whole, slice(0, 10))])


def test_modes_that_keep_their_energies_make_a_band_uncertain(rng):
    """Blocks of time agree with each other then, and tell nothing."""
    whole = salt(3, 10.0, 4_000)
    bands = find_bands([whole])
    halves = np.array_split(np.arange(len(bands.modes.wavenumbers)), 2)
    bands = bands._replace(members=halves, reference=np.full((1, 2), 300.0))
    kept = cut(whole, slice(0, 400))
    times, masses = 10.0 * np.arange(400)[:, None], np.asarray(whole.masses, np.float64)
    frequencies = bands.modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND
    waves = np.cos(2 * np.pi * times * frequencies)
    off = []
    for _ in range(60):
        sizes = np.sqrt(2 * BOLTZMANN * 300 / KINETIC_TO_EV * rng.exponential(size=waves.shape[1]))
        motions = (waves * sizes) @ bands.modes.vectors.T
        velocities = motions.reshape(400, -1, 3) / np.sqrt(masses)[:, None]
        run = kept.replace(velocities=velocities.astype(np.float32))
        part = next(iter(compare_bands(run, bands, 4)["bands"].values()))
        off.append((part["mean_K"] - 300) / part["mean_K_error"])
    assert 0.7 < np.sqrt(np.mean(np.square(off))) < 1.6
