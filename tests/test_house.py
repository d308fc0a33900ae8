"""The rules of the house that a machine can check; CONTRIBUTING.md says why they are there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "irlvla"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOMS_OF_FLOORS = (
    "types chamfer masks geometry vehicle lanes definitions origin files rationale",
    "run baselines intervals data world score model",
    "__init__ acceptance camera_only compare doctor evaluate halves inventory learned machine make_world navsim_agent prepare recipes rollout "
    "feature_cache scene_cache nearest_reward reward_models reward_quality run_data score_parts score_summary score_table selection shifted submit "
    "displacement observed pandaset perceive variants "
    "causes interventions cause_quality dry_run export "
    "fact_quality element_quality train trajectory_file cluster workers metric_caches two_stage follow_ups two_stage_plans world_size",
    "viewer",
    "assess demo reward_benchmark score_command cli",
)
FLOORS = {name: floor for floor, names in enumerate(ROOMS_OF_FLOORS) for name in names.split()}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core"}
FORBIDDEN_CLASSES = re.compile(r"(Manager|Handler|Builder|Factory|Registry)$")
TORCH_FREE = ("types", "rationale", "geometry", "vehicle", "lanes", "data", "world", "score", "baselines")
MEASURED = ("score", "geometry", "vehicle", "lanes")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def trees():
    return [(path, ast.parse(path.read_text(), str(path))) for path in SOURCES]


def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def functions(tree: ast.AST):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def is_kernel(function: ast.FunctionDef) -> bool:
    return any("njit" in ast.unparse(decorator) for decorator in function.decorator_list)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).exists()]


def complaints(rows) -> str:
    return "\n".join(rows)


def test_every_file_has_a_floor():
    assert not complaints(f"{path}: add {room(path)} to FLOORS" for path in SOURCES if room(path) not in FLOORS)


def test_imports_point_down_or_stay_in_the_room():
    found = []
    for path, tree in trees():
        own = room(path)
        for name in imported(tree):
            parts = name.split(".")
            if parts[0] != "irlvla":
                continue
            other = parts[1] if len(parts) > 1 and parts[1] in FLOORS else "__init__"
            allowed = other == own or FLOORS[other] < FLOORS[own] or (FLOORS[other] == FLOORS[own] and FLOORS[own] in (0, 2, 4))
            if not allowed:
                found.append(f"{path.relative_to(ROOT)} (floor {FLOORS[own]}) imports {name} (floor {FLOORS[other]})")
    assert not complaints(found)


def test_the_numeric_rooms_never_import_torch():
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, tree in trees()
        if room(path) in TORCH_FREE
        for name in imported(tree)
        if name.split(".")[0] in ("torch", "safetensors", "tensorboard", "transformers")
    ]
    assert not complaints(found)


def test_the_package_is_imported_without_torch():
    program = "import irlvla, irlvla.cli, irlvla.prepare, irlvla.data.store, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_no_file_is_named_after_nothing():
    assert not complaints(str(path) for path in SOURCES if path.stem in FORBIDDEN_NAMES or path.parent.name in FORBIDDEN_NAMES)


def test_no_class_is_named_after_a_pattern():
    found = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and FORBIDDEN_CLASSES.search(node.name)
    ]
    assert not complaints(found)


def test_no_error_is_swallowed():
    found = []
    for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                if node.type is None or re.search(r"\b(Base)?Exception\b", caught):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} catches {caught or 'everything'}")
    assert not complaints(found)


def test_public_things_have_docstrings():
    found = []
    for path, tree in trees():
        if tree.body and not ast.get_docstring(tree):
            found.append(f"{path.relative_to(ROOT)} has no docstring")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                kernel = isinstance(node, ast.FunctionDef) and is_kernel(node)
                if not ast.get_docstring(node) and not kernel:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has no docstring")
    assert not complaints(found)


def test_kernels_are_silent_pure_and_not_annotated():
    found = []
    for path, tree in trees():
        for function in functions(tree):
            if not is_kernel(function):
                continue
            where = f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
            calls = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
            noisy = sorted(name for name in calls if name in ("print", "open") or name.split(".")[0] in ("os", "time", "logging"))
            if noisy:
                found.append(f"{where} calls {', '.join(noisy)}")
            if function.returns is not None or any(argument.annotation for argument in function.args.args):
                found.append(f"{where} is annotated: the import hook breaks it")
            if "no_type_check" not in " ".join(ast.unparse(decorator) for decorator in function.decorator_list):
                found.append(f"{where} lacks @no_type_check")
    assert not complaints(found)


def test_measuring_rooms_do_not_print():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees()
        if room(path) in MEASURED
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert not complaints(found)


def test_data_classes_are_frozen():
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for decorator in map(ast.unparse, node.decorator_list):
                    if decorator.startswith("dataclass") and "frozen=True" not in decorator:
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not complaints(found)


def test_no_pickle_is_read_without_a_list_of_allowed_classes():
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, tree in trees()
        for name in imported(tree)
        if name in ("pickle.load", "pickle.loads", "dill", "joblib")
    ]
    loads = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("pickle.load", "pickle.loads", "torch.load")
        # This one's own unpickler knows tensors and plain containers only.
        and not (ast.unparse(node.func) == "torch.load" and "weights_only=True" in map(ast.unparse, node.keywords))
    ]
    assert not complaints(found + loads)


def test_files_stay_readable():
    found = []
    for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        lines = path.read_text().splitlines()
        if len(lines) > 400:
            found.append(f"{path.relative_to(ROOT)} has {len(lines)} lines")
        found += [f"{path.relative_to(ROOT)}:{number} has {len(line)} columns" for number, line in enumerate(lines, 1) if len(line) > 150]
    assert not complaints(found)


def test_documents_and_results_name_no_place_of_one_machine():
    place = re.compile(r"(?<![\w.$])/(work|tmp|home|root|Users)/")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line[:100]}"
        for path in tracked()
        if path.suffix in (".md", ".json", ".toml", ".yaml")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if place.search(line)
    ]
    assert not complaints(found)


def test_tests_are_neither_skipped_nor_expected_to_fail():
    words = re.compile(r"mark\.(skip|xfail)|pytest\.(skip|xfail|importorskip)\(")
    found = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if path != Path(__file__) and words.search(path.read_text())]
    assert not complaints(found)


def test_tracked_files_are_small_and_nothing_generated_is_tracked():
    found = [f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes" for path in tracked() if path.stat().st_size > 500_000]
    endings = {".safetensors", ".pt", ".pth", ".ckpt", ".nbc", ".nbi", ".pyc"}
    found += [
        f"{path.relative_to(ROOT)} is generated" for path in tracked() if path.suffix in endings or "runs" in path.relative_to(ROOT).parts
    ]
    assert not complaints(found)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_commands_and_files_that_exist(document):
    text = (ROOT / document).read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = [
        f"make {name}" for name in re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"`[^`]*`|^    .*$|```.*?```", text, re.M | re.S)))
    ]
    missing = sorted({name for name in found if name.removeprefix("make ") not in targets})
    links = [name for name in re.findall(r"\]\(([^)#:]+)\)", text) if not (ROOT / name).exists()]
    assert not complaints(missing + links)


def test_the_makefile_has_the_promised_targets():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "demo", "test", "check", "bench", "parity", "format"} <= targets
    assert "make check" in (ROOT / ".ci" / "run").read_text()


def test_the_licence_is_apache():
    assert "Apache License" in (ROOT / "LICENSE").read_text() and 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
