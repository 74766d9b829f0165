"""Parity with PyTorch: the rule, the cases it is applied to, gradient checks, whole models, and what was found.

# next: bench/parity/rule.py, the rule
"""

from bench.parity.rule import Draw, Verdict, assess

__all__ = ["Draw", "Verdict", "assess"]
