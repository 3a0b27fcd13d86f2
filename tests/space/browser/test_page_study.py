"""The page over a real study on the built-in base: what ``hfplug demo`` leaves, with fewer steps."""

from __future__ import annotations

import dataclasses

import pytest
from browsing import Visitor, running_space

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study_space(tmp_path_factory):
    from hfplug.comparison.study import run_study
    from hfplug.demo.run import demo_settings

    folder = tmp_path_factory.mktemp("demo")
    settings = demo_settings(folder, methods=["full", "lora", "prompt_tuning"])
    run_study(dataclasses.replace(settings, max_steps=12, max_eval_rows=6, eval_loss_rows=4))
    names = ("full", "lora", "prompt_tuning")
    values = {
        "variants": [{"name": name, "source": f"study/adapters/{name}"} for name in names],
        "report": "study",
    }
    with running_space(values, folder) as space:
        yield space


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_tabs_show_the_study_of_the_adapters_that_answer(browser, study_space, screenshots, width, theme):
    visitor = Visitor(browser, study_space, width=width, theme=theme, query="", context=None)
    visitor.pick_example()
    visitor.compare()
    assert visitor.titles() == ["base", "full", "lora", "prompt_tuning"]
    assert len({visitor.answer(name) for name in visitor.titles()}) >= 3
    visitor.shot(screenshots / f"study-compare-{width}-{theme}.png")

    report = study_space.opened.report
    visitor.page.get_by_role("tab", name="Study").click()
    table = visitor.page.get_by_role("region", name="Quality")
    score = report.variant("lora").metrics["rouge1"]
    assert f"{100 * score.value:.1f} {100 * score.low:.1f}–{100 * score.high:.1f}" in table.inner_text()
    assert visitor.page.locator("#hf-study svg[role=img]").count() >= 8
    assert visitor.wider_than_the_screen() <= 0
    visitor.shot(screenshots / f"study-table-{width}-{theme}.png")

    visitor.page.get_by_role("tab", name="Trade-offs").click()
    assert visitor.page.locator("#hf-trade-offs h2").all_inner_texts() == [
        "Parameter efficiency", "Memory efficiency", "Model performance", "Inference cost", "Training speed",
        "What soft prompts are near",
    ]  # fmt: skip
    assert visitor.page.get_by_role("region", name="Nearest words").locator("tbody tr").count() == 20
    assert visitor.wider_than_the_screen() <= 0
    visitor.shot(screenshots / f"study-trade-offs-{width}-{theme}.png")
    assert visitor.complaints == []
    visitor.leave()


def test_the_report_is_an_endpoint(study_space):
    from gradio_client import Client

    client = Client(study_space.address, verbose=False)
    assert client.predict(api_name="/report") == study_space.opened.report.to_json()
    client.close()
