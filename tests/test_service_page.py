"""The page of the service in a real browser: files, speech, words to hear, and what is refused."""

import base64
import contextlib
import json

import httpx
import numpy as np
import pytest
import service_process
import soundfile
from conftest import ROOT, voice
from service_process import wait_for

import deepspeech2
from deepspeech2.audio import resample
from deepspeech2.writers import Layout, to_json, to_srt, to_txt, to_vtt

KEY = "0123456789abcdef"
MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A service whose model needs whole recordings."""
    with service_process.service(tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture(scope="module")
def live(streaming_model, tmp_path_factory):
    with service_process.service(tmp_path_factory.mktemp("files"), streaming_model) as running:
        yield running


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Nine seconds with two segments, as a WAV file at a rate that browsers play."""
    samples = 1e-4 * np.random.default_rng(0).standard_normal(9 * 48000)
    for start, loudness in ((1, 1.0), (5, 0.7)):
        samples[start * 48000 : (start + 1) * 48000] += loudness * voice(48000, 48000)
    path = tmp_path_factory.mktemp("recording") / "two words.wav"
    soundfile.write(path, samples, 48000)
    return path


@pytest.fixture(scope="module")
def expected(recording):
    found = deepspeech2.load_model("an4").transcribe(recording)
    assert len(found.segments) > 1
    return found


@pytest.fixture(scope="module")
def speaker(launch_browser, recording):
    """A browser into whose microphone the recording is played."""
    with launch_browser(*MICROPHONE, f"--use-file-for-fake-audio-capture={recording}%noloop") as it:
        yield it


@contextlib.contextmanager
def opened(browser, address: str, expected_troubles=lambda text: False, **options):
    """The page at an address. No request may leave it, no message or error may come from it."""
    context = browser.new_context(**options)
    page, troubles = context.new_page(), []
    page.on("request", lambda request: troubles.append(request.url)
            if not request.url.startswith((address, "data:", "blob:")) else None)
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.goto(address)
    try:
        yield page
    finally:
        context.close()
    assert [text for text in troubles if not expected_troubles(text)] == []


def chooser(page):
    """What files are chosen with, when the page knows its model."""
    return page.get_by_label("Choose files").and_(page.locator(":enabled"))


def choose(page, *paths) -> None:
    chooser(page).set_input_files([str(path) for path in paths])


def card(page, name: str):
    """The result of a recording, when it is there."""
    found = page.get_by_role("article").filter(has=page.get_by_role("heading", name=name))
    found.get_by_label("Download").wait_for(timeout=60_000)
    return found


def words(result) -> list[str]:
    return result.locator(".word").all_inner_texts()


def download(page, result, kind: str) -> tuple[str, str]:
    """The name and the content of a downloaded file."""
    with page.expect_download() as caught:
        result.get_by_role("button", name=kind, exact=True).click()
    return caught.value.suggested_filename, caught.value.path().read_text(encoding="utf-8")


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_recognised_and_taken_away(browser, server, recording, expected):
    with opened(browser, server.url) as page:
        choose(page, recording)
        result = card(page, "two words.wav")
        assert result.locator(".segment").count() == len(expected.segments)
        assert " ".join(words(result)) == expected.text
        assert result.locator(".facts").inner_text() == f"0:09, {len(words(result))} words"
        for kind, write in (("txt", to_txt), ("srt", to_srt), ("vtt", to_vtt)):
            name, content = download(page, result, kind)
            assert name == f"two words.{kind}" and content == write(expected, Layout())
        _, content = download(page, result, "json")
        found, oracle = json.loads(content), json.loads(to_json(expected, Layout()))
        for one, other in zip(found["segments"], oracle["segments"], strict=True):
            assert one.pop("probability") == pytest.approx(other.pop("probability"), abs=2e-4)
        assert found == oracle


def test_subtitles_are_those_of_the_command_line(browser, server):
    """Long segments are cut into cues where deepspeech2.writers cuts them."""
    from deepspeech2.result import Segment, Transcript, Word
    rng, at, segments = np.random.default_rng(0), 3590.0, []
    for count in (1, 40, 7, 90):
        spoken = []
        for _ in range(count):
            start = at + rng.choice([0.05, 0.3, 1.0, 1.6])
            at = start + rng.uniform(0.1, 0.9)
            text = "".join(rng.choice(list("ab<>&-ü𝔞"), rng.integers(1, 12)))
            spoken.append(Word(round(start, 3), round(at, 3), f"-->{text}", 0.5))
        text = " ".join(word.word for word in spoken)
        segments.append(Segment(spoken[0].start, spoken[-1].end, text, tuple(spoken), 0.5))
        at += 3.0
    whole = Transcript(" ".join(w.word for s in segments for w in s.words), tuple(segments), at)
    content = json.loads(to_json(whole, Layout()))
    with opened(browser, server.url) as page:
        for kind, write in (("txt", to_txt), ("srt", to_srt), ("vtt", to_vtt)):
            found = page.evaluate("""async ([kind, transcript]) => {
                const { WRITERS } = await import("/web/writers.js");
                return WRITERS[kind](transcript).content;
            }""", [kind, content])
            assert found == write(whole, Layout())


def test_a_word_is_heard(browser, server, recording, expected):
    with opened(browser, server.url) as page:
        choose(page, recording)
        result = card(page, "two words.wav")
        result.locator("audio").evaluate("""audio => {
            window.played = [];
            audio.onseeking = () => window.played.push(audio.currentTime);
            audio.addEventListener("pause", () => window.played.push(audio.currentTime));
        }""")
        *_, word = (w for s in expected.segments for w in s.words)
        result.locator(".word").last.click()
        wait_for(lambda: page.evaluate("window.played.length") == 2)
        result.locator(".word").first.focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        wait_for(lambda: page.evaluate("window.played.length") == 4)
        for start, end in np.reshape(page.evaluate("window.played"), (2, 2)):
            assert word.start - 0.15 <= start <= word.start
            assert word.end <= end < word.end + 1.0
        assert page.locator(".playing").count() == 0


def test_how_sure_the_model_is(browser, server, recording, expected):
    with opened(browser, server.url) as page:
        choose(page, recording)
        result = card(page, "two words.wav")
        first = result.locator(".word").first
        def shown():
            return first.evaluate("word => getComputedStyle(word, '::after').content")
        assert shown() == "none"
        result.get_by_label("Show how sure the model is").check()
        probability = expected.segments[0].words[0].probability
        assert shown() == f'"{100 * probability:.0f} %"'


def test_many_files_and_one_that_is_none(browser, server, recording, expected, tmp_path):
    (tmp_path / "<img src=x onerror=alert(1)>.wav").write_text("<html>")
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(1600), 16000)
    def refused(text):
        return "status of 400" in text
    with opened(browser, server.url, refused) as page:
        choose(page, *tmp_path.iterdir(), recording)
        assert " ".join(words(card(page, "two words.wav"))) == expected.text
        assert "No words were recognised" in card(page, "short.wav").inner_text()
        bad = page.get_by_role("article").filter(has_text="<img src=x onerror=alert(1)>.wav")
        assert "annot read the audio" in bad.locator(".error").inner_text()
        bad.get_by_role("button", name="Try again").click()
        page.get_by_role("status").filter(has_text="not recognised").wait_for()


def test_a_file_that_is_dropped(browser, server, recording, expected):
    with opened(browser, server.url) as page:
        chooser(page).wait_for()
        page.evaluate("""(content) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            data.items.add(new File([bytes], "dropped.wav"));
            document.body.dispatchEvent(
                new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""", base64.b64encode(recording.read_bytes()).decode())
        assert " ".join(words(card(page, "dropped.wav"))) == expected.text


def test_a_file_that_is_cancelled(browser, server, tmp_path):
    soundfile.write(tmp_path / "long.flac", np.tile(voice(60 * 16000), 20), 16000)
    recognised = server.metric("deepspeech2_audio_seconds_total")
    with opened(browser, server.url) as page:
        choose(page, tmp_path / "long.flac")
        wait_for(lambda: server.metric("deepspeech2_audio_seconds_total") > recognised)
        page.get_by_text("min so far").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.", exact=True).wait_for()
    wait_for(server.is_idle)


# --- speech --------------------------------------------------------------------------------------


def speak(page, seconds: float):
    """Speak for a while; returns the result, and the messages that were sent."""
    sent = []
    page.on("websocket", lambda socket: socket.on(
        "framesent", lambda content: sent.append(content)))
    page.get_by_role("button", name="Start").click()
    page.get_by_role("status").filter(has_text="Listening").wait_for()
    page.wait_for_timeout(1000 * seconds)
    assert page.get_by_label("Loudness").is_visible()
    page.get_by_role("button", name="Stop").click()
    return card(page, "Speech, "), sent


def test_speech_becomes_words(speaker, live, streaming_model, recording):
    """The words are those of the samples that were sent, which are those that were played."""
    with opened(speaker, live.url) as page:
        rate = page.evaluate("new AudioContext().sampleRate")
        result, sent = speak(page, 9.0)
        *sound, last = sent
        assert json.loads(last) == {"type": "CloseStream"}
        assert {len(message) for message in sound[:-1]} == {2 * round(rate / 10)}
        samples = np.frombuffer(b"".join(sound), "<i2")
        session = deepspeech2.load_model(streaming_model).stream(rate)
        session.feed(samples)
        session.finish()
        assert " ".join(words(result)) == session.transcript.text != ""
        assert result.locator(".partial").inner_text() == ""
        name, content = download(page, result, "json")
        oracle = json.loads(to_json(session.transcript, Layout()))
        found = json.loads(content)
        assert name == "speech.json"
        assert [s["words"] for s in found["segments"]] == [s["words"] for s in oracle["segments"]]
        assert result.locator("audio").evaluate("audio => audio.duration") == pytest.approx(
            len(samples) / rate, abs=1e-3)
    heard = resample(samples.astype(np.float32) / 32768, rate, 16000)
    played = resample(soundfile.read(recording, dtype="float32")[0], 48000, 16000)
    assert np.median(similarities(heard, played)) > 0.95


def similarities(heard, played) -> list[float]:
    """How well each tenth of a second with a voice is found somewhere in what was played.

    A browser on a busy machine leaves gaps in what it plays: only what is between them fits.
    """
    size = 1600
    energies = np.convolve(played**2, np.ones(size), "valid")
    found = []
    for start in range(0, len(heard) - size, size):
        piece = heard[start : start + size]
        if np.sqrt(np.mean(piece**2)) > 0.01:
            products = np.correlate(played, piece, "valid")
            found.append((products / np.sqrt(energies * np.sum(piece**2) + 1e-9)).max())
    return found


def test_only_complete_words_are_read_out(speaker, live):
    """Screen readers hear committed words only; the word in progress is grey."""
    with opened(speaker, live.url) as page:
        page.evaluate("""() => {
            window.read = [];
            window.partials = [];
            const watch = (selector, list) => new MutationObserver(() => {
                const text = document.querySelector(selector)?.textContent;
                if (text) list.push(text);
            }).observe(document.body, { childList: true, subtree: true, characterData: true });
            const news = document.getElementById("news");
            new MutationObserver(() => window.read.push(news.textContent)).observe(
                news, { childList: true });
            watch(".partial", window.partials);
        }""")
        result, _ = speak(page, 4.0)
        assert " ".join(page.evaluate("window.read")).split() == words(result)
        assert page.evaluate("window.partials")
        assert page.locator("[aria-live]").count() == 1
        colours = page.evaluate("""() => ["body", ".partial"].map((name) =>
            getComputedStyle(document.querySelector(name)).color)""")
        assert colours[0] != colours[1]


def test_a_stream_that_the_service_ends(speaker, streaming_model, tmp_path):
    strict = service_process.service(tmp_path, streaming_model, session_seconds=4.0)
    with strict as running, opened(speaker, running.url) as page:
        page.get_by_role("button", name="Start").click()
        result = card(page, "Speech, ")
        assert "a stream lasts 4 s at most" in result.locator(".error").inner_text()
        assert words(result) and page.get_by_role("button", name="Start").is_enabled()


def test_a_service_that_is_gone(speaker, streaming_model, tmp_path):
    def broken(text):
        return "ERR_CONNECTION" in text or "status of 503" in text or "WebSocket" in text
    service = service_process.service(tmp_path, streaming_model)
    with service as running, opened(speaker, running.url, broken) as page:
        page.get_by_role("button", name="Start").click()
        page.get_by_role("status").filter(has_text="Listening").wait_for()
        running.process.kill()
        result = card(page, "Speech, ")
        assert "The connection broke off." in result.locator(".error").inner_text()
        page.get_by_role("button", name="Start").click()
        page.get_by_role("status").filter(has_text="cannot be reached").wait_for()


# --- why there is no microphone ------------------------------------------------------------------


def test_a_model_that_needs_whole_recordings(speaker, server):
    with opened(speaker, server.url) as page:
        page.get_by_text("an4 needs whole recordings: it can recognise files, but not").wait_for()
        assert page.get_by_role("button", name="Start").is_disabled()


def test_no_microphone(browser, live):
    with opened(browser, live.url, permissions=["microphone"]) as page:
        page.get_by_role("button", name="Start").click()
        page.get_by_role("status").filter(has_text="There is no microphone.").wait_for()
        assert page.get_by_role("button", name="Start").is_enabled()


def test_no_permission(launch_browser, live):
    strict = launch_browser("--use-fake-device-for-media-stream", "--deny-permission-prompts")
    with strict, opened(strict, live.url) as page:
        page.get_by_role("button", name="Start").click()
        page.get_by_role("status").filter(has_text="does not let this page use").wait_for()


@pytest.fixture(scope="module")
def locked(streaming_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with service_process.service(folder, streaming_model, key=KEY) as running:
        yield running


def test_an_address_without_https(launch_browser, locked):
    """Only there may a page not use the microphone; the service asks for its key."""
    address = f"http://speech.test:{locked.address[1]}"
    elsewhere = launch_browser("--host-resolver-rules=MAP speech.test 127.0.0.1", *MICROPHONE)
    with elsewhere, opened(elsewhere, address, lambda text: "status of 401" in text) as page:
        show_key(page, KEY)
        page.get_by_text("begins with https:// or http://localhost").wait_for()
        assert page.get_by_role("button", name="Start").is_disabled()


# --- the key -------------------------------------------------------------------------------------


def show_key(page, key: str) -> None:
    page.get_by_label("The service needs a key").fill(key)
    page.keyboard.press("Enter")


def test_the_key(speaker, locked, recording):
    with opened(speaker, locked.url, lambda text: "status of 401" in text) as page:
        show_key(page, "wrong")
        page.get_by_role("alert").filter(has_text="The key is wrong").wait_for()
        assert page.get_by_label("Choose files").is_disabled()
        show_key(page, KEY)
        page.get_by_text("Model: stream").wait_for()
        choose(page, recording)
        card(page, "two words.wav")
        speak(page, 2.0)
        stored = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
        assert stored == ["", 0, 0] and KEY not in page.content()
        page.reload()
        page.get_by_label("The service needs a key").wait_for()


def test_the_files_of_the_page_need_no_key_and_bring_their_policy(locked):
    page = httpx.get(locked.url)
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for path in (ROOT / "deepspeech2" / "service" / "web").iterdir():
        if path.name != "index.html":
            assert httpx.get(f"{locked.url}/web/{path.name}").status_code == 200
    for path in ("/web/", "/web/../app.py", "/web/%2e%2e/app.py", "/web/index.html"):
        assert httpx.get(locked.url + path).status_code == 401


# --- how it looks --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_colours(browser, server, recording, scheme):
    """Nothing is wider than a phone, and all text can be read: contrast of 4.5 at least."""
    size = {"width": 360, "height": 740}
    with opened(browser, server.url, viewport=size, color_scheme=scheme) as page:
        choose(page, recording)
        card(page, "two words.wav")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        pairs = page.evaluate("""() => [...document.querySelectorAll("body *")].filter(
            (element) => element.checkVisibility() && [...element.childNodes].some(
                (node) => node.nodeType === 3 && node.data.trim()) && !element.closest(":disabled")
        ).map((element) => {
            let back = element;
            const plain = "rgba(0, 0, 0, 0)";
            while (getComputedStyle(back).backgroundColor === plain) back = back.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(back).backgroundColor];
        })""")
    assert len(pairs) > 10
    assert min(contrast(*map(colour, pair)) for pair in pairs) >= 4.5


def colour(text: str) -> list[int]:
    return [int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(",")]


def contrast(one: list[int], other: list[int]) -> float:
    """As WCAG 2.2 defines it."""
    def luminance(channels):
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
                  for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)
