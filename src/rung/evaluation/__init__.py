"""What a model can do: held-out problems, questions, verifiers, rows.

asking        `rung ask`: questions to a run's model and to the one that it began with, once or in turn, side by side.
conformance   Does a model's way through this project give the numbers of its own plain forward? One row of docs/models.md a model.
interview     A run's model and the one that it began with, asked the same: what `rung ask` and `Run.ask` do.
model_kinds   Tiny configurations of the kinds of causal models that transformers has: what docs/models.md measures.
models        `rung eval`: one or two models on held-out problems under one stored EvalSpec, every answer kept.
rows          `rung data`: what a task's rows become: prompts as the model reads them, golds, the verifier, lengths.
scores        What k answers to each of n problems show: pass@k, maj@k, intervals over problems.
spec          How a model is evaluated, as one record that is stored with the answers, so that every model is evaluated alike.
verification  `rung verify`: false accepts, false rejects and time of a task's verifier.
words         What `rung eval` says of its models: the verdict in words, the table turned, and notes on what it does not show.
"""
