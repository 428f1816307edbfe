"""The `potstill` command.

    potstill quickstart

A verb's code is loaded when the verb is called, so that help, list and show answer without torch.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from .errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER, PotstillError
from .plugins import verb

EPILOG = (
    "Exit codes: 0 ok, 1 a bug of potstill, 2 something to put right, which one sentence names, "
    "130 interrupted. A job's options stand in its file; --set train.learning_rate=1e-4 overrides one."
)
app = typer.Typer(
    name="potstill",
    help="Distils a large language model into a small one for one task, and proves that the small one is good enough.",
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="the job file")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a job option; repeatable")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]
TaskName = Annotated[str, typer.Option("--task", help="conversation, nli, qa, math or summarization")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder, or its name in ./runs")]


@app.command()
def quickstart(
    task: TaskName = "conversation",
    folder: Annotated[Path, typer.Option("--folder", help="where data, job file and runs are written")] = Path("quickstart"),
    rows: Annotated[int, typer.Option("--rows", min=20, help="training prompts; fewer is faster and worse")] = 1800,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Distil the embedded starter teacher: no key, no hub, no GPU, a few minutes."""
    _call("verbs.quickstart:quickstart", task, folder, rows, overrides or [], as_json)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="where to write")] = Path(), task: TaskName = "conversation") -> None:
    """Write a commented job.yaml and a small sample of data to start from."""
    _call("verbs.init:init", folder, task)


@app.command()
def check(job: JobFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check everything about a job without spending anything or loading weights."""
    _call("verbs.check:check", job, overrides or [], as_json)


@app.command()
def plan(job: JobFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print what would be done, what is done already, and what it will take."""
    _call("verbs.plan:plan", job, overrides or [], as_json)


@app.command()
def run(job: JobFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Run a job, or continue it where it stopped."""
    _call("verbs.run:run", job, overrides or [], as_json)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="runs, or a family: tasks, teachers, checks, losses, metrics, ...")] = "runs",
    runs: Annotated[Path, typer.Option("--runs", help="the folder that holds the run folders")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs, or the plug-ins of a family."""
    _call("verbs.list:list_", what, runs, as_json)


@app.command()
def show(run: Run, as_json: AsJson = False) -> None:
    """Show a run: its state, its stages and its scores."""
    _call("verbs.show:show", run, as_json)


@app.command()
def report(
    run: Run,
    open_it: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a run's verdict and where its report lies."""
    _call("verbs.report:report", run, open_it, as_json)


@app.command()
def chat(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_FOLDER", help="a run, its name in ./runs, or a model folder")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="longest answer")] = 256,
) -> None:
    """Talk to the finished student: /reset, /system TEXT, /exit."""
    _call("verbs.chat:chat", run, max_tokens)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: packages, processor, memory, and which OMP_WAIT_POLICY suits it."""
    _call("verbs.doctor:doctor", as_json)


@app.command()
def schema() -> None:
    """Print the job file's JSON schema, for editors."""
    _call("verbs.schema:schema")


def main() -> None:
    """The entry point."""
    # A job started in the background by a shell script inherits an ignored Ctrl-C; being asked to stop must always work.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # libgomp's busy waiting collapses on shared cores (up to 30 times slower); it must be set before torch is imported.
    if not any(name.startswith("OMP_") for name in os.environ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries fill the screen; our own sentence says what failed
    command = typer.main.get_command(app)
    sys.excepthook = _report_bug
    command(prog_name="potstill")


def _call(dotted: str, *options: Any) -> None:
    """Runs a verb and ends with its exit code; what a person can act on is one sentence on stderr."""
    try:
        code = verb(dotted)(*options)
    except PotstillError as error:
        code = _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _fail(f"stopped; the same command continues: potstill {shlex.join(sys.argv[1:])}", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `potstill list | head`: nothing more to say
        code = EXIT_OK
    except OSError as error:
        code = _fail_on_disk(error)
    raise typer.Exit(code or EXIT_OK)


def _fail_on_disk(error: OSError) -> int:
    """A full disk and a place that cannot be written are told; any other error of the system is a bug."""
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        what = "a file may not grow further (ulimit -f)" if error.errno == errno.EFBIG else "the disk is full"
        return _fail(f"{what}{place}; free space and run the same command again, it continues", EXIT_USER)
    if error.filename and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
        return _fail(f"{error.filename} cannot be used: {error.strerror}; name another folder, or change its rights", EXIT_USER)
    raise error


def _fail(sentence: str, code: int) -> int:
    print(f"potstill: {sentence}", file=sys.stderr)
    return code


def _report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    print(f"potstill: this is a bug (exit code {EXIT_BUG}); please report it with the lines above", file=sys.stderr)
