r"""Is an answer right?

choice         The option letter of a multiple-choice answer: B, (B), B. Paris, \textbf{(B)}\ 42, **B) Paris**.
code           Does a program pass its unit tests? The verifier `code`: the last fenced block, run in a sandbox (sandbox/jail.py).
extract        The last answer in a completion, or None. Only the last one counts, and nothing after the end of the answer.
formula        The verifier `math`.
golds          Gold answers that no answer can equal: they are found before the run and never taken in silence.
number_probes  How a right number may be written, and what only looks like it: for `rung verify`.
plain          One spelling for a formula: LaTeX, Unicode and Markdown as plain text, as far as numbers and their units go.
probes         Answers that a verifier must take and answers that it must not, made from a problem's gold answer: `rung verify`.
quantity       Numbers as people and models write them, read exactly: one number with its unit, or none.
symbolic       Equality of two mathematical answers by math-verify. Runs in a worker process only: it may hang, and may be killed.
units          What may stand behind a number.
verifiers      Is an answer right? Verifiers have one shape: `extract` reads the last answer, `correct` compares it with gold.
"""
