"""What JAX has compiled, kept in the cache folder for the next process."""

import functools
import glob
import hashlib
import logging
import platform
import re
import warnings
from pathlib import Path
from typing import Any

from headstart.errors import HeadstartError
from headstart.system.cache import cache_folder, files_of, prune
from headstart.system.processor import fields, flags

logger = logging.getLogger("headstart")

# A training's programs, a hundred or two, take 1 MB on CPUs.
MOST_COMPILED_BYTES = 1 << 30


@functools.cache
def keep_compiled() -> None:
    """Let JAX keep the programs that it compiles in the cache folder, where the next process finds them.

    JAX finds a program again if the computation with its shapes and constants, the device, JAX's version, XLA's flags and the
    folder are the same. `JAX_COMPILATION_CACHE_DIR` and `JAX_ENABLE_COMPILATION_CACHE=false` are respected.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return
    try:
        # Programs for CPUs use all instructions of the processor, and JAX does not ask whether another one has them.
        instructions = f"{platform.machine()} {flags(fields())}"
        folder = cache_folder("compiled") / hashlib.sha256(instructions.encode()).hexdigest()[:16]
        folder.mkdir(mode=0o700, exist_ok=True)
        prune(files_of("compiled"), MOST_COMPILED_BYTES)
    except (HeadstartError, OSError):
        return  # whatever cannot do without a cache says so
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The many small ones, too: together they take seconds, and each compiles longer than it is read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    explain_damage(folder)


def explain_damage(folder: Path) -> None:
    """Remove kept programs that JAX warns about, and say so in one line in place of its warning.

    JAX compiles again what it cannot read, such as a file that a killed process left, but never writes it anew.
    """
    shown, said = warnings.showwarning, set()

    def show(message: Warning | str, *args: Any, **options: Any) -> None:
        pattern = r"Error (reading|writing) persistent compilation cache entry for '([^']+)': \w+: ([^\n]*)"
        if not (found := re.match(pattern, str(message))):
            return shown(message, *args, **options)
        what, name, why = found.groups()
        for file in folder.glob(f"{glob.escape(name)}-*"):
            file.unlink(missing_ok=True)
        if what not in said and what == "reading":
            logger.info("compiled programs in %s are damaged: they are compiled again", folder)
        elif what not in said:
            logger.warning("compiled programs cannot be kept in %s, so the next start takes as long: %s", folder, why)
        said.add(what)

    warnings.showwarning = show
