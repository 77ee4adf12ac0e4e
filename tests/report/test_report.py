"""Pictures, read back from the figures: what was put in is what is seen."""

import itertools
import os
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from genmod import data, report


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture(figure):
    """The pixels that a figure of one picture shows, and their range."""
    (axes,) = figure.axes
    (image,) = axes.images
    assert (image.norm.vmin, image.norm.vmax) == (0, 1), "not stretched to the darkest and lightest"
    return np.asarray(image.get_array())


def tiled(images, columns):
    """Images in rows, white where the last row has none, by plain loops."""
    num, height, width, channels = images.shape
    rows = -(-num // columns)
    expected = np.ones((rows * height, columns * width, channels), np.float32)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        expected[top : top + height, left : left + width] = image
    return expected[..., 0] if channels == 1 else expected


@given(
    num=st.integers(1, 12),
    columns=st.integers(1, 7),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
)
@pytest.mark.end_to_end
def test_a_grid_shows_every_pixel_of_every_image_in_its_place(
    num, columns, height, width, channels
):
    images = noise(num, height, width, channels)
    floats = images.astype(np.float32) / 255
    for given_images in (images, floats):
        shown = picture(report.image_grid(given_images, columns=columns))
        np.testing.assert_array_equal(shown, tiled(floats, columns))


@pytest.mark.parametrize("num", [1, 2, 4, 5, 9, 10, 100])
def test_a_grid_is_as_square_as_it_can_be(num):
    side = next(n for n in itertools.count(1) if n * n >= num)
    shown = picture(report.image_grid(noise(num, 2, 3, 1)))
    assert shown.shape == (-(-num // side) * 2, side * 3)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_images_of_any_floating_type_are_shown(kind):
    images = np.linspace(0, 1, 16).reshape(4, 2, 2, 1).astype(kind)
    expected = tiled(np.asarray(images).astype(np.float32), 2)
    np.testing.assert_array_equal(picture(report.image_grid(images)), expected)


def test_grey_is_shown_as_grey_and_white_as_white():
    (axes,) = report.image_grid(noise(4, 2, 2, 1)).axes
    (image,) = axes.images
    colours = image.cmap(image.norm(np.array([0.0, 0.5, 1.0])))
    assert colours[0].tolist() == [0, 0, 0, 1]
    assert len(set(colours[1, :3])) == 1
    assert colours[2].tolist() == [1, 1, 1, 1]


@given(
    num=st.integers(1, 9),
    columns=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
)
def test_a_comparison_shows_each_original_above_its_counterpart(num, columns, channels):
    originals, others = noise(num, 3, 2, channels), noise(num, 3, 2, channels, seed=1)
    shown = picture(report.comparison(originals, others / np.float32(255), columns=columns))
    shown = shown.reshape(-(-num // columns), 2, 3, *shown.shape[1:])
    above, below = (
        tiled(images.astype(np.float32) / 255, columns).reshape(shown[:, 0].shape)
        for images in (originals, others)
    )
    np.testing.assert_array_equal(shown[:, 0], above)
    np.testing.assert_array_equal(shown[:, 1], below)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((28, 28), r"\[28, 28\]"),
        ((5, 28, 28), r"\[5, 28, 28\]"),
        ((5, 28, 28, 2), r"\[5, 28, 28, 2\]"),
        ((5, 28, 28, 4), r"\[5, 28, 28, 4\]"),
        ((2, 5, 28, 28, 2), r"\[10, 28, 28, 2\]"),
        ((0, 5, 28, 28, 1), r"\[0, 28, 28, 1\]"),
        ((5, 0, 28, 28, 1), r"\[5, 0, 28, 28, 1\]"),
        ((1, 1, 5, 28, 28, 1), r"\[1, 1, 5, 28, 28, 1\]"),
        ((0, 28, 28, 1), r"\[0, 28, 28, 1\]"),
        ((5, 0, 28, 1), r"\[5, 0, 28, 1\]"),
        ((5, 28, 0, 1), r"\[5, 28, 0, 1\]"),
        ((), r"\[\]"),
    ],
)
def test_images_of_another_shape_are_refused(shape, message):
    expected = r"images must have the shape \[N, H, W, 1\] or \[N, H, W, 3\], got " + message
    images = np.zeros(shape)
    with pytest.raises(ValueError, match=expected):
        report.image_grid(images)
    if images.ndim != 5:
        with pytest.raises(ValueError, match=expected):
            report.comparison(images, images)


def test_images_in_rows_stay_in_their_rows(tmp_path):
    images = noise(6, 4, 5, 1)
    rows = images.reshape(2, 3, 4, 5, 1)
    wanted = tiled(images.astype(np.float32) / 255, 3)
    np.testing.assert_array_equal(picture(report.image_grid(rows)), wanted)
    report.save_grid(rows, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as written:
        np.testing.assert_array_equal(np.asarray(written), np.round(255 * wanted))


@pytest.mark.parametrize(
    ("num_classes", "num", "shape"),
    [(10, 100, (10, 10)), (10, 64, (6, 10)), (4, 64, (8, 8)), (3, 100, (11, 9)), (30, 9, (1, 30))],
)
def test_a_grid_of_classes_is_nearly_square_and_has_them_in_turn(num_classes, num, shape):
    labels = np.arange(num_classes)[::-1] + 5
    found = report.class_columns(labels, num)
    assert found.shape == shape
    np.testing.assert_array_equal(found, np.resize(labels, shape))
    assert (found == found[0]).all(), "a class in each column"


@pytest.mark.parametrize("num_classes", [1, 31])
def test_one_class_or_very_many_have_no_columns(num_classes):
    assert report.class_columns(np.arange(num_classes), 100) is None


def test_a_title_of_many_names_is_broken_into_lines_above_the_images():
    images = noise(10, 4, 4, 1)
    names = [f"a class called {number}" for number in range(10)]
    title = report.column_title("samples", names)
    figure = report.image_grid(images, columns=10, title=title)
    figure.draw_without_rendering()
    (text,) = [text for text in figure.texts if text.get_text()]
    assert text.get_text().replace("\n", " ") == title
    box, axes = text.get_window_extent(), figure.axes[0].get_window_extent()
    assert 0 < box.x0 < box.x1 < figure.bbox.x1
    assert axes.y1 <= box.y0 < box.y1 < figure.bbox.y1
    assert report.column_title("samples", []) == "samples"


def test_images_in_rows_are_no_list_to_compare():
    images = np.zeros((1, 5, 28, 28, 1))
    with pytest.raises(ValueError, match=r"got \[1, 5, 28, 28, 1\]"):
        report.comparison(images, images)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint16, np.complex64])
def test_images_of_another_type_are_refused(kind):
    # 0 to 255 in another integer type would all be shown as white.
    with pytest.raises(ValueError, match=rf"images must .*uint8.*got.*{np.dtype(kind)}"):
        report.image_grid(np.full((2, 3, 3, 1), 7, kind))


@pytest.mark.parametrize("columns", [0, -1, 2.5])
def test_a_number_of_columns_that_cannot_be_is_refused(columns):
    images = noise(4, 2, 2, 1)
    message = f"columns must be a positive whole number, got {columns}"
    with pytest.raises(ValueError, match=message):
        report.image_grid(images, columns=columns)
    with pytest.raises(ValueError, match=message):
        report.comparison(images, images, columns=columns)


def test_a_comparison_of_different_shapes_is_refused():
    with pytest.raises(
        ValueError,
        match=r"originals and others must have one shape, got .*4, 2, 2, 1.* and .*4, 2, 3, 1",
    ):
        report.comparison(noise(4, 2, 2, 1), noise(4, 2, 3, 1))
    with pytest.raises(ValueError, match=r"one shape, got .*4, 2, 2, 1.* and .*3, 2, 2, 1"):
        report.comparison(noise(4, 2, 2, 1), noise(3, 2, 2, 1))


def clusters(*, num=120, dimensions=2, classes=10):
    draw = np.random.default_rng(dimensions)
    labels = draw.permutation(np.arange(num) % classes)
    scales = np.linspace(3, 1, dimensions)
    codes = draw.normal(size=(num, dimensions)) * scales + labels[:, None]
    return codes @ np.linalg.qr(draw.normal(size=(dimensions, dimensions)))[0], labels


def points(figure):
    """The points in the plane by class, as the figure shows them."""
    (axes,) = figure.axes
    return {dots.get_label(): np.asarray(dots.get_offsets()) for dots in axes.collections}


def test_codes_of_two_numbers_are_shown_as_they_are():
    codes, labels = clusters(dimensions=2)
    figure = report.latent_plane(jnp.asarray(codes, jnp.float32), labels)
    shown = points(figure)
    assert list(shown) == [str(label) for label in range(10)]
    for label in range(10):
        expected = codes[labels == label].astype(np.float32)
        np.testing.assert_array_equal(shown[str(label)], expected)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert axes.get_aspect() == 1, "distances mean the same in both directions"


@pytest.mark.parametrize("dimensions", [3, 5, 50])
def test_longer_codes_are_shown_by_their_first_two_principal_components(dimensions):
    codes, labels = clusters(dimensions=dimensions)
    figure = report.latent_plane(codes, labels)
    # Independently: eigenvectors of the covariance, ordered by variance.
    variances, directions = np.linalg.eigh(np.cov(codes.T))
    variances, directions = variances[::-1], directions[:, ::-1].T
    expected = []
    for direction in directions[:2]:
        if direction[np.abs(direction).argmax()] < 0:
            direction = -direction
        expected.append((codes - codes.mean(axis=0)) @ direction)
    for label, shown in points(figure).items():
        np.testing.assert_allclose(shown, np.array(expected).T[labels == int(label)], atol=1e-9)
    (axes,) = figure.axes
    for name, variance in zip(
        (axes.get_xlabel(), axes.get_ylabel()), variances[:2] / variances.sum(), strict=True
    ):
        assert f"({variance:.0%} of variance)" in name


def test_principal_components_keep_their_sign_when_the_data_are_drawn_anew():
    codes, labels = clusters(dimensions=4)
    order = np.random.default_rng(0).permutation(len(codes))
    first = points(report.latent_plane(codes, labels))
    second = points(report.latent_plane(codes[order], labels[order]))
    half = points(report.latent_plane(codes[::2], labels[::2]))
    for label in first:
        np.testing.assert_allclose(first[label].sum(0), second[label].sum(0), atol=1e-9)
    centers = [np.array([p[label].mean(axis=0) for label in sorted(p)]) for p in (first, half)]
    for component in range(2):
        assert np.corrcoef(centers[0][:, component], centers[1][:, component])[0, 1] > 0.5


@pytest.mark.parametrize("classes", [1, 2, 10, 13])
def test_the_legend_names_every_class_in_its_colour(classes):
    codes, labels = clusters(classes=classes)
    (axes,) = report.latent_plane(codes, labels).axes
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [str(c) for c in range(classes)]
    dots = [tuple(map(tuple, dots.get_facecolor())) for dots in axes.collections]
    handles = [tuple(map(tuple, handle.get_facecolor())) for handle in legend.legend_handles]
    assert dots == handles
    assert len(set(dots)) == min(classes, 10), "ten colours, then they repeat"


@pytest.mark.parametrize("dimensions", [2, 3, 8])
def test_codes_that_have_collapsed_to_one_point_are_shown(dimensions):
    # What a decoder that ignores its latents gives: there is no variance to share out.
    codes = np.ones((6, dimensions))
    figure = report.latent_plane(codes, np.arange(6) % 2)
    assert all(np.isfinite(shown).all() for shown in points(figure).values())
    assert "nan" not in figure.axes[0].get_xlabel()
    figure.canvas.draw()


def test_a_single_code_is_shown():
    for dimensions in (2, 3):
        shown = points(report.latent_plane(np.ones((1, dimensions)), np.zeros(1, int)))
        assert shown["0"].shape == (1, 2)


@pytest.mark.parametrize(
    ("codes", "labels"),
    [((10,), (10,)), ((10, 1), (10,)), ((10, 2), (9,)), ((10, 2), (10, 1)), ((0, 2), (0,))],
)
def test_codes_and_labels_of_other_shapes_are_refused(codes, labels):
    message = f"got {list(codes)} and {list(labels)}".replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=rf"codes must have the shape \[N, L\].*{message}"):
        report.latent_plane(np.zeros(codes), np.zeros(labels, int))


@pytest.mark.parametrize("side", [1, 2, 3, 20])
def test_manifold_points_are_normal_quantiles_from_the_top_left(side):
    grid = report.manifold_points(side)
    assert grid.dtype == np.float32
    assert grid.shape == (side * side, 2)
    quantiles = stats.norm.ppf((np.arange(side) + 0.5) / side)
    rows = grid.reshape(side, side, 2)
    for index in range(side):
        np.testing.assert_allclose(rows[index, :, 0], quantiles, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(rows[:, index, 1], quantiles[::-1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("side", [0, -2, 1.5, "3", None])
def test_a_manifold_without_points_is_refused(side):
    with pytest.raises(ValueError, match=f"side must be a positive whole number, got {side!r}"):
        report.manifold_points(side)


ROWS = [
    {"step": 10, "epoch": 0.5, "loss": 3.0, "kl": 1.0, "examples_per_s": 1e5},
    {"step": 20, "epoch": 1.0, "loss": 2.0, "kl": 1.5, "examples_per_s": 2e5},
    {"step": 30, "epoch": 1.5, "loss": 1.5, "kl": 1.6, "examples_per_s": 2e5},
]


def test_curves_have_one_panel_a_metric_over_epochs():
    figure = report.curves(ROWS, title="a run")
    assert [panel.get_title() for panel in figure.axes] == ["loss", "kl"]
    for panel in figure.axes:
        (line,) = panel.lines
        assert line.get_xdata().tolist() == [0.5, 1.0, 1.5]
        assert line.get_ydata().tolist() == [row[panel.get_title()] for row in ROWS]
        assert panel.get_xlabel() == "epoch"
    assert figure.get_suptitle() == "a run"


def test_curves_are_over_steps_where_there_are_no_epochs():
    (panel,) = report.curves([{"step": row["step"], "loss": row["loss"]} for row in ROWS]).axes
    assert panel.get_xlabel() == "step"
    assert panel.lines[0].get_xdata().tolist() == [10, 20, 30]


def test_a_curve_of_a_single_log_point_shows_it():
    (panel, _) = report.curves(ROWS[:1]).axes
    assert panel.lines[0].get_marker() not in ("", "None", None), "a line of one point is invisible"


def family(size, points=4, **others):
    draw = np.random.default_rng(size)
    values = draw.normal(size=(points, size))
    rows = [
        {"step": t + 1, "kl": 7.0, **{f"kl/{k}": float(v) for k, v in enumerate(row)}, **others}
        for t, row in enumerate(values)
    ]
    return rows, values


def band(filled):
    """Lower and upper end of a band, by its positions."""
    ends = {}
    for x, y in filled.get_paths()[0].vertices:
        ends.setdefault(x, []).append(y)
    return np.array([(min(y), max(y)) for _, y in sorted(ends.items())]).T


@pytest.mark.parametrize("size", [2, 3, 12])
def test_a_family_of_numbers_has_one_panel_with_bands_of_its_quantiles(size):
    rows, values = family(size)
    figure = report.curves(rows, title="a run")
    alone, panel = figure.axes
    assert [alone.get_title(), panel.get_title()] == ["kl", f"kl/0 to {size - 1}"]
    (line,) = panel.lines
    np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=1))
    middle, ends = panel.collections
    np.testing.assert_allclose(band(middle), np.quantile(values, [0.25, 0.75], axis=1))
    np.testing.assert_allclose(band(ends), [values.min(axis=1), values.max(axis=1)])
    said = [text.get_text() for text in panel.get_legend().get_texts()]
    assert said == [f"median of {size}", "25 to 75 %", "all"]
    figure.canvas.draw()


def test_numbers_of_a_family_that_are_not_finite_are_left_out_and_counted():
    rows, values = family(3)
    rows[1]["kl/2"] = "NaN"
    rows[2] |= dict.fromkeys(["kl/0", "kl/1", "kl/2"], None)
    figure = report.curves(rows)
    panel = figure.axes[1]
    assert panel.get_title() == "kl/0 to 2 (4 of 12 not finite)"
    expected = np.median(values, axis=1)
    expected[1:3] = values[1, :2].mean(), np.nan
    np.testing.assert_allclose(panel.lines[0].get_ydata(), expected)
    figure.canvas.draw()


def test_names_with_a_number_alone_are_metrics_like_others():
    rows = [{"step": 1, "a/0": 1.0, "a/0_se": 0.5, "b/c": 2.0, "d/e/1": 3.0, "d/e/0": 4.0}]
    titles = [panel.get_title() for panel in report.curves(rows).axes if panel.axison]
    assert titles == ["a/0", "b/c", "d/e/0 to 1"]


def test_families_of_several_runs_are_medians_in_bands_of_their_quartiles():
    (few, of_few), (many, of_many) = family(4), family(11)
    figure = report.compared({"few": few, "many": many})
    panel = figure.axes[1]
    assert panel.get_title() == "kl/0 to 10"
    for line, filled, values in zip(panel.lines, panel.collections, (of_few, of_many), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=1))
        np.testing.assert_allclose(band(filled), np.quantile(values, [0.25, 0.75], axis=1))
    assert panel.get_legend() is None


def test_a_family_beside_the_two_players_has_its_panel():
    names = ["discriminator_loss", "generator_loss", "real_probability", "fake_probability"]
    names += ["accuracy", "discriminator_gradient", "generator_gradient"]
    rows, values = family(3, **dict.fromkeys(names, 0.5))
    panels = {panel.get_title(): panel for panel in report.game(rows).axes}
    np.testing.assert_allclose(panels["kl/0 to 2"].lines[0].get_ydata(), np.median(values, axis=1))


@pytest.mark.parametrize("rows", [[], [{"step": 1, "epoch": 0.1, "examples_per_s": 3.0}]])
def test_curves_of_nothing_are_refused(rows):
    with pytest.raises(ValueError, match=r"rows must hold at least one .*got"):
        report.curves(rows)


def tiny(num):
    return data.Dataset(noise(num, 4, 4, 1), np.arange(num, dtype=np.int32) % 3, "sha256:0")


def autoencoder(dimensions):
    """An encoder that takes the first pixels, a decoder that shows the first number."""

    def encode(images):
        assert images.dtype == np.float32
        assert images.max() <= 1
        return images.reshape(len(images), -1)[:, :dimensions]

    def decode(codes):
        return np.broadcast_to(np.asarray(codes)[:, :1, None, None], (len(codes), 4, 4, 1))

    return {"encode": encode, "decode": decode}


def test_an_autoencoders_figures_show_its_data_codes_and_reconstructions():
    train, test = tiny(120), tiny(60)
    samples = noise(9, 4, 4, 1) / np.float32(255)
    figures = report.autoencoder_figures(train, test, **autoencoder(2), samples=samples)
    drawn = {"data", "samples", "reconstructions", "latents", "manifold", "interpolations"}
    assert set(figures) == drawn
    floats = train.images[:100].astype(np.float32) / 255
    np.testing.assert_array_equal(picture(figures["data"]), tiled(floats, 10))
    np.testing.assert_array_equal(picture(figures["samples"]), tiled(samples, 3))
    shown = picture(figures["reconstructions"])
    assert shown.shape == (2 * 5 * 4, 10 * 4)
    first = test.images[0, ..., 0].astype(np.float32) / 255
    np.testing.assert_array_equal(shown[:4, :4], first)
    np.testing.assert_array_equal(shown[4:8, :4], np.full((4, 4), first[0, 0]))
    assert sum(len(dots) for dots in points(figures["latents"]).values()) == 60
    # The decoder shows the first coordinate: it must grow to the right, and be the same downwards.
    manifold = picture(figures["manifold"])
    assert manifold.shape == (20 * 4, 20 * 4)
    assert (np.diff(manifold, axis=1) >= 0).all()
    assert (np.diff(manifold, axis=0) == 0).all()


def test_a_conditional_autoencoder_gets_the_labels_of_its_images():
    """One that shows its condition: grey value 0.1 times the label."""

    def encode(images, labels):
        return np.stack([labels, labels], axis=1).astype(np.float32)

    def decode(codes, labels):
        assert len(codes) == len(labels)
        return np.broadcast_to(labels[:, None, None, None] / 10, (len(codes), 4, 4, 1))

    test = tiny(60)._replace(labels=np.arange(60, dtype=np.int32) % 3 + 4)
    figures = report.autoencoder_figures(
        tiny(9), test, encode=encode, decode=decode, conditional=True
    )
    shown = picture(figures["reconstructions"])
    for place in range(20):
        row, column = divmod(place, 10)
        corner = (2 * row + 1) * 4, column * 4
        assert shown[corner] == pytest.approx(test.labels[place] / 10)
    assert set(points(figures["latents"])) == {"4", "5", "6"}
    np.testing.assert_allclose(picture(figures["manifold"]), 0.4, atol=1e-6)
    assert "of class 4" in figures["manifold"].get_suptitle()


@pytest.mark.parametrize(
    ("dimensions", "options", "expected"),
    [
        (2, {}, {"manifold"}),
        (2, {"manifold": False}, {"traversals"}),
        (3, {}, {"traversals"}),
        (1, {}, {"traversals"}),
    ],
)
def test_figures_that_would_mean_nothing_are_left_out(dimensions, options, expected):
    figures = report.autoencoder_figures(tiny(7), tiny(5), **autoencoder(dimensions), **options)
    always = {"data", "reconstructions", "interpolations"}
    if dimensions > 1:  # a plane
        always.add("latents")
    assert set(figures) == always | expected
    figures = report.autoencoder_figures(tiny(7), tiny(1), **autoencoder(dimensions), **options)
    assert set(figures) == always - {"interpolations"} | expected, "a line needs two images"


def of_number(index):
    """A decoder that shows one number of a code."""

    def decode(codes):
        return np.broadcast_to(codes[:, index, None, None, None], (len(codes), 4, 4, 1))

    return decode


def test_paths_lead_through_the_latents_as_their_titles_say():
    codes = np.random.default_rng(0).uniform(0, [0.5, 0, 1], (60, 3)).astype(np.float32)

    def drawn(shown):
        return report.autoencoder_figures(
            tiny(9), tiny(60), encode=lambda images: codes, decode=of_number(shown)
        )

    # The third latent is the most spread, then the first; the second is the same everywhere.
    low, high = np.quantile(codes, [0.01, 0.99], axis=0)
    title = drawn(0)["traversals"].get_suptitle()
    assert title.replace("\n", " ").endswith("latents, from the top: 3, 1, 2")
    for latent, row in ((2, 0), (0, 1)):
        shown = picture(drawn(latent)["traversals"])[::4, ::4]
        expected = np.full((3, 10), codes[0, latent])
        expected[row] = np.linspace(low[latent], high[latent], 10)
        np.testing.assert_allclose(shown, expected, atol=1e-6)
        lines = picture(drawn(latent)["interpolations"])[::4, ::4]
        ends = zip(codes[:20:2, latent], codes[1:20:2, latent], strict=True)
        np.testing.assert_allclose(lines, [np.linspace(*pair, 10) for pair in ends], atol=1e-6)


MODES = data.grid().centers


def shown(panel):
    """The points of a panel by what they are."""
    return {dots.get_label(): np.asarray(dots.get_offsets()) for dots in panel.collections}


def test_a_plane_shows_the_samples_over_the_modes():
    draw = np.random.default_rng(0)
    samples, real = draw.normal(size=(40, 2)), draw.normal(size=(30, 2))
    figure = report.plane(jnp.asarray(samples, jnp.float32), MODES, real=real, title="step 7")
    (panel,) = figure.axes
    assert panel.get_title(loc="left") == "step 7"
    assert panel.get_aspect() == 1
    dots = shown(panel)
    assert set(dots) == {"real", "modes", "generated"}
    np.testing.assert_array_equal(dots["generated"], samples.astype(np.float32))
    np.testing.assert_array_equal(dots["modes"], MODES)
    np.testing.assert_array_equal(dots["real"], real)
    orders = {d.get_label(): (d.get_zorder(), i) for i, d in enumerate(panel.collections)}
    assert orders["real"] < orders["generated"] < orders["modes"]
    assert set(shown(report.plane(samples, MODES).axes[0])) == {"modes", "generated"}


def test_samples_far_away_are_counted_and_do_not_stretch_the_axes():
    samples = np.array([[0, 0], [1e6, 0], [0, -7], [np.nan, 0], [0, np.inf], [4, 4]])
    figure = report.plane(samples, MODES, title="step 7")
    (panel,) = figure.axes
    assert panel.get_title(loc="left") == "step 7, 4 of 6 outside"
    assert shown(panel)["generated"].tolist() == [[0, 0], [4, 4]]
    assert panel.get_xlim() == panel.get_ylim() == (-6, 6)
    assert report.plane(samples, MODES).axes[0].get_title(loc="left") == "4 of 6 outside"
    nothing = report.plane(samples[1:2], MODES)
    assert len(shown(nothing.axes[0])["generated"]) == 0
    nothing.canvas.draw()


@pytest.mark.parametrize("centers", [[[3, 3]], [[0, 0], [8, 0]], [[0, -1], [0, 1], [0, 3]]])
def test_modes_at_a_point_or_on_a_line_have_room_around_them(centers):
    (panel,) = report.plane(np.zeros((1, 2)), np.array(centers)).axes
    for (low, high), along in zip(
        (panel.get_xlim(), panel.get_ylim()), np.array(centers).T, strict=True
    ):
        assert low < along.min()
        assert along.max() < high


@pytest.mark.parametrize("num", [1, 2, 5, 6, 11])
def test_planes_are_five_to_a_row_with_the_same_axes(num):
    panels = [(f"step {i}", np.full((3, 2), i / 3)) for i in range(num)]
    figure = report.planes(panels, MODES)
    used = [panel for panel in figure.axes if panel.axison]
    assert [panel.get_title(loc="left") for panel in used] == [title for title, _ in panels]
    for panel, (_, samples) in zip(used, panels, strict=True):
        np.testing.assert_array_equal(shown(panel)["generated"], samples)
        assert panel.get_xlim() == (-6, 6)
    grid = used[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == (-(-num // 5), min(num, 5))


def test_a_long_title_is_broken_into_lines_that_fit():
    scores = "modes 25 of 25 (floor 25), high quality 97.1% (98.9%), reverse KL 0.0123 (0.00486)"
    figure = report.plane(np.full((3, 2), 99.0), MODES, title=scores)
    figure.canvas.draw()
    (panel,) = figure.axes
    title = next(text for text in panel.findobj(Text) if "modes" in text.get_text())
    assert title.get_text().replace("\n", " ") == f"{scores}, 3 of 3 outside"
    box = title.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("panels", "centers", "message"),
    [
        ([], MODES, "panels must hold at least one pair of a title and samples, got none"),
        ([("", np.zeros((3, 3)))], MODES, r"samples must have the shape \[N, 2\], got \[3, 3\]"),
        ([("", np.zeros((0, 2)))], MODES, r"samples must have the shape \[N, 2\], got \[0, 2\]"),
        ([("", MODES)], np.zeros(2), r"centers must have the shape \[N, 2\], got \[2\]"),
        ([("", MODES)], MODES * np.nan, "centers must be finite"),
    ],
)
def test_planes_of_something_else_are_refused(panels, centers, message):
    with pytest.raises(ValueError, match=message):
        report.planes(panels, centers)


def test_real_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"real must have the shape \[N, 2\], got \[3, 1\]"):
        report.plane(MODES, MODES, real=np.zeros((3, 1)))


@pytest.mark.end_to_end
def test_figures_are_saved_without_a_display_or_pyplot(tmp_path):
    script = f"""
        import sys
        import genmod.report as report
        assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules)

        import numpy as np
        images = np.random.default_rng(0).random((5, 4, 4, 1))
        rows = [{{"step": 1, "loss": 2.0}}, {{"step": 2, "loss": 1.0}}]
        codes = np.random.default_rng(1).normal(size=(20, 5))
        figures = {{
            "grid": report.image_grid(images, title="images"),
            "comparison": report.comparison(images, images, title="images"),
            "latents": report.latent_plane(codes, np.arange(20) % 3, title="codes"),
            "curves": report.curves(rows, title="curves"),
            "plane": report.plane(codes[:, :2], codes[:3, :2], title="points"),
        }}
        assert "matplotlib.figure" in sys.modules
        for name, figure in figures.items():
            figure.savefig({str(tmp_path)!r} + f"/{{name}}.png")
        assert "matplotlib.pyplot" not in sys.modules
    """
    without = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        check=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name not in without},
    )
    assert len(list(tmp_path.iterdir())) == 5
    for path in tmp_path.iterdir():
        with Image.open(path) as shown:
            assert shown.format == "PNG"
            pixels = np.asarray(shown.convert("L"))
        assert min(pixels.shape) > 100
        assert pixels.std() > 1, f"{path.name} shows nothing"


def test_a_title_leaves_the_picture_as_it_was():
    images = noise(4, 3, 3, 1)
    plain, titled = report.image_grid(images), report.image_grid(images, title="digits")
    np.testing.assert_array_equal(picture(plain), picture(titled))
    sizes = [
        figure.axes[0].get_position().height * figure.get_figheight() for figure in (plain, titled)
    ]
    assert sizes[0] == pytest.approx(sizes[1])
    assert titled.get_suptitle() == "digits"


def test_error_bars_stand_beside_the_bands_of_the_baselines():
    lines = {"a": {10: (0.5, 0.1), 100: (0.7, 0.2)}, "b": {100: (0.3, 0.0), 10: (0.2, 0.1)}}
    panels = [report.Panel(f"panel {i}", lines, {"none": (0.4, 0.05)}) for i in range(3)]
    figure = report.error_bars(panels, across="images", up="accuracy", groups=1)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == ["panel 0", "panel 1", "panel 2"]
    for axes in shown:
        band, a, b = axes.get_lines()[0], *(bars.lines[0] for bars in axes.containers)
        np.testing.assert_allclose(band.get_ydata(), 0.4)
        np.testing.assert_allclose(a.get_ydata(), [0.5, 0.7])
        np.testing.assert_allclose(b.get_ydata(), [0.2, 0.3])
        np.testing.assert_allclose(b.get_xdata(), [10, 100], rtol=0.05)
        assert (a.get_color(), a.get_linestyle(), b.get_linestyle()) == (b.get_color(), "-", "--")
    with pytest.raises(ValueError, match="panels must hold at least one, got none"):
        report.error_bars([], across="images", up="accuracy")
