"""From a system to a model that is accepted by its own forecasts: `python -m experiments.train`."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import tyro

from trajcast_jax import io
from trajcast_jax.config import to_json
from trajcast_jax.config.settings import ABOVE_0, COUNT
from trajcast_jax.io import ReadOptions
from trajcast_jax.reference import is_imported
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.campaign import conclusion, preflight, rounds, status
from trajcast_jax.workflow.campaign.course import Campaign, StageError
from trajcast_jax.workflow.campaign.journal import FILE, Journal
from trajcast_jax.workflow.campaign.sources import Source, source_of
from trajcast_jax.workflow.campaign.stages import Runner, in_processes
from trajcast_jax.workflow.command_line import Reading, require_within
from trajcast_jax.workflow.stopping import stopped


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a model of a system until its own forecasts pass, or say why they do not.

    Settings that are not stated are measured. The exit status is 0 if the model is accepted, and 2
    if it is rejected. A command that was interrupted goes on when it is run again.
    """

    system: tyro.conf.Positional[str]
    """An experiment (quartz), its TOML file, a trajectory (run.extxyz), or a structure (start.cif)
    with --calculator."""
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = ()
    """Trajectories of the system with velocities, instead of reference MD; a checkpoint or the name
    of a shipped model, to start from its weights and settings."""
    calculator: str = ""
    """ASE calculator that makes the reference: package.module:Class."""
    temperature: float | None = None
    """K, of the reference and of forecasts."""
    hours: float = 4.0
    """Budget of all steps together, compilation included."""
    out: Path | None = None
    """Folder of the journal, the logs and the model; by default runs/<name>."""
    reference: Path | None = None
    """Folder of the reference runs; by default runs/reference/<name>."""
    reading: Reading = ReadOptions()  # noqa: RUF009 (frozen)
    """What trajectory files leave open."""
    workers: int = 2
    """Commands that may run at the same time."""
    dry_run: bool = False
    """Stop after the preflight, with the table of settings."""
    status: bool = False
    """Show what has been done so far, and draw it (status.png)."""
    set: tuple[str, ...] = ()
    """Settings to state: model.lmax=2 data.time_step=10."""


def as_arguments(options: ReadOptions) -> tuple[str, ...]:
    """The command line options that give these options."""
    found = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        name = {"md_step": "md_timestep"}.get(field.name, field.name).replace("_", "-")
        if field.name == "periodic":
            found.append("--periodic" if value else "--no-periodic")
        else:
            found += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return tuple(found)


def main(arguments: Arguments, run: Runner = in_processes) -> int:
    """Run the command; `run` runs the commands of the campaign."""
    require_within("--hours", arguments.hours, ABOVE_0)
    require_within("--workers", arguments.workers, COUNT)
    if arguments.temperature is not None:
        require_within("--temperature", arguments.temperature, ABOVE_0)
    source = source_of(
        arguments.system, arguments.sources, arguments.calculator, arguments.temperature,
        arguments.set,
    )  # fmt: skip
    source = source._replace(reading=as_arguments(arguments.reading))
    home = arguments.out or folders.campaign(source.experiment)
    if arguments.status:
        return status.show(home)
    home.mkdir(parents=True, exist_ok=True)
    sentence = f"Another process trains into {home}; wait for it or give another --out."
    with io.locked(home, sentence):
        campaign = Campaign(
            home=home,
            settings=home / f"{source.experiment.name}.toml",
            reference=arguments.reference or folders.reference(source.experiment),
            hours=arguments.hours,
            workers=arguments.workers,
            journal=Journal(home / FILE),
            run=run,
        )
        again = f"The same command goes on from here; its journal is {campaign.journal.path}."
        try:
            require_same(campaign, source)
            return follow(campaign, source, arguments.dry_run)
        except KeyboardInterrupt as error:
            return stopped(error, again)
        except StageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"error: {error}. {again}", file=sys.stderr)
            return 1


def follow(campaign: Campaign, source: Source, dry_run: bool) -> int:
    """Prepare, make the reference, run the rounds, and conclude."""
    plan = preflight.prepare(campaign, source)
    if dry_run:
        print(f"All settings are in {campaign.settings}.")
        return 0
    if not is_imported(campaign.reference):
        task = campaign.task("reference", "generate", "--out", campaign.reference)
        campaign.need("reference", task)
    end = rounds.run_rounds(campaign, plan)
    return conclusion.conclude(campaign, plan, end, source.experiment.name)


def require_same(campaign: Campaign, source: Source) -> None:
    """Record what is asked for.

    Raises:
      ValueError: the folder holds a campaign of something else.
    """
    asked = {
        "experiment": json.loads(to_json(source.experiment)),
        "stated": sorted(source.stated),
        "trajectories": list(map(str, source.trajectories)),
        "reading": list(source.reading),
        "model": str(source.model or ""),
    }
    journal = campaign.journal
    if not any("step" in record and record["step"] != "asked" for record in journal.records):
        journal.forget()  # nothing has been done yet, so that anything may be asked for
        shutil.rmtree(campaign.home / "preflight", ignore_errors=True)
    known = {"model": ""} | journal.once("asked", lambda: asked)  # older journals do not name it
    if known != asked:
        differ = "; ".join(
            f"{key}: {_brief(known[key])}, now {_brief(asked[key])}"
            for key in asked
            if known[key] != asked[key] and key != "experiment"
        )
        raise ValueError(
            f"{campaign.home} holds the training of another system or of other settings"
            f"{f' ({differ})' if differ else ''}; give another --out, or remove the folder."
        )


def _brief(values: list | str) -> str:
    text = (values if isinstance(values, str) else " ".join(map(str, values))) or "nothing"
    return text if len(text) < 120 else f"{text[:120]}…"
