"""The names of Keras' backends. Nothing is imported here, for what must answer at once."""

BACKENDS = ("tensorflow", "jax", "torch")
# From this one, Keras exports to every format, with images of any size.
EXPORTING = "tensorflow"
