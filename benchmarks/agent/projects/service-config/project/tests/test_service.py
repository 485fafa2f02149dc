from service import address, load


def test_the_service_knows_where_it_listens():
    assert address(load()) == "127.0.0.1:8080"


def test_it_logs_to_a_file():
    assert load()["logging"] == {"level": "info", "file": "service.log"}
