"""Recipes inside other trainers, and their configurations as recipes: `rung export`, `rung import`.

A target is exported to where its own code computes the recipe (settings alone), or where a module that calls rung's certified
parts from inside it does. What neither can do is refused with the reason; nothing is approximated.

arrive       `rung import`: another trainer's configuration as a recipe, what it really computes, and as TOML.
command      `rung export`: a recipe's settings and module for another trainer, shown or written.
config_file  A configuration of another trainer as it stands in its file: names and values.
from_trl     TRL's GRPOConfig or RLOOConfig as a recipe, and where its names and its mathematics part.
from_verl    verl's configuration as a recipe, and where its names and its mathematics part.
imported     What an import is: a recipe, settings of rung.train, and where the words of the configuration and its mathematics part.
inside/      What runs inside another trainer: rung's parts, called with its tensors. The modules of `rung export` import it.
made         What an export is: settings, a module, and what is to be said of it.
skyrl        A recipe for SkyRL 0.3: a module that registers estimator and loss, and starts SkyRL with the settings that they need.
targets      What each target can express of a recipe, part by part, and why not the rest.
trl          A recipe for TRL 1.16: settings where its own code computes it, else a subclass of its GRPOTrainer.
verl         A recipe for verl 0.9.1: settings where its own code computes it, else a module that registers estimator and loss.
verl_names   The names of verl 0.9.1's configuration: which are read, which must hold one value, and which change no mathematics.
verl_warnings  Where the names of verl's configuration and its mathematics part.
"""
