"""What a picture goes through: one graph from raw pixels to logits, around a pretrained backbone."""

from headstart.model.backbones import BACKBONES, load_backbone
from headstart.model.graph import build_model

__all__ = ["BACKBONES", "build_model", "load_backbone"]
