"""Imports and exports of tags."""
