"""Streams against the whole utterance: any chunks, streams in one batch, 8 bits."""

import dataclasses

import numpy as np
import pytest
from conftest import random_weights

from deepspeech2.labels import Labels
from deepspeech2.onnx_model import OnnxModel
from deepspeech2.streaming.acoustic import Chunk, StreamingAcoustic
from src.config import load_config
from src.DeepSpeech import DeepSpeech
from src.onnx_graph import fix_quantization_ranges, make_onnx, quantize_onnx
from src.streaming_graph import first_frames, make_streaming_onnx

LABELS = Labels("ABCD _")
SMALL = ["ModelConfig.bidirectional=False", "ModelConfig.hidden_size=12",
         "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=3"]
NETWORKS = {
    "strided": [*SMALL, "ModelConfig.conv2_kernel=[21, 11]", "ModelConfig.conv2_time_stride=2",
                "ModelConfig.lookahead_context=5"],
    "not strided": [*SMALL, "ModelConfig.conv2_kernel=[21, 11]", "ModelConfig.lookahead_context=3"],
    "narrow": [*SMALL, "ModelConfig.conv2_kernel=[21, 1]", "ModelConfig.lookahead_context=1"],
}


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def models(request, tmp_path_factory):
    """The network of whole utterances and that of streams, both with 32 and with 8 bits."""
    folder = tmp_path_factory.mktemp("onnx")
    config = load_config(None, NETWORKS[request.param])
    network = DeepSpeech(config.ModelConfig, 161, len(LABELS))
    parameters = random_weights(network, seed=3, gain=12)
    info = dataclasses.replace(config.model_info(LABELS),
                               first_frames=first_frames(config.ModelConfig))
    result = {}
    for name, make in (("whole", make_onnx), ("stream", make_streaming_onnx)):
        model = make(parameters, config.ModelConfig, 161)
        exact = folder / f"{name}_exact.onnx"
        for path in (folder / f"{name}.onnx", exact):
            path.write_bytes(model.SerializeToString())
        fix_quantization_ranges(exact)
        quantize_onnx(exact, folder / f"{name}_int8.onnx")
        open_model = OnnxModel if name == "whole" else StreamingAcoustic
        for kind in ("", "_exact", "_int8"):
            result[name + kind] = open_model(folder / f"{name}{kind}.onnx", info)
    return result


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((161, frames)).astype(np.float32)


def whole(model: OnnxModel, features: np.ndarray) -> np.ndarray:
    probs, lengths = model(features[None, None], np.array([features.shape[1]], np.int32))
    return probs[0, : lengths[0]]


def pieces(rng, features: np.ndarray, model: StreamingAcoustic) -> list[np.ndarray]:
    """Random chunks that the model takes: the first one long enough, the last one of any length."""
    cuts, at = [], model.first_frames + model.step * rng.integers(0, 5)
    while at < features.shape[1]:
        cuts.append(at)
        at += model.step * rng.integers(1, 8)
    return np.split(features, cuts, axis=1)


def in_chunks(model: StreamingAcoustic, parts: list[np.ndarray]) -> np.ndarray:
    states, probs = model.first_states(), []
    for i, part in enumerate(parts):
        chunk = Chunk(part, states, i == 0, i == len(parts) - 1)
        probs += model([chunk])
        states = chunk.states
    return np.concatenate(probs)


@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 40, 203, 500])
def test_any_chunks_give_what_the_whole_gives(models, frames):
    """8 bits: bit for bit."""
    rng, features = np.random.default_rng(frames), noise(frames, frames)
    for kind, tolerance in (("", 1e-5), ("_exact", 1e-5), ("_int8", 0)):
        expected = whole(models["whole" + kind], features)
        for _ in range(3):
            parts = pieces(rng, features, models["stream" + kind])
            found = in_chunks(models["stream" + kind], parts)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_the_last_chunk_may_be_empty(models):
    features = noise(48)
    parts = [features, features[:, :0]]
    np.testing.assert_allclose(in_chunks(models["stream"], parts),
                               whole(models["whole"], features), atol=1e-5)


@pytest.mark.parametrize("kind", ["", "_int8"])
def test_streams_in_one_batch_do_not_touch_each_other(models, kind):
    """Three streams that begin one after another and then go on together."""
    model = models["stream" + kind]
    start, later = model.first_frames + model.step, 10 * model.step
    waves = [noise(start + 2 * later, seed) for seed in range(3)]
    found, states = [[], [], []], [model.first_states() for _ in waves]
    for part, first, final in ((slice(0, start), True, False),
                               (slice(start, start + later), False, False),
                               (slice(start + later, None), False, True)):
        chunks = [Chunk(wave[:, part], state, first, final)
                  for wave, state in zip(waves, states, strict=True)]
        assert len({chunk.company() for chunk in chunks}) == 1
        for own, probs in zip(found, model(chunks), strict=True):
            own.append(probs)
    for wave, own in zip(waves, found, strict=True):
        alone = in_chunks(model, [wave[:, :start], wave[:, start : start + later],
                                  wave[:, start + later :]])
        np.testing.assert_allclose(np.concatenate(own), alone, rtol=0,
                                   atol=0 if kind else 1e-6)
