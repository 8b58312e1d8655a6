"""Read and check settings from TOML files, nested dicts and command lines."""

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from pathlib import Path

from trajcast_jax.config.settings import FINITE, Experiment, Within
from trajcast_jax.reading import reading

LONGEST = 2**22
"""Bytes of a file of settings: with the text of a LAMMPS data file it may be long."""
AUTO = "auto"
"""Value of a setting that nobody states."""


def from_dict(kind: type, values: dict, where: str = ""):
    """Build a settings dataclass of type `kind` from nested dicts.

    `where` is the prefix of the setting's name in error messages.

    Raises:
      ValueError: a key is unknown, a value is missing or has the wrong type or range.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    if not isinstance(values, dict):
        name = where.rstrip(".") or kind.__name__
        raise ValueError(f"'{name}' must be a table of settings, but is {_short(repr(values))}.")
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(fields)}."
            raise ValueError(f"Unknown setting '{where}{key}': {hint}")
    missing = [
        f.name
        for f in fields.values()
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"Setting '{where}{missing[0]}' is missing and has no default.")
    return kind(**{k: _coerce(hints[k], v, where + k) for k, v in values.items()})


def _coerce(hint, value, name: str):
    """Convert `value` to the annotated type, or raise a ValueError that names the setting."""
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, f"{name}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _within(args[1], _coerce(args[0], value, name), name)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, name)
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(_coerce(a, v, name) for a, v in zip(inner, value, strict=True))
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _within(FINITE, value, name)
    elif origin is dict and isinstance(value, dict):
        return {k: _coerce(args[1], v, f"{name}.{k}") for k, v in value.items()}
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    cure = ""
    if origin is tuple and args[-1] is Ellipsis and type(value) is type(_of(args[0], value, name)):
        cure = f"; write [{_toml(value)}]"
    raise ValueError(
        f"Setting '{name}' must be {_words(hint)}, but is {_short(_toml(value))}{cure}."
    )


def _of(hint, value, name: str):
    """The value converted to the annotated type; None if it cannot be."""
    try:
        return _coerce(hint, value, name)
    except ValueError:
        return None


WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes",
    dict: "a table", Path: "a path",
}  # fmt: skip
"""What a value of each type is called in errors."""


def _words(hint) -> str:
    """What a value of a type is called: "a list of 3 whole numbers"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _words(args[0])
    if origin in (typing.Union, types.UnionType):
        return _words(next(a for a in args if a is not type(None)))
    if origin is dict:
        return f"a table, whose values are {_plural(args[1])}"
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {count}{_plural(args[0])}"
    return WORDS.get(hint, str(hint))


def _plural(hint) -> str:
    words = _words(hint).removeprefix("a ")
    first, *rest = words.split(" of ") if words.startswith("list") else (words,)
    if first.startswith("text"):
        return "texts in quotes"
    return " of ".join((first if first.startswith("true") else f"{first}s", *rest))


def _toml(value) -> str:
    """A value as a TOML file has it, as far as JSON is like it."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # dates, for instance
        return repr(value)


def _within(bounds: Within, value, name: str):
    """The number, if it is finite and within the bounds."""
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number) or number not in bounds:
        raise ValueError(f"Setting '{name}' must be {bounds}, but is {_short(str(number))}.")
    return value if isinstance(value, int) and bounds.whole else number


def _short(text) -> str:
    text = str(text)
    return text if len(text) < 200 else f"{text[:200]}…"


def load(path: str | Path) -> Experiment:
    """Load an experiment from a TOML file.

    A file may name another file in the same folder as its `base`; it then lists only the
    settings that differ. A setting that is "auto" has its default, also if the base has another.
    """
    with reading(path):
        return from_dict(Experiment, _without_auto(_read(Path(path))))


def stated(source: str | Path | dict, changes: tuple[str, ...] = ()) -> frozenset[str]:
    """Names (as "model.cutoff") of the settings that a file, its base and changes state.

    Args:
      source: a TOML file, or its content as nested dicts.
      changes: as for `changed`. A setting that is "auto" is not stated.
    """
    if isinstance(source, dict):
        values = {k: v if not isinstance(v, dict) else dict(v) for k, v in source.items()}
    else:
        values = _read(Path(source))
    for change in changes:
        table, key, value = _change(change)
        if isinstance(values.setdefault(table, {}), dict):
            values[table][key] = value
    return frozenset(
        f"{table}.{key}"
        for table, settings in _without_auto(values).items()
        if isinstance(settings, dict)
        for key in settings
    )


def _without_auto(values: dict) -> dict:
    """The values of an experiment without those settings and tables that are "auto".

    Unknown names are kept, so that they are refused. What is inside a setting (the arguments of a
    calculator, for instance) is no setting.
    """
    hints = typing.get_type_hints(Experiment)
    kept = {}
    for table, settings in values.items():
        kind = hints.get(table)
        if not dataclasses.is_dataclass(kind):
            kept[table] = settings
        elif isinstance(settings, dict):
            known = {f.name for f in dataclasses.fields(kind)}
            kept[table] = {k: v for k, v in settings.items() if v != AUTO or k not in known}
        elif settings != AUTO:
            kept[table] = settings
    return kept


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    with reading(path):
        if path in above:
            raise ValueError(f"{path} is its own base, by {', '.join(p.name for p in above)}.")
        content = path.read_bytes()
        if len(content) > LONGEST:
            raise ValueError(f"{path} has {len(content):,} bytes, too many for settings.")
        try:
            values = tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no TOML: {error}.") from error
    own = {"name": path.stem}
    if "base" in values:
        name = values.pop("base")
        if not isinstance(name, str) or "\0" in name:
            raise ValueError(f"'base' of {path} must be the name of a file, but is {name!r}.")
        base = _read(path.with_name(name + path.suffix), (*above, path))
        own["system"] = base.get("system") or base["name"]
        if "reference" in values:  # other reference settings need reference runs of their own
            own["system"] = ""
        tables = {
            k: base[k] | v if isinstance(base.get(k), dict) else v
            for k, v in values.items()
            if isinstance(v, dict)
        }
        values = base | values | tables
        return values | own
    return own | values


def changed(experiment: Experiment, changes: tuple[str, ...]) -> Experiment:
    """Replace settings of an experiment, each given as "table.name=value" (value in TOML).

    A setting that becomes "auto" gets its default.
    """
    values = dataclasses.asdict(experiment)
    for change in changes:
        table, key, value = _change(change)
        if not isinstance(values.setdefault(table, {}), dict):
            raise ValueError(f"'{change}' is no setting: {table} is no table of settings.")
        values[table][key] = value
    return from_dict(Experiment, _without_auto(values))


def _change(change: str) -> tuple[str, str, object]:
    """Table, name and value of a change such as "training.updates=1000"."""
    name, equals, text = change.partition("=")
    table, _, key = name.strip().partition(".")
    if not equals or not key:
        raise ValueError(
            f"'{change}' is no setting: write table.name=value, as in training.updates=1000."
        )
    try:
        return table, key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return table, key, text.strip()  # a bare word is a string


def to_json(settings) -> str:
    """Write a settings dataclass as JSON; `from_dict(kind, json.loads(text))` reads it back."""
    return json.dumps(dataclasses.asdict(settings), indent=1, default=str)  # of a Path
