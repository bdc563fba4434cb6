"""Prompts of every content kind, and one that asks the user first."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import mcp_types as types

from conformance.reference.content import embedded, image, text
from conformance.reference.rounds import Round, form, words

Render = Callable[[Round, Mapping[str, str]], Awaitable[list[types.ContentBlock]]]

PLACES = ("paris", "park", "party", "test")


@dataclass(frozen=True)
class PromptEntry:
    definition: types.Prompt
    render: Render


def _entry(name: str, description: str, render: Render, **arguments: str) -> PromptEntry:
    """`arguments` maps the name of each required argument to its description."""
    required = [types.PromptArgument(name=key, description=text, required=True) for key, text in arguments.items()]
    return PromptEntry(types.Prompt(name=name, description=description, arguments=required or None), render)


async def _simple(_: Round, __: Mapping[str, str]) -> list[types.ContentBlock]:
    return [text("A prompt without arguments.")]


async def _with_arguments(_: Round, arguments: Mapping[str, str]) -> list[types.ContentBlock]:
    return [text(f"A prompt with arg1='{arguments['arg1']}' and arg2='{arguments['arg2']}'.")]


async def _with_resource(_: Round, arguments: Mapping[str, str]) -> list[types.ContentBlock]:
    return [embedded(arguments["resourceUri"], "The content of the resource."), text("Please read the resource above.")]


async def _with_image(_: Round, __: Mapping[str, str]) -> list[types.ContentBlock]:
    return [image(), text("Please look at the image above.")]


async def _with_input(call: Round, _: Mapping[str, str]) -> list[types.ContentBlock]:
    properties = {"context": {"type": "string", "description": "What the prompt is about"}}
    answers = await call.ask({"user_context": form("What is the prompt about?", properties, ["context"])})
    return [text(f"A prompt about {words(answers['user_context'])}.")]


def prompts() -> list[PromptEntry]:
    return [
        _entry("test_simple_prompt", "Has no arguments.", _simple),
        _entry(
            "test_prompt_with_arguments",
            "Has two arguments.",
            _with_arguments,
            arg1="The first argument",
            arg2="The second argument",
        ),
        _entry(
            "test_prompt_with_embedded_resource",
            "Has a resource inside.",
            _with_resource,
            resourceUri="The resource to embed",
        ),
        _entry("test_prompt_with_image", "Has an image inside.", _with_image),
        _entry("test_input_required_result_prompt", "Asks the user what it is about.", _with_input),
    ]


def complete(argument: types.CompletionArgument) -> types.Completion:
    """The known places that begin with what was typed, whatever the argument is."""
    values = [place for place in PLACES if place.startswith(argument.value)]
    return types.Completion(values=values, total=len(values), has_more=False)
