"""A playlist of songs and its total length."""

from dataclasses import dataclass, field


@dataclass
class Song:
    title: str
    seconds: int


@dataclass
class Playlist:
    songs: list[Song] = field(default_factory=list)

    def add(self, title: str, seconds: int) -> None:
        self.songs.append(Song(title, seconds))

    def remove(self, title: str) -> None:
        """Takes every song of that title out."""
        self.songs = [song for song in self.songs if song.title == title]

    def length(self) -> str:
        """Minutes and seconds, as 3:07."""
        total = sum(song.seconds for song in self.songs)
        return f"{total // 60}:{total % 60:02}"
