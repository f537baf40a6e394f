"""Rules and lists beside the model: what they may say, which are in force, and what they decide.

| file | |
|---|---|
| `language.py` | the expression language: checked, then compiled |
| `ruleset.py` | the rules and list entries in force; every change makes the next ones |
| `policy.py` | which of them fire for a transaction, and the action that follows |
| `defaults.py` | the rules that a new deployment starts with |
"""

from app.domain.rules.language import RuleError
from app.domain.rules.policy import RuleOutcome, RulePolicy, kept_policy, outcome_of
from app.domain.rules.ruleset import NO_RULES, Rule, RuleSet

__all__ = [
    "NO_RULES",
    "RuleOutcome",
    "RulePolicy",
    "Rule",
    "RuleError",
    "RuleSet",
    "kept_policy",
    "outcome_of",
]
