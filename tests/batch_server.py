"""Local servers with the batch APIs of OpenAI and Anthropic, that count every row they take and misbehave on request.

A row is known by its question, the last message. `seen(event)` is called at each step (uploaded, creating, created, looked,
downloading, halfway), where a test may kill who asks; it then says True, and what is being sent does not arrive.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from local_server import LocalServer
from messages_server import error, message


@dataclass
class Taken:
    """One batch that the server has accepted."""

    id: str
    rows: list[dict[str, Any]]
    token: str | None
    looks: int = 0
    refused: str | None = None
    results: list[tuple[dict[str, Any], str]] | None = None


@dataclass
class BatchServer(LocalServer):
    """What both providers' servers do alike.

    `faults` of a question are used up one a batch; `refused` questions make the whole batch be refused. `lost` accepted
    batches lose their answer on the way, and `cut` downloads break off; `hidden` is how many times the list does not show the
    newest batch yet.
    """

    looks_until_over: int = 1
    faults: dict[str, list[str]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    lost: int = 0
    hidden: int = 0
    most_queued: int | None = None
    seen: Callable[[str], bool] = lambda event: False
    taken: list[Taken] = field(default_factory=list)
    accepted: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    out_of_order: int = 0
    cut: int = 0
    calls: int = 0

    async def gone(self, request: web.Request) -> web.Response | None:
        self.calls += 1
        if not self.out_of_order:
            return None
        self.out_of_order -= 1
        return web.Response(status=503, text="upstream is away")

    async def take(self, request: web.Request, rows: list[dict[str, Any]], token: str | None) -> Taken:
        """Accepts a batch; each row has custom_id and body."""
        batch = Taken(f"batch_{len(self.taken) + 1}", rows, token)
        self.taken.insert(0, batch)
        self.sizes.append(len(rows))
        bad = [row for row in rows if question(row) in self.refused]
        queued = sum(len(one.rows) for one in self.taken if not self.is_over(one))
        if self.most_queued is not None and queued > self.most_queued:
            batch.refused = "full"
        elif bad:
            batch.refused = str(1 + rows.index(bad[0]))
        else:
            self.accepted.update(question(row) for row in rows)
        self.seen("created")
        if self.lost:
            self.lost -= 1
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(0)
        return batch

    def is_over(self, batch: Taken) -> bool:
        return batch.refused is not None or batch.looks >= self.looks_until_over

    def find(self, name: str) -> Taken | None:
        return next((batch for batch in self.taken if batch.id == name), None)

    def listed(self, request: web.Request, after: str) -> tuple[list[Taken], bool]:
        """A page of the list, newest first, and whether there are more."""
        for batch in self.taken:
            batch.looks += 1
        known = self.taken
        if self.hidden and request.query.get("limit") != "1":
            self.hidden -= 1
            known = known[1:]
        names = [batch.id for batch in known]
        start = names.index(request.query[after]) + 1 if after in request.query else 0
        limit = min(int(request.query["limit"]), 2)
        return known[start : start + limit], len(known) > start + limit

    def results(self, batch: Taken) -> list[tuple[dict[str, Any], str]]:
        """Each row with the fault that is planned for it, backwards: order is no help."""
        if batch.results is None:
            plans = ((row, self.faults.get(question(row)) or ["good"]) for row in reversed(batch.rows))
            batch.results = [(row, plan.pop(0)) for row, plan in plans]
        return batch.results

    async def download(self, request: web.Request, lines: list[dict[str, Any]]) -> web.StreamResponse:
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        response = web.StreamResponse(headers={"Content-Length": str(len(text))})
        await response.prepare(request)
        if self.seen("downloading"):
            return response
        await response.write(text[: len(text) // 2])
        if self.seen("halfway"):
            return response
        if self.cut:
            self.cut -= 1
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(text[len(text) // 2 :])
        return response


def question(row: dict[str, Any]) -> str:
    return str(row["body"]["messages"][-1]["content"])


@dataclass
class OpenAiBatchServer(BatchServer):
    """OpenAI's files and batches."""

    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unknown_model: bool = False

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{name}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{name}", self._look)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-4o-mini"}]})

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        if away := await self.gone(request):
            return away
        form = await request.post()
        assert form["purpose"] == "batch"
        text = form["file"].file.read().decode()  # type: ignore[union-attr]
        name = f"file-{len(self.files) + 1}"
        self.files[name] = [json.loads(line) for line in text.splitlines()]
        self.seen("uploaded")
        return web.json_response({"id": name, "object": "file", "purpose": "batch", "bytes": len(text)})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if self.seen("creating"):
            return web.Response()
        body = await request.json()
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        rows = self.files[body["input_file_id"]]
        names = [row["custom_id"] for row in rows]
        assert len(set(names)) == len(names)
        assert all((row["method"], row["url"]) == ("POST", "/v1/chat/completions") for row in rows)
        return web.json_response(self._told(await self.take(request, rows, body["metadata"]["potstill"])))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if away := await self.gone(request):
            return away
        page, has_more = self.listed(request, "after")
        return web.json_response({"object": "list", "data": [self._told(batch) for batch in page], "has_more": has_more})

    async def _look(self, request: web.Request) -> web.StreamResponse:
        if away := await self.gone(request):
            return away
        batch = self.find(request.match_info["name"])
        if batch is None:
            return web.json_response({"error": {"message": "No batch found"}}, status=404)
        batch.looks += 1
        self.seen("looked")
        return web.json_response(self._told(batch))

    def _told(self, batch: Taken) -> dict[str, Any]:
        status = "in_progress"
        if self.is_over(batch):
            status = "failed" if batch.refused else "completed"
            if any("expired" in (self.faults.get(question(row)) or [])[:1] for row in batch.rows):
                status = "expired"
        told: dict[str, Any] = {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "status": status,
            "errors": None,
            "output_file_id": f"out-{batch.id}" if status in ("completed", "expired") else None,
            "error_file_id": f"err-{batch.id}" if status in ("completed", "expired") else None,
            "metadata": {"potstill": batch.token},
            "request_counts": {"total": len(batch.rows), "completed": 0, "failed": 0},
        }
        if batch.refused and self.unknown_model:
            told["errors"] = {"data": [{"code": "model_not_found", "message": "The model does not exist.", "line": 1}]}
        elif batch.refused == "full":
            said = "Enqueued token limit reached for gpt-4o-mini. Please try again once some batches have been completed."
            told["errors"] = {"data": [{"code": "token_limit_exceeded", "message": said, "param": None, "line": None}]}
        elif batch.refused:
            entry = {"code": "invalid_type", "message": "Bad row.", "param": "body", "line": int(batch.refused)}
            told["errors"] = {"data": [entry]}
        return told

    async def _content(self, request: web.Request) -> web.StreamResponse:
        kind, _, name = request.match_info["name"].partition("-")
        batch = self.find(name)
        assert batch is not None
        lines = [
            line
            for row, fault in self.results(batch)
            for line in self._lines(row, fault)
            if (line["error"] is None and line["response"]["status_code"] == 200) == (kind == "out")
        ]
        return await self.download(request, lines)

    def _lines(self, row: dict[str, Any], fault: str) -> list[dict[str, Any]]:
        line: dict[str, Any] = {"id": "batch_req_1", "custom_id": row["custom_id"], "response": None, "error": None}
        match fault:
            case "expired":
                said = "This request could not be executed before the completion window expired."
                return [{**line, "error": {"code": "batch_expired", "message": said}}]
            case "400" | "500":
                body = {"error": {"message": "maximum context length is 4096 tokens", "code": "context_length_exceeded"}}
                return [{**line, "response": {"status_code": int(fault), "request_id": "req_1", "body": body}}]
            case "left out":
                return []
        text = "" if fault == "empty" else question(row).upper()
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
        good = {**line, "response": {"status_code": 200, "request_id": "req_1", "body": body}}
        stranger = {**good, "custom_id": "somebody-elses"}
        return [good, stranger, good] if fault == "good" else [good]


@dataclass
class AnthropicBatchServer(BatchServer):
    """Anthropic's Message Batches."""

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/messages/batches", self._create)
        app.router.add_get("/v1/messages/batches", self._list)
        app.router.add_get("/v1/messages/batches/{name}", self._look)
        app.router.add_get("/v1/messages/batches/{name}/results", self._results)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "claude-haiku-4-5", "type": "model"}]})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if away := await self.gone(request):
            return away
        assert request.headers["anthropic-version"] == "2023-06-01"
        if self.seen("creating"):
            return web.Response()
        asked = (await request.json())["requests"]
        rows = [{"custom_id": one["custom_id"], "body": one["params"]} for one in asked]
        names = [row["custom_id"] for row in rows]
        assert len(set(names)) == len(names)
        assert all(len(name) <= 64 for name in names)
        if any(question(row) in self.refused for row in rows):
            self.sizes.append(len(rows))
            return error(400, "invalid_request_error", "requests.0.params.messages: bad")
        return web.json_response(self._told(await self.take(request, rows, None)))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if away := await self.gone(request):
            return away
        page, has_more = self.listed(request, "after_id")
        data = [self._told(batch) for batch in page]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return web.json_response({"data": data, "has_more": has_more, **ends})

    async def _look(self, request: web.Request) -> web.StreamResponse:
        if away := await self.gone(request):
            return away
        batch = self.find(request.match_info["name"])
        if batch is None:
            return error(404, "not_found_error", "batch not found")
        batch.looks += 1
        self.seen("looked")
        return web.json_response(self._told(batch))

    def _told(self, batch: Taken) -> dict[str, Any]:
        is_over = self.is_over(batch)
        counts = {"canceled": 0, "errored": 0, "expired": 0, "processing": 0, "succeeded": 0}
        url = f"https://api.example.invalid/v1/messages/batches/{batch.id}/results"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if is_over else "in_progress",
            "request_counts": {**counts, "succeeded" if is_over else "processing": len(batch.rows)},
            "results_url": url if is_over else None,
            "archived_at": None,
        }

    async def _results(self, request: web.Request) -> web.StreamResponse:
        batch = self.find(request.match_info["name"])
        assert batch is not None
        lines = [line for row, fault in self.results(batch) for line in self._lines(row, fault)]
        return await self.download(request, lines)

    def _lines(self, row: dict[str, Any], fault: str) -> list[dict[str, Any]]:
        name = row["custom_id"]
        match fault:
            case "expired":
                return [{"custom_id": name, "result": {"type": "expired"}}]
            case "400" | "500":
                kind = "invalid_request_error" if fault == "400" else "api_error"
                told = {"type": "error", "error": {"type": kind, "message": "prompt is too long"}, "request_id": "req_1"}
                return [{"custom_id": name, "result": {"type": "errored", "error": told}}]
            case "left out":
                return []
        body = message(None if fault == "empty" else question(row).upper())
        good = {"custom_id": name, "result": {"type": "succeeded", "message": body}}
        return [good, {**good, "custom_id": "somebody-elses"}, good] if fault == "good" else [good]
