"""In the drawings no name lies on another, whatever the names and however close the points."""

from __future__ import annotations

import dataclasses
import re
import warnings

import pytest
from report_samples import sample_report

matplotlib = pytest.importorskip("matplotlib")

from hfplug.comparison.drawing import STYLE, shortened  # noqa: E402
from hfplug.comparison.plots import draw_plots  # noqa: E402
from hfplug.comparison.scatter import draw_scatter  # noqa: E402
from hfplug.comparison.variants import Report, Variant  # noqa: E402


def _crowd(size: int) -> Report:
    """A report with many adapters that cost nearly the same."""
    report = sample_report()
    lora = report.variants[2]
    crowd = tuple(
        dataclasses.replace(lora, name=f"method_number_{at}", trainable_parameters=98_304 + 300 * at)
        for at in range(size)
    )
    return sample_report(variants=(*report.variants, *crowd))


@pytest.mark.parametrize("size", [0, 2, 12])
def test_names_in_the_scatter_do_not_overlap(size: int) -> None:
    report = _crowd(size)
    placed = [variant for variant in report.variants if variant.trainable_parameters]
    with matplotlib.rc_context(STYLE):
        figure = draw_scatter(report, "rouge1", placed, lambda v: v.trainable_parameters, str, "parameters", "log")
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes = [text.get_window_extent() for text in axes.texts]
        legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[at + 1 :])
    named = {text.get_text() for text in axes.texts} | set(legends)
    assert len(named) == len(report.variants)


def test_points_of_one_cost_stand_side_by_side() -> None:
    report = sample_report()
    drawn = next(plot.svg for plot in draw_plots(report) if plot.title == "Quality against trainable parameters")
    assert report.variants[2].trainable_parameters == report.variants[3].trainable_parameters
    places = {
        float(x)
        for colour in ("2", "3")  # lora and qlora
        for x in re.findall(rf'<use href="[^"]*" x="([\d.]+)"[^>]*style="fill: var\(--series-{colour}\)', drawn)
    }
    assert len(places) == 2
    assert max(places) - min(places) < 10


def test_drawing_changes_no_setting_of_matplotlib_and_warns_of_nothing() -> None:
    before = dict(matplotlib.rcParams)
    named = dataclasses.replace(sample_report().variants[1], name="方法")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = draw_plots(sample_report(variants=(named,)))
    assert len(drawn) == 9
    assert all("方法" in plot.svg for plot in drawn)
    assert dict(matplotlib.rcParams) == before


def test_variants_without_a_loss_or_a_score_are_left_out() -> None:
    assert draw_plots(sample_report(variants=(Variant(name="base", kind="base"),))) == []
    only_nan = Variant(name="lora", kind="adapter", loss_curve=((1, None), (2, None)))
    assert draw_plots(sample_report(variants=(only_nan,))) == []


def test_one_point_is_enough() -> None:
    lora = sample_report().variants[2]
    zero = {name: dataclasses.replace(one, value=0, low=0, high=0) for name, one in lora.metrics.items()}
    alone = dataclasses.replace(lora, metrics=zero, loss_curve=((1, 2.0),), eval_loss_curve=())
    assert len(draw_plots(sample_report(variants=(alone,)))) == 8


def test_long_names_keep_their_ends() -> None:
    assert shortened("lora") == "lora"
    assert shortened("adalora_with_a_very_long_name") == "adalora_w…ong_name"
    assert len(shortened("x" * 50, 16)) == 16
    assert shortened("_hidden").endswith("_hidden")
