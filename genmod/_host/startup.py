"""Set-up of a process that computes: compilation cache, GPU, devices."""

import importlib.util
import os
import re
from typing import Any

_SAME_BITS_ON_GPU = (
    "--xla_gpu_exclude_nondeterministic_ops=true",
    "--xla_gpu_autotune_level=0",
)


def configure() -> None:
    """Sets up a command that computes.

    JAX must not have been used before.

    Raises:
      ValueError: if JAX_PLATFORMS names a platform that this machine does not have.
    """
    configure_compilation_cache()
    configure_gpu()
    check_platforms()


def configure_compilation_cache() -> None:
    """Lets JAX keep compiled programs on disk.

    This makes the second start of an experiment quick. The folder is $GENMOD_CACHE_DIR, or the
    user's cache folder; JAX's own variable JAX_COMPILATION_CACHE_DIR takes precedence. XLA does not
    accept a folder whose name is not Unicode; in that case nothing is kept.
    """
    import jax

    from genmod._host import caches

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = str(caches.folder().absolute())
        is_unicode = folder.encode(errors="replace") == os.fsencode(folder)
        jax.config.update("jax_compilation_cache_dir", folder if is_unicode else None)
    # By default JAX keeps only programs that take a second to compile; ours are many and small.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def configure_gpu() -> None:
    """Makes results on a GPU bit-identical from run to run.

    XLA then uses no kernels that sum in arbitrary order, and does not choose kernels by timing
    (autotuning). Flags that are already in XLA_FLAGS take precedence. JAX must not have been used
    before. If JAX's plugin for GPUs is not installed, nothing is changed.
    """
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return
    given = os.environ.get("XLA_FLAGS", "")
    flags = [flag for flag in _SAME_BITS_ON_GPU if flag.partition("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *flags])


def started() -> bool:
    """Returns whether JAX has been started.

    From then on its devices are fixed.
    """
    # JAX has no public API for this; setting an option that must be set before would change it.
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def check_platforms() -> None:
    """Starts JAX, if it has not been started.

    Raises:
      ValueError: if JAX_PLATFORMS names a platform that this machine does not have.
    """
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        if problem := missing_platform(error):
            raise ValueError(problem) from error
        raise


def missing_platform(error: BaseException) -> str | None:
    """Explains a JAX error about a missing platform.

    JAX raises it if JAX_PLATFORMS names a platform that does not exist on this machine. The result
    is None for other errors. The process must be about to end, because this function starts JAX
    without JAX_PLATFORMS to find out which platforms exist.
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
    except (RuntimeError, AssertionError):  # the error had another cause
        return None
    finally:
        jax.config.update("jax_platforms", wanted)
    return f"JAX_PLATFORMS must name platforms of this machine ({', '.join(there)}), got {wanted!r}"


def forced_devices() -> int | None:
    """Returns the number of CPU devices that the environment sets.

    The variables are XLA_FLAGS and JAX_NUM_CPU_DEVICES. The result is None if neither sets it.
    """
    import jax

    if jax.config.jax_num_cpu_devices >= 0:  # pyrefly: ignore
        return jax.config.jax_num_cpu_devices  # pyrefly: ignore
    flag = r"--xla_force_host_platform_device_count=(\d+)"
    given = re.findall(flag, os.environ.get("XLA_FLAGS", ""))
    return int(given[-1]) if given else None


def divide_cpu(num: int) -> None:
    """Divides a CPU into at least `num` devices.

    Once JAX has been started, nothing is changed.
    """
    import jax

    if not started() and num > (forced_devices() or 1):
        jax.config.update("jax_num_cpu_devices", num)


def choose_devices(num: int | None, on_cpu: int = 1, why_fewer: str = "") -> list[Any]:
    """Returns the devices of a run, `num` of each process.

    By default a run uses one device, or `on_cpu` devices of a CPU. A run of several processes uses
    all devices by default. The devices of a CPU share its cores.

    Args:
      num: number of devices to use in each process; None for the default.
      on_cpu: default number of devices if they are those of a CPU.
      why_fewer: reason why a CPU may have fewer devices, for the error.

    Raises:
      ValueError: if there are fewer devices, or if JAX_PLATFORMS names a platform that this machine
        does not have.
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
