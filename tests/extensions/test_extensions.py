"""Extensions as researchers write them: short, and at home in everything that a run can do."""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from genmod import rng, train
from genmod.runs import catalogue

FOLDER = Path(__file__).parent
FILES = sorted(p for p in FOLDER.glob("*.py") if p.stem not in ("shared", Path(__file__).stem))
MOST_LINES = 20
# What genmod has a function of, with tests of its own, is trained in `make test-all` alone.
IN_THE_LIBRARY = {
    *("aae", "ema_vq", "factor_vae", "m2", "realnvp", "vae_gan", "vampprior"),
    *("ada", "infogan", "lazy_r1", "projection_gan", "spectral", "unrolled"),
}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_what_a_user_writes_is_short(path):
    """What stands between the imports and `build` is the extension."""
    text = path.read_text()
    body = ast.parse(text).body
    begin = max(
        node.end_lineno
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    )
    (end,) = [node.lineno for node in body if getattr(node, "name", "") == "build"]
    lines = [line.strip() for line in text.splitlines()[begin : end - 1]]
    assert len([line for line in lines if line and not line.startswith("#")]) <= MOST_LINES


def trained(learner, built, num_steps=2):
    *_, point = train.run(learner, rng.root(0), built.batch_at, num_steps=num_steps)
    return point


@pytest.mark.costly
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in IN_THE_LIBRARY)) for p in FILES],
    ids=lambda path: path.stem,
)
def test_it_trains_and_samples(path):
    module = catalogue.load(path)
    built = module.build(module.Config())
    point = trained(built.learner, built, 4)
    assert all(np.isfinite(value) for value in point.metrics.values())
    images = built.learner.sample(rng.root(1), point.state, 8)
    assert images.shape == (8, 6, 6, 1)
    assert np.isfinite(np.asarray(images)).all()
    if built.learner.conditions is not None:
        labels = np.zeros(8, np.int32)
        asked = built.learner.sample(rng.root(1), point.state, 8, labels)
        assert not np.array_equal(asked, images)


# A game of two players and a condition; the others take minutes together.
QUICKEST = {"bigan"}


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if p.stem in QUICKEST else pytest.mark.slow) for p in FILES],
    ids=lambda path: path.stem,
)
def test_a_command_does_with_it_all_that_it_does_with_any(path, genmod, tmp_path):
    # JAX's check of keys takes those of a `lax.cond` for used twice if it is vectorised over seeds.
    with jax.debug_key_reuse(path.stem != "lazy_r1"):
        everything_works(path, genmod, tmp_path)


def everything_works(path, genmod, tmp_path):
    one, seeds = tmp_path / "one", tmp_path / "seeds"
    assert genmod("train", path, "--run-dir", one).code == 0
    assert genmod("train", path, "--run-dir", seeds, "--seeds", 2).code == 0
    for how in ("pmap", "sharded"):
        spread = tmp_path / how
        assert genmod("train", path, "--run-dir", spread, "--devices", 2, "--how", how).code == 0
    for folder in (one, seeds):
        verified = genmod("verify", folder, "--all")
        assert (verified.code, "every bit agrees" in verified.out) == (0, True), verified
    replayed = genmod("replay", one, "--step", 5)
    assert (replayed.code, "not finite" in replayed.out) == (0, True), replayed
    exported = genmod("export", one, "--num", 4)
    assert (exported.code, "every bit agrees" in exported.out) == (0, True), exported
    assert genmod("report", one, seeds, "--out", tmp_path / "report.html").code == 0


@pytest.mark.end_to_end
@pytest.mark.slow
@pytest.mark.parametrize("how", ["pmap", "sharded"])
def test_devices_do_not_change_it(path, how):
    module = catalogue.load(path)
    built = module.build(module.Config())
    spread = train.over_devices(built.learner, how, jax.devices()[:2])
    alone = trained(built.learner, built)
    for one, other in zip(
        jax.tree.leaves(trained(spread, built).state), jax.tree.leaves(alone.state), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)
