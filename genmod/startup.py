"""How a process that computes is set up: the cache of compiled programs, a GPU's bits, devices."""

import importlib.util
import os
from typing import Any

_SAME_BITS_ON_GPU = (
    "--xla_gpu_exclude_nondeterministic_ops=true",
    "--xla_gpu_autotune_level=0",
)


def configure_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the second start of an experiment is quick.

    The folder is $GENMOD_CACHE_DIR, or the user's cache folder; JAX's own variable
    JAX_COMPILATION_CACHE_DIR takes precedence.
    """
    import jax

    from genmod import caches

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(caches.folder()))
    # By default JAX keeps only what took a second to compile; here a start is many small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def configure_gpu() -> None:
    """Has a GPU repeat its bits: no kernels whose sums come in any order, none chosen by a race.

    Flags of your own in XLA_FLAGS take precedence. Nothing of JAX may have been used before; where
    there is no plugin for GPUs, nothing is changed.
    """
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return
    given = os.environ.get("XLA_FLAGS", "")
    flags = [flag for flag in _SAME_BITS_ON_GPU if flag.partition("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *flags])


def choose_devices(num: int | None, on_cpu: int = 1) -> list[Any]:
    """The devices of a run: `num` of each process, which on a CPU share its cores.

    By default one, or `on_cpu` where they are those of a CPU, or all where there are several
    processes.

    Raises:
      ValueError: if there are fewer.
    """
    import jax

    here = jax.local_devices()
    if num is not None and len(here) < num:
        raise ValueError(f"devices must be at most {len(here)} here, got {num}")
    if jax.process_count() == 1:
        spare = min(on_cpu, len(here)) if here[0].platform == "cpu" else 1
        return here[: num or spare]
    own = [[d for d in jax.devices() if d.process_index == k] for k in range(jax.process_count())]
    return [device for devices in own for device in devices[: num or len(devices)]]
