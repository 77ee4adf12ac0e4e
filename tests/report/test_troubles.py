"""Troubles that people had with the report page: each test shows what happens instead."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import followed, kinds
from commands import refused
from jax import lax
from PIL import Image

from genmod import data, report, rng
from genmod.cli import main as cli
from genmod.report import programs
from genmod.runs import explorer, pages

EDGES = np.array(
    [
        *(0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.49999997, 1.0, -1.0, 0.3, -7.25, 9.0),
        *(8388609.0, -8388609.0, 1e10, -1e10, 3e38, -3e38, np.nan, np.inf, -np.inf),
    ],
    np.float32,
)
"""Halves, signs of zero, numbers without a fraction, the largest, and what is none."""
OTHER = EDGES[None, ::-1].copy()
CASES = jnp.arange(EDGES.size)[None] % 4
LOW, HIGH = jnp.float32(2), jnp.float32(-1)


def of_bools(f):
    return lambda z: f(z > 0, jnp.abs(z) < 2).astype(jnp.float32)


def mixed(z):
    """A product with weights that are not finite: zero times infinity is NaN."""
    weights = jnp.eye(z.shape[1]).at[0, 3].set(jnp.inf).at[2, 4].set(-jnp.inf).at[4, 5].set(jnp.nan)
    return jnp.where(jnp.isfinite(z), z, 1.0) @ weights


def convolved(z):
    kernel = jnp.ones((1, 3, 1, 1)).at[0, 0, 0, 0].set(jnp.inf)
    image = jnp.where(jnp.isfinite(z), z, 1.0).reshape(1, 1, -1, 1)
    return lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


ELEMENTWISE = {
    "add": lambda z: z + OTHER,
    "sub": lambda z: z - OTHER,
    "mul": lambda z: z * OTHER,
    "div": lambda z: z / OTHER,
    "max": lambda z: lax.max(z, jnp.full_like(z, 1)),
    "min": lambda z: lax.min(z, jnp.full_like(z, -1)),
    "max of NaN": lambda z: lax.max(z, jnp.full_like(z, jnp.nan)),
    "rem": lambda z: lax.rem(z, jnp.full_like(z, -2)),
    "rem by all": lambda z: lax.rem(jnp.full_like(z, 7.5), z),
    "modulo": lambda z: z % 2.0,
    "floor division": lambda z: z // 2.0,
    "trunc": jnp.trunc,
    "lt": lambda z: (z < 0).astype(jnp.float32),
    "le": lambda z: (z <= 0).astype(jnp.float32),
    "gt": lambda z: (z > 0).astype(jnp.float32),
    "ge": lambda z: (z >= 0).astype(jnp.float32),
    "eq": lambda z: (z == 0).astype(jnp.float32),
    "ne": lambda z: (z != 0).astype(jnp.float32),
    "eq of itself": lambda z: (z == z).astype(jnp.float32),
    "and": of_bools(jnp.logical_and),
    "or": of_bools(jnp.logical_or),
    "not": of_bools(lambda a, b: ~a & b),
    "eq of bools": of_bools(lambda a, b: a == b),
    "neg": lambda z: -z,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round to even": jnp.round,
    "round away from zero": lax.round,
    "square": jnp.square,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid,
    "erf": lax.erf,
    "erfc": lambda z: lax.erfc(jnp.where(z == 9.0, 8.0, z)),
    "log of erfc": lambda z: jnp.log(lax.erfc(jnp.clip(z, 0.0, 9.0))),
    "sin": lambda z: jnp.sin(jnp.clip(z, -10.0, 10.0)),
    "cos": lambda z: jnp.cos(jnp.clip(z, -10.0, 10.0)),
    "pow": lambda z: jnp.power(z, jnp.float32(2.5)),
    "pow to the last": lambda z: jnp.power(jnp.float32(2), z),
    "one to the power": lambda z: jnp.power(jnp.float32(1), z),
    "minus one to the power": lambda z: jnp.power(jnp.float32(-1), z),
    "pow by whole numbers": lambda z: lax.pow(z, jnp.full(z.shape, 3)),
    "integer_pow": lambda z: z**-3,
    "is_finite": lambda z: jnp.isfinite(z).astype(jnp.float32),
    "clamp": lambda z: lax.clamp(-1.0, z, 2.0),
    "clamp the other way round": lambda z: lax.clamp(LOW, z, HIGH),
    "select of two": lambda z: lax.select_n(z > 0, z, -z),
    "select of four": lambda z: lax.select_n(CASES, z, -z, 2 * z, 3 * z),
    "to bool": lambda z: z.astype(bool).astype(jnp.float32),
    "bool to whole numbers": lambda z: (z > 0).astype(jnp.int32).astype(jnp.float32),
    "choice of whole numbers": lambda z: jnp.where(z > 0, 3, -2).astype(jnp.float32) * z,
    "whole precision": lambda z: lax.reduce_precision(z, 8, 23),
    "stop_gradient": lambda z: lax.stop_gradient(z) * 2,
    "copy": lambda z: jnp.array(z, copy=True) * 2,
    "checkpoint": lambda z: jax.checkpoint(jnp.square)(z),
    "softmax": lambda z: jax.nn.softmax(jnp.clip(z, -3.0, 3.0)),
    "reduce_max": lambda z: z[:, :20].max() + jnp.zeros_like(z),
    "reduce_max of NaN": lambda z: z.max() + jnp.zeros_like(z),
    "reduce_sum": lambda z: z[:, :14].sum() + jnp.zeros_like(z),
    "weights that are not finite": mixed,
    "a kernel that is not finite": convolved,
    "the constant infinity": lambda z: jnp.where(z > 0, -jnp.inf, z),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.end_to_end
def test_each_operation_gives_what_jax_gives_at_the_edges(name):
    """Review 11: conversions and operations that were followed as something near to them."""
    function = ELEMENTWISE[name]
    decode = jax.jit(lambda z: function(z).reshape(1, 1, -1, 1))
    wanted = np.asarray(decode(EDGES[None])).ravel()
    found = followed(programs.program(decode, EDGES.size), EDGES[None])[0]
    np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=1e-37, err_msg=name)
    zeros = wanted == 0
    np.testing.assert_array_equal(np.signbit(found[zeros]), np.signbit(wanted[zeros]))


REFUSED = {
    "half floats": (lambda z: z.astype(jnp.float16).astype(jnp.float32), "on float16"),
    "bfloat16": (lambda z: (z.astype(jnp.bfloat16) * 2).astype(jnp.float32), "on bfloat16"),
    "reduced precision": (lambda z: lax.reduce_precision(z, 5, 10), "5 bits of exponent"),
    "whole numbers": (lambda z: z.astype(jnp.int32).astype(jnp.float32), "to whole numbers"),
    "sums of whole numbers": (lambda z: ((z > 0).astype(jnp.int32) + 1) / z, "'add' on int32"),
    "bits of whole numbers": (lambda z: ~(z > 0).astype(jnp.int32) * z, "'not' on int32"),
    "counts": (lambda z: jnp.argmax(z, 1, keepdims=True) + z, "'argmax' on int32"),
    "bytes": (lambda z: jnp.where(z > 0, 300, 2).astype(jnp.uint8) * z, "of int32 to uint8"),
    "large whole numbers": (
        lambda z: lax.select_n(z > 0, *jnp.array([[[2**24 + 1]], [[7]]])).astype(jnp.float32),
        "above 16,777,216",
    ),
    "a reduction of one's own": (
        lambda z: lax.reduce(z, jnp.float32(1), lambda a, b: a * b + 1, (1,))[:, None] + z,
        "the operation 'reduce' is not known",
    ),
    "a choice for each platform": (
        lambda z: lax.platform_dependent(z, cpu=jnp.sin, cuda=jnp.sin, tpu=jnp.sin, rocm=jnp.sin),
        "the operation '",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_give_other_values_is_refused(name):
    """Review 11: numbers of another type than the browser's are not followed as if they were."""
    function, said = REFUSED[name]
    with pytest.raises(programs.UnsupportedError, match=said):
        programs.program(lambda z: function(z).reshape(1, 1, -1, 1), 1)


def of_derived_exponentials(z):
    weights = 6 * jax.random.normal(rng.root(0), (4, 100))
    return (z @ jnp.exp(weights)).reshape(-1, 10, 10, 1)


def of_batch_norm_with_dead_channels(z):
    """As a network with batch norm is: what is derived of variances ranges far."""
    weights = jax.random.normal(rng.root(0), (4, 100))
    variance = jnp.where(jnp.arange(100) < 8, 0.0, 1.0)
    scale = 1 / jnp.sqrt(variance + 1e-5)
    hidden = (z @ weights) * jnp.where(variance > 0, 1.0, 0.0)[None] * scale[None]
    return jax.nn.sigmoid(hidden).reshape(-1, 10, 10, 1)


def of_a_mask_of_infinities(z):
    weights = jax.random.normal(rng.root(0), (4, 100))
    mask = jnp.where(jnp.arange(100) % 3 == 0, -jnp.inf, 0.0)
    return jax.nn.sigmoid(z @ weights + mask[None]).reshape(-1, 10, 10, 1)


def of_whole_numbers_in_a_table(z):
    table = jnp.arange(300) * 300
    return jnp.sin(z.sum() * table[:100].astype(jnp.float32)).reshape(1, 10, 10, 1) + jnp.where(
        z.sum() > 0, table.reshape(1, 3, 100)[:, 0], table.reshape(1, 3, 100)[:, 1]
    ).astype(jnp.float32).reshape(1, 10, 10, 1)


def of_infinities_between_weights(z):
    weights = jax.random.normal(rng.root(0), (4, 100)).at[2, 5].set(jnp.nan)
    return jax.nn.sigmoid(z @ weights).reshape(-1, 10, 10, 1)


@pytest.mark.parametrize(
    "decode",
    [
        of_derived_exponentials,
        of_batch_norm_with_dead_channels,
        of_a_mask_of_infinities,
        of_whole_numbers_in_a_table,
        of_infinities_between_weights,
    ],
)
def test_constants_that_are_derived_keep_their_bits_where_that_is_seen(decode):
    """Review 2: what is written is what was compared, and it is JSON (`followed` refuses NaN)."""
    z = np.asarray(jax.random.normal(rng.root(1), (3, 4)))
    wanted = np.concatenate([np.asarray(decode(one[None])).reshape(1, -1) for one in z])
    found = followed(programs.program(decode, 4), z)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2.5e-4)


def test_weights_beside_what_is_derived_still_have_16_bits():
    """Review 2: a short constant that ranges far does not make the whole page larger."""
    first = jax.random.normal(rng.root(0), (4, 100))
    second = jax.random.normal(rng.root(1), (100, 100))
    scale = jnp.where(jnp.arange(100) < 8, 316.0, 1.0)
    dead = jnp.where(jnp.arange(100) < 8, 0.0, 1e-2)

    def decode(z):
        hidden = jnp.tanh((z @ first) * dead[None]) * scale[None]
        return jax.nn.sigmoid(hidden @ second + 0.5 * scale[None]).reshape(-1, 10, 10, 1)

    program = programs.program(decode, 4)
    sizes = {kind for one in program["constants"].values() for kind in one if kind != "scale"}
    assert sizes == {"i16", "f32"}
    z = np.asarray(jax.random.normal(rng.root(1), (3, 4)))
    np.testing.assert_allclose(followed(program, z), decode(z).reshape(3, -1), atol=2.5e-4)


def test_weights_are_compared_where_the_page_is_walked():
    """Review 2: codes of an autoencoder lie anywhere, draws from N(0, I) say nothing of them."""
    weights = jax.random.normal(rng.root(0), (4, 5000))

    def decode(z):
        return jax.nn.sigmoid(z @ weights).reshape(-1, 50, 100, 1)

    assert "i16" in kinds(programs.program(decode, 4))
    far = 300 * jax.random.normal(rng.root(1), (5, 4))
    program = programs.program(decode, 4, tried=far)
    assert kinds(program) == {"f32"}
    with pytest.raises(ValueError, match=r"tried must have the shape \[T, 4\], got \[5, 3\]"):
        programs.program(decode, 4, tried=far[:, :3])


def text_of(html):
    """What can be read of a page, and of its figures."""
    html = re.sub(r"<(script|style)\b.*?</\1>|<!--.*?-->", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def explorer_of(html, run=0):
    held = re.search(r'<script id="explorers"[^>]*>(.*?)</script>', html, re.DOTALL)
    return json.loads(held[1], parse_constant=pytest.fail)[str(run)]


def made(path, rows=(), evaluation=None, **fields):
    """A run folder as a run leaves it, without what is needed to open it."""
    path.mkdir(parents=True)
    recorded = {
        "experiment": "small",
        "config": {"seed": 0, "epochs": 3},
        "data": "sha256:0",
        "versions": {},
        "device": {},
        "command": "genmod train small",
        "created": "2026-11-25T00:00:00+00:00",
    }
    (path / "record.json").write_text(json.dumps(recorded | fields))
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if evaluation is not None:
        (path / "evaluation.json").write_text(json.dumps(evaluation))
    return path


ROWS = [
    {"step": 1, "epoch": 1.0, "loss": 5.5, "kl": "Infinity", "examples_per_s": None},
    '{"step": 2, "epoch": 2.0, "loss": NaN, "kl": -Infinity}',
    {"step": 3, "epoch": 3.0, "loss": None, "kl": "NaN", "examples_per_s": "NaN"},
    {"step": 4, "epoch": 4.0, "loss": 3.25, "kl": 1.0},
]
"""Log points with whatever may stand for a number that is none."""


def test_numbers_that_are_not_finite_are_gaps_in_the_curves():
    """Case 14 of the reported troubles."""
    rows = [json.loads(row) if isinstance(row, str) else row for row in ROWS]
    loss, kl = report.curves(rows).axes
    assert loss.get_title() == "loss (2 of 4 not finite)"
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [5.5, np.nan, np.nan, 3.25])
    assert kl.get_title() == "kl (3 of 4 not finite)"
    of_runs = [{"step": i, "loss": float(i), "loss_se": e} for i, e in enumerate([0.1, None, 0.3])]
    (panel,) = report.curves(of_runs).axes
    (band,) = panel.collections
    assert np.isfinite(band.get_datalim(panel.transData).bounds).all()
    nothing = report.curves([{"step": 1, "loss": "NaN"}])
    nothing.canvas.draw()
    both = report.compared({"a $x$ b": rows, "_hidden": rows})
    assert [text.get_text() for text in both.legends[0].get_texts()] == ["a $x$ b", "_hidden"]
    assert both.axes[0].get_title() == "loss (4 of 8 not finite)"
    both.canvas.draw()


def test_numbers_that_are_not_finite_are_shown_as_such(tmp_path, capsys):
    """Case 14 of the reported troubles: one run with such numbers does not fail the whole tree."""
    odd = made(tmp_path / "odd", ROWS, {"divergence": "Infinity", "kid": None, "fid": -np.inf})
    good = made(tmp_path / "good", [{"step": 1, "epoch": 1.0, "loss": 2.0}], {"divergence": 1.0})
    found = text_of(pages.build([odd]))
    for said in ("divergence inf", "kid nan", "fid -inf", "loss (2 of 4 not finite)"):
        assert said in found, said
    seeds = made(
        tmp_path / "seeds",
        [{"step": 1, "epoch": 1.0, "loss": 2.0, "seeds": {"loss": [1.0, "NaN"]}}],
        {"divergence": "Infinity", "seeds": {"divergence": ["Infinity", 1.0]}},
        seeds=2,
        data="sha256:1",
    )
    found = text_of(pages.build([odd, good, seeds]))
    assert "less data sha256:0 loss 3.2500 2.0000 nan -1.2500 -2.2500 divergence inf" in found
    assert "divergence inf 1.0000 inf -inf nan kid nan - - - - fid -inf - - - - Means" in found
    assert "is left out" not in capsys.readouterr().err


def test_a_page_compares_families_of_different_sizes(tmp_path):
    """One run has 2 latents, the other 12: each is shown by all of its numbers."""

    def rows(latents):
        return [{"step": 1, "epoch": 1.0, **{f"kl/{k}": 1.0 + k for k in range(latents)}}]

    few = made(tmp_path / "few", rows(2), {"test_kl/0": 0.5}, config={"seed": 0, "latent_dim": 2})
    many = made(tmp_path / "many", rows(12), config={"seed": 0, "latent_dim": 12})
    found = text_of(pages.build([few, many]))
    assert found.count("kl/0 to 11") == 2, "side by side, and that of the second run"
    assert found.count("kl/0 to 1 ") == 1
    assert "median of 12" in found
    assert "test_kl/0 0.5000" in found


def test_numbers_of_an_earlier_end_are_said_to_be_that(tmp_path, capsys):
    """A run that was made longer and stopped keeps the evaluation of its first end."""
    starts = [{"step": 0, "num_steps": 4}, {"step": 4, "num_steps": 12}]
    rows = [{"step": step, "epoch": step / 4, "loss": 1.0} for step in (4, 8, 12)]
    made(tmp_path / "stopped", rows[:2], {"fid": 1.0}, starts=starts)
    made(tmp_path / "ended", rows, {"fid": 1.0}, starts=starts, seeds=2, config={"seed": 3})
    said = "goes on to step 12 and is at 8: the numbers and pictures of its end are those of an ear"
    assert said in text_of(pages.build([tmp_path / "stopped"]))
    assert said in capsys.readouterr().err
    found = text_of(pages.build([tmp_path / "ended"]))
    assert "goes on" not in found
    assert "pictures and latent space of seed 3" in found


def test_runs_of_several_experiments_are_called_by_what_they_differ_in(tmp_path):
    runs = [
        made(
            tmp_path / str(i),
            evaluation={"fid": float(i)},
            experiment=name,
            config={"seed": 0, "epochs": 3, "width": width},
        )
        for i, (name, width) in enumerate([("one", 1), ("one", 2), ("other", 2)])
    ]
    found = text_of(pages.build(runs))
    assert "one, width 1 one, width 2 other one, width 2 less one, width 1 other less" in found


DAMAGED = {
    "no record": lambda run: (run / "record.json").write_text("{"),
    "no log": lambda run: (run / "metrics.jsonl").write_text("garbage\n"),
    "no numbers": lambda run: (run / "evaluation.json").write_text("[1]"),
    "half an evaluation": lambda run: (run / "evaluation.json").write_text('{"fid": '),
    "text for a number": lambda run: (run / "evaluation.json").write_text('{"fid": "low"}'),
    "numbers of too few seeds": lambda run: (run / "evaluation.json").write_text(
        '{"fid": 1.0, "seeds": {"fid": [1.0, 2.0]}}'
    ),
    "a step without an end": lambda run: (run / "metrics.jsonl").write_text(
        '{"step": 1e400, "epoch": 1.0, "loss": 2.0}\n'
    ),
    "more than a float holds": lambda run: (run / "metrics.jsonl").write_text(
        f'{{"step": 1, "epoch": 1.0, "loss": 1{"0" * 400}}}\n'
    ),
    "nested without an end": lambda run: (run / "evaluation.json").write_text("[" * 200_000),
    "no seed": lambda run: made(run.parent / "again", seeds=0).rename(run.parent / "b-none"),
    "a seed that is none": lambda run: made(
        run.parent / "again", config={"seed": "x", "epochs": 1}
    ).rename(run.parent / "b-odd"),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.end_to_end
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(
    damage, genmod, tmp_path, monkeypatch
):
    """Case 14 of the reported troubles: one run's trouble never fails the page of several."""
    row = {"step": 1, "epoch": 1.0, "loss": 2.0}
    for name in ("a", "b", "c"):
        made(tmp_path / "runs" / name, [row], {"fid": 3.0})
    DAMAGED[damage](tmp_path / "runs" / "b")
    monkeypatch.chdir(tmp_path)
    ended = genmod("report", "runs")
    assert ended.code == 0, ended
    assert "Traceback" not in ended.err
    (said,) = [line for line in ended.err.splitlines() if "is left out: " in line]
    assert said.startswith("note: runs/b")
    found = text_of((tmp_path / "report.html").read_text("utf-8"))
    assert said.removeprefix("note: ") in found
    assert found.count("fid 3.0000") >= 2
    assert "cannot be shown side by side" not in found
    (run,) = {path for path in (tmp_path / "runs").iterdir() if f"runs/{path.name} is" in said}
    refused(genmod("report", run, "--out", tmp_path / "x.html"), 2, "is damaged")


def test_if_no_run_can_be_read_the_first_error_is_said(genmod, tmp_path):
    for name in ("a", "b"):
        made(tmp_path / name)
        (tmp_path / name / "record.json").write_text("{")
    refused(genmod("report", tmp_path, "--out", tmp_path / "x.html"), 2, "none of 2 runs", "a/rec")


def test_pictures_that_do_not_open_are_named(tmp_path, capsys):
    run = made(tmp_path / "run", [{"step": 1, "epoch": 1.0, "loss": 2.0}])
    looks = run / "pictures" / "samples"
    looks.mkdir(parents=True)
    Image.new("L", (4, 4)).save(looks / "step-00000001.png")
    whole = (looks / "step-00000001.png").read_bytes()
    (looks / "step-00000002.png").write_bytes(whole[:30])
    (looks / "step-final.png").write_bytes(whole)
    (run / "pictures" / "data.png").write_text("no picture")
    Image.new("L", (4, 4)).save(run / "pictures" / "latents.png")
    Image.new("L", (4, 4)).save(run / "pictures" / "curves.png")
    html = pages.build([run])
    found = text_of(html)
    said = capsys.readouterr().err
    for name in ("pictures/samples/step-00000002.png", "pictures/data.png"):
        assert f"{name} is not a picture that can be opened" in found
        assert f"{name} is not a picture that can be opened" in said
    assert 'alt="samples, step 1"' in html
    assert 'alt="latents"' in html, "there is no map: what the run drew is shown"
    assert 'alt="curves"' not in html, "the page draws them"


@pytest.mark.parametrize("name", [b"\xe7\x8c\xab \xe3\x81\xae \xe7\xb5\xb5", b"caf\xe9 'x' $y$"])
def test_any_name_of_a_folder_can_stand_on_a_page(name, genmod, tmp_path):
    """Case 18 of the reported troubles: Japanese names, and bytes that are not UTF-8."""
    folder = tmp_path / "runs" / os.fsdecode(name)
    row = {"step": 1, "epoch": 1.0, "loss": 2.0}
    try:
        made(folder, [row], config={"seed": 0, "epochs": 3, "dataset": f"folder:{folder}"})
    except OSError:
        pytest.skip("this file system takes no such name")
    made(tmp_path / "runs" / "other", [row], config={"seed": 0, "epochs": 3, "dataset": "$a$b"})
    ended = genmod("report", tmp_path / "runs", "--out", tmp_path / "page.html")
    assert ended.code == 0, ended
    found = text_of((tmp_path / "page.html").read_text("utf-8"))
    shown = os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
    assert found.count(shown) > 3
    assert "dataset $a$b" in found, "no formula"
    named = " ".join(re.findall(r"genmod verify (.*?) the first", found))
    told = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {named}"], capture_output=True, check=True
    )
    assert os.fsencode(folder) in told.stdout.split(b"\0")


WALKED = '''
"""A VAE on images of a file."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import optax

from genmod import data, nets, train, vae
from genmod.experiment import Experiment, Latents


@dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: int = 1


def build(config):
    held = np.load("FILE")
    images, test = data.from_arrays(held["x"]), data.from_arrays(held["x_test"], held["y_test"])
    model = vae.make(nets.mlp((4,), 4, heads=2), nets.mlp((4,), (4, 4, 1)), latent_dim=2)
    draw = vae.generate(model)
    learner = train.learner(model.init, vae.elbo(model), optax.adam(1e-3), sample=draw)
    return Experiment(
        learner,
        data.batches(images.images, batch_size=8),
        images,
        batch_size=8,
        epochs=config.epochs,
        figures=lambda key, state: {},
        latents=Latents(
            2,
            decoder=lambda key, state: partial(vae.decode_mean(model), state.params),
            encode=lambda state, x: 1.0 * model.encode(state.params, x)[0],
        ),
        test=test._replace(classes=()),
    )
'''


def arrays(seed=0, num_test=24, classes=12):
    draw = np.random.default_rng(seed)
    x, x_test = (draw.integers(0, 256, (n, 4, 4, 1), np.uint8) for n in (16, num_test))
    return {"x": x, "x_test": x_test, "y_test": np.arange(num_test) * classes // num_test}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of it, as the command leaves it, and the file of its data."""
    folder = tmp_path_factory.mktemp("walked")
    np.savez(folder / "data.npz", **arrays())
    source = folder / "walked.py"
    source.write_text(WALKED.replace("FILE", str(folder / "data.npz")))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(source), "--run-dir", str(folder / "run")])
    assert ended.value.code == 0
    return folder


@pytest.fixture
def walked(trained, tmp_path):
    """A copy of that run, and of the file that it reads."""
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copy(trained / "data.npz", tmp_path)
    edit(tmp_path / "run", str(trained), str(tmp_path))
    return tmp_path / "run"


def edit(run, old, new):
    """Changes what the run's experiment does when it is opened again."""
    copy = run / "experiment.py"
    text = copy.read_text()
    assert old in text
    copy.write_text(text.replace(old, new))


@pytest.mark.reliability(41)
@pytest.mark.end_to_end
def test_codes_of_other_data_are_not_shown(walked, genmod):
    """Case 21 of the reported troubles: the file behind the data was replaced."""
    before = pages.build([walked])
    assert '<canvas class="map"' in before
    assert "are not those of the run" not in before
    np.savez(walked.parent / "data.npz", **arrays(seed=1))
    ended = genmod("report", walked)
    assert ended.code == 0, ended
    (said,) = ended.err.splitlines()
    assert "There is no map: the training data are not those of the run (their finger" in said
    html = (walked / "report.html").read_text("utf-8")
    assert said.partition(": There")[2] in text_of(html)
    assert '<canvas class="map"' not in html
    explorer = explorer_of(html)
    assert explorer["points"] == explorer["labels"] == explorer["classes"] == []
    assert explorer["program"] == explorer_of(before)["program"]


@pytest.mark.end_to_end
def test_codes_of_other_test_data_are_not_shown(walked, capsys):
    """Case 21 of the reported troubles, where the training data are still the same."""
    recorded = json.loads((walked / "record.json").read_text())
    test = data.from_arrays(arrays()["x_test"], arrays()["y_test"])
    recorded["test_data"] = test.fingerprint
    (walked / "record.json").write_text(json.dumps(recorded))
    assert '<canvas class="map"' in pages.build([walked])
    np.savez(walked.parent / "data.npz", **{**arrays(), "y_test": arrays()["y_test"][::-1]})
    assert '<canvas class="map"' not in pages.build([walked])
    assert "There is no map: the test data are not those of the run" in capsys.readouterr().err


@pytest.mark.end_to_end
def test_data_that_are_gone_leave_the_rest_of_the_page(walked, genmod):
    """Case 21 of the reported troubles, where there is no file any more."""
    (walked.parent / "data.npz").unlink()
    ended = genmod("report", walked)
    assert ended.code == 0, ended
    (said,) = ended.err.splitlines()
    assert "There is no explorer: the run cannot be opened (" in said
    assert "data.npz" in said
    assert "There is no explorer" in text_of((walked / "report.html").read_text("utf-8"))


@pytest.mark.end_to_end
def test_codes_that_cannot_be_computed_leave_the_sliders(walked, capsys):
    edit(walked, "1.0 * model.encode(state.params, x)[0]", "1 // 0")
    html = pages.build([walked])
    assert "There is no map: its codes cannot be computed (" in capsys.readouterr().err
    assert '<canvas class="map"' not in html
    assert explorer_of(html)["program"]


@pytest.mark.end_to_end
def test_a_run_whose_file_ends_as_a_script_does_is_no_trouble_of_the_page(walked, genmod):
    """Case 14 of the reported troubles, where options of one's own are read when it is opened."""
    copy = walked / "experiment.py"
    copy.write_text(copy.read_text() + "\nraise SystemExit('--data is missing')\n")
    made(walked.parent / "other", [{"step": 1, "epoch": 1.0, "loss": 2.0}])
    ended = genmod("report", walked.parent, "--out", walked.parent / "page.html")
    assert ended.code == 0, ended
    said = "run: There is no explorer: the run cannot be opened (it ended with --data is missing)."
    assert said in ended.err
    assert said.partition(": ")[2] in text_of((walked.parent / "page.html").read_text("utf-8"))


@pytest.mark.end_to_end
def test_a_decoder_that_fails_leaves_the_map(walked, capsys):
    edit(walked, "partial(vae.decode_mean(model), state.params)", "1 // 0")
    html = pages.build([walked])
    assert "There are no sliders: the decoder cannot be run (" in capsys.readouterr().err
    assert explorer_of(html)["program"] is None
    assert len(explorer_of(html)["labels"]) == 24


@pytest.mark.end_to_end
def test_codes_that_are_left_out_are_counted(walked, capsys):
    edit(walked, "x)[0]", "x)[0].at[:5].set(np.nan)")
    assert len(explorer_of(pages.build([walked]))["labels"]) == 19
    assert "5 of 24 codes are not finite and not on the map." in capsys.readouterr().err


@pytest.mark.end_to_end
def test_without_codes_an_autoencoder_has_no_explorer(walked, capsys):
    """Nothing else tells how far from zero its images lie."""
    edit(walked, "encode=lambda", "standard_normal_prior=False, encode=lambda")
    assert explorer_of(pages.build([walked]))["centre"] != [0, 0]
    np.savez(walked.parent / "data.npz", **arrays(seed=1))
    html = pages.build([walked])
    assert 'data-run="0"' not in html
    said = capsys.readouterr().err
    assert "are not those of the run" in said
    assert "There is no explorer: no codes tell where" in said


@pytest.mark.end_to_end
def test_codes_of_any_scale_are_drawn_where_they_are(walked):
    edit(walked, "1.0 * model", "1e-6 * model")
    small = explorer_of(pages.build([walked]))
    edit(walked, "1e-6 * model", "1.0 * model")
    usual = explorer_of(pages.build([walked]))
    points = np.reshape(usual["points"], (-1, 2))
    spread = np.ptp(points, axis=0).max()
    np.testing.assert_allclose(
        np.reshape(small["points"], (-1, 2)) * 1e6, points, atol=spread / 500
    )
    np.testing.assert_allclose(np.array(small["start"]) * 1e6, usual["start"], rtol=1e-5)


@pytest.mark.end_to_end
def test_the_map_is_of_all_of_the_test_images(walked, monkeypatch):
    """Images in the order of their classes: the first ones would show a few classes."""
    monkeypatch.setattr(explorer, "_CODES", 12)
    shown = explorer_of(pages.build([walked]))
    assert len(shown["labels"]) == 12
    assert shown["classes"] == [str(i) for i in range(12)]
    assert shown["caption"] == "12 of 24 test images"


@pytest.mark.end_to_end
def test_the_map_names_the_classes(walked):
    """Case 23 of the reported troubles."""
    names = [f"class {i} </script>" for i in range(12)]
    recorded = json.loads((walked / "record.json").read_text())
    (walked / "record.json").write_text(json.dumps(recorded | {"classes": names}))
    html = pages.build([walked])
    assert "</script>" not in re.search(r'id="explorers"[^>]*>(.*?)</script>\n', html)[1]
    explorer = explorer_of(html)
    assert explorer["classes"] == names
    assert len(set(explorer["colours"])) == 12, "no two classes look alike"
    edit(walked, "classes=()", "classes=('first', 'second')")
    assert explorer_of(pages.build([walked]))["classes"][:4] == ["first", "second", "2", "3"]


@pytest.mark.end_to_end
def test_the_map_takes_names_from_the_training_data_where_nothing_else_has_them(walked):
    """Case 23 of the reported troubles, for a run that was recorded without names."""
    edit(walked, "        images,\n", "        images._replace(classes=('cat', 'dog')),\n")
    assert explorer_of(pages.build([walked]))["classes"][:3] == ["cat", "dog", "2"]


def test_the_plane_of_codes_names_the_classes():
    """Case 23 of the reported troubles, in the picture of the end."""
    codes = np.random.default_rng(0).normal(size=(8, 2))
    names = ("_hidden", "$a$", "猫")
    (axes,) = report.latent_plane(codes, np.arange(8) % 4, classes=names).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*names, "3"]

    images = np.zeros((8, 4, 4, 1), np.uint8)
    named = data.from_arrays(images, np.arange(8) % 3)._replace(classes=names)
    figures = report.autoencoder_figures(
        named,
        named,
        encode=lambda x: codes,
        decode=lambda z: np.zeros((len(z), 4, 4, 1)),
        manifold=False,
    )
    (axes,) = figures["latents"].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(names)
