"""Pictures and pages of the microscope."""

from __future__ import annotations

import json
import re

import pytest
import torch

import hfplug
from hfplug.adapters.inspect import inspect_adapter
from hfplug.adapters.inspect_pair import inspect_pair
from hfplug.adapters.inspect_table import render_inspection
from hfplug.cli.main import main
from hfplug.comparison.inspect_page import render_inspection_page
from hfplug.comparison.inspect_plot import draw_panels, panels_of, split_name
from hfplug.demo.base import base_path

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Folders of adapters on the built-in base, with noise on what they train."""
    found = {}
    text = "</style><script>alert(1)</script>"
    for method, settings in (
        ("lora", {}),
        ("dora", {}),
        ("ia3", {}),
        ("bottleneck", {}),
        ("prompt_tuning", {"prompt_init_text": text, "num_virtual_tokens": 6}),
        ("prefix_tuning", {}),
    ):
        torch.manual_seed(len(found))
        model = hfplug.build_model(base_path(), method, **settings)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        found[method] = tmp_path_factory.mktemp(method)
        model.save_pretrained(found[method])
    return found


def test_a_layers_name_is_split_into_kind_and_block():
    assert split_name("model.layers.3.self_attn.q_proj") == ("self_attn.q_proj", 3)
    assert split_name("encoder.block.2.layer.0.SelfAttention.q") == ("encoder.layer.0.SelfAttention.q", 2)
    assert split_name("model.decoder.layers.11.fc1") == ("decoder.fc1", 11)
    assert split_name("model.layers.0.mlp.experts.down_proj[3]") == ("mlp.experts.down_proj[3]", 0)
    assert split_name("shared") == ("shared", None)


@pytest.mark.parametrize(
    ("method", "titles"),
    [
        ("lora", ["How far each layer moved, % of W", "How many directions it uses", "Spectra"]),
        ("ia3", ["What moved most, %"]),
        ("bottleneck", ["How far each layer moved, % of W", "How many directions it uses", "Spectra"]),
        ("prompt_tuning", ["Nearer to a word than chance?", "How far each virtual token moved"]),
        ("prefix_tuning", ["The values of a prefix"]),
    ],
)
def test_every_kind_of_adapter_has_its_pictures_with_its_numbers_in_them(method, titles, adapters):
    seen = inspect_adapter(adapters[method])
    plots = draw_panels(seen)
    assert [plot.title for plot in plots] == titles
    for plot in plots:
        assert plot.svg.startswith("<svg") and not re.search(r"(?:href|src)=\"http", plot.svg)
    if method == "lora":
        shown = f"{100 * seen.layers[0].relative:.3g}"
        assert f">{shown}</text>" in plots[0].svg  # text that stays text, in the cell of that layer
        assert "var(--ink)" in plots[0].svg or "var(--faint)" in plots[0].svg


def test_a_page_holds_tables_and_pictures_and_no_script_of_anybody(adapters):
    page = render_inspection_page(inspect_adapter(adapters["prompt_tuning"]), back="report.html")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("<svg role=") == 2 and page.count("<table>") == 1 and 'href="report.html"' in page
    assert "Khashabi" in page
    pair = render_inspection_page(inspect_pair(adapters["lora"], adapters["dora"]))
    assert pair.count("<svg role=") == 3 and "writes alike" in pair
    assert not re.search(r"(?:href|src)=\"http", page + pair)


def test_names_of_layers_are_whole_in_a_page_and_short_on_a_terminal(adapters):
    seen = inspect_adapter(adapters["lora"])
    longest = "decoder.block.0.layer.1.EncDecAttention.q"
    assert f">{longest}</th>" in render_inspection_page(seen)
    assert longest not in (said := render_inspection(seen)) and "dec.block.0.layer.1.EncDecAttention.q" in said


def test_the_command_writes_a_picture_and_a_folder_and_overwrites_neither(adapters, tmp_path, capsys):
    words = ["inspect", str(adapters["lora"]), "--plot", str(tmp_path / "a.png"), "--out", str(tmp_path / "seen")]
    assert main(words) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in (tmp_path / "seen").iterdir()) == ["inspection.html", "inspection.json"]
    assert len(json.loads((tmp_path / "seen" / "inspection.json").read_text())["layers"]) == 32
    capsys.readouterr()
    assert main(words) == 2 and "is there already" in capsys.readouterr().err
    assert main([*words[:2], "--out", str(tmp_path / "seen")]) == 2
    assert (
        main([*words[:2], "--out", str(adapters["lora"] / "inside")]) == 2
        and not (adapters["lora"] / "inside").exists()
    )
    assert main([*words[:2], "--plot", str(tmp_path / "a.gif")]) == 2
    assert main(["inspect", *words[1:2], str(adapters["dora"]), "--plot", str(tmp_path / "pair.svg")]) == 0
    assert (tmp_path / "pair.svg").read_text().lstrip().startswith("<?xml")


def test_a_hundred_blocks_and_layers_that_are_all_alike_are_drawn(adapters):
    import dataclasses

    seen = inspect_adapter(adapters["lora"])
    one = dataclasses.replace(seen.layers[0], relative=0.0)
    many = [dataclasses.replace(one, name=f"model.layers.{at}.self_attn.q_proj") for at in range(120)]
    deep = dataclasses.replace(seen, layers=tuple(many))
    assert len(list(panels_of(deep))) == 3
    (first, *_) = draw_panels(deep)
    labels = re.findall(r">(\d+)</text>", first.svg)
    assert "0" in labels and "119" not in labels and len(labels) < 40
