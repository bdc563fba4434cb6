"""Lists that change, and a resource that is updated, when a tool is told to do so."""

import mcp_types as types
from mcp.server.subscriptions import PromptsListChanged, ResourceUpdated, SubscriptionBus, ToolsListChanged

from conformance.reference.content import text
from conformance.reference.resources import WATCHED
from conformance.reference.rounds import Round
from conformance.reference.sessions import Sessions
from conformance.reference.tools import Arguments, ToolEntry, entry, result


class Changes:
    """Counts changes; the last tool and the last prompt of the lists are named after the count.

    So a trigger changes what a client sees and does not only announce that it did. Announcements go to the streams of
    `subscriptions/listen` and to every session of an older revision.
    """

    def __init__(self, bus: SubscriptionBus, sessions: Sessions) -> None:
        self._bus = bus
        self._sessions = sessions
        self._tool_changes = 0
        self._prompt_changes = 0

    def tools(self) -> list[ToolEntry]:
        return [
            entry("test_trigger_tool_change", "Changes the list of tools.", self._change_tools),
            entry("test_trigger_prompt_change", "Changes the list of prompts.", self._change_prompts),
            entry("test_trigger_resource_update", "Updates the watched resource.", self._update_resource),
        ]

    def changing_tool(self) -> ToolEntry:
        name = f"test_changing_tool_{self._tool_changes}"

        async def run(_: Round, __: Arguments) -> types.CallToolResult:
            return result(text(f"This is {name}."))

        return entry(name, "Is replaced when the list of tools changes.", run)

    def changing_prompt(self) -> types.Prompt:
        return types.Prompt(
            name=f"test_changing_prompt_{self._prompt_changes}",
            description="Is replaced when the list of prompts changes.",
        )

    async def _change_tools(self, _: Round, __: Arguments) -> types.CallToolResult:
        self._tool_changes += 1
        await self._bus.publish(ToolsListChanged())
        await self._sessions.list_changed(types.ToolListChangedNotification())
        return result(text(f"The list of tools changed {self._tool_changes} times."))

    async def _change_prompts(self, _: Round, __: Arguments) -> types.CallToolResult:
        self._prompt_changes += 1
        await self._bus.publish(PromptsListChanged())
        await self._sessions.list_changed(types.PromptListChangedNotification())
        return result(text(f"The list of prompts changed {self._prompt_changes} times."))

    async def _update_resource(self, _: Round, __: Arguments) -> types.CallToolResult:
        await self._bus.publish(ResourceUpdated(uri=WATCHED))
        await self._sessions.resource_updated(WATCHED)
        return result(text(f"{WATCHED} was updated."))
