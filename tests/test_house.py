"""The house: imports run down the floors, files and functions stay small, one plug-in a file, the README's tree is true."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "potstill"
FAMILIES = ("tasks", "teachers", "combiners", "checks", "losses", "metrics", "exporters", "compute")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 6

# Floor of each module or folder, by the name under src/potstill. A file imports only from lower floors; a floor may have
# storeys (2, 2.1, 2.2), so that files of one floor never import each other in a circle.
FLOORS: dict[float, str] = {
    1: "types errors text/texts starter text/math_worker wire/__init__ answers/__init__ data/__init__ text/__init__",
    1.1: "text/languages catalog wire/credentials wire/limits wire/token_logprobs",
    2: "freed_memory plugins interrupts runfolder journal data/json_rows data/table_rows statistics rendering kernels packing "
    "page architectures text/reading text/quantities text/overlap text/equivalence text/personal wire/http_faults wire/pool "
    "wire/batch_ledger text/shingles",
    2.05: "codec data/rows formats",
    2.1: "spelling wire/endpoint data/readers signals data/splits text/lookalikes answers/novelty",
    2.2: "alignment reply_logprobs data/intake wire/provider_calls loss_contracts export_contracts",
    3: "contracts student batches generation progress checkpoints runs speed_trial",
    3.01: "depth four_bit",
    3.02: "caches",
    3.05: "prefetch row_attention sharding classifier refill",
    3.1: "runtimes aligned_terms insides labels answers/shares "
    "answers/budget answers/inquiry answers/sieve recipe wire/hosted wire/openai wire/anthropic wire/batch_api "
    "scoring measure text/rationale lessons answers/judging answers/voting",
    3.15: "classes slices ramps transfer aligned_cells answers/feed",
    3.2: "heads label_scores label_answers learner objective feeding answers/invention answers/asking wire/batch_asking",
    3.3: "curriculum on_policy passes answers/answering sections wire/batch_teacher aligned_signals",
    4: "job training teacher_signals tasks teachers combiners checks losses metrics exporters compute",
    4.1: "pupil desk bill gates parity",
    4.2: "crossing",
    5: "stages estimates terminal",
    5.1: "checking",
    6: "pipeline workspace",
    7: "systems",
    8: "verbs entities",
    9: "cli client __init__",
    9.1: "__main__",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
# Folders of plain modules, which keep their own floors; every other folder has one.
GROUPED = {"wire", "answers", "data", "text"}
# Folders whose files share words with one another; in every other folder they stand alone.
MAY_SHARE_WITHIN = {"starter", "page", "kernels", "formats"}

FILES = sorted(path for path in SOURCE.rglob("*.py") if "__pycache__" not in path.parts)
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def place_of(path: Path) -> str:
    return place(path.relative_to(SOURCE).with_suffix("").parts)


def place(parts: Sequence[str]) -> str:
    """The name in FLOORS of a module given by its parts under potstill."""
    return "/".join(parts[:2]) if parts[0] in GROUPED else parts[0]


def own_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first name under potstill of every import of our own code, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if node.level:
                base = path.relative_to(SOURCE).parts[: -node.level]
                parts = [*base, *(node.module.split(".") if node.module else [])]
            elif node.module and node.module.split(".")[0] == "potstill":
                parts = node.module.split(".")[1:]
            else:
                continue
            yield from ((node.lineno, place(parts)) for _ in [0] if parts)
            if not parts:
                yield from ((node.lineno, name) for name in names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("potstill."):
                    yield node.lineno, place(alias.name.split(".")[1:])


def test_every_file_has_a_floor() -> None:
    assert sorted({place_of(path) for path in FILES} - set(FLOOR_OF)) == []


def test_imports_run_down_the_floors_only() -> None:
    wrong = []
    for path in FILES:
        here = place_of(path)
        if path.name == "__init__.py" and path.parent == SOURCE:
            continue  # the package's front page names things of every floor and imports the lowest only
        for line, there in own_imports(path):
            if here == there and here in MAY_SHARE_WITHIN:
                continue
            if FLOOR_OF.get(there, 0) >= FLOOR_OF.get(here, 0):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {there}, which is not on a lower floor")
    assert wrong == []


def test_no_import_stands_in_a_function_and_only_plugins_imports_by_name() -> None:
    wrong = []
    for path in FILES:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [n.lineno for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
                wrong += [f"{path.relative_to(ROOT)}:{line} import in {node.name}" for line in inner]
        if path.name != "plugins.py" and re.search(r"\bimportlib\.(import_module|util)|__import__\(", path.read_text()):
            wrong.append(f"{path.relative_to(ROOT)}: a dynamic import")
    assert wrong == []


def test_files_functions_and_parameter_lists_stay_small() -> None:
    wrong = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_FILE_LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
                names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                num_parameters = len([name for name in names if name not in ("self", "cls", "ctx")])
                is_kernel = any(isinstance(mark, ast.Name) and mark.id == "_jit" for mark in node.decorator_list)
                if num_parameters > MAX_PARAMETERS and not is_kernel:  # a Triton kernel takes its pointers one by one
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {num_parameters} parameters")
    assert wrong == []


def test_a_stage_offers_inputs_and_run_and_never_prints() -> None:
    wrong = []
    for path in sorted((SOURCE / "stages").glob("[!_]*.py")):
        functions = {node.name for node in TREES[path].body if isinstance(node, ast.FunctionDef)}
        wrong += [f"{path.name} has no {name}" for name in {"inputs", "run"} - functions]
        calls = [node.func for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
        wrong += [f"{path.name}:{call.lineno} prints" for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert wrong == []


def test_a_plug_in_file_holds_one_plug_in_class_with_a_docstring() -> None:
    wrong = []
    bases = {"Task", "Teacher", "Combiner", "Check", "Loss", "LayerLoss", "Metric", "Exporter", "Compute"}
    for path in (path for family in FAMILIES for path in sorted((SOURCE / family).glob("[!_]*.py"))):
        classes = [node for node in TREES[path].body if isinstance(node, ast.ClassDef)]
        plugins = [node for node in classes if any(isinstance(base, ast.Name) and base.id in bases for base in node.bases)]
        if len(plugins) != 1:
            wrong.append(f"{path.relative_to(SOURCE)}: {len(plugins)} plug-in classes")
        wrong += [f"{path.relative_to(SOURCE)}: {node.name} has no docstring" for node in plugins if not ast.get_docstring(node)]
    assert wrong == []


def tree_in_readme() -> dict[str, str]:
    """Path under the root -> its words, from the README's file tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- tree -->")[1].split("```")[1]
    listed, folders = {}, [""]
    for line in block.splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, words = line.strip().partition(" ")
        path = folders[depth] + name
        folders[depth + 1 :] = [path]
        listed[path] = words.strip()
    return listed


def test_the_readme_lists_every_file_with_three_to_eight_words() -> None:
    listed = tree_in_readme()
    files = {str(path.relative_to(ROOT)) for path in FILES if path.name != "__init__.py" or path.parent == SOURCE}
    assert sorted(files - set(listed)) == []
    assert [path for path in listed if not (ROOT / path).exists()] == []
    assert [
        f"{path}: {words}" for path, words in listed.items() if path.endswith(".py") and not 3 <= len(words.split()) <= 8
    ] == []


def quick(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A verb in a child that says on stderr every module it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "potstill", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})


@pytest.mark.parametrize("arguments", [("--help",), ("list",), ("list", "losses"), ("list", "exporters"), ("show", "one")])
def test_help_list_and_show_never_import_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "state.json").write_text('{"status": "completed"}')
    done = quick(*arguments, folder=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "typer" in imported
    assert imported.isdisjoint({"torch", "transformers", "pyarrow", "numpy", "aiohttp"})
    assert done.stdout.strip()
