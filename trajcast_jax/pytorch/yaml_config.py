"""Read the YAML configuration of a PyTorch model, within bounds."""

from pathlib import Path

import yaml

from trajcast_jax.reading import reads

LARGEST_CONFIG = 2**20
"""Bytes of a model configuration."""


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them stand for billions of values."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has YAML aliases (*name), which are not read; write them out")
        return super().compose_node(parent, index)


@reads
def read_config(path: str | Path) -> dict:
    """The `model` section of a YAML file, or the whole file where it has none."""
    content = Path(path).read_bytes()
    if len(content) > LARGEST_CONFIG:
        raise ValueError(f"its {len(content):,} bytes are too many for a model configuration")
    values = yaml.load(content, Loader=_Loader)
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} is no model configuration: it holds {type(values).__name__}, not settings; "
            "give the config_e3nn.yaml that belongs to the weights."
        )
    values = values.get("model", values)
    if not isinstance(values, dict):
        raise ValueError(f"its section 'model' holds {type(values).__name__}, not settings")
    return values
