"""Who proposes the next setting."""

import warnings

import optuna


def sampler(name: str, seed: int | None) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of a name that a recipe may give; ``grid`` queues its settings, so it proposes at random.

    ``tpe``: tree-structured Parzen estimators (Bergstra et al. 2011; of several objectives: Ozaki et al. 2022).
    ``nsga2``: Deb et al. 2002.  ``gp``: a Gaussian process over what all settings have in common; needs torch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=24)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True, warn_independent_sampling=False)
        return optuna.samplers.RandomSampler(seed=seed)
