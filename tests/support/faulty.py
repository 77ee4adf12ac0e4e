"""`genmod` with something going wrong, for the tests.

    python tests/support/faulty.py FAULT [ARGUMENTS]

A fault is a name, a colon and a place:

    kill:N       SIGKILL at the Nth operation on a file of a checkpoint, from the start of a save
    pause:PLACE  the process says PLACE and waits for minutes, where only a signal gets it on
    block:PLACE  the same in compiled code, which hears no signal
    fail:PLACE   says it too, and then fails as a sum over processes does, one of which is gone
    limit:BYTES  no file can grow beyond these, as on a full disk

Places: import, compile, look, evaluate, figures, restore; save, which takes only a second longer.
"""

import os
import resource
import signal
import sys
import time


def main() -> None:
    kind, place = sys.argv.pop(1).split(":")
    if kind == "kill":
        kill_at(int(place))
    elif kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(place), int(place)))
        # It only warns where it cannot write, which is an error in the tests.
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    elif place == "import":
        sys.meta_path.insert(0, SlowImport())
    else:
        wait_in(place, {"pause": wait, "block": block, "fail": fail}[kind])
    from genmod.__main__ import main

    main()


def kill_at(number: int) -> None:
    """SIGKILL at the Nth operation on a file in a folder of checkpoints that changes something."""
    left = number

    def hear(event, arguments):
        nonlocal left
        writes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
        writes = writes or (
            event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        )
        if writes and any("checkpoints" in str(argument) for argument in arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


class SlowImport:
    """Makes one import take minutes."""

    def find_spec(self, name, *_):
        if name == "jax":
            sys.meta_path.remove(self)
            wait("import")


def wait(place: str) -> None:
    print(f"<{place}>", flush=True)
    time.sleep(1 if place == "save" else 200)


def block(place: str) -> None:
    import jax
    import jax.numpy as jnp

    turns = jax.jit(lambda: jax.lax.while_loop(lambda i: i < 2, lambda i: 1 - i, jnp.int32(0)))
    compiled = turns.lower().compile()
    print(f"<{place}>", flush=True)
    jax.block_until_ready(compiled())


def fail(place: str) -> None:
    import jax

    wait(place)
    raise jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection closed by peer")


def wait_in(place: str, how) -> None:
    """Has the first call of a function that stands for a place wait, and then go on."""
    from genmod.runs import ending, runner, watch
    from genmod.train import checkpoint

    owner, name = {
        "compile": (runner.train, "run"),
        "look": (watch.Watch, "look"),
        "evaluate": (ending, "finish"),
        "figures": (ending.report, "curves"),
        "restore": (checkpoint, "restore_newest"),
        "save": (checkpoint.orbax, "save"),
    }[place]
    original = getattr(owner, name)

    def slow(*arguments, **options):
        setattr(owner, name, original)
        how(place)
        return original(*arguments, **options)

    setattr(owner, name, slow)


if __name__ == "__main__":
    main()
