"""Where an image comes in: from any source to one array of pictures with labels and splits."""

from headstart.data.dataset import Dataset, Pictures
from headstart.data.load import load_data

__all__ = ["Dataset", "Pictures", "load_data"]
