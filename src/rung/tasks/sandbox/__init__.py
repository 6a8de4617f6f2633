"""Work that must not harm: processes of their own, with deadlines and limits.

calls   The system calls of a judged program, by name: numbers on x86-64 and on 64-bit ARM, -1 where there is none.
jail    Sandboxes: where a model's program runs, and what the machine must refuse it there before it runs at all.
judge   The tests' side: runs the tests over plain data, in a process that never holds the program.
kernel  What Linux lets a process give up for good: other files (Landlock), system calls (seccomp), namespaces, resources.
pool    A pool of killable worker processes: one call each at a time, a deadline per call, NaN for "could not tell".
program The program's side: runs it, then does what its judge asks. Whatever happens here can only be a value or a failure.
spawn   Starting processes that end with ours, whatever ends it.
tests   What tests of programs may be, and how they are prepared: statements of Python whose assertions can fail.
wire    What may pass between a program and its judge: plain data of a closed set of types, as JSON lines of limited length.
worker  A worker process: reads one JSON list of arguments a line, calls one function, writes one JSON reply a line.
zygote  A process that forks judged programs and their judges, each confined before it sees what it shall run.
"""
