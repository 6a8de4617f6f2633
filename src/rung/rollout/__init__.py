"""From problems to a batch: draw, sample, score, lay out.

ask            From problems to scored answers: one prompt and one answer, or a conversation with the environment.
checked        A sampler whose answers are looked at before anything learns from them.
collect        One step's answers: draw problems, sample answers to them, score them, and lay them out as a Batch.
conversation   Conversations with an environment: the model's turns and what it is told between them, as one growing row of tokens.
draws          Which chance each row of a step gets: its own, by (seed, row), whoever draws it and beside whatever else.
kept           What a sampler keeps of a step's rows from one turn of their conversations to the next.
layout         From scored answers to a Batch: rows of one width, and each reward on the token that it is for.
phases         What is being done now, told to whoever measures it: `with phase("sample"): ...`.
question       A question put to a model as its training problems were, and its answers, with how sure it was of each token.
sampler        What draws answers: the protocol that every sampler keeps, and the law of one token.
samplers       Which samplers there are, by the names that --sampler takes: a row here and a file beside it make one more.
torch_sampler  The embedded sampler: draws answers from any Hugging Face causal model that lives in this process.
vllm_sampler   Answers from vLLM in this process: the same law, another engine's code and numbers, its own copy of the weights.
walk           In which order a run meets its problems: a stream whose position is part of the run's state.
"""
