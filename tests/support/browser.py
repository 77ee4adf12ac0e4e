"""Decoders for a browser, followed by the page's own script."""

import base64
import functools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np

from genmod import report

INTERPRETER = Path(report.__file__).parent / "assets" / "interpreter.js"
FOLLOW = """
const interpreter = require(process.argv[1]);
const { program, draws, choice } = JSON.parse(require("fs").readFileSync(0));
const decode = interpreter.decoder(program);
const numbers = new Float32Array(new Uint8Array(Buffer.from(draws, "base64")).buffer);
for (let i = 0; i < numbers.length; i += program.latentDim) {
  const pixels = decode(numbers.slice(i, i + program.latentDim), choice);
  process.stdout.write(Buffer.from(pixels.buffer).toString("base64") + " ");
}
"""


@functools.cache
def node():
    """A Node.js to run the page's script with: the system's, or the one that Playwright brings."""
    from playwright._impl._driver import compute_driver_executable

    return shutil.which("node") or compute_driver_executable()[0]


def followed(program, draws, choice=0):
    """The pixels that the interpreter makes of draws [N, L], float32 [N, H * W * C].

    The choice is the index of one of the program's conditions.

    Draws and pixels are handed over as bytes: JSON has no NaN, no infinity and no negative zero.
    """
    numbers = base64.b64encode(np.asarray(draws, "<f4").tobytes()).decode()
    done = subprocess.run(
        [node(), "-e", FOLLOW, INTERPRETER],
        input=json.dumps({"program": program, "draws": numbers, "choice": choice}, allow_nan=False),
        capture_output=True,
        text=True,
        check=True,
    )
    return np.stack([np.frombuffer(base64.b64decode(x), "<f4") for x in done.stdout.split()])


def kinds(program):
    constants = [program["constants"], *program["choices"]]
    return {kind for some in constants for constant in some.values() for kind in constant}
