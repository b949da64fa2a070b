"""The network, from raw pixels to logits, around a pretrained backbone."""
