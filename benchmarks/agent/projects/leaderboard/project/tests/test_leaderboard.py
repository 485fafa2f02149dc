from leaderboard import Player, best_score, podium, ranking

PLAYERS = [Player("Cleo", 30), Player("Ben", 50), Player("Ada", 30), Player("Dan", 10)]


def test_best_score():
    assert best_score(PLAYERS) == 50
    assert best_score([]) == 0


def test_highest_first():
    assert ranking(PLAYERS)[0].name == "Ben"


def test_ties_by_name():
    assert podium(PLAYERS) == ["Ben", "Ada", "Cleo"]
