"""The thin client beside the `openai` client and bespokelabs-curator: CPU a request, requests a second, memory; and kill -9.

    python benchmarks/teacher_api.py [--requests 5000] [--concurrency 128 512] [--repeats 1]
        [--openai-python PYTHON] [--curator-python PYTHON] [--environments FOLDER]

A server in a process of its own answers each POST after 50 ms with 2 kB. Every client asks the same prompts in a process of
its own; its CPU is counted from the first request to the last, its memory at the peak. Ours runs through the journal (each
answer on the disk before it is used), with a budget, limits and retries on. The others need an environment each: given by
--openai-python and --curator-python, or made in --environments with pip.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

LATENCY_S = 0.05
ANSWER = "The red light means that the router has no line. " * 41
PROMPT = "Case {n}. " + "The router shows a red light and the printer prints empty pages; what should I do first? " * 4
STARTS_S = 60.0

CHOICE = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 90, "completion_tokens": 410, "total_tokens": 500}
COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "big", "choices": [CHOICE], "usage": USAGE}
BODY = json.dumps(COMPLETION).encode()

OURS = """
import json, resource, sys, time
from pathlib import Path
from potstill.answers.asking import Asking, ask, once
from potstill.answers.budget import Budget, Purse
from potstill.journal import Journal, Spend
from potstill.plugins import load_plugin
from potstill.types import Message, Request, Sampling

url, first, last, concurrency, journal, prompt = sys.argv[1:]
fields = {"kind": "openai_api", "base_url": url, "model": "big", "max_concurrency": int(concurrency),
          "max_requests_per_minute": 1_000_000, "max_tokens_per_minute": 10**9}
teacher = load_plugin("teachers", fields)
def row(n):
    return Request(f"row {n}", (Message("user", prompt.format(n=n)),), Sampling(max_tokens=512))
texts = 0
def use(outcome):
    global texts
    texts += len(outcome[1].text) > 0
wall, cpu = time.perf_counter(), time.process_time()
with Journal(Path(journal)) as opened:
    purse = Purse(Budget(max_requests=10**6, max_tokens=10**9), Spend())
    ask([Asking(teacher, map(once, map(row, range(int(first), int(last)))), use)], opened, purse)
"""
OPENAI = """
import asyncio, json, resource, sys, time
from openai import AsyncOpenAI, DefaultAioHttpClient

url, first, last, concurrency, client, prompt = sys.argv[1:]
texts = 0
async def work(client, numbers):
    global texts
    for n in numbers:
        reply = await client.chat.completions.create(
            model="big", messages=[{"role": "user", "content": prompt.format(n=n)}], max_tokens=512, temperature=0.0)
        texts += len(reply.choices[0].message.content) > 0
async def main():
    more = {"http_client": DefaultAioHttpClient()} if client == "aiohttp" else {}
    async with AsyncOpenAI(api_key="none", base_url=url, **more) as opened:
        numbers = iter(range(int(first), int(last)))
        await asyncio.gather(*(work(opened, numbers) for _ in range(int(concurrency))))
wall, cpu = time.perf_counter(), time.process_time()
asyncio.run(main())
"""
CURATOR = """
import importlib.util, json, os, resource, sys, time
from pathlib import Path

# Its token counter loads a table from the network; litellm, which comes with it, carries the same table.
litellm = importlib.util.find_spec("litellm").submodule_search_locations[0]
os.environ["TIKTOKEN_CACHE_DIR"] = str(next(Path(litellm).rglob("9b5ad71b2ce5302211f9c61530b329a4922fc6a4")).parent)
from bespokelabs import curator

url, first, last, concurrency, _, prompt = sys.argv[1:]
class Asker(curator.LLM):
    def prompt(self, row):
        return row["prompt"]
    def parse(self, row, response):
        return [{"text": response}]
params = {"base_url": url, "api_key": "none", "max_concurrent_requests": int(concurrency),
          "max_requests_per_minute": 1_000_000, "max_tokens_per_minute": 1_000_000_000}
asker = Asker(model_name="gpt-4o-mini", backend="openai", backend_params=params, generation_params={"max_tokens": 512})
rows = [{"prompt": prompt.format(n=n)} for n in range(int(first), int(last))]
wall, cpu = time.perf_counter(), time.process_time()
answered = asker(rows)
answered = getattr(answered, "dataset", answered)
texts = sum(len(row["text"]) > 0 for row in answered)
"""
REPORT = """
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("RESULT", json.dumps({"texts": texts, "wall": wall, "cpu": cpu, "peak": peak}))
"""


class Answering(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and as little else as it takes, so that the server is never what is measured."""

    asked: ClassVar[Counter[int]] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            length = re.search(rb"content-length: (\d+)", head)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self.data) < total:
                return
            request, self.data = self.data[:total], self.data[total:]
            self.answer(request)

    def answer(self, request: bytes) -> None:
        if request.startswith(b"GET"):
            self.send(json.dumps(Answering.asked).encode())
            return
        number = re.search(rb"Case (\d+)\.", request)
        if number:
            Answering.asked[int(number[1])] += 1
        asyncio.get_running_loop().call_later(LATENCY_S, self.send, BODY)

    def send(self, body: bytes) -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Server:
    """The server in a process of its own; `asked` is how often each prompt came."""

    def __enter__(self) -> Server:
        self.process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def asked(self) -> Counter[int]:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.url}/asked") as reply:
            return Counter({int(number): times for number, times in json.load(reply).items()})


def environment(home: Path) -> dict[str, str]:
    """No proxy, no telemetry, nothing of the user's own."""
    own = {"HOME": str(home), "OPENAI_API_KEY": "none", "TELEMETRY_ENABLED": "0", "CURATOR_DISABLE_RICH_DISPLAY": "1"}
    return {**{name: value for name, value in os.environ.items() if "proxy" not in name.lower()}, **own}


def start(python: str, program: str, arguments: list[str], home: Path) -> subprocess.Popen[str]:
    command = [python, "-c", program + REPORT, *arguments, PROMPT]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home), cwd=home)


def measure(python: str, program: str, requests: int, concurrency: int, setting: str) -> dict[str, float]:
    """One client against a fresh server."""
    with tempfile.TemporaryDirectory() as home, Server() as server:
        setting = str(Path(home) / "journal.sqlite") if program == OURS else setting
        client = start(python, program, [server.url, "0", str(requests), str(concurrency), setting], Path(home))
        out, err = client.communicate()
        line = next((line for line in out.splitlines() if line.startswith("RESULT")), None)
        if line is None:
            raise SystemExit(f"the client failed:\n{err[-2000:]}")
        result: dict[str, float] = json.loads(line.removeprefix("RESULT"))
        assert result["texts"] == requests, f"{result['texts']} of {requests} were answered"
        assert sum(server.asked().values()) == requests, "each prompt was asked once"
        return result


def kill_half_way(requests: int, concurrency: int) -> tuple[int, int, int]:
    """kill -9 when half is recorded, then the same command: recorded before, asked again of those, asked in all."""
    with tempfile.TemporaryDirectory() as home, Server() as server:
        journal = Path(home) / "journal.sqlite"
        arguments = [server.url, "0", str(requests), str(concurrency), str(journal)]
        client = start(sys.executable, OURS, arguments, Path(home))
        deadline = time.monotonic() + STARTS_S
        while len(recorded(journal)) < requests // 2:
            assert client.poll() is None, client.communicate()[1]
            assert time.monotonic() < deadline, "half of the answers never came"
            time.sleep(0.01)
        os.kill(client.pid, signal.SIGKILL)
        client.communicate()
        before, safe = server.asked(), recorded(journal)
        client = start(sys.executable, OURS, arguments, Path(home))
        out, err = client.communicate()
        assert f'"texts": {requests},' in out, err
        after = server.asked()
        return len(safe), sum(after[number] - before[number] for number in safe), sum(after.values())


def recorded(journal: Path) -> set[int]:
    """The prompts that have an answer on the disk."""
    if not journal.is_file():
        return set()
    program = (
        "import sqlite3, sys; print(*[row[0] for row in sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)"
        ".execute('SELECT request FROM answers')], sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(journal)], capture_output=True, text=True, check=False)
    return {int(number) for number in re.findall(r"Case (\d+)\.", done.stdout)}


def made_environments(folder: Path) -> tuple[str, str]:
    """Two virtual environments, made where they are not there."""
    pythons = []
    for name, package in (("openai", "openai[aiohttp]"), ("curator", "bespokelabs-curator")):
        python = folder / name / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", package], check=True)
        pythons.append(str(python))
    return pythons[0], pythons[1]


def clients(arguments: argparse.Namespace) -> dict[str, tuple[str, str, str]]:
    """Name -> Python, program, setting."""
    found = {"potstill, journal and budget": (sys.executable, OURS, "")}
    openai, curator = arguments.openai_python, arguments.curator_python
    if arguments.environments is not None:
        openai, curator = made_environments(arguments.environments)
    if openai:
        found["openai, default"] = (openai, OPENAI, "default")
        found["openai, aiohttp transport"] = (openai, OPENAI, "aiohttp")
    if curator:
        found["bespokelabs-curator"] = (curator, CURATOR, "")
    return found


def median(results: list[dict[str, float]], name: str) -> float:
    return statistics.median(result[name] for result in results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--openai-python", metavar="PYTHON")
    parser.add_argument("--curator-python", metavar="PYTHON")
    parser.add_argument("--environments", type=Path, metavar="FOLDER")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    table = Table("client", "at once", "CPU ms/request", "requests/s", "peak MB")
    for concurrency in arguments.concurrency:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.repeats):  # in turn, so that a busy machine slows all
            for name, how in clients(arguments).items():
                found.setdefault(name, []).append(measure(*how[:2], arguments.requests, concurrency, how[2]))
        for name, results in found.items():
            numbers: list[Any] = [median(results, "cpu") / arguments.requests * 1000]
            numbers += [arguments.requests / median(results, "wall"), median(results, "peak")]
            table.add_row(name, str(concurrency), f"{numbers[0]:.2f}", f"{numbers[1]:,.0f}", f"{numbers[2]:.0f}")
    Console(width=100).print(table)
    for concurrency in arguments.concurrency:
        safe, again, asked = kill_half_way(arguments.requests, concurrency)
        print(
            f"kill -9 at {safe:,} recorded answers, {concurrency} at once: {again} of them asked again; "
            f"{asked:,} requests for {arguments.requests:,} prompts"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
