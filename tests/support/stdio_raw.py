"""A stdio server that works on raw lines, for what a server made with an SDK would never do.

Run as a program; with `--modern` it speaks 2026-07-28 instead. Each tool is a behaviour; a tool that waits is answered
from the loop, so calls run side by side.
"""

import json
import os
import signal
import subprocess
import sys
from typing import Any

EXACT = '{"big":123456789012345678901234567890,"huge":1e400,"half":"\\ud83d","plain":1.10,"unknown":{"x":[null]}}'


class Server:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.cancelled: list[Any] = []
        self.waiting_for_cancel: list[Any] = []
        self.heard: list[str] = []
        self.asked: dict[Any, Any] = {}
        """By the id of a question to the client: the call it was asked for."""

    def send(self, **message: Any) -> None:
        self.send_line(json.dumps({"jsonrpc": "2.0", **message}))

    def send_line(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def text(self, call: Any, text: str) -> None:
        self.send(id=call, result={"content": [{"type": "text", "text": text}]})

    def receive(self, line: str) -> None:
        message = json.loads(line)
        self.heard.append(line.rstrip("\n"))
        method = message.get("method")
        if method is None:
            call = self.asked.pop(message["id"])
            self.text(call, json.dumps(message.get("result", message.get("error"))))
        elif "id" not in message:
            if method == "notifications/cancelled":
                self.cancelled.append(message["params"]["requestId"])
                while self.waiting_for_cancel:
                    self.text(self.waiting_for_cancel.pop(), json.dumps(self.cancelled))
        elif method == "server/discover" and "--modern" in sys.argv:
            self.send(id=message["id"], result={"supportedVersions": ["2026-07-28"], "capabilities": {}})
        elif method == "subscriptions/listen":
            meta = {"io.modelcontextprotocol/subscriptionId": message["id"]}
            self.send(method="notifications/subscriptions/acknowledged", params={"_meta": meta, "notifications": {}})
        elif method == "initialize":
            self.initialize(message)
        elif method == "ping":
            self.send(id=message["id"], result={})
        elif method == "tools/call":
            name = message["params"]["name"]
            getattr(self, name)(message["id"], message["params"].get("arguments", {}), message["params"])
        elif method == "tools/list":
            self.send(id=message["id"], result={"tools": []})
        else:
            self.send(id=message["id"], error={"code": -32601, "message": f"no {method}"})

    def initialize(self, message: dict[str, Any]) -> None:
        if "--refuse" in sys.argv:
            self.send(id=message["id"], error={"code": -32602, "message": "not today"})
            return
        result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}}
        self.send(id=message["id"], result={**result, "serverInfo": {"name": "raw", "version": "1"}})

    # Tools: (the call's id, its arguments, all its params).

    def pid(self, call: Any, _: Any, __: Any) -> None:
        self.text(call, str(os.getpid()))

    def environment(self, call: Any, _: Any, __: Any) -> None:
        self.text(call, json.dumps(dict(os.environ)))

    def note(self, call: Any, arguments: Any, _: Any) -> None:
        self.notes.append(arguments["text"])
        self.text(call, json.dumps(self.notes))

    def what_was_heard(self, call: Any, _: Any, __: Any) -> None:
        self.text(call, json.dumps(self.heard))

    def exact(self, call: Any, _: Any, __: Any) -> None:
        self.send_line(f'{{"jsonrpc": "2.0", "extra" : true, "id": {call}, "result": {EXACT}}}')

    def hang(self, call: Any, _: Any, params: Any) -> None:
        """Says that it has begun, and no more."""
        self.send(
            method="notifications/progress", params={"progressToken": params["_meta"]["progressToken"], "progress": 1}
        )

    def what_was_cancelled(self, call: Any, _: Any, __: Any) -> None:
        self.text(call, json.dumps(self.cancelled))

    def next_cancelled(self, call: Any, _: Any, __: Any) -> None:
        """Answered when a cancellation has arrived."""
        if self.cancelled:
            self.text(call, json.dumps(self.cancelled))
        else:
            self.waiting_for_cancel.append(call)

    def end_subscription(self, call: Any, arguments: Any, _: Any) -> None:
        self.send(method="notifications/cancelled", params={"requestId": arguments["call"]})
        self.text(call, "ended")

    def progress_of(self, call: Any, arguments: Any, _: Any) -> None:
        self.send(method="notifications/progress", params={"progressToken": arguments["call"], "progress": 2})
        self.text(call, "sent")

    def answer_of(self, call: Any, arguments: Any, _: Any) -> None:
        """Answer a call that hangs, or was cancelled."""
        self.text(arguments["call"], "late")
        self.text(call, "sent")

    def ask(self, call: Any, arguments: Any, _: Any) -> None:
        question = f"question-{call}"
        self.asked[question] = call
        schema = {"type": "object", "properties": {}}
        params = {"message": arguments["message"], "requestedSchema": schema}
        self.send(id=question, method="elicitation/create", params=params)

    def log(self, call: Any, arguments: Any, _: Any) -> None:
        self.send(method="notifications/message", params={"level": "info", "data": arguments["text"]})
        self.text(call, "logged")

    def change(self, call: Any, _: Any, __: Any) -> None:
        self.send(method="notifications/tools/list_changed")
        self.text(call, "changed")

    def babble(self, call: Any, _: Any, __: Any) -> None:
        sys.stderr.write("a word on stderr\n")
        sys.stderr.flush()
        self.send_line("not JSON")
        self.send_line("[1, 2]")
        self.text(call, "after babble")

    def long_line(self, _: Any, arguments: Any, __: Any) -> None:
        sys.stdout.write("x" * arguments["length"])
        sys.stdout.flush()

    def crash(self, _: Any, __: Any, ___: Any) -> None:
        os._exit(3)

    def start_another(self, call: Any, _: Any, __: Any) -> None:
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.text(call, str(other.pid))

    def ignore_the_end(self, call: Any, _: Any, __: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.stubborn = True
        self.text(call, "I stay")

    def serve(self) -> None:
        for line in sys.stdin:
            self.receive(line)
        while getattr(self, "stubborn", False):
            signal.pause()


if __name__ == "__main__":
    Server().serve()
