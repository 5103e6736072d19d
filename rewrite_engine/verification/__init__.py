"""Verification of rules by running them: what a rule claims is tried, not believed."""
