"""What trajectories show of a system, as far as settings depend on it."""

import json

import ase.build
import numpy as np
import pytest
from conftest import as_system
from motions import PERIOD, copper, diatomic, ethanol, gas
from salt import salt

from trajcast_jax.analysis.observables import cut
from trajcast_jax.system import make_system
from trajcast_jax.units import WAVENUMBER_PER_INVERSE_FEMTOSECOND
from trajcast_jax.workflow.campaign import surroundings, vibrations
from trajcast_jax.workflow.campaign.findings import as_dict, find, polarity


def test_a_known_frequency_is_found_where_frames_resolve_it():
    for interval in (1.0, 2.0, 4.0):
        found = vibrations.stiffest([diatomic(interval)], interval)
        assert found.resolved
        assert found.period == pytest.approx(PERIOD, rel=0.02)
        assert (found.atoms, found.folded) == ("N bonded to N", pytest.approx(0, abs=0.01))


@pytest.mark.parametrize("interval", [9.0, 11.0, 20.0, 33.0])
def test_a_folded_frequency_is_told(interval):
    """Positions do not move as velocities at the folded frequency would move them."""
    found = vibrations.stiffest([diatomic(interval)], interval)
    assert not found.resolved
    assert found.folded > 0.3
    assert found.period == pytest.approx(PERIOD, rel=0.05)  # the only vibration there is


def test_rare_stiff_bonds_count():
    """One vibrating pair of nitrogen atoms among many slow atoms."""
    pair, crowd = diatomic(2.0), gas(interval=2.0, frames=400, box=40.0)
    crowd = crowd.replace(positions=crowd.positions + 5.0)
    both = make_system(
        np.concatenate([pair.positions, crowd.positions], axis=1),
        np.concatenate([pair.velocities, crowd.velocities], axis=1),
        [7, 7, *[18] * 64],
    )
    assert vibrations.stiffest([both], 2.0).period == pytest.approx(PERIOD, rel=0.03)


def test_findings_of_a_salt():
    runs = [salt(seed, 5.0, 400, repeat=2) for seed in range(2)]
    found = find(runs, 5.0)
    assert (found.kind, found.counts) == ("solid", {"Cl": 32, "Na": 32})
    assert found.vibration.resolved
    assert found.vibration.wavenumber == pytest.approx(650, rel=0.03)  # of 67 to 667
    assert found.polarity == pytest.approx(3.16 - 0.93)
    assert found.density == pytest.approx(2.21, abs=0.01)  # 4 NaCl in (5.6 Å)³
    assert found.heights == pytest.approx((11.2,) * 3)
    assert found.small
    assert found.durations == (2_000.0, 2_000.0)
    assert found.temperature == pytest.approx(300, rel=0.05)
    assert found.rms_speed == pytest.approx(found.temperature**0.5 * 1.902e-4, rel=0.05)
    # Shells of 6, 12, 8 end between 2.80, 3.96, 4.85 and 5.60 Å.
    assert found.neighbours.within(4.4) == pytest.approx(18, abs=1)
    assert any(3.1 < r < 3.7 for r in found.neighbours.minima)
    assert json.loads(json.dumps(as_dict(found)))["vibration"]["resolved"] is True


def test_findings_of_copper():
    run = copper()
    f = find([cut(run, slice(0, 80)), cut(run, slice(80, 160))], 10.0)
    assert (f.kind, f.n_atoms, f.polar, f.periodic) == ("solid", 32, False, True)
    assert f.density == pytest.approx(8.68, abs=0.01)
    assert f.vibration.resolved
    assert 90 < f.vibration.period < 140  # the top of the band of EMT's copper is at 280 cm⁻¹
    assert not find([run], 90.0).vibration.resolved  # as if the frames were 90 fs apart
    assert 500 < f.temperature < 700
    assert f.temperature_error < 60
    assert f.neighbours.within(3.1) == pytest.approx(12, abs=0.3)
    assert f.neighbours.radius_of(18) == pytest.approx(3.9, abs=0.4)
    with pytest.raises(ValueError, match="32"):
        find([cut(run, slice(0, 20))], 10.0)
    with pytest.raises(ValueError, match="no trajectories"):
        find([], 10.0)


def test_fluids_diffuse_and_molecules_are_isolated():
    assert find([gas()], 4.0).kind == "fluid"
    assert find([gas()], 4.0).polarity == 0.0
    f = find([ethanol()], 1.0)
    assert (f.kind, f.heights, f.rarest, f.lightest) == ("molecule", None, "O", "H")
    assert f.extent == pytest.approx(4.1, abs=0.3)
    assert f.torsions == (("C", "C", "O", "H"),)  # the methyl group is left out
    assert f.vibration.period == pytest.approx(9.0, rel=0.03)
    assert polarity(["C", "H"]) == pytest.approx(0.35)
    assert polarity(["Cu", "Au"]) == 0.0  # metals
    methanol = as_system(ase.build.molecule("CH3OH"))
    assert surroundings.torsions(methanol) == (("H", "C", "O", "H"),)
    assert surroundings.torsions(as_system(ase.build.molecule("C6H6"))) == ()


def test_wavenumber_and_period_belong_together():
    v = vibrations.stiffest([diatomic(1.0)], 1.0)
    assert v.period * v.wavenumber == pytest.approx(WAVENUMBER_PER_INVERSE_FEMTOSECOND)
