"""Plugin for pytest: a property that fails is not shrunk, which takes longer than all the rest of a mutant."""

from hypothesis import Phase, settings

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("mutants")
