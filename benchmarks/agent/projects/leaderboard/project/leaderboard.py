"""Rank players by score."""

from collections import namedtuple

Player = namedtuple("Player", "name score")


def ranking(players):
    """Highest score first; players with equal scores in order of name."""
    return sorted(players, key=lambda player: (player.score, player.name), reverse=True)


def podium(players):
    return [player.name for player in ranking(players)[:3]]


def best_score(players):
    return max((player.score for player in players), default=0)
