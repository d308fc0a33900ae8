"""Damaged files for every reader: each input must end in a result or in an error that names the file. Prints a table and writes JSON.

`python benchmarks/fuzz.py [--reader pickle gpkg ...] [--inputs 1000] [--seed 0] [--only INDEX] [--guided] [--out build/fuzz.json]`

Inputs are read in a child process with 2 GiB of memory beyond what it needs to start. What is counted besides results and clear errors, and
must be 0: other exceptions, messages that do not name the file, more than 5 s, an end of the process, memory (a MemoryError, or 512 MiB more
than before), and what an audit hook hears while a reader reads: programs, sockets, files opened for writing, modules imported, code
executed, extensions of SQLite loaded. An input follows from the seed and its number: `--only` repeats one and shows the error.

With `--guided` (pip install "irlvla[fuzz]", whose atheris has wheels for some Pythons only) libFuzzer keeps the inputs that reach new lines
of the readers, and changes those further.
"""

import argparse
import importlib
import json
import mmap
import multiprocessing
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import FunctionType

import numpy as np

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GUIDED = "--guided" in sys.argv
if GUIDED:
    import atheris

    # Modules with kernels come first: numba cannot compile what is instrumented.
    for module in ("data.features", "data.pickles", "score.epdms", "score.prepared"):
        importlib.import_module(f"irlvla.{module}")
    with atheris.instrument_imports(include=["irlvla", "yaml"]):
        from tests.fuzz.readers import READERS
else:
    from tests.fuzz.readers import READERS
from irlvla.data import pickles  # noqa: E402  (after the thread settings and the path)
from tests.fuzz import mutations  # noqa: E402

SECONDS, MEMORY, GROWTH = 5.0, 2 << 30, 512 << 10
WARM_UP = 300
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.remove", "os.rename", "os.mkdir", "os.chmod",
             "os.putenv", "subprocess.Popen", "socket.", "exec", "pickle.find_class", "ctypes.dlopen", "code.__new__", "marshal.load", "urllib.",
             "shutil.", "ftplib.", "webbrowser.", "sqlite3.enable_load_extension", "sqlite3.load_extension")  # fmt: skip
HEARD: list[str] = []
ARMED = [False]


def by_numba():
    """Whether numba is loading a kernel from its cache, which is a pickle."""
    frame = sys._getframe(2)
    while frame is not None:
        if "/numba/core/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def listen(event, arguments):
    """Notes what no reader has to do."""
    if not ARMED[0]:
        return
    ARMED[0] = False  # looking at frames is an event, too
    loading = by_numba()
    ARMED[0] = True
    if loading:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        HEARD.append(f"open {arguments[0]!r} for writing")
    elif event == "import" and arguments[0] not in sys.modules:
        HEARD.append(f"import {arguments[0]}")
    elif event.startswith(FORBIDDEN):
        HEARD.append(f"{event} {ascii(arguments)[:100]}")


class Ending:
    """Keeps whatever a block ends in."""

    error = None

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _trace):
        self.error = error
        return not isinstance(error, KeyboardInterrupt)


def memory_error(error):
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def outcome(reader, folder):
    """What reading does: "result", "error" (a clear one), or else what is wrong."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    HEARD.clear()
    ARMED[0] = True
    with Ending() as ending:
        reader.read(folder)
    error = ending.error
    if error is None:
        answer = "result"
    elif isinstance(error, ValueError | OSError):
        message = str(error)
        clear = type(error) in (ValueError, FileNotFoundError) and any(word in message for word in reader.words) and len(message) < 2000
        answer = "memory" if memory_error(error) else "error" if clear else f"unclear {type(error).__name__}: {message[:120]}"
    else:
        place = traceback.extract_tb(error.__traceback__)[-1]
        answer = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:120]}"
    ARMED[0] = False
    if HEARD:
        return f"heard {HEARD[0]}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"memory grew by {grown >> 10} MiB" if grown > GROWTH else answer


def made_ready(name, folder):
    """What inputs are made of; kernels are compiled and modules imported before anything is watched."""
    warnings.simplefilter("ignore")
    reader = READERS[name]
    seeds = reader.prepare(folder)
    for index in range(WARM_UP):
        reader.write(random.Random(f"{name} warm {index}"), folder, seeds)
        outcome(reader, folder)
    sys.addaudithook(listen)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return seeds


def work(name, seed, first, last, folder, shared, pipe):
    """Reads the inputs one after the other; `shared` holds the number of the current one and when it began."""
    reader, folder = READERS[name], Path(folder)
    seeds = made_ready(name, folder)
    for index in range(first, last):
        reader.write(random.Random(f"{name} {seed} {index}"), folder, seeds)
        shared[:16] = struct.pack("qd", index, time.monotonic())
        pipe.send((index, outcome(reader, folder)))
    pipe.close()


def fuzzed(name, seed, first, inputs):
    """Counts of outcomes, and examples of those that must not be: outcome -> number of the first input."""
    context = multiprocessing.get_context("fork")
    shared = mmap.mmap(-1, 16)
    counts, examples = {"result": 0, "error": 0}, {}
    last, begun = first + inputs, time.monotonic()

    def add(index, answer):
        counts[answer if answer in counts else "other"] = counts.get(answer if answer in counts else "other", 0) + 1
        if answer not in ("result", "error"):
            examples.setdefault(answer, index)
            print(f"{name} {index}: {answer}", flush=True)

    while first < last:
        folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        ours, theirs = context.Pipe(duplex=False)
        shared[:16] = struct.pack("qd", first, time.monotonic() + 300.0)
        child = context.Process(target=work, args=(name, seed, first, last, folder, shared, theirs))
        child.start()
        theirs.close()
        ended = None
        while ended is None:
            if ours.poll(0.5):
                try:
                    index, answer = ours.recv()
                except EOFError:
                    break
                add(index, answer)
                first = index + 1
                continue
            index, since = struct.unpack("qd", shared[:16])
            if time.monotonic() - since > SECONDS:
                child.kill()
                ended = "hang"
        child.join()
        if child.exitcode == 1:
            raise RuntimeError(f"{name}: input {first} could not be made")
        ended = ended or (f"crash {child.exitcode}" if child.exitcode else None)
        if first < last and ended:
            while ours.poll():
                try:
                    index, answer = ours.recv()
                except EOFError:
                    break
                add(index, answer)
                first = index + 1
            add(first, ended)
            first += 1
        shutil.rmtree(folder, ignore_errors=True)
    counts.setdefault("other", 0)
    return counts | {"inputs": inputs, "seconds": round(time.monotonic() - begun, 1), "examples": examples}


def cut(content):
    """A pickle's opcodes, none if it cannot be cut."""
    try:
        return mutations.opcodes(content)
    except ValueError:
        return []


def follow(name, seed, inputs, folder, pipe):
    """Lets libFuzzer choose the inputs; it ends the process."""
    reader, folder = READERS[name], Path(folder)
    seeds = made_ready(name, folder)
    corpus, file = folder / "corpus", folder / reader.file
    corpus.mkdir()
    for index in range(100):
        reader.write(random.Random(f"{name} {seed} corpus {index}"), folder, seeds)
        (corpus / f"{index:03d}").write_bytes(file.read_bytes() if file.exists() else b"")
    known = [path.read_bytes() for path in sorted(corpus.iterdir())]
    # The kernel that walks through opcodes is not Python: its source is, and shows what is new.
    source = pickles._complaint.py_func
    walked = atheris.instrument_func(FunctionType(source.__code__, source.__globals__)) if name == "pickle" else None

    def change(content, size, number):
        content, chance = bytes(content), random.Random(number)
        way = chance.random()
        if way < 0.2:
            reader.write(chance, folder, seeds)
            content = file.read_bytes() if file.exists() else b""
        elif way < 0.6 and name == "pickle" and (codes := cut(content)):
            content = mutations.reordered(chance, codes)
        else:
            content = mutations.spoiled(chance, content, known, mutations.EVIL_OPCODES if name == "pickle" else ())
        return content[:size]

    def one(content):
        file.write_bytes(content)
        if walked is not None and len(content) < 20_000:
            walked(np.frombuffer(content, np.uint8))
        pipe.send((-1, outcome(reader, folder)))

    arguments = (f"-runs={inputs}", f"-seed={seed + 1}", f"-timeout={SECONDS:.0f}", "-rss_limit_mb=0", "-max_len=400000", "-verbosity=0")
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()


def followed(name, seed, inputs):
    """Counts of outcomes of inputs that libFuzzer chose."""
    context = multiprocessing.get_context("fork")
    counts, examples, begun = {"result": 0, "error": 0, "other": 0}, {}, time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=follow, args=(name, seed, inputs, folder, theirs))
        child.start()
        theirs.close()
        answers = iter(lambda: received(ours), None)
        for answer in answers:
            counts[answer if answer in counts else "other"] += 1
            if answer not in counts and answer not in examples:
                examples[answer] = sum(counts.values())
                print(f"{name}: {answer}", flush=True)
        child.join()
        if child.exitcode:
            counts["other"] += 1
            examples[f"the process ended with {child.exitcode}"] = sum(counts.values())
    read = counts["result"] + counts["error"] + counts["other"]
    return counts | {"inputs": read, "seconds": round(time.monotonic() - begun, 1), "examples": examples}


def received(pipe):
    """What the child sent, None when it has ended."""
    try:
        return pipe.recv()[1]
    except EOFError:
        return None


def show(name, seed, index):
    """Reads one input again and lets its error through."""
    with tempfile.TemporaryDirectory() as folder:
        reader = READERS[name]
        seeds = reader.prepare(Path(folder))
        reader.write(random.Random(f"{name} {seed} {index}"), Path(folder), seeds)
        print(reader.read(Path(folder)))


def commit():
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz.json"))
    options = parser.parse_args()
    if options.only is not None:
        return show(options.reader[0], options.seed, options.only)
    if GUIDED:
        found = {name: followed(name, options.seed, options.inputs) for name in options.reader}
    else:
        found = {name: fuzzed(name, options.seed, options.first, options.inputs) for name in options.reader}
    print(f"{'reader':10} {'inputs':>8} {'results':>8} {'errors':>8} {'other':>8} {'seconds':>8}")
    for name, counts in found.items():
        print(f"{name:10} {counts['inputs']:8} {counts['result']:8} {counts['error']:8} {counts['other']:8} {counts['seconds']:8.0f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"commit": commit(), "seed": options.seed, "guided": GUIDED, "readers": found}, indent=1) + "\n")
    return int(any(counts["other"] for counts in found.values()))


if __name__ == "__main__":
    sys.exit(main())
