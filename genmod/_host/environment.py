"""Environment of a run: versions, device, settings of JAX.

Together with the run's code, it determines the numbers of the run.
"""

import importlib.metadata
import os
import platform
from typing import Any

import genmod
from genmod._host import machine

_SETTINGS = (
    *("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable"),
    *("jax_default_matmul_precision", "jax_random_seed_offset", "jax_numpy_dtype_promotion"),
    *("jax_allow_f16_reductions", "jax_softmax_custom_jvp", "jax_high_dynamic_range_gumbel"),
    *("jax_optimization_level", "jax_exec_time_optimization_effort", "jax_memory_fitting_level"),
    *("jax_disable_most_optimizations", "jax_use_shardy_partitioner", "jax_use_direct_linearize"),
)
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Python and the packages that compute."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "genmod": genmod.__version__, **found}


def device() -> dict[str, Any]:
    """Describes the device and the machine."""
    import jax

    devices = jax.devices()
    on_cpu = devices[0].platform == "cpu"  # a CPU can be any number of devices
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        **({"cpu": machine.cpu()} if on_cpu else {"count": len(devices)}),
        "cores": machine.cores(),
        "machine": platform.machine(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def settings() -> dict[str, Any]:
    """Returns the settings that change JAX's results.

    These are settings of JAX and environment variables of its devices.
    """
    import jax

    known = getattr(jax.config, "values", {})
    values = {name: getattr(jax.config, name, known.get(name)) for name in _SETTINGS}
    found = {name: getattr(value, "value", value) for name, value in values.items()}
    return {**found, **{name: os.environ.get(name, "") for name in _VARIABLES}}
