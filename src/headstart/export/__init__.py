"""Files that run without Headstart."""
