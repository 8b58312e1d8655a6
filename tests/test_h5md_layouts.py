"""H5MD files of other programs: types, ids, groups, elements over time, units."""

import h5py
import numpy as np
import pytest
from dumps import MASSES, SYMBOLS, TRICLINIC, motion, wrapped

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions

Z = np.where(SYMBOLS == "Si", 14, 8)
M = np.array([MASSES[s] for s in SYMBOLS])
SAID = ReadOptions(species=("Si", "O"))


def series(group, name, value, n_frames, unit=None, step=10, time_unit="ps"):
    element = group.create_group(name)
    element["value"] = value
    element["step"] = step * np.arange(n_frames)
    element["time"] = 1e-3 * step * np.arange(n_frames)
    if unit:
        element["value"].attrs["unit"] = unit
    if time_unit:
        element["time"].attrs["unit"] = time_unit


def write_h5md(path, species=None, masses=None, **change):
    """H5MD as LAMMPS has it, Å and ps; `change` says how it differs."""
    c = {
        "units": True, "shuffle": False, "groups": ("all",), "images": False, "boundary": True,
        "edges": "fixed", "steps": 10, "species_over_time": False,
    } | change  # fmt: skip
    r, v = motion(20)
    random = np.random.default_rng(3)
    r, images = wrapped(r, TRICLINIC)
    with h5py.File(path, "w") as file:
        for k, name in enumerate(c["groups"]):
            here = np.arange(54) if len(c["groups"]) == 1 else np.flatnonzero((14, 8)[k] == Z)
            order = np.array([random.permutation(here) if c["shuffle"] else here for _ in r])
            group = file.create_group(f"particles/{name}")

            def pick(x, order=order):
                return np.take_along_axis(x, order[..., None], axis=1)

            step = c["steps"] if k == 0 else c.get("other_steps", c["steps"])
            time_unit = "ps" if c["units"] else None
            series(
                group, "position", pick(r), 20, "Angstrom" if c["units"] else None, step, time_unit
            )
            unit = "Angstrom ps-1" if c["units"] else None
            series(group, "velocity", pick(1e3 * v), 20, unit, step, time_unit)
            if c["images"]:
                series(group, "image", pick(images), 20)
            if c["shuffle"]:
                series(group, "id", order + 1, 20)
            if species is not None:
                values = np.asarray(species)
                if c["species_over_time"]:
                    series(group, "species", values[order], 20)
                else:
                    group["species"] = values[order[0]] if not c["shuffle"] else values[here]
            if masses is not None:
                group["mass"] = masses[here]
            box = group.create_group("box")
            if c["boundary"]:
                box.attrs["boundary"] = ["periodic"] * 3
            if c["edges"] == "fixed":
                box["edges"] = TRICLINIC
            else:
                edges = np.broadcast_to(TRICLINIC, (20, 3, 3)).copy()
                edges[10:] *= c["edges"]
                series(box, "edges", edges, 20)
    return path


def assert_read(path, options=ReadOptions(), grouped=False):  # noqa: B008
    order = np.r_[np.flatnonzero(Z == 14), np.flatnonzero(Z == 8)] if grouped else np.arange(54)
    r, v = motion(20)
    run, times = io.read_trajectory(path, options=options)
    np.testing.assert_array_equal(run.species, Z[order])
    np.testing.assert_allclose(run.velocities, v[:, order], atol=1e-7)
    np.testing.assert_allclose(
        np.diff(run.positions, axis=0), np.diff(r[:, order], axis=0), atol=2e-5
    )
    np.testing.assert_allclose(times, 10.0 * np.arange(20))
    np.testing.assert_allclose(run.cell, TRICLINIC, atol=1e-5)
    return run


TYPES = np.where(Z == 14, 1, 2)


def test_types_are_no_atomic_numbers(tmp_path):
    for k, species in enumerate((TYPES, TYPES - 1, TYPES + 1)):
        path = write_h5md(tmp_path / f"{k}.h5", species)
        with pytest.raises(ValueError, match=r"types . \(18 atoms\), . \(36 atoms\).*--species"):
            io.read_trajectory(path)
        assert_read(path, SAID)
    masses = write_h5md(tmp_path / "masses.h5", TYPES, M)
    with pytest.raises(ValueError, match=r"1: 28.085 Da, 2: 15.999 Da"):
        io.read(masses)
    assert_read(masses, SAID)
    with pytest.raises(ValueError, match=r"28.085 Da, but O has 15.999"):
        io.read(masses, options=ReadOptions(species=("O", "Si")))


def test_atomic_numbers_enumerations_and_symbols(tmp_path):
    assert_read(write_h5md(tmp_path / "numbers.h5", Z))
    assert_read(write_h5md(tmp_path / "masses.h5", Z, M))
    with pytest.raises(ValueError, match="numbers its atoms"):
        io.read(write_h5md(tmp_path / "other.h5", Z, M[::-1].copy() + 20))
    path = write_h5md(tmp_path / "enum.h5", None)
    with h5py.File(path, "a") as file:
        kind = h5py.enum_dtype({"Si": 1, "O": 2}, basetype="i")
        file["particles/all"].create_dataset("species", data=TYPES, dtype=kind)
    assert_read(path)
    path = write_h5md(tmp_path / "text.h5", None)
    with h5py.File(path, "a") as file:
        file["particles/all/species"] = SYMBOLS.astype("S2")
    assert_read(path)


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("over_time", [True, False])
def test_rows_in_changing_order(tmp_path, images, over_time):
    path = write_h5md(
        tmp_path / "run.h5", Z if over_time else None, shuffle=True, images=images,
        species_over_time=over_time,
    )  # fmt: skip
    if not over_time:  # species beside ids that change: of which atoms?
        with pytest.raises(ValueError, match="does not tell their elements"):
            io.read_trajectory(path)
        return
    assert_read(path)


def test_species_that_change_are_refused(tmp_path):
    path = write_h5md(tmp_path / "run.h5", Z, species_over_time=True)
    with h5py.File(path, "a") as file:
        file["particles/all/species/value"][7] = Z[::-1]
    with pytest.raises(ValueError, match=r"The species of particles in .* changes along"):
        io.read_trajectory(path)


def test_a_group_for_each_species(tmp_path):
    groups = ("Silicon", "oxygen")
    assert_read(write_h5md(tmp_path / "a.h5", Z, groups=groups), grouped=True)
    path = write_h5md(tmp_path / "b.h5", None, groups=groups)
    with pytest.raises(ValueError, match=r"groups Silicon \(18 atoms\), oxygen \(36 atoms\)"):
        io.read_trajectory(path)
    named = ReadOptions(species=("Silicon=Si", "oxygen=O"))
    run, _ = io.read_trajectory(path, options=named)
    assert sorted(np.asarray(run.species).tolist()) == sorted(Z.tolist())
    path = write_h5md(tmp_path / "c.h5", Z, groups=groups, other_steps=20)
    with pytest.raises(ValueError, match=r"groups '\w+' and '\w+' .* different steps"):
        io.read_trajectory(path)


def test_units_box_and_boundary(tmp_path):
    path = write_h5md(tmp_path / "units.h5", Z, units=False)
    with pytest.raises(ValueError, match=r"no unit attribute of its .*--units metal"):
        io.read_trajectory(path)
    assert_read(path, ReadOptions(units="metal"))
    assert_read(path, ReadOptions(velocity_unit="angstrom/ps"))
    with pytest.raises(ValueError, match=r"move by|mean a temperature"):
        io.read_trajectory(path, options=ReadOptions(units="real"))
    stated = write_h5md(tmp_path / "stated.h5", Z)
    with pytest.raises(ValueError, match="states the unit of its"):
        io.read_trajectory(stated, options=ReadOptions(units="real"))
    assert_read(write_h5md(tmp_path / "edges.h5", Z, edges=1.0))
    with pytest.raises(ValueError, match="cell changes along"):
        io.read_trajectory(write_h5md(tmp_path / "npt.h5", Z, edges=1.02))
    path = write_h5md(tmp_path / "boundary.h5", Z, boundary=False)
    with pytest.raises(ValueError, match=r"no boundary attribute; .*--periodic"):
        io.read_trajectory(path)
    assert_read(path, ReadOptions(periodic=True))


def test_steps_and_times_must_agree(tmp_path):
    path = write_h5md(tmp_path / "run.h5", Z)
    with h5py.File(path, "a") as file:
        for name in ("position", "velocity"):
            file[f"particles/all/{name}/step"][10:] = 95 + 5 * np.arange(10)
    with pytest.raises(ValueError, match=r"Steps and times .* disagree"):
        io.read_trajectory(path)
    path = write_h5md(tmp_path / "double.h5", Z)
    with h5py.File(path, "a") as file:
        group = file["particles/all"]
        for name in ("position", "velocity"):
            for part in ("value", "step", "time"):
                data = group[f"{name}/{part}"][()]
                unit = group[f"{name}/{part}"].attrs.get("unit")
                del group[f"{name}/{part}"]
                group[f"{name}/{part}"] = np.concatenate([data[:10], data[9:]])
                if unit is not None:
                    group[f"{name}/{part}"].attrs["unit"] = unit
    with pytest.warns(FileNote, match="1 doubled frame"):
        assert_read(path)


def shortened(path, part, n, clock=True, group="particles/all"):
    """Only the first n frames of a part of what is stored; without its clock if asked for."""
    with h5py.File(path, "a") as file:
        element = file[f"{group}/{part}"]
        for name in ("value", "step", "time"):
            attributes, data = dict(element[name].attrs), element[name][:n]
            del element[name]
            if clock or name == "value":
                element[name] = data
                element[name].attrs.update(attributes)
    return path


def test_fewer_velocities_than_positions(tmp_path):
    _, v = motion(20)
    path = shortened(write_h5md(tmp_path / "a.h5", Z), "velocity", 12)
    with pytest.warns(
        FileNote, match=r"12 frames in /particles/all/velocity, but 20 in .*left out"
    ):
        run, times = io.read_trajectory(path)
    np.testing.assert_allclose(run.velocities, v[:12], atol=1e-7)
    np.testing.assert_allclose(times, 10.0 * np.arange(12))
    with pytest.warns(FileNote):
        np.testing.assert_allclose(io.read(path).velocities, v[11], atol=1e-7)
    shortened(path, "velocity", 12, clock=False)
    with pytest.raises(ValueError, match=r"12 frames in .* not tell the steps of both"):
        io.read_trajectory(path)
    assert io.read(path, still=True).positions.shape == (54, 3)  # all 20 frames have positions
    path = write_h5md(tmp_path / "b.h5", Z)
    with h5py.File(path, "a") as file:  # the first velocity was not written
        velocity = file["particles/all/velocity"]
        value = velocity["value"][1:]
        del velocity["value"]
        velocity["value"] = value
        velocity["value"].attrs["unit"] = "Angstrom ps-1"
        for name in ("step", "time"):
            clock = velocity[name][1:]
            del velocity[name]
            velocity[name] = clock
    with (
        pytest.raises(ValueError, match=r"velocities at different steps \(frame 0: step 0 and 10"),
        pytest.warns(FileNote),
    ):
        io.read_trajectory(path)


def test_velocities_of_other_steps_far_from_the_start(tmp_path):
    path = write_h5md(tmp_path / "run.h5", Z)
    with h5py.File(path, "a") as file:
        for name, later in (("position", 0), ("velocity", 10)):
            group = file[f"particles/all/{name}"]
            group["step"][...] = 1_000_000 + later + 10 * np.arange(20)
            group["time"][...] = 1000.0 + 1e-3 * (later + 10 * np.arange(20))
    with pytest.raises(
        ValueError, match=r"different steps \(frame 0: step 1e\+06 and 1.00001e\+06"
    ):
        io.read_trajectory(path)


def test_images_of_other_steps_and_groups_of_other_units(tmp_path):
    path = write_h5md(tmp_path / "a.h5", Z, images=True)
    with h5py.File(path, "a") as file:
        for name in ("step", "time"):
            file[f"particles/all/image/{name}"][...] *= 2
    with pytest.raises(ValueError, match="stores positions and images at different steps"):
        io.read_trajectory(path)
    path = write_h5md(tmp_path / "b.h5", Z, groups=("Silicon", "oxygen"))
    with h5py.File(path, "a") as file:
        file["particles/oxygen/position/value"].attrs["unit"] = "nm"
    with pytest.raises(
        ValueError, match=r"in several units \(Angstrom in 'Silicon', nm in 'oxygen'"
    ):
        io.read_trajectory(path)
