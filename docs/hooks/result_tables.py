"""Tables of what benchmarks measured, from benchmarks/results/."""


def markdown(*words: str) -> str:
    return ""
