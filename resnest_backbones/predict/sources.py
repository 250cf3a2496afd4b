"""Where images come from: files, folders, films, cameras; and where a film goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from resnest_backbones.data import IMAGE_SUFFIXES
from resnest_backbones.errors import DatasetError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_FRAMES_PER_SECOND = 25.0  # where a camera does not say


def find_files(names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Images and films among the names, and in the folders among them.

    Raises:
        DatasetError: one is neither file nor folder, there is nothing, or two results would have the same name.
    """
    files: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
            files += sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and p.name[0] != ".")
        elif path.is_file():
            files.append(path)
        else:
            raise DatasetError(f"there is no file or folder {path}")
    if not files:
        raise DatasetError(f"there is no image and no film in {', '.join(names)}")
    first: dict[str, Path] = {}
    for file in files:
        if first.setdefault(file.stem, file) is not file:
            raise DatasetError(f"the names of images and films must differ, got {first[file.stem]} and {file}")
    films = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    return [file for file in files if file not in films], films


class Film:
    """Frames of a film or a camera, in order.

    Args:
        source: a file, a number of a camera, or what else OpenCV opens, such as the URL of a stream.
        name: of it, in messages.

    Attributes:
        frames_per_second: of the film.
        count: number of frames; 0 where that is not known.

    Raises:
        DatasetError: it cannot be opened, or has no frame.
    """

    def __init__(self, source: str, name: str) -> None:
        import cv2

        self._capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        self._name = name
        self._first: np.ndarray | None = None
        ok = self._capture.isOpened()
        if ok:
            ok, self._first = self._capture.read()
        if not ok:
            self._capture.release()
            raise DatasetError(f"{name} cannot be opened as a film: no frame can be read")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if rate and 0 < rate < 1000 else _FRAMES_PER_SECOND
        self.count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3), uint8 RGB."""
        frame = self._first
        try:
            while frame is not None:
                yield np.ascontiguousarray(frame[..., ::-1])
                ok, frame = self._capture.read()
                frame = frame if ok else None
        finally:
            self._capture.release()


class FilmWriter:
    """Writes pictures as an MP4 file, which appears under its name when it is closed; the first gives the size."""

    def __init__(self, file: Path, frames_per_second: float) -> None:
        self._file, self._rate = file, frames_per_second
        self._temporary = file.with_name(f".{os.getpid()}.{file.name}")
        self._writer: object | None = None
        self._size = (0, 0)

    def write(self, picture: Image.Image) -> None:
        """Add a picture; one of another size is laid on a white page of the first one's."""
        import cv2

        if self._writer is None:
            self._size = (picture.width + picture.width % 2, picture.height + picture.height % 2)  # of MPEG-4
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), code, self._rate, self._size)
            if not self._writer.isOpened():
                raise DatasetError(f"{self._file} cannot be written as a film: OpenCV has no encoder for it")
        page = Image.new("RGB", self._size, "white")
        page.paste(picture)
        self._writer.write(np.ascontiguousarray(np.asarray(page)[..., ::-1]))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Finish the file; one without pictures does not appear."""
        if self._writer is not None:
            self._writer.release()  # type: ignore[attr-defined]
            os.replace(self._temporary, self._file)


@contextmanager
def film_writer(file: Path, frames_per_second: float) -> Iterator[FilmWriter]:
    """A ``FilmWriter`` that is closed at the end, after an interruption too."""
    writer = FilmWriter(file, frames_per_second)
    try:
        yield writer
    finally:
        writer.close()


class Window:
    """Shows pictures on the screen.

    Raises:
        DatasetError: there is no screen.
    """

    def __init__(self, title: str) -> None:
        # OpenCV would end the whole process.
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise DatasetError("--show needs a screen, and neither DISPLAY nor WAYLAND_DISPLAY is set")
        self._title = title

    def show(self, picture: Image.Image) -> bool:
        """Show a picture; False when the user pressed q or Escape."""
        import cv2

        cv2.imshow(self._title, np.ascontiguousarray(np.asarray(picture)[..., ::-1]))
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
