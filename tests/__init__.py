"""Tests, in folders that mirror the product."""

from pathlib import Path

ROOT = Path(__file__).parent.parent  # of the checkout
