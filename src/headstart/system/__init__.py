"""What depends on the machine: backend, memory, files, cache, downloads, progress."""
