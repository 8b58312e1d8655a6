"""Convert models of the PyTorch TrajCast: `python -m experiments.convert config.yaml state.pt`.

With `--check`, compare a conversion with results of the PyTorch code.
"""

import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import tyro
from ase.data import atomic_numbers, chemical_symbols

from trajcast_jax.io import atomic_write
from trajcast_jax.network import checkpoint as checkpoints
from trajcast_jax.pytorch import importer, parity


def species_numbers(species: tuple[str, ...]) -> list[int]:
    """Convert chemical symbols or numbers (as text) to atomic numbers.

    Raises:
      ValueError: a name is neither.
    """
    numbers = []
    for name in species:
        number = int(name) if name.isdigit() else atomic_numbers.get(name, 0)
        if not 0 < number < len(chemical_symbols):
            raise ValueError(f"--species: '{name}' is neither a chemical symbol nor a number.")
        numbers.append(number)
    return numbers


def convert(config: Path, state: Path, out: Path, species: tuple[str, ...], time_step) -> None:
    """Write the checkpoint of a PyTorch model; `time_step` is in fs.

    Raises:
      ValueError: species or time step are missing, or the model is not supported.
    """
    settings, weights = importer.read_config(config), importer.read_state(state)
    if not species:
        raise ValueError(
            f"{config} does not say which elements its {settings.get('num_chem_elements')} atom "
            "types are; give them in this order, as in --species H C N O."
        )
    if time_step is None:
        raise ValueError(
            f"{config} does not say over which time step the model forecasts; give it in fs, as "
            "in --time-step 7."
        )
    forecaster = importer.forecaster(settings, weights, species_numbers(species), time_step)
    notes = {"converted_from": {"config": config.name, "state": state.name, "settings": settings}}
    # Weights in double precision are kept in double precision.
    with jax.enable_x64(any(x.dtype == np.float64 for x in weights.values())):
        checkpoints.save(out, forecaster, importer.params_of(settings, weights), notes)
    print(f"The checkpoint is in {out}.")


def check_oracle(oracle: Path, report: str | None) -> bool:
    """Print every error and its bound; return whether all errors are within their bounds."""
    loaded = parity.load(oracle)
    # If the JSON is written to standard output, the table goes to standard error.
    table = sys.stderr if report == "-" else sys.stdout
    errors, missed = {}, []
    last = f"mp_layer_{loaded.config['num_mp_layers'] - 1}"
    print(f"{'max error / max value':>21}  {'bound':>7}", file=table)
    for name, error in parity.errors(loaded):
        bound = parity.BOUNDS[name.split("/")[0]]
        errors[name] = error
        kept = error <= bound
        missed += [] if kept else [name]
        note = "  (1o: all that is built)" if name.endswith(f"stage/{last}") else ""
        line = f"{error:21.2e}  {bound:7.0e}  {'    ' if kept else 'MISS'}  {name}{note}"
        print(line, file=table, flush=True)
    for dtype in dict.fromkeys(name.split("/")[0] for name in errors):
        worst = max((n for n in errors if n.startswith(dtype)), key=errors.get)
        print(f"Worst in {dtype}: {errors[worst]:.2e}, {worst}.", file=table)
    if missed:
        print(f"{len(missed)} of {len(errors)} miss their bounds.", file=table)
    if report:
        # JSON has no infinity.
        finite = {k: v if math.isfinite(v) else 1e300 for k, v in errors.items()}
        text = json.dumps(finite, indent=1) + "\n"
        if report == "-":
            print(text, end="")
        else:
            atomic_write(Path(report), text.encode())
    return not missed


def main(
    config: tyro.conf.Positional[Path | None] = None,
    state: tyro.conf.Positional[Path | None] = None,
    out: Path | None = None,
    species: tuple[str, ...] = (),
    time_step: float | None = None,
    check: Path | None = None,
    json: str | None = None,
) -> None:
    """Convert a model of the PyTorch TrajCast to a checkpoint, or check the conversion.

    Args:
      config: config_e3nn.yaml of the model.
      state: state_dict_e3nn.pt of the model (needs PyTorch), or the same as .npz.
      out: directory of the checkpoint.
      species: elements in the order of the model's atom types, for instance H C N O.
      time_step: stride of the model, fs.
      check: an oracle (.npz): weights, and results of the PyTorch code for them.
      json: file for all errors of --check; - for standard output.
    """
    if check is not None:
        if not check_oracle(check, json):
            sys.exit(1)
        return
    if config is None or state is None or out is None:
        raise ValueError(
            "Give a configuration, a state dict and --out DIRECTORY to convert, or --check ORACLE."
        )
    convert(config, state, out, species, time_step)
