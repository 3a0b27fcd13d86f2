"""Records and locks of a damaged or hostile repo: an error that says what is wrong, never a stack trace from inside."""

from __future__ import annotations

import json

import pytest

from hfplug.adapters.lock import Lock
from hfplug.adapters.record import Record
from hfplug.errors import AdapterError

RECORD = {"record_version": 1, "method": "lora"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": 3}, "'method' in hfplug_record.json must hold a text; it holds 3."),
        ({"model_performance": [1]}, "'model_performance' in hfplug_record.json must hold an object; it holds [1]."),
        ({"model_performance": {"metrics": [1]}}, "'metrics' in hfplug_record.json must hold an object"),
        ({"base": {}}, "'base' in hfplug_record.json must hold a text or null; it holds {}."),
        ({"steps": True}, "'steps' in hfplug_record.json must hold a whole number or null; it holds True."),
        ({"loss_curve": [[1]]}, "'loss_curve' in hfplug_record.json must hold a list; it holds [[1]]."),
        ({"versions": {"torch": 2}}, "'versions' in hfplug_record.json must hold an object"),
        ({"examples": [{"input": 1}]}, "'examples' in hfplug_record.json must hold a list"),
    ],
)
def test_a_record_of_another_shape_is_refused(values, said):
    with pytest.raises(AdapterError) as caught:
        Record.from_json({**RECORD, **values})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weights_sha256": {"a": 1}}, "'weights_sha256' in hfplug_lock.json must hold an object; it holds {'a': 1}."),
        ({"tensors": []}, "'tensors' in hfplug_lock.json must hold an object; it holds []."),
        ({"num_labels": "2"}, "'num_labels' in hfplug_lock.json must hold a whole number or null; it holds '2'."),
        ({"label_names": [1, 2]}, "'label_names' in hfplug_lock.json must hold a list or null"),
    ],
)
def test_a_lock_of_another_shape_is_refused(values, said):
    with pytest.raises(AdapterError) as caught:
        Lock.from_json({"lock_version": 1, **values})
    assert said in str(caught.value)


def test_what_was_written_is_read_back():
    record = Record(method="lora", steps=3, epochs=1, loss_curve=((1, 2), (2, None)), examples=({"input": "a"},))
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    lock = Lock(num_labels=2, label_names=["a", "b"], weights_sha256={"w": "0"}, probe={"inputs": []})
    assert Lock.from_json(json.loads(json.dumps(lock.to_json()))) == lock
