"""Drafts for the texts of an engine.

params.py   the ways of drafting, as users name them
opening.py  what they need: the context that drafts, and the session
drafter.py  drafts, and the draft memory that follows the target's
gain.py     whether it pays
"""
