"""Every setting does something: a setting without an effect is a promise that nobody keeps."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.settings import Settings
from tests.support.effects import EFFECTS, Bench, Effect
from tests.support.effects import gateway as gateway_effects
from tests.support.effects import servers as server_effects


def sections(annotation: object) -> list[type[BaseModel]]:
    """The sections within the type of a field: of a tuple's items, of a mapping's values, of an optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (tuple, types.UnionType, typing.Union, Mapping):
        return [section for argument in arguments for section in sections(argument)]
    return []


def paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting, as a file has it; items of lists and names of mappings are left out of the path."""
    for name, field in section.model_fields.items():
        inner = sections(field.annotation)
        if inner:
            for each in inner:
                yield from paths(each, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_setting_has_an_effect_and_every_effect_a_setting() -> None:
    assert set(paths(Settings)) == EFFECTS.keys()


def test_the_walk_finds_settings_at_every_depth() -> None:
    found = list(paths(Settings))
    assert {"gateway.authentication.mode", "servers.slug", "servers.versions.url", "servers.tools.scopes"} <= set(found)
    assert len(found) == len(set(found))


def test_every_effect_is_in_one_of_the_two_files() -> None:
    files = {gateway_effects.__name__: "gateway.", server_effects.__name__: "servers."}
    assert all(path.startswith(files[function.__module__]) for path, function in EFFECTS.items())


def named(function: Effect) -> str:
    return "+".join(path for path, each in EFFECTS.items() if each is function)


@pytest.mark.parametrize("function", dict.fromkeys(EFFECTS.values()), ids=named)
async def test_the_setting_does_what_it_says(function: Effect, database_url: str, tmp_path: Path) -> None:
    await function(Bench(database_url, tmp_path))
