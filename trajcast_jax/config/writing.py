"""Write settings as a TOML file, which `load` reads back."""

import dataclasses
import json

from trajcast_jax.config.settings import Experiment


def to_toml(experiment: Experiment, comments: dict[str, str] | None = None) -> str:
    """Write all settings of an experiment but its name, which is that of the file.

    `comments` are texts to write behind settings, by name ("model.cutoff").
    """
    comments = comments or {}
    lines = [f"system = {_value(experiment.system)}"] if experiment.system else []
    for table in dataclasses.fields(experiment):
        settings = getattr(experiment, table.name)
        if not dataclasses.is_dataclass(settings):
            continue
        lines += ["", f"[{table.name}]"]
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if value is not None:
                comment = comments.get(f"{table.name}.{field.name}", "")
                text = f"{field.name} = {_value(value)}"
                lines.append(f"{text}  # {' '.join(comment.split())}" if comment else text)
    return "\n".join(lines).lstrip() + "\n"


def _value(value) -> str:
    """A value in TOML; tables are written inline."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(
            value, ensure_ascii=False
        )  # a basic string of TOML has the escapes of JSON
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
