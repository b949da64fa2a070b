"""How a network learns: features that are computed once, and stages that can be interrupted."""
