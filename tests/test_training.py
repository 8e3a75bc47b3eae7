"""Training runs: schedule, skipped steps, resume, fine-tuning, and what stays on disk."""

import csv
import dataclasses
import os
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import tiny_recipe

from deepspeech2.errors import InputError, RunError
from deepspeech2.metrics import ErrorCounts
from deepspeech2.settings import ConfigError
from src import memory, training
from src.checkpoint import STATE_PREFIX, load_checkpoint, save_checkpoint
from src.config import load_config
from src.dataset import BatchSource
from src.evaluation import Evaluation, ScoredUtterance
from src.manifest import read_manifest
from src.training import Interrupted, train
from src.training_data import TrainingData, trainable_rows
from src.word_cuts import read_word_cuts, write_word_cuts

pytestmark = pytest.mark.usefixtures("graph_mode")


def weights(path) -> dict[str, np.ndarray]:
    return load_checkpoint(path).parameters


@pytest.fixture(scope="module")
def whole(demo_corpus, tmp_path_factory):
    """A run of two epochs that nothing interrupted: its folder and its monitor."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(load_config(None, tiny_recipe(demo_corpus, folder)))


def test_a_run_leaves_checkpoints_metrics_and_events(whole):
    tmp_path, monitor = whole
    assert sorted(os.listdir(tmp_path / "ckpt")) == [
        ".run.lock", "DeepSpeech-1_3.ckpt", "DeepSpeech-2_6.ckpt", "DeepSpeech-best.ckpt",
        "DeepSpeech-last.ckpt"]
    rows = list(csv.DictReader((tmp_path / "logs" / "metrics.csv").read_text().splitlines()))
    assert [(int(r["epoch"]), int(r["step"])) for r in rows] == [(1, 3), (2, 6)]
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx([3e-4, 3e-4 / 1.1])
    assert all(float(r["val_cer"]) > 0 and float(r["train_loss"]) > 0 for r in rows)
    best = min(monitor.history, key=lambda m: (m.val_wer, m.val_cer))
    assert load_checkpoint(tmp_path / "ckpt"
                           / "DeepSpeech-best.ckpt").progress["epoch"] == best.epoch
    tags = set()
    for path in (tmp_path / "logs").glob("events*"):
        tags |= {value.tag for event in read_events(path) for value in event.summary.value}
    assert {"train/loss", "train/learning_rate", "train/gradient_norm",
            "train/audio_seconds_per_second", "val/wer", "val/cer"} <= tags


def read_events(path):
    """TFRecord framing: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    from tensorboardX.proto import event_pb2  # after MindSpore: see TrainingMonitor.begin
    data = path.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")
        yield event_pb2.Event.FromString(data[12:12 + size])
        data = data[16 + size:]


def with_changed_batches(monkeypatch, change) -> None:
    """Let `change(i, batch)` see every batch of an epoch before it is used."""
    real = training.training_batches

    def changed(source, num_workers):
        for i, batch in enumerate(real(source, num_workers)):
            change(i, batch)
            yield batch

    monkeypatch.setattr(training, "training_batches", changed)


@pytest.fixture(scope="module")
def stopped(demo_corpus, tmp_path_factory):
    """A run that SIGINT stopped after two steps and that went on to the end of its first epoch.

    Its folder and its settings; what it left after two steps is in `first`.
    """
    folder = tmp_path_factory.mktemp("stopped")
    settings = [*tiny_recipe(demo_corpus, folder), "CheckpointConfig.average_last=2"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    with pytest.MonkeyPatch.context() as patch:
        with_changed_batches(patch,
                             lambda i, _: os.kill(os.getpid(), signal.SIGINT) if i == 1 else None)
        with pytest.raises(Interrupted, match="--resume auto") as caught:
            train(load_config(None, settings))
    # MindSpore turns some SIGINTs into SIGTERM
    assert caught.value.signal_number in (signal.SIGINT, signal.SIGTERM)
    shutil.copytree(folder / "ckpt", folder / "first")
    train(load_config(None, [*settings, "TrainingConfig.max_steps=3"]), resume="auto")
    return folder, settings


def test_a_run_that_was_stopped_three_times_equals_one_that_never_stopped(
    stopped, whole, monkeypatch):
    """Inside its first epoch, between the two, and inside the second."""
    folder, settings = stopped
    last = folder / "ckpt" / "DeepSpeech-last.ckpt"
    assert load_checkpoint(folder / "first" / "DeepSpeech-last.ckpt").progress["step"] == 2
    assert load_checkpoint(last).progress["step"] == 3
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as caught:
        with_changed_batches(patch,
                             lambda i, _: os.kill(os.getpid(), signal.SIGTERM) if i == 1 else None)
        train(load_config(None, settings), resume="auto")
    assert caught.value.signal_number == signal.SIGTERM
    assert load_checkpoint(last).progress["step"] == 5
    resumed = train(load_config(None, settings), resume="auto")
    never_stopped = whole[1].history
    assert [(m.epoch, m.step, m.val_wer, m.val_cer) for m in resumed.history] == \
        [(m.epoch, m.step, m.val_wer, m.val_cer) for m in never_stopped]
    losses = [m.train_loss for m in never_stopped]
    assert [m.train_loss for m in resumed.history] == pytest.approx(losses, rel=1e-5)
    expected, found = weights(whole[0] / "ckpt" / "DeepSpeech-last.ckpt"), weights(last)
    assert found.keys() == expected.keys()
    # sums in parallel threads are not always in the same order, and Adam magnifies that
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)
    # a stop inside an epoch is no epoch for the average
    assert not (folder / "first" / "DeepSpeech-average.ckpt").exists()
    assert sorted(path.name for path in (folder / "ckpt").glob("*_*.ckpt")) == [
        "DeepSpeech-1_3.ckpt", "DeepSpeech-2_6.ckpt"]
    assert_mean(folder / "ckpt", 1, 2)


def assert_mean(folder, first: int, second: int) -> None:
    """The average checkpoint is the mean of those of two epochs of three steps."""
    a, b = (weights(folder / f"DeepSpeech-{n}_{3 * n}.ckpt") for n in (first, second))
    for name, value in weights(folder / "DeepSpeech-average.ckpt").items():
        np.testing.assert_allclose(value, (a[name] + b[name]) / 2, atol=1e-6, err_msg=name)


def test_a_step_that_is_not_finite_is_counted_and_poisons_nothing(recipe, tmp_path, monkeypatch):
    def one_bad_batch(i, batch):
        if i == 1:
            batch.inputs[0, 0, 3, 3] = np.nan

    with_changed_batches(monkeypatch, one_bad_batch)
    monitor = train(load_config(None, recipe))
    assert [m.skipped_steps for m in monitor.history] == [1, 1]
    assert [m.step for m in monitor.history] == [3, 6]
    last = weights(tmp_path / "ckpt" / "DeepSpeech-last.ckpt")
    assert all(np.isfinite(value).all() for value in last.values())
    assert last["optimizer.updates"] == 4
    assert np.isfinite(monitor.history[-1].train_loss)


def test_a_run_without_any_finite_step_fails(recipe, monkeypatch):
    with_changed_batches(monkeypatch, lambda _, batch: batch.inputs.fill(np.nan))
    with pytest.raises(RunError, match=r"no step had a finite loss .*Begin anew with OptimConfig"
                                       r"\.learning_rate=3\.0e-05"):
        train(load_config(None, recipe))


def test_a_diverged_run_says_where_to_go_on(demo_corpus, whole, tmp_path, monkeypatch, caplog):
    """Three steps are sound; then nothing is finite any more."""
    folder = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns("*-2_*"))
    (folder / "ckpt" / "DeepSpeech-last.ckpt").unlink()
    settings = [*tiny_recipe(demo_corpus, folder), "CheckpointConfig.save_minutes=1e-9"]
    with monkeypatch.context() as patch:
        with_changed_batches(patch, lambda _, batch: batch.inputs.fill(np.nan))
        patch.setattr(training, "MAX_SKIPPED_STEPS", 2)
        with pytest.raises(RunError) as caught:
            train(load_config(None, settings), resume="auto")
    way_back = (f"Go on from an epoch that was sound: --resume {folder}/ckpt/DeepSpeech-1_3.ckpt "
                "OptimConfig.learning_rate=3.0e-05")
    assert str(caught.value) == ("step 5: 2 steps in a row had no finite loss and gradient: the "
                                 f"run has diverged. {way_back}")
    ended = train(load_config(None, [*settings, "TrainingConfig.max_steps=5"]), resume="auto")
    assert ended.trained == (1, 5)
    assert f"was saved after 1 steps in a row that were not finite. {way_back}" in caplog.text


def test_an_epoch_is_on_the_disk_before_its_evaluation(recipe, tmp_path, monkeypatch, caplog):
    """The evaluation and the logs fail; the training goes on, and loses nothing."""
    states = []

    def fail(*_):
        states.append(load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt").progress)
        raise (RuntimeError, TypeError)[len(states) - 1]("could not create a primitive\nmore")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "evaluate", fail)
    # tests/faults has a disk that is really full
    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full)
    (tmp_path / "logs" / "metrics.csv").mkdir(parents=True)
    monitor = train(load_config(None, recipe))
    assert [(s["epoch"], s["step"], s["epoch_ended"]) for s in states] == [
        (1, 3, False), (2, 6, False)]
    assert [m.val_wer for m in monitor.history] == [None, None]
    assert caplog.text.count("the evaluation failed: could not create a primitive; the run") == 2
    for log, error in (("metrics.csv", "Is a directory"), ("TensorBoard events", "No space left")):
        assert caplog.text.count(f"{log} cannot be written ") == 1 and error in caplog.text
    last = load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt").progress
    assert last["epoch_ended"] and len(last["history"]) == 2


def test_a_stop_during_an_evaluation_and_saves_by_the_clock_change_nothing(
    recipe, tmp_path, whole, monkeypatch):
    real = training.evaluate

    def stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    settings = [*recipe, "CheckpointConfig.save_minutes=1e-9"]
    saved = []
    real_save = training.RunFolder.save
    monkeypatch.setattr(training.RunFolder, "save", lambda self, arrays, info, progress, *rest: (
        saved.append(progress["step"]), real_save(self, arrays, info, progress, *rest))[1])
    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", stop)
        with pytest.raises(Interrupted, match="stopped after epoch 1; .*--resume auto") as caught:
            train(load_config(None, settings))
    assert caught.value.signal_number == signal.SIGTERM
    assert saved == [1, 2, 3, 3]  # each step, then the epoch
    resumed = train(load_config(None, settings), resume="auto")
    assert saved == [1, 2, 3, 3, 3, 4, 5, 6, 6, 6]
    assert [(m.epoch, m.step, m.val_wer, m.val_cer) for m in resumed.history] == [
        (m.epoch, m.step, m.val_wer, m.val_cer) for m in whole[1].history]
    expected = weights(whole[0] / "ckpt" / "DeepSpeech-last.ckpt")
    for name, array in weights(tmp_path / "ckpt" / "DeepSpeech-last.ckpt").items():
        np.testing.assert_allclose(array, expected[name], atol=2e-5, err_msg=name)


def test_an_epoch_that_two_processes_began_is_finished_by_one(
        stopped, demo_corpus, labels, tmp_path, monkeypatch):
    """Each utterance is learned once: the two had learned the shortest 16 of 24, 8 each."""
    folder, settings = stopped
    state = load_checkpoint(folder / "first" / "DeepSpeech-last.ckpt")
    assert (state.progress["batch"], state.progress["plan"]["ranks"]) == (2, 1)
    progress = state.progress | {"batch": 1, "plan": state.progress["plan"] | {"ranks": 2}}
    save_checkpoint(tmp_path / "DeepSpeech-last.ckpt", state.parameters, state.info, progress)
    rows = []
    with_changed_batches(monkeypatch, lambda _, batch: rows.append(sorted(batch.rows)))
    train(load_config(None, [*settings, f"CheckpointConfig.ckpt_path={tmp_path}",
                             f"TrainingConfig.log_dir={tmp_path}/logs"]), resume="auto")
    seconds = read_manifest(demo_corpus / "demo_train_manifest.csv", labels).seconds
    assert rows[0] == sorted(np.argsort(seconds, kind="stable")[16:].tolist())
    assert [len(batch) for batch in rows[1:]] == [8, 8, 8]
    assert sorted(sum(rows[1:], [])) == list(range(24))


@pytest.mark.parametrize(("most", "steps", "words"), [
    (2, 1, "step 2: nothing of 2 batches in a row could be read"),
    (10, 3, "epoch 2: no utterance could be read")])
def test_a_disk_that_is_gone_ends_the_run_which_then_goes_on_as_if_it_had_been_there(
        whole, recipe, tmp_path, monkeypatch, most, steps, words):
    """It was gone after some steps: the batches that nobody could read are learned later."""
    monkeypatch.setattr(training, "MAX_UNREAD_BATCHES", most)
    last, read = tmp_path / "ckpt" / "DeepSpeech-last.ckpt", []
    real = BatchSource._load
    with monkeypatch.context() as patch:
        patch.setattr(BatchSource, "_load", lambda self, row: (
            read.append(row), real(self, row) if len(read) <= 8 * steps else None)[1])
        # what is read ahead must not count
        patch.setattr(training, "training_batches",
                      lambda source, _: (source.batch(i) for i in range(len(source))))
        patch.setattr(training, "evaluate", lambda *_: Evaluation([], []))
        with pytest.raises(RunError, match=words):
            train(load_config(None, recipe))
    assert load_checkpoint(last).progress["step"] == steps
    assert load_checkpoint(last).progress["sums"]["missing"] == 0
    train(load_config(None, recipe), resume="auto")
    expected = weights(whole[0] / "ckpt" / "DeepSpeech-last.ckpt")
    for name, array in weights(last).items():
        np.testing.assert_allclose(array, expected[name], atol=2e-5, err_msg=name)


def test_an_evaluation_of_a_part_of_the_val_set_is_not_used(recipe, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(training, "evaluate", lambda *_: Evaluation([], [3, 4]))
    monitor = train(load_config(None, [*recipe, "TrainingConfig.epochs=1"]))
    assert monitor.history[-1].val_wer is None
    assert not (tmp_path / "ckpt" / "DeepSpeech-best.ckpt").exists()
    assert "2 utterances of the val set cannot be read: the evaluation is not used" in caplog.text


def test_the_graph_of_a_step_belongs_to_all_settings_but_these(labels):
    run = SimpleNamespace(config=load_config(), labels=labels,
                          group=SimpleNamespace(rank=0, size=1))
    found = training._Run._graph_settings(run)
    model = {f"ModelConfig.{field.name}" for field in dataclasses.fields(run.config.ModelConfig)}
    assert model <= found.keys()
    assert dataclasses.asdict(run.config.OptimConfig) == found["OptimConfig"]
    left_out = dataclasses.asdict(run.config.TrainingConfig).keys() - found["TrainingConfig"].keys()
    assert left_out == {"epochs", "max_steps", "patience", "eval_interval", "save_interval",
                        "log_dir"}


def test_out_of_memory_names_the_batch_and_a_way_on(recipe, tmp_path, labels, demo_corpus,
                                                    monkeypatch):
    """The longest utterances come at the end of the first epoch."""
    def no_memory(i, _):
        if i == 2:
            raise RuntimeError("could not create a primitive\n" + 30 * "a line\n")

    with monkeypatch.context() as patch:
        with_changed_batches(patch, no_memory)
        with pytest.raises(RunError) as caught:
            train(load_config(None, recipe))
    seconds = np.sort(read_manifest(demo_corpus / "demo_train_manifest.csv", labels).seconds)
    words = (f"out of memory in step 3, a batch of 8 utterances of up to {seconds[-1]:.1f} s (could"
             f" not create a primitive); {tmp_path}/ckpt/DeepSpeech-last.ckpt holds the steps")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt").progress["step"] == 2
    limit = f"DataConfig.max_seconds={(seconds[-5] + seconds[-4]) / 2}"
    rows = []
    with_changed_batches(monkeypatch, lambda _, batch: rows.append(len(batch.rows)))
    train(load_config(None, [*recipe, limit]), resume="auto")
    assert rows[0] == 4 and sum(rows[1:]) == 20  # the rest of the epoch, then another epoch


@pytest.mark.parametrize("hosts", ["1", "2", ""])
def test_a_batch_that_cannot_fit_is_refused_before_the_first_step(
        recipe, tmp_path, monkeypatch, hosts):
    """NODE_COUNT may be left from a run on several hosts."""
    monkeypatch.setenv("NODE_COUNT", hosts)
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    monkeypatch.setattr(memory, "resident_memory", lambda: 2**29)
    with pytest.raises(InputError, match="8 utterances of up to .* 0.0 free: train a smaller"):
        train(load_config(None, recipe))
    assert os.listdir(tmp_path / "ckpt") == [".run.lock"]


@pytest.mark.parametrize(("change", "message"), [
    ("OptimConfig.optimizer=sgd", "OptimConfig.optimizer was 'adam', is 'sgd'"),
    ("TrainingConfig.epochs=1", "nothing left to do: 2 epochs and 6 steps"),
    ("TrainingConfig.patience=1", "raise TrainingConfig.patience")])
def test_why_a_run_does_not_go_on(demo_corpus, whole, tmp_path, caplog, change, message):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    last = load_checkpoint(folder / "ckpt" / "DeepSpeech-last.ckpt")
    progress = last.progress | {"evals_since_best": 1}
    save_checkpoint(last.path, last.parameters, last.info, progress)
    config = load_config(None, [*tiny_recipe(demo_corpus, folder), "TrainingConfig.epochs=9",
                                change])
    said = []
    with caplog.at_level("INFO"):
        try:
            train(config, resume="auto")
        except InputError as error:
            said.append(str(error))
    assert message in "\n".join([*caplog.messages, *said])


def test_another_val_set_judges_the_best_anew(demo_corpus, whole, tmp_path, caplog):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    settings = [*tiny_recipe(demo_corpus, folder), "TrainingConfig.epochs=3",
                f"DataConfig.val_manifest={demo_corpus}/demo_test_manifest.csv"]
    with caplog.at_level("INFO"):
        train(load_config(None, settings), resume="auto")
    assert "the val set is another one: the best evaluation is judged anew" in caplog.text
    assert load_checkpoint(folder / "ckpt" / "DeepSpeech-best.ckpt").progress["epoch"] == 3


def test_the_best_is_judged_anew_where_its_file_is_lost(demo_corpus, whole, tmp_path, caplog):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    best = folder / "ckpt" / "DeepSpeech-best.ckpt"
    numbered = f"DeepSpeech-{load_checkpoint(best).progress['epoch']}_*.ckpt"
    for path in [best, *best.parent.glob(numbered)]:
        path.unlink()
    settings = [*tiny_recipe(demo_corpus, folder), "TrainingConfig.epochs=3"]
    with caplog.at_level("INFO"):
        train(load_config(None, settings), resume="auto")
    assert "no file holds the state with WER" in caplog.text
    assert load_checkpoint(best).progress["epoch"] == 3


def test_fine_tuning_starts_from_the_weights_and_names_what_does_not_fit(
    recipe, tmp_path, whole, caplog):
    source = load_checkpoint(whole[0] / "ckpt" / "DeepSpeech-last.ckpt")
    partial = {name: a for name, a in source.network_parameters().items() if name != "fc.weight"}
    save_checkpoint(tmp_path / "partial.ckpt", partial, source.info)
    tiny_rate = ["OptimConfig.learning_rate=1e-12", f"CheckpointConfig.ckpt_path={tmp_path}/tuned"]
    train(load_config(None, [*recipe, *tiny_rate, "TrainingConfig.max_steps=1"]),
          pretrained=str(tmp_path / "partial.ckpt"))
    assert "not in the checkpoint: fc.weight" in caplog.text
    tuned = weights(tmp_path / "tuned" / "DeepSpeech-last.ckpt")
    assert tuned["optimizer.updates"] == 1
    for name, array in partial.items():
        if not name.endswith(("moving_mean", "moving_variance")):
            np.testing.assert_allclose(tuned[name], array, atol=1e-6, err_msg=name)


def test_some_epochs_are_evaluated_and_others_saved(recipe, tmp_path):
    """Every second one, and the last; the best is saved too, which is one that was evaluated."""
    train(load_config(None, [*recipe, "TrainingConfig.epochs=5", "TrainingConfig.eval_interval=2",
                             "TrainingConfig.save_interval=3"]))
    with open(tmp_path / "logs" / "metrics.csv", newline="") as file:
        evaluated = [int(row["epoch"]) for row in csv.DictReader(file) if row["val_wer"]]
    assert evaluated == [2, 4, 5]
    saved = {int(path.stem.split("-")[1].split("_")[0])
             for path in (tmp_path / "ckpt").glob("DeepSpeech-*_*.ckpt")}
    assert {3, 5} <= saved <= {2, 3, 4, 5}


def test_fine_tuning_checks_settings_against_the_network_of_the_checkpoint(
    recipe, tmp_path, whole):
    """It has one recurrent layer, where the settings alone would have five."""
    assert "ModelConfig.hidden_layers=1" in recipe
    others = [setting for setting in recipe if not setting.startswith("ModelConfig.")]
    config = load_config(None, [*others, "TrainingConfig.intermediate_ctc_weight=0.3"])
    with pytest.raises(ConfigError, match="needs at least two recurrent layers"):
        train(config, pretrained=str(whole[0] / "ckpt" / "DeepSpeech-last.ckpt"))


def test_frozen_layers_keep_their_weights_and_statistics(recipe, tmp_path, whole):
    before = whole[0] / "ckpt" / "DeepSpeech-last.ckpt"
    train(load_config(None, [*recipe, "OptimConfig.frozen_layers=2", "OptimConfig.layer_decay=0.5",
                             "OptimConfig.learning_rate=0.01", "TrainingConfig.max_steps=3"]),
          pretrained=str(before))
    now, then = weights(tmp_path / "ckpt" / "DeepSpeech-last.ckpt"), weights(before)
    network = [name for name in now if not name.startswith(STATE_PREFIX)]
    changed = {name for name in network if not np.array_equal(now[name], then[name])}
    assert changed == {name for name in network if name.startswith("fc")}  # norm and projection


def test_at_least_one_layer_is_trained(recipe):
    with pytest.raises(InputError, match=r"frozen_layers` \(=3\) must be less than 3: .* 1 recurr"):
        train(load_config(None, [*recipe, "OptimConfig.frozen_layers=3"]))


def test_resuming_refuses_weights_only_and_changed_data_inside_an_epoch(
    stopped, recipe, tmp_path, demo_corpus):
    inside = str(stopped[0] / "first" / "DeepSpeech-last.ckpt")
    source = load_checkpoint(inside)
    only = tmp_path / "only.ckpt"
    save_checkpoint(only, source.network_parameters(), source.info)
    other_set = f"DataConfig.train_manifest={demo_corpus}/demo_val_manifest.csv"
    for path, change, words in (
        (inside, "TrainingConfig.seed=1", "seed was 0, is 1"),
        (inside, other_set,
         "utterances was 24, is 6, content was .*Finish the epoch with the former"),
        (str(only), "TrainingConfig.epochs=9", "weights only"),
        (inside, "ModelConfig.hidden_size=32", "is 16 in the model but 32"),
    ):
        with pytest.raises(InputError, match=words):
            train(load_config(None, [*recipe, change]), resume=path)


def test_a_new_run_does_not_write_into_the_checkpoints_of_another(demo_corpus, whole):
    folder, _ = whole
    before = {path.name: path.read_bytes() for path in (folder / "ckpt").iterdir()}
    with pytest.raises(InputError, match="an earlier run is kept there; go on with --resume auto"):
        train(load_config(None, tiny_recipe(demo_corpus, folder)))
    assert {path.name: path.read_bytes() for path in (folder / "ckpt").iterdir()} == before


@pytest.mark.parametrize("resume", ["", "auto"])
def test_a_new_run_does_not_write_into_the_logs_of_another(demo_corpus, whole, tmp_path, resume):
    metrics = whole[0] / "logs" / "metrics.csv"
    before = metrics.read_bytes()
    settings = [*tiny_recipe(demo_corpus, tmp_path), f"TrainingConfig.log_dir={metrics.parent}"]
    with pytest.raises(InputError, match="choose another TrainingConfig.log_dir"):
        train(load_config(None, settings), resume=resume)
    assert metrics.read_bytes() == before


def test_an_epoch_is_finished_with_the_batches_that_it_began_with(stopped, recipe):
    """24 utterances in batches of 8, of which two are done."""
    settings = [*recipe, "DataConfig.batch_size=4"]
    history = train(load_config(None, settings),
                    resume=str(stopped[0] / "first" / "DeepSpeech-last.ckpt")).history
    assert [m.step for m in history] == [3, 3 + 6]


def test_training_leaves_out_what_ctc_cannot_align(demo_corpus, labels, caplog):
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    config = load_config()
    frames = (manifest.samples // 160 + 2) // 2
    manifest.label_counts[0] = frames[0] - manifest.repeats[0]  # just fits
    manifest.label_counts[1] = frames[1] - manifest.repeats[1] + 1  # does not
    rows = trainable_rows(manifest, config)
    assert rows.tolist() == [i for i in range(len(manifest)) if i != 1]
    assert "1 of 24 utterances are too short" in caplog.text


def test_words_are_shuffled_by_what_the_run_has_learned(
    recipe, labels, tmp_path, caplog, monkeypatch
):
    """From the configured epoch on; after a resume also where the file with the cuts was lost."""
    find, clock, hours = training.find_word_cuts, time.perf_counter, []
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * len(hours))
    monkeypatch.setattr(training, "find_word_cuts", lambda *args: hours.append(1) or find(*args))
    config = load_config(None, [*recipe, "DataConfig.AugmentationConfig.shuffle_words=1",
                                "DataConfig.AugmentationConfig.shuffle_start_epoch=1"])
    path = tmp_path / "ckpt" / "DeepSpeech-word-cuts.csv"
    with caplog.at_level("INFO"):
        first, second = train(config).history
        assert first.minutes < 60 < second.minutes  # the hour of the search is one of training
        assert caplog.text.count("words are shuffled from now on") == 1 and str(path) in caplog.text
        kept = path.read_text()
        assert len(kept.splitlines()) > 24
        train(config, resume="auto")  # nothing is left to do
        assert caplog.text.count("words are shuffled from now on") == 1 and path.read_text() == kept
        path.unlink()
        train(config, resume="auto")
        assert caplog.text.count("words are shuffled from now on") == 2 and path.exists()
        other = read_manifest(config.DataConfig.val_manifest, labels)
        write_word_cuts(path, other, [None] * len(other))  # as if the training set were another now
        train(config, resume="auto")
        assert caplog.text.count("words are shuffled from now on") == 3
    train_set = read_manifest(config.DataConfig.train_manifest, labels)
    assert any(read_word_cuts(path, train_set))


def test_dropout_is_a_function_of_seed_epoch_and_row(demo_corpus, labels):
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    data = TrainingData(manifest, labels, load_config())
    seeds = data.dropout_seeds(2, [7, 3])
    assert seeds.dtype == np.int32 and seeds[0] != seeds[1]
    np.testing.assert_array_equal(seeds[1:], data.dropout_seeds(2, [3]))
    assert (seeds != data.dropout_seeds(3, [7, 3])).all()
    other = TrainingData(manifest, labels, load_config(None, ["TrainingConfig.seed=1"]))
    assert (seeds != other.dropout_seeds(2, [7, 3])).all()
    assert len(data.dropout_seeds(0, [])) == 1  # the silence in a batch without utterances


def evaluation(word_errors: int, char_errors: int) -> Evaluation:
    errors = ErrorCounts(words=10, word_deletions=word_errors, chars=10, char_deletions=char_errors)
    return Evaluation([ScoredUtterance(0, "a.wav", "A", "B", errors, 1.0, None)], [])


def test_a_run_stops_early_and_averages(recipe, tmp_path, caplog, monkeypatch):
    """One best evaluation, then two without a better one; the fifth is that of the average."""
    settings = ["TrainingConfig.epochs=9", "TrainingConfig.patience=2",
                "CheckpointConfig.average_last=2", "TrainingConfig.dropout=0.1"]
    figures = iter([(3, 5), (3, 4), (3, 4), (4, 3), (2, 2)])
    monkeypatch.setattr(training, "evaluate", lambda *_: evaluation(*next(figures)))
    with caplog.at_level("INFO"):
        history = train(load_config(None, [*recipe, *settings])).history
    assert [(m.val_wer, m.val_cer) for m in history] == [(30, 50), (30, 40), (30, 40), (40, 30)]
    assert "stopping early: no better val figures in the last 2 evaluations" in caplog.text
    last = load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt")
    assert (last.progress["epoch"], last.progress["evals_since_best"]) == (4, 2)
    assert load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-best.ckpt").progress["epoch"] == 2
    mean = load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-average.ckpt")
    assert mean.info == last.info and not mean.progress
    assert mean.parameters.keys() == last.network_parameters().keys()
    assert_mean(tmp_path / "ckpt", 3, 4)
