"""Work that must not harm: processes of their own, with deadlines and limits.

code_judge  Runs a program's unit tests in two processes with limits: the tests here, the program in a child that never sees them.
pool        A pool of killable worker processes: one call each at a time, a deadline per call, NaN for "could not tell".
worker      A worker process: reads one JSON list of arguments a line, calls one function, writes one JSON reply a line.
"""
