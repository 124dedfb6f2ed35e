"""The README's Python runs as it stands, with the demo's checkpoint and recordings in place of a hub name."""

import re
from pathlib import Path

import pytest

import hubert_fast
from hubert_fast import audio, demo

README = Path(hubert_fast.__file__).parent.parent / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the package under test is not a checkout")
def test_python_snippets(capsys):
    import transformers

    snippets = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 3
    waveforms = [audio.load(recording.path) for recording in demo.recordings()[:2]]
    names = {"waveform": waveforms[0], "waveforms": waveforms}
    names |= dict(first=waveforms[0], second=waveforms[1], third=waveforms[0])
    for snippet in snippets:
        if "accelerate" in snippet:
            exec(snippet, {"model": transformers.HubertForCTC.from_pretrained(demo.MODEL)})
        elif "transcribe_many" in snippet:
            snippet = snippet.replace('"talks/", "more.jsonl"', f"{str(demo.RECORDINGS)!r}")
            exec(snippet.replace("facebook/hubert-large-ls960-ft", str(demo.MODEL)))
            printed = capsys.readouterr().out.splitlines()
            assert sorted(line.split(" ")[0] for line in printed) == sorted(str(each.path) for each in demo.recordings())
        else:
            exec(snippet.replace("facebook/hubert-large-ls960-ft", str(demo.MODEL)), names)
    expected = [recording.reference.upper() for recording in demo.recordings()[:2]]
    assert names["text"] == expected[:1]
    decoded = [names["processor"].decode(logits.argmax(-1)) for logits in names["per_utterance"]]
    assert decoded == [*expected, expected[0]]
    assert [line.partition(" [Word(")[0] for line in capsys.readouterr().out.splitlines()] == expected
