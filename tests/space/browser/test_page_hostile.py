"""Markup in every field is text, long texts break nothing, and nothing of the machine is served."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

MARKUP = (
    "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>\"'>${window.hacked=1}{{this}}<b>bold</b>"
)


def opened(address):
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def harmless(visitor):
    """Nothing of what was typed has run, and no element has come of it."""
    assert visitor.page.evaluate("window.hacked") is None
    assert visitor.page.locator("img[src=x], b:text-is('bold')").count() == 0
    assert visitor.toasts() == []


def test_markup_in_every_field_is_shown_as_text(visit):
    visitor = visit()
    visitor.paste(MARKUP, MARKUP)
    visitor.set_tokens(8)
    visitor.compare()
    visitor.paste("Anna: Hello.")
    visitor.compare()
    visitor.open("History")
    assert "<script>" in visitor.page.locator("#hf-history label").nth(1).inner_text()
    visitor.page.locator("#hf-history label").nth(1).click()
    visitor.wait_for_status("An earlier run")
    assert "not the id of a repo" in visitor.add(MARKUP[:150], MARKUP[:150])
    visitor.open("Link to")
    visitor.page.locator("#hf-make-link").click()
    visitor.page.locator("#hf-link-box").get_by_text("this dialogue is your own").wait_for()
    harmless(visitor)
    assert "<i>by</i>" in visitor.text("#hf-header h1")


def test_markup_in_a_blind_round_and_in_an_address_is_text(visit):
    parts = {name: MARKUP for name in ("example", "variants", "task", "seed", "blind", "temperature")}
    visitor = visit(query=urllib.parse.urlencode(parts))
    visitor.wait_for_status("left out")
    visitor.paste(MARKUP)
    visitor.set_tokens(8)
    visitor.page.get_by_label("Blind").check()
    visitor.compare()
    visitor.page.locator("#hf-choice").get_by_label("None is good").check()
    visitor.page.locator("#hf-vote-button").click()
    visitor.wait_for_status("none of them")
    harmless(visitor)


def test_markup_of_whoever_owns_a_repo_is_text(visit):
    visitor = visit()
    assert "alice/hostile" in visitor.add("alice/hostile")
    visitor.paste("Anna: Hello.")
    visitor.set_tokens(8)
    visitor.choose("base", "alice/hostile")
    visitor.compare()
    assert "alice/hostile" in visitor.titles()
    harmless(visitor)


@pytest.mark.parametrize("width", [1280, 390])
def test_ten_thousand_words_and_a_very_long_word_break_nothing(visit, width):
    visitor = visit(width=width)
    visitor.paste("Anna: " + "word " * 10_000, "Reference. " + "x" * 3000)
    visitor.set_tokens(16)
    visitor.compare()
    assert "its end was left out" in visitor.column("base").inner_text()
    assert visitor.wider_than_the_screen() <= 0
    visitor.paste("W" + "o" * 5000 + "w", "r" * 2000)
    visitor.compare()
    visitor.open("History")
    assert visitor.wider_than_the_screen() <= 0
    visitor.paste("x " * 60_000)
    visitor.press_compare()
    assert "characters" in visitor.wait_for_status("characters")
    assert visitor.toasts() == []


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd", "{folder}/votes.jsonl",
     "{folder}/../", "{app}", "{app}/../../pyproject.toml", "/proc/self/environ", "{lora}/adapter_model.safetensors"],
)  # fmt: skip
def test_no_file_of_this_machine_is_served(space, variant_folders, path):
    from hfplug.space.app_files import app_folder

    (space.folder / "votes.jsonl").touch()
    real = path.format(folder=space.folder, app=app_folder() / "app.py", lora=variant_folders["lora"])
    for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/custom_component/"):
        status, body = opened(space.address + route + real)
        assert status in (401, 403, 404, 405, 422), (route, status, body[:80])


def test_nobody_can_upload(space):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{space.address}/gradio_api/upload", data=body, headers=kind)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 403


def test_the_space_fetches_nothing_for_others(space):
    assert opened(f"{space.address}/gradio_api/file={space.address}/config")[0] == 403
    assert opened(f"{space.address}/gradio_api/proxy=https://example.com/")[0] == 403


def test_what_is_served_names_no_folder_of_this_machine(space, variant_folders):
    for path in ("/", "/config", "/gradio_api/info", "/theme.css"):
        status, body = opened(space.address + path)
        assert status == 200
        for folder in (space.folder, variant_folders["lora"], Path.home(), Path.cwd()):
            assert str(folder).encode() not in body, (path, folder)
