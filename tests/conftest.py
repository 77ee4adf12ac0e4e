"""Strict rules for all tests: four CPU devices, no silent broadcasting, no key used twice."""

import importlib.metadata
import math
import os
import time
from pathlib import Path

# Compiling takes most of the tests' time, and two thirds of it are for speed that they do not need.
# GENMOD_TESTS_XLA says how programs are compiled: "quick"; "fused", which is not optimised either,
# and in which one computation has the same bits in any program; or "usual", as users have it. What
# runs in a process of its own with a plain shell's variables, and notebooks, is always "usual".
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
if os.environ.get("GENMOD_TESTS_XLA") != "usual":
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
if os.environ.get("GENMOD_TESTS_XLA", "quick") == "quick":
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
    # jaxlib 0.12 has no such flag any more, and compiles as quickly without it.
    if importlib.metadata.version("jaxlib").startswith(("0.10.", "0.11.")):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import platformdirs
import pytest
from hypothesis import settings

pytest_plugins = ["commands"]

# Compiled programs by their contents, for the other workers and for the next time. To write down
# those that compile in no time takes longer, the first time, than to compile them. Commands in
# processes of their own have another cache.
PROGRAMS = platformdirs.user_cache_path("genmod") / "tests"
jax.config.update("jax_compilation_cache_dir", str(PROGRAMS))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

jax.config.update("jax_numpy_rank_promotion", "raise")
# The check takes a twelfth of the time; GENMOD_TESTS_KEYS=unchecked leaves it out.
jax.config.update("jax_debug_key_reuse", os.environ.get("GENMOD_TESTS_KEYS") != "unchecked")
jax.devices()  # now, so that no command run in this process can choose another number


_DAYS = 14


def pytest_sessionstart(session):
    """Throws away programs that have not been made anew for some time."""
    if not hasattr(session.config, "workerinput") and PROGRAMS.is_dir():
        for program in PROGRAMS.iterdir():
            if program.stat().st_mtime < time.time() - _DAYS * 86400:
                program.unlink()


# The first example compiles; a deadline would judge the compiler.
settings.register_profile("genmod", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("genmod")


_MOST = 1.5e9
"""Resident bytes of a process above which it forgets its compiled programs."""


def resident() -> float:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return math.inf
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True, scope="module")
def forget():
    """Compiled programs are not kept for ever: those of all tests take gigabytes."""
    yield
    if resident() > _MOST:
        jax.clear_caches()


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """The first 1,000 training images of MNIST, uint8 [1000, 28, 28, 1]."""
    from genmod import data

    return data.load("mnist").images[:1000]
