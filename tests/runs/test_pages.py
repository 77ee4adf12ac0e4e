"""The report page: what it says of runs, and what it does in a browser."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import SMALL, refused

from genmod import evaluate, rng
from genmod._host import disk
from genmod.runs import explorer, loading, logs, pages, record
from genmod.runs.folder import Folder

pytestmark = pytest.mark.end_to_end

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WALKED = (
    ("        figures=figures,\n", "        latents=latents,\n        test=images,\n"),
    ("    return Experiment(", "    latents = Latents(\n"
     "        config.latent_dim,\n"
     "        decoder=lambda key, state: lambda z: vae.decode_mean(model)(state.params, z),\n"
     "        encode=lambda state, x: model.encode(state.params, x)[0],\n"
     "    )\n\n    return Experiment("),
    ("import Experiment\n", "import Experiment, Latents\n"),
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The small experiment, with a latent space that can be walked in."""
    text = SMALL.read_text()
    for old, new in WALKED:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("source") / "walked.py"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def trained():
    """Runs that tests have trained already, by their flags."""
    return {}


@pytest.fixture
def run(genmod, source, trained, tmp_path, tmp_path_factory):
    """A run of it in a folder of the test, with these flags; trained but once."""

    def train(name, *flags):
        if flags not in trained:
            trained[flags] = tmp_path_factory.mktemp("trained") / "run"
            ended = genmod("train", source, "--run-dir", trained[flags], *flags)
            assert ended.code == 0, ended
        return shutil.copytree(trained[flags], tmp_path / name)

    return train


def text_of(html):
    """What can be read of a page."""
    html = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_page_says_what_a_run_is_and_how_to_repeat_it(genmod, run, tmp_path):
    folder = run("run", "--latent-dim", 3)
    ended = genmod("report", folder)
    assert ended.code == 0, ended
    page = folder / "report.html"
    assert ended.out.startswith(f"{page} (")
    html = page.read_text()
    found = text_of(html)
    evaluation = logs.read_evaluation(Folder(folder))
    rows = logs.read_metrics(Folder(folder))
    for said in (
        f"negative_elbo {evaluation['negative_elbo']:.4f}",
        f"loss (last log point) {rows[-1]['loss']:.4f}",
        "epochs 3 of 3",
        "latent_dim 3",
        f"jax=={jax.__version__}",
        f"genmod verify {folder}",
        "--latent-dim 3",
        "samples: step 12",
        "reconstructions",
    ):
        assert said in found, said
    assert len(re.findall(r"<img[^>]* alt=\"samples, step", html)) == 3, "a picture for each look"
    assert html.count("<svg") == 1
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html), "nothing is fetched"
    again = tmp_path / "again.html"
    assert genmod("report", folder, "--out", again).code == 0
    assert again.read_text() == html, "the same run gives the same page"


def test_runs_that_differ_by_their_seed_are_one_line_with_its_error(run):
    folders = [run(f"seed-{seed}", "--seed", seed) for seed in (0, 1)]
    values = [logs.read_evaluation(Folder(folder))["negative_elbo"] for folder in folders]
    mean, error = evaluate.estimate(np.array(values))
    shown = logs.readable({"value": mean, "value_se": error})["value"]
    found = text_of(pages.build(folders))
    assert f"negative_elbo {shown}" in found
    assert "2 seeds" in found
    assert "less" not in found.split("Means over seeds")[0], "there is nothing to compare with"


def test_differences_are_paired_by_seed(run):
    """By hand, from each seed's own log; of one arm a folder holds both seeds, of the other two."""
    narrow = [run(f"narrow-{seed}", "--seed", seed) for seed in (0, 1)]
    wide = run("wide", "--seeds", 2, "--latent-dim", 3)
    alone = [logs.read_evaluation(Folder(f))["negative_elbo"] for f in narrow]
    both = logs.read_evaluation(Folder(wide))["seeds"]["negative_elbo"]
    mean, error = evaluate.estimate(np.array(both) - np.array(alone))
    shown = logs.readable({"value": mean, "value_se": error})["value"]
    found = text_of(pages.build([*narrow, wide]))
    assert "latent_dim 3 less latent_dim 2" in found
    assert ("+" if mean > 0 else "") + shown in found
    assert "2 seeds that all have" in found


def test_of_runs_without_a_seed_in_common_no_difference_is_given(run):
    found = text_of(pages.build([run("a", "--seed", 1), run("b", "--latent-dim", 3)]))
    row = re.search(r"negative_elbo (\S+) (\S+) (\S+)", found)
    assert row is not None
    assert row[3] == "-"


def test_what_cannot_be_opened_is_still_shown(run, monkeypatch):
    folder = run("run", "--seed", 0)
    for step in (folder / "checkpoints").iterdir():
        shutil.rmtree(step)
    found = text_of(pages.build([folder]))
    assert "There is no explorer: the run cannot be opened (" in found
    assert "negative_elbo" in found
    assert "samples: step 12" in found


def test_a_decoder_that_the_browser_does_not_know_leaves_the_map(run, source, monkeypatch):
    folder = run("run", "--seed", 0)
    copy = folder / "experiment.py"
    copy.write_text(
        copy.read_text().replace(
            "vae.decode_mean(model)(state.params, z),",
            "jnp.sort(vae.decode_mean(model)(state.params, z)),",
        )
    )
    html = pages.build([folder])
    assert "There are no sliders: the operation" in text_of(html)
    assert '<canvas class="map"' in html
    assert '<canvas class="image' not in html


def test_a_run_that_has_not_begun_says_so(run, tmp_path):
    folder = run("run", "--seed", 0)
    for name in ("metrics.jsonl", "evaluation.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "pictures")
    assert "has not logged anything yet" in text_of(pages.build([folder]))


def test_what_stands_in_a_run_is_text_not_markup(run):
    folder = run("<b>run & co")
    found = Folder(folder)
    recorded = record.read(found)
    hostile = "</script><script>alert(1)</script>"
    recorded["config"]["note"] = recorded["command"] = hostile
    disk.write_json(found.record, recorded)
    html = pages.build([folder])
    assert "<b>run" not in html
    assert hostile not in html
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in html


def test_a_page_is_made_of_less_until_it_is_small_enough(run, genmod, tmp_path):
    folder = run("run", "--epochs", 30)
    whole = pages.build([folder])
    assert len(re.findall(r'alt="samples, step', whole)) == 24
    thin = pages.build([folder], most_bytes=len(whole.encode()) - 1)
    assert len(re.findall(r'alt="samples, step', thin)) == 8
    assert "step 120" in text_of(thin), "the last is kept"
    refused(
        genmod("report", folder, "--max-mb", 0.01), 2, "expected at most 10,000: report fewer runs"
    )


def test_a_folder_of_runs_is_all_of_them(run, genmod, tmp_path, monkeypatch):
    run("runs/a", "--seed", 0), run("runs/b", "--seed", 1)
    monkeypatch.chdir(tmp_path)
    ended = genmod("report", "runs")
    assert ended.code == 0, ended
    assert ended.out.startswith("report.html (")
    assert ended.out.endswith("2 runs)\n")


def test_what_is_no_run_is_refused(genmod, tmp_path):
    refused(genmod("report", tmp_path), 2, "is not a run folder, and there is none below it")
    refused(genmod("report"), 2, "at least one run folder, got none")
    (tmp_path / "record.json").write_text("{}")
    refused(genmod("report", tmp_path, "--out", tmp_path / "a" / "b.html"), 2, "does not exist")
    refused(genmod("report", tmp_path), 2, "record.json is damaged")


@pytest.fixture
def browser():
    """A page in a browser that has no network, and what went wrong in it."""
    if CHROMIUM is None:
        pytest.skip("no chromium: install Debian's")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        shown = chromium.new_page(viewport={"width": 1200, "height": 900})
        wrong = []
        shown.on("console", lambda one: one.type == "error" and wrong.append(one.text))
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.on("request", lambda one: one.url.startswith("file:") or wrong.append(one.url[:80]))
        yield shown, wrong
        chromium.close()


def pixels(shown):
    """What the explorer's image shows."""
    return shown.evaluate(
        "() => { const c = document.querySelector('.image');"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); }"
    )


@pytest.mark.timeout(600)
def test_in_a_browser_the_latent_space_is_walked_in(run, browser, tmp_path):
    folder = run("run", "--latent-dim", 3)
    page = tmp_path / "report.html"
    page.write_text(pages.build([folder, run("other", "--seed", 1)]))
    shown, wrong = browser
    shown.goto(f"file://{page}")
    shown.screenshot(path=tmp_path / "page.png", full_page=True)

    built, state = loading.load_run(folder)
    decode = built.latents.decoder(rng.root(0), state)
    for z in np.asarray(jax.random.normal(rng.root(5), (4, 3))):
        there = shown.evaluate("z => genmod.decode('0', z)", z.tolist())
        np.testing.assert_allclose(there, decode(jnp.asarray(z[None])).ravel(), atol=1e-3)

    # What is drawn is what was decoded, and a slider changes it.
    explorer = shown.locator(".explorer").first
    z = json.loads(explorer.get_attribute("data-z"))
    grey = np.array(pixels(shown)).reshape(-1, 4)
    wanted = np.round(255 * np.asarray(decode(jnp.array([z]))).ravel())
    np.testing.assert_allclose(grey[:, 0], wanted, atol=1)
    slider = explorer.locator("input[type=range]").first
    slider.fill("2.5")
    moved = json.loads(explorer.get_attribute("data-z"))
    assert sorted(np.not_equal(z, moved)) == [False, False, True]
    assert 2.5 in moved
    assert pixels(shown) != grey.ravel().tolist()

    before = pixels(shown)
    box = explorer.locator(".map").bounding_box()
    shown.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    assert pixels(shown) != before
    explorer.get_by_role("button", name="Centre").click()
    assert json.loads(explorer.get_attribute("data-z")) == [0, 0, 0]
    explorer.get_by_role("button", name="Draw").click()
    assert json.loads(explorer.get_attribute("data-z")) != [0, 0, 0]

    frames = shown.locator(".frames").first
    assert frames.locator("img:visible").get_attribute("alt") == "samples, step 12"
    frames.locator("input").fill("0")
    assert frames.locator("img:visible").get_attribute("alt") == "samples, step 4"
    assert frames.locator("output").text_content() == "step 4"
    shown.screenshot(path=tmp_path / "walked.png", full_page=True)
    assert wrong == []


@pytest.fixture
def conditional(genmod, tmp_path):
    """A run of a conditional VAE, with this condition."""

    def train(condition):
        flags = ["--condition", condition, "--run-dir", tmp_path / condition, "--latent-dim", 3]
        assert genmod("train", SMALL.with_name("conditional_experiment.py"), *flags).code == 0
        return tmp_path / condition

    return train


@pytest.mark.timeout(600)
def test_in_a_browser_a_class_is_chosen(conditional, browser, tmp_path):
    folder, page = conditional("label"), tmp_path / "report.html"
    page.write_text(pages.build([folder]))
    shown, wrong = browser
    shown.goto(f"file://{page}")
    built, state = loading.load_run(folder)
    decode = built.latents.decoder(rng.root(0), state)
    explorer = shown.locator(".explorer")
    chosen = explorer.locator("select")
    assert chosen.locator("option").all_text_contents() == ["north", "east", "south", "west"]
    z = json.loads(explorer.get_attribute("data-z"))
    # The first code is that of the first test image, with its class.
    image = built.test.images[:1].astype(np.float32) / 255
    first = built.latents.encode(state, image, built.test.labels[:1])[0]
    np.testing.assert_allclose(z, first, atol=1e-5)
    assert chosen.input_value() == str(built.test.labels[0])
    for label, name in enumerate(("north", "east", "south", "west")):
        chosen.select_option(name)
        wanted = np.asarray(decode(jnp.array([z]), jnp.array([label]))).ravel()
        there = shown.evaluate("([z, c]) => genmod.decode('0', z, c)", [z, label])
        np.testing.assert_allclose(there, wanted, atol=1e-3)
        grey = np.array(pixels(shown)).reshape(-1, 4)[:, 0]
        np.testing.assert_allclose(grey, np.round(255 * wanted), atol=1)
    assert json.loads(explorer.get_attribute("data-z")) == z, "the class alone was changed"
    # Codes on the map are those of the images with their own labels.
    found = shown.evaluate("JSON.parse(document.getElementById('explorers').textContent)")["0"]
    codes = built.latents.encode(
        state, built.test.images.astype(np.float32) / 255, built.test.labels
    )
    axes = found["plane"]
    wanted = (np.asarray(codes) - axes["centre"]) @ np.array(axes["directions"]).T
    np.testing.assert_allclose(np.reshape(found["points"], (-1, 2)), wanted, atol=1e-2)
    assert wrong == []


def test_too_many_classes_leave_the_map_alone(conditional, monkeypatch):
    monkeypatch.setattr(explorer, "_MOST_CHOICES", 3)
    html = pages.build([conditional("label")])
    assert "There are no sliders: its 4 classes are too many to choose from here." in text_of(html)
    assert '<canvas class="map"' in html
    assert "<select>" not in html


def test_conditions_that_are_no_classes_leave_no_choice_and_say_so(conditional):
    html = pages.build([conditional("attributes")])
    said = "There is no explorer: its conditions are no classes, of which one could be chosen here"
    assert said in text_of(html)
    assert '<div class="explorer"' not in html
    assert "<select>" not in pages.build([conditional("none")])


def test_codes_that_are_not_finite_are_left_out(run):
    """As a page's numbers they would be none that a browser reads."""
    folder = run("run", "--seed", 0)
    copy = folder / "experiment.py"
    encode = "encode=lambda state, x: model.encode(state.params, x)[0],"
    assert encode in copy.read_text()
    spoiled = encode.replace("(state.params, x)[0]", "(state.params, x)[0].at[::2].set(jnp.nan)")
    copy.write_text(copy.read_text().replace(encode, spoiled))
    html = pages.build([folder])
    held = re.search(r'<script id="explorers"[^>]*>(.*?)</script>', html, re.DOTALL)
    explorer = json.loads(held[1], parse_constant=pytest.fail)["0"]
    assert len(explorer["labels"]) == 32
    assert len(explorer["points"]) == 64
