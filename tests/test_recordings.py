"""Names of outputs: no two recordings share one, whatever they are called."""

import os

import pytest

from deepspeech2.errors import InputError
from deepspeech2.recordings import Recording, find_recordings, output_stems, read_manifest


@pytest.mark.parametrize(("paths", "stems"), [
    (["a/x.wav"], ["x"]), (["/d/a/x.wav", "/d/b/x.wav"], ["a/x", "b/x"]),
    (["x.wav", "x.flac", "y.wav"], ["x.wav", "x.flac", "y"]),
    (["x.wav", "x.flac", "x.wav.mp3"], ["x.wav-2", "x.flac", "x.wav"]),
    (["x.wav", "x.wav"], ["x", "x"]),  # one recording
    (["-", "a/b.wav"], ["stdin", "b"]), (["../x.wav", "x.wav"], ["x", "HERE/x"]),
    (["\udce4\n.wav", "\U0001f600.wav"], ["\udce4\n", "\U0001f600"]),
])
def test_stems(paths, stems, tmp_path, monkeypatch):
    (tmp_path / "HERE").mkdir()
    monkeypatch.chdir(tmp_path / "HERE")
    assert output_stems([Recording(path, os.path.dirname(path)) for path in paths]) == stems


def test_manifests(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(b'\xef\xbb\xbf"a,b.wav",a.txt\n\n/c.wav\n\xe4.wav,x\n')
    folder = f"{tmp_path}/"
    assert read_manifest(str(path)) == [f"{folder}a,b.wav", "/c.wav", f"{folder}\udce4.wav"]
    path.write_text("\n")
    with pytest.raises(InputError, match="m.csv: the manifest lists no recordings"):
        read_manifest(str(path))


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    for name in ("a.wav", "closed/b.wav", "open/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scan = os.scandir

    def scandir(folder):  # permissions do not hold for root
        if os.path.basename(folder) == "closed":
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)
    monkeypatch.setattr(os, "scandir", scandir)
    found, problems = find_recordings([str(tmp_path)], "")
    assert [recording.path for recording in found] == [
        str(tmp_path / "a.wav"), str(tmp_path / "open/c.wav")]
    (problem,) = problems
    assert str(problem) == f"{tmp_path}/closed: cannot read the folder: Permission denied"
    found, problems = find_recordings([str(tmp_path / "closed")], "")
    assert found == [] and len(problems) == 1


def test_nothing_was_named():
    with pytest.raises(InputError, match="name a FILE or folder"):
        find_recordings([], "")
