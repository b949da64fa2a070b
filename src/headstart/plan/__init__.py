"""Before a training: measure what it costs on this machine, predict its time, and choose options that fit a budget."""
