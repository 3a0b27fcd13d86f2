"""Each row of a request that several variants share is what that variant says alone, on a base of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from residents import KINDS, METHODS, NEW_TOKENS, PEFT_VARIANTS, PROMPTS, VARIANTS, adapter_of, alone, ask, off_by

import hfplug
from hfplug.serving.resident import Resident

TOLERANCE = 5e-4  # of the root mean square, float32, as for a probe
# Those whose rows cannot share a pass, with the reason to be found; everything else has to be mixed.
ALONE = {"full": "every weight is its own", "bart": "rows beside it come out wrong"}
# A decoder and an encoder-decoder in the quick run; the two whose positions are learnt in the slow one.
each_kind = pytest.mark.parametrize(
    "kind", [kind if kind in ("llama", "t5") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)


@pytest.fixture(scope="module")
def residents(base_folder: Callable[[str], Path]) -> Callable[[str], tuple[Resident, Path]]:
    """``residents(kind)``: a base with every variant on it that the kind of model takes."""
    made: dict[str, tuple[Resident, Path]] = {}

    def resident(kind: str) -> tuple[Resident, Path]:
        if kind not in made:
            base = base_folder(kind)
            loaded = Resident.load(base)
            for variant in VARIANTS:
                folder = adapter_of(base, kind, variant)
                if folder is not None:
                    loaded.attach(variant, folder, verify="lock")
            made[kind] = loaded, base
        return made[kind]

    return resident


def check_rows(resident: Resident, base: Path, kind: str, names: Sequence[str]) -> None:
    """Ask one request with a row for each name, a pass for each group, and compare every row with the variant alone."""
    rows = [(name, PROMPTS[number % len(PROMPTS)]) for number, name in enumerate(names)]
    groups: dict[str, list[tuple[str, list[int]]]] = {}
    for name, prompt in rows:
        groups.setdefault(resident.group_of(name), []).append((name, prompt))
    for group in groups.values():
        with resident.ready([name for name, _ in group], [prompt for _, prompt in group]) as ready:
            tokens, logits = ask(ready.model, ready.inputs, ready.prompt_length)
        for row, (name, prompt) in enumerate(group):
            expected_tokens, expected_logits = alone(str(base), kind, name, tuple(prompt))
            assert off_by(logits[row], expected_logits) < TOLERANCE, name
            assert tokens[row, -NEW_TOKENS:].tolist() == expected_tokens, name


@each_kind
def test_a_row_of_every_variant_in_one_request_comes_out_as_it_does_alone(residents, kind):
    resident, base = residents(kind)
    names = ["base", *resident.attached]
    check_rows(resident, base, kind, names)
    check_rows(resident, base, kind, [*reversed(names), *names[::3]])


@each_kind
def test_which_variants_are_mixed_and_why_the_others_are_not(residents, kind):
    resident, base = residents(kind)
    fitting = {name for name, why_not in hfplug.methods_for(base).items() if why_not is None}
    assert fitting & {*METHODS} <= {name.removeprefix("hfplug:") for name in resident.attached}
    for name, variant in resident.attached.items():
        has_prefix = "prefix" in name and kind == "bart"  # its decoder counts positions from the cache's length
        reason = ALONE["full"] if name == "full" else ALONE["bart"] if has_prefix else "come out as they do alone"
        assert reason in variant.batching_reason
        assert variant.batching == ("alone" if name == "full" or has_prefix else "mixed")


@each_kind
def test_the_variants_of_these_tests_answer_differently(residents, kind):
    # Or a row that went to the wrong variant would not be noticed.
    resident, base = residents(kind)
    prompt = tuple(PROMPTS[0])
    said = {name: alone(str(base), kind, name, prompt)[1] for name in ("base", *resident.attached)}
    for one, other in itertools.combinations(said, 2):
        assert off_by(said[one], said[other]) > 100 * TOLERANCE, (one, other)


@each_kind
def test_with_every_variant_attached_the_base_is_a_pristine_one_bit_for_bit(residents, kind):
    resident, base = residents(kind)
    check_rows(resident, base, kind, ["base", *resident.attached])
    for prompt in PROMPTS:
        with resident.ready(["base"], [prompt]) as ready:
            tokens, logits = ask(ready.model, ready.inputs, ready.prompt_length)
        expected_tokens, expected_logits = alone(str(base), kind, "base", tuple(prompt))
        assert torch.equal(logits[0], expected_logits)
        assert tokens[0, -NEW_TOKENS:].tolist() == expected_tokens
    assert resident.prove_base().verdict == "proved"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_of_variants_shares_a_request(residents, kind):
    resident, base = residents(kind)
    for one, other in itertools.combinations(("base", *resident.attached), 2):
        check_rows(resident, base, kind, [one, other, one])


def test_every_kind_of_adapter_that_peft_has_a_place_for_here_is_tried(residents):
    assert set(PEFT_VARIANTS) <= set(residents("llama")[0].attached)
