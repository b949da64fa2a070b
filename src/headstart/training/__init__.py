"""How a network learns: features computed once, stages that can be interrupted, one optimizer."""
