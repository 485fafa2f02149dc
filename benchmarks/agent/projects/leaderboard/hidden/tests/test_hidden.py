from leaderboard import Player, ranking


def test_long_ranking():
    players = [Player("z", 1), Player("a", 2), Player("b", 2), Player("c", 3), Player("d", 1)]
    assert [p.name for p in ranking(players)] == ["c", "a", "b", "d", "z"]
    assert ranking([]) == []
