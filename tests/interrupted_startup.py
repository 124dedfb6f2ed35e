"""Run `python -m hubert_fast ARGUMENTS` once, and interrupt forks of it at many moments.

    python interrupted_startup.py CALLS ARGUMENTS...

A moment is every line of `main` and of interrupts.py, and every CALLS-th call of a Python function, from the first line of
the entry point to the shutdown of the interpreter; but none once the process has threads, which a fork would lack. At each of
them a fork of the process gets SIGINT. For each, it prints a line of JSON: the place, the fork's exit status, and its output.

The shutdown runs Python code too, such as callbacks of weak references, but no handlers: Python has restored the default action
of SIGINT, which kills the process without a word, and which shells report as status 130.
"""

import json
import os
import runpy
import select
import signal
import sys
import time

SECONDS = 60
MAIN = ("hubert_fast/__main__.py", "hubert_fast/cli.py")

every, sys.argv[1:] = int(sys.argv[1]), sys.argv[2:]
reports = os.fdopen(os.dup(1), "w")
calls, armed = 0, False


def interrupt_a_fork(frame) -> None:
    where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    if sys.is_finalizing() or len(os.listdir("/proc/self/task")) > 1:
        sys.settrace(None)
        return
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        for descriptor in (1, 2):
            os.dup2(writer, descriptor)
        os.close(writer)
        sys.settrace(None)
        os.kill(os.getpid(), signal.SIGINT)
        return  # the child goes on, and should soon exit
    os.close(writer)
    output, deadline = b"", time.monotonic() + SECONDS
    while select.select([reader], [], [], max(deadline - time.monotonic(), 0))[0]:
        more = os.read(reader, 1 << 16)
        if not more:
            break
        output += more
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"where": where, "status": status, "output": output.decode()}), file=reports, flush=True)


def trace_lines(frame, event, argument):
    global armed
    if event == "line":
        armed = armed or frame.f_lineno > frame.f_code.co_firstlineno + 2  # the `try` line itself is not yet protected
        if armed:
            interrupt_a_fork(frame)
    return trace_lines


def trace(frame, event, argument):
    global calls
    code = frame.f_code
    if (code.co_name == "main" and code.co_filename.endswith(MAIN)) or (armed and code.co_filename.endswith("interrupts.py")):
        return trace_lines
    calls += armed
    if armed and calls % every == 0:
        interrupt_a_fork(frame)
    return None


sys.settrace(trace)
runpy.run_module("hubert_fast", run_name="__main__", alter_sys=True)
