"""Drafts: tokens that are likely to come next, checked by the network in one step."""
