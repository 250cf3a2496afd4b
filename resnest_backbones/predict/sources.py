"""Where images come from, files, folders, videos and cameras, and where a video goes; videos through OpenCV."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnest_backbones.data import IMAGE_SUFFIXES, files_below
from resnest_backbones.errors import DatasetError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_FRAMES_PER_SECOND = 25.0  # if a camera does not say


def find_files(paths: Sequence[str], *, allow_videos: bool = True) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return images and videos, by the names of their results: files, and those in folders and their sub-folders.

    A name is the path of the file below the folder that was given, without its suffix.

    Raises:
        DatasetError: a path does not exist or is a video that is not allowed, there is nothing, or two results would
            have the same name.
    """
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) if allow_videos else IMAGE_SUFFIXES
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise DatasetError(f"{path} does not exist")
        if not allow_videos and path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            raise DatasetError(f"{path} is a video, but only images are supported here")
        for file in [path / below for below in files_below(path, suffixes)] if path.is_dir() else [path]:
            name = file.stem if file is path else str(file.relative_to(path).with_suffix(""))
            if found.setdefault(name, file) is not file:
                raise DatasetError(f"images and videos must have different names, got {found[name]} and {file}")
    if not found:
        kinds = "images or videos" if allow_videos else "images"
        raise DatasetError(f"no {kinds} ({', '.join(suffixes)}) in {', '.join(paths)}")
    videos = {name: file for name, file in found.items() if file.suffix.lower() in VIDEO_SUFFIXES}
    return {name: file for name, file in found.items() if name not in videos}, videos


class Video:
    """The frames of a video or a camera, in order.

    Args:
        source: a file, the number of a camera, or what else OpenCV opens, such as the URL of a stream.
        name: of the source, for messages.

    Attributes:
        frames_per_second: of the video.
        count: number of frames; 0 if it is unknown.

    Raises:
        DatasetError: it cannot be opened, or has no frame.
    """

    def __init__(self, source: str, name: str) -> None:
        import cv2

        self._capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        opened, self._first = self._capture.read()  # of a source that was not opened, this fails as well
        if not opened:
            self._capture.release()
            raise DatasetError(f"{name} cannot be opened as a video: no frame can be read")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if rate and 0 < rate < 1000 else _FRAMES_PER_SECOND
        self.count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield frames (H, W, 3), uint8 RGB."""
        read, frame = True, self._first
        try:
            while read:
                yield np.ascontiguousarray(frame[..., ::-1])
                read, frame = self._capture.read()
        finally:
            self._capture.release()


class VideoWriter:
    """Writes pictures to an MP4 file, which gets its name when it is closed; the first picture sets the size."""

    def __init__(self, file: Path, frames_per_second: float) -> None:
        self._file, self._rate = file, frames_per_second
        self._temporary = file.with_name(f".{os.getpid()}.{file.name}")
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, picture: Image.Image) -> None:
        """Add a picture; one of another size is placed on a white page of the first one's size."""
        import cv2

        if self._writer is None:
            self._size = (picture.width + picture.width % 2, picture.height + picture.height % 2)  # for MPEG-4
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), code, self._rate, self._size)
            if not self._writer.isOpened():
                raise DatasetError(f"{self._file} cannot be written as a video: OpenCV has no encoder for it")
        page = Image.new("RGB", self._size, "white")
        page.paste(picture)
        self._writer.write(_bgr(page))

    def close(self) -> None:
        """Finish the file; without pictures there is none."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self._temporary, self._file)


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
        """Show a picture; return False when the user pressed q or Escape."""
        import cv2

        cv2.imshow(self._title, _bgr(picture))
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)


def _bgr(picture: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(picture)[..., ::-1])
