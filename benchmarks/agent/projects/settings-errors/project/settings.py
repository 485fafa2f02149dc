"""Read `key = value` settings."""


class SettingsError(Exception):
    """A setting is missing or cannot be used."""


def parse(text):
    settings = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, _, value = line.partition("=")
        settings[key.strip()] = value.strip()
    return settings


def get_int(settings, key):
    """The setting as a whole number. Raises SettingsError if it is missing or not a number."""
    if key not in settings:
        raise SettingsError(f"{key} is not set")
    try:
        return int(settings[key])
    except TypeError:
        raise SettingsError(f"{key} is not a number: {settings[key]}") from None
