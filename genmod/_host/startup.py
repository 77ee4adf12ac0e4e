"""How a process that computes is set up: the cache of compiled programs, a GPU's bits, devices."""

import importlib.util
import os
import re
from typing import Any

_SAME_BITS_ON_GPU = (
    "--xla_gpu_exclude_nondeterministic_ops=true",
    "--xla_gpu_autotune_level=0",
)


def configure() -> None:
    """Sets up a command that computes; nothing of JAX may have been used before.

    Raises:
      ValueError: if JAX_PLATFORMS names what this machine does not have.
    """
    configure_compilation_cache()
    configure_gpu()
    check_platforms()


def configure_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the second start of an experiment is quick.

    The folder is $GENMOD_CACHE_DIR, or the user's cache folder; JAX's own variable
    JAX_COMPILATION_CACHE_DIR takes precedence. XLA takes no folder whose name is not Unicode: then
    nothing is kept.
    """
    import jax

    from genmod._host import caches

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = str(caches.folder().absolute())
        is_unicode = folder.encode(errors="replace") == os.fsencode(folder)
        jax.config.update("jax_compilation_cache_dir", folder if is_unicode else None)
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


def started() -> bool:
    """Whether JAX has been started: from then on it has the devices that it has."""
    # It has no public door; to set an option that must be set before would change it.
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def check_platforms() -> None:
    """Starts JAX, if it has not been started.

    Raises:
      ValueError: if JAX_PLATFORMS names what this machine does not have.
    """
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        if problem := missing_platform(error):
            raise ValueError(problem) from error
        raise


def missing_platform(error: BaseException) -> str | None:
    """What to say of an error that JAX has raised as JAX_PLATFORMS names what is not there.

    None of another error. Where this is asked the process is about to end: to know the platforms
    that there are, it starts JAX without that wish.
    """
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    import jax

    wanted = jax.config.jax_platforms  # pyrefly: ignore
    if not wanted or started():
        return None
    jax.config.update("jax_platforms", None)
    try:
        there = sorted({"cpu", jax.default_backend()})
    except (RuntimeError, AssertionError):  # it was something else
        return None
    finally:
        jax.config.update("jax_platforms", wanted)
    return f"JAX_PLATFORMS must name platforms of this machine ({', '.join(there)}), got {wanted!r}"


def forced_devices() -> int | None:
    """How many devices the environment makes of a CPU, by XLA_FLAGS or JAX_NUM_CPU_DEVICES."""
    import jax

    if jax.config.jax_num_cpu_devices >= 0:  # pyrefly: ignore
        return jax.config.jax_num_cpu_devices  # pyrefly: ignore
    flag = r"--xla_force_host_platform_device_count=(\d+)"
    given = re.findall(flag, os.environ.get("XLA_FLAGS", ""))
    return int(given[-1]) if given else None


def divide_cpu(num: int) -> None:
    """Has a CPU be at least so many devices; where JAX has been started, it stays as it is."""
    import jax

    if not started() and num > (forced_devices() or 1):
        jax.config.update("jax_num_cpu_devices", num)


def choose_devices(num: int | None, on_cpu: int = 1, why_fewer: str = "") -> list[Any]:
    """The devices of a run: `num` of each process, which on a CPU share its cores.

    By default one, or `on_cpu` where they are those of a CPU, or all where there are several
    processes.

    Args:
      num: how many are wanted.
      on_cpu: how many a CPU should be where nothing is wanted.
      why_fewer: why a CPU may be fewer, for the error.

    Raises:
      ValueError: if there are fewer, or if JAX_PLATFORMS names what this machine does not have.
    """
    import jax

    check_platforms()
    here = jax.local_devices()
    if num is not None and len(here) < num:
        because = f": {why_fewer}" if why_fewer and here[0].platform == "cpu" else ""
        raise ValueError(f"devices must be at most {len(here)} here, got {num}{because}")
    if jax.process_count() == 1:
        spare = min(on_cpu, len(here)) if here[0].platform == "cpu" else 1
        return here[: num or spare]
    own = [[d for d in jax.devices() if d.process_index == k] for k in range(jax.process_count())]
    return [device for devices in own for device in devices[: num or len(devices)]]
