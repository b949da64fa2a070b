"""The names of Keras' backends. Nothing is imported here, for what must answer at once."""

BACKENDS = ("tensorflow", "jax", "torch")
# From this one, Keras exports to every format, with images of any size.
EXPORTING = "tensorflow"
# What `--ray` calls a cluster that is started on this machine, and the addresses that it accepts, which are Ray's own.
LOCAL = "local"
RAY_ADDRESS = r"local|auto|(ray://)?([^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
