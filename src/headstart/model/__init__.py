"""What an image goes through: one graph from raw pixels to logits, around a pretrained backbone."""
