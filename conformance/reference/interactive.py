"""Tools that need the client: its model, its user, its roots."""

from collections.abc import Mapping
from typing import Any

import mcp_types as types

from conformance.reference.content import text
from conformance.reference.rounds import Question, Round, form, roots, sampling, words
from conformance.reference.tools import Arguments, Run, ToolEntry, entry, result


def _asking(questions: Mapping[str, Question], *, sealed: bool = False, prefix: str = "Answered") -> Run:
    async def run(call: Round, _: Arguments) -> types.CallToolResult:
        answers = await call.ask(questions, sealed=sealed)
        return result(text(f"{prefix}: " + "; ".join(words(answer) for answer in answers.values())))

    return run


NAME = {"name": {"type": "string", "description": "A name"}}
CONFIRMATION = {"ok": {"type": "boolean", "description": "Whether to go on"}}

DEFAULTS: dict[str, Any] = {
    "name": {"type": "string", "description": "A name", "default": "John Doe"},
    "age": {"type": "integer", "description": "In years", "default": 30},
    "score": {"type": "number", "description": "Out of 100", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "description": "Whether it was checked", "default": True},
}

ENUMS: dict[str, Any] = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
    "titledSingle": {
        "type": "string",
        "oneOf": [{"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"}],
    },
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["First", "Second"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    "titledMulti": {
        "type": "array",
        "items": {"anyOf": [{"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"}]},
    },
}


async def _sample(call: Round, arguments: Arguments) -> types.CallToolResult:
    answers = await call.ask({"reply": sampling(arguments["prompt"])})
    return result(text(f"LLM response: {words(answers['reply'])}"))


async def _elicit(call: Round, arguments: Arguments) -> types.CallToolResult:
    properties = {
        "username": {"type": "string", "description": "A user name"},
        "email": {"type": "string", "description": "An e-mail address"},
    }
    answers = await call.ask({"user": form(arguments["message"], properties, ["username", "email"])})
    return result(text(f"User response: {words(answers['user'])}"))


async def _two_steps(call: Round, _: Arguments) -> types.CallToolResult:
    first = await call.ask({"step1": form("Step 1: what is your name?", NAME, ["name"])}, sealed=True)
    color = {"color": {"type": "string", "description": "A color"}}
    second = await call.ask({"step2": form("Step 2: which color do you like?", color, ["color"])}, sealed=True)
    return result(text(f"First {words(first['step1'])}, then {words(second['step2'])}"))


async def _what_is_possible(call: Round, _: Arguments) -> types.CallToolResult:
    """Ask only what the client declared that it can answer."""
    wished = {"name": form("What is your name?", NAME), "greeting": sampling("Greet somebody.")}
    possible = {key: question for key, question in wished.items() if call.declares(question)}
    answers = await call.ask(possible) if possible else {}
    return result(text("; ".join(words(answer) for answer in answers.values()) or "Nothing could be asked."))


def _required(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": f"The {name} to use"}},
        "required": [name],
    }


def interactive_tools() -> list[ToolEntry]:
    user_name = form("What is your name?", NAME, ["name"])
    confirm = form("Please confirm.", CONFIRMATION, ["ok"])
    several = {"user_name": user_name, "greeting": sampling("Greet somebody.", 50), "client_roots": roots()}
    return [
        entry("test_sampling", "Asks the client's model.", _sample, _required("prompt")),
        entry("test_elicitation", "Asks the user for a name and an address.", _elicit, _required("message")),
        entry(
            "test_elicitation_sep1034_defaults",
            "Asks with a form that has defaults.",
            _asking({"form": form("Please check these values.", DEFAULTS)}),
        ),
        entry(
            "test_elicitation_sep1330_enums",
            "Asks with a form that has every kind of choice.",
            _asking({"form": form("Please choose.", ENUMS)}),
        ),
        entry(
            "test_missing_capability",
            "Needs sampling, which the client may not have declared.",
            _asking({"reply": sampling("Say something.")}),
        ),
        entry(
            "test_streaming_elicitation",
            "Asks the user in the middle of a call.",
            _asking({"confirm": confirm}),
        ),
        entry(
            "test_input_required_result_elicitation",
            "Asks for a name and keeps no state.",
            _asking({"user_name": user_name}, prefix="Hello"),
        ),
        entry(
            "test_input_required_result_sampling",
            "Asks the client's model and keeps no state.",
            _asking({"capital_question": sampling("What is the capital of France?")}),
        ),
        entry(
            "test_input_required_result_list_roots",
            "Asks for the client's roots and keeps no state.",
            _asking({"client_roots": roots()}),
        ),
        entry(
            "test_input_required_result_request_state",
            "Asks and keeps state between the rounds.",
            _asking({"confirm": confirm}, sealed=True, prefix="state-ok"),
        ),
        entry(
            "test_input_required_result_tampered_state",
            "Asks and refuses a state that it did not give out.",
            _asking({"confirm": confirm}, sealed=True),
        ),
        entry(
            "test_input_required_result_multiple_inputs",
            "Asks the user, the model and the roots at once.",
            _asking(several, sealed=True),
        ),
        entry("test_input_required_result_multi_round", "Asks twice, one after the other.", _two_steps),
        entry("test_input_required_result_capabilities", "Asks what the client can answer.", _what_is_possible),
    ]
