"""What the machine has and does: backend, memory, files, cache, downloads, progress."""
