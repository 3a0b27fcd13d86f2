"""Defaults of settings that depend on the model: its size, its task, its depth.

What a user says always stands. What is not said is settled when the method meets a model: where a paper or a maintained
library says what suits a model of that size or a task of that kind, that is taken, and its source is kept beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from hfplug.methods.anatomy_view import AnatomyView
from hfplug.methods.values import Default

Method = TypeVar("Method", bound="WithDefaults")


class WithDefaults:
    """The part of a method that knows which of its settings were said, and what the others should be."""

    _said: frozenset[str]
    _chosen: Mapping[str, Default]

    def __new__(cls: type[Method], *args: Any, **settings: Any) -> Method:
        made = super().__new__(cls)
        names = [field.name for field in dataclasses.fields(cls)][: len(args)]  # type: ignore[arg-type]
        # A frozen dataclass refuses a plain assignment. No field: it is neither compared nor shown.
        object.__setattr__(made, "_said", frozenset((*names, *settings)))
        object.__setattr__(made, "_chosen", {})
        return made

    @property
    def said(self) -> frozenset[str]:
        """The settings that were passed when it was made, whether or not they equal the default."""
        return self._said

    @property
    def chosen(self) -> Mapping[str, Default]:
        """Of a settled method the settings that the model chose, and that are not what they are elsewhere."""
        return self._chosen

    def said_settings(self) -> dict[str, Any]:
        """Those settings with their values, tuples as lists."""
        values = {name: getattr(self, name) for name in sorted(self.said)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def saying(self: Method, **settings: Any) -> Method:
        """The same method with more said; what was not said before stays unsaid, as :func:`dataclasses.replace` does
        not leave it.

        Args:
            **settings: Names and values of settings.
        """
        made = type(self)(**{**{name: getattr(self, name) for name in self.said}, **settings})
        object.__setattr__(made, "_chosen", {name: one for name, one in self._chosen.items() if name not in settings})
        return made

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        """What its settings should be on a model where nothing is said, each with its reason and source.

        Settings that are not named keep the default of their field.

        Args:
            anatomy: The model.
        """
        return {}

    def settled(self: Method, anatomy: AnatomyView) -> Method:
        """The same method with every setting fixed for a model; settled once more, also on another, it stays so.

        Args:
            anatomy: The model that it is put on.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        if fields.keys() <= self.said:
            return self
        own = {name: one for name, one in self.defaults(anatomy).items() if name not in self.said}
        values = {name: own[name].value if name in own else getattr(self, name) for name in fields}
        made = type(self)(**values)
        chosen = {name: one for name, one in own.items() if one.value != fields[name].default}
        object.__setattr__(made, "_chosen", chosen)
        return made


def chosen_words(method: WithDefaults) -> str:
    """What a model chose, for a line of a log: ``blocks=3 (Lee et al. 2019, abstract)``; empty if nothing."""
    parts = []
    for name, one in method.chosen.items():
        value = ",".join(map(str, one.value)) if isinstance(one.value, tuple) else one.value
        parts.append(f"{name}={value} ({one.source})")
    return ", ".join(parts)
