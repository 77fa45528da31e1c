"""Videos: what stands where, whole files, the same bytes twice."""

import imageio.v3
import imageio_ffmpeg
import numpy as np
import pytest

from analysis.media import GAP, side_by_side, write_video


def video(*rgb: int, t: int = 6, h: int = 8, w: int = 10) -> np.ndarray:
    """Of one colour, but for a corner that brightens with t."""
    frames = np.broadcast_to(np.array(rgb, dtype=np.uint8), (t, h, w, 3)).copy()
    frames[:, :4, :4] = (np.arange(t, dtype=np.uint8) * 40)[:, None, None, None]
    return frames


def test_true_is_left_and_imagined_right_a_row_a_trajectory():
    true, imagined = [video(200, 0, 0), video(0, 200, 0)], [video(0, 0, 200), video(90, 90, 90)]
    frames = side_by_side(true, imagined, upscale=3)
    assert frames.shape == (6, 3 * (2 * 8 + GAP), 3 * (2 * 10 + GAP), 3)
    small = frames[:, ::3, ::3]
    assert np.array_equal(frames, small.repeat(3, axis=1).repeat(3, axis=2))  # nearest neighbour
    assert np.array_equal(small[:, :8, :10], true[0])
    assert np.array_equal(small[:, :8, -10:], imagined[0])
    assert np.array_equal(small[:, -8:, :10], true[1])
    assert np.array_equal(small[:, -8:, -10:], imagined[1])


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_reads_back(suffix, tmp_path):
    frames = side_by_side([video(200, 30, 30)], [video(30, 30, 200)])
    path = write_video(frames, tmp_path / "media" / f"rollout{suffix}", fps=10.0)
    back = np.stack(list(imageio.v3.imiter(path)))[..., :3]
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 4.0
    first = path.read_bytes()
    assert write_video(frames, path, fps=10.0).read_bytes() == first
    assert list(path.parent.iterdir()) == [path]


def test_odd_sides_and_the_rate(tmp_path):
    path = write_video(video(10, 120, 10, t=8, h=33, w=35), tmp_path / "odd.mp4", fps=4.0)
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    reader.close()
    assert (about["size"], about["fps"], about["duration"]) == ((36, 34), 4.0, 2.0)


def test_a_video_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_video(video(1, 2, 3), tmp_path / "rollout.mp4")
    before = path.read_bytes()

    def breaks(target, *args, **options):
        with open(target, "wb") as file:  # noqa: PTH123 (the path comes as text)
            file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", breaks)
    with pytest.raises(OSError, match="disk full"):
        write_video(video(3, 2, 1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_refusals(tmp_path):
    good = video(1, 2, 3)
    for wrong in (good / 255, good[0], good[..., :1], good[:0]):
        with pytest.raises(ValueError, match="expected uint8 frames"):
            write_video(wrong, tmp_path / "x.mp4")
        with pytest.raises(ValueError, match="expected uint8 frames"):
            side_by_side([good], [wrong])
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        write_video(good, tmp_path / "x.avi")
    with pytest.raises(ValueError, match="as many"):
        side_by_side([good], [])
    with pytest.raises(ValueError, match="differ in shape"):
        side_by_side([good], [good[:3]])
    assert list(tmp_path.iterdir()) == []
