"""The audit of a data set without training: near-duplicates, suspect labels and a page about them."""

from pathlib import Path
from typing import Any

from headstart.audit.data import all_features, examine, principal_components
from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.data.load import configured_data, resolved
from headstart.errors import HeadstartError
from headstart.model.backbones import load_backbone
from headstart.model.network import build_network
from headstart.model.registry import refuse_unusable, say_licence
from headstart.report.audit_page import write_audit_page
from headstart.report.sheets import draw_sheets
from headstart.system.backend import resolve_precision
from headstart.system.files import holds_something_else
from headstart.system.progress import show_progress
from headstart.system.workers import connected
from headstart.training.features import FrozenLayers


def audit_data(config: Config, data: Dataset | None = None) -> dict[str, Any]:
    """Audit a data set on a frozen backbone's features, and write the findings to the folder `config.out`, by default `audit`.

    Args:
        config: gives data, splits and backbone. A training with the same ones uses the cached features again.
        data: the data set, if it is loaded already; by default `config.data` is loaded.

    Returns:
        The content of `audit.json`.

    Raises:
        HeadstartError: bad input, a folder that holds something else, or a failed download.
    """
    if not config.keeps_features:
        raise HeadstartError("an audit needs a pretrained backbone: leave out --weights none")
    config = resolved(config, data)
    folder = Path(config.out or "audit").expanduser()
    if holds_something_else(folder, "audit.json"):
        raise HeadstartError(f"{folder} is not empty and not an audit: choose another folder with --out")
    refuse_unusable(config)
    say_licence(config)
    with show_progress(), connected(config.ray):
        data = data or configured_data(config)
        precision = resolve_precision(config.precision)
        network = build_network(*load_backbone(config), data.image_shape, len(data.class_names), config, precision)
        folder.mkdir(parents=True, exist_ok=True)
        components = principal_components(all_features(FrozenLayers(network, data, config), data))
        content = examine(data, components, folder, config.flip)
        draw_sheets(folder, data, content)
        write_audit_page(folder, data, content)
    return content
