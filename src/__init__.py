"""DeepSpeech2 on MindSpore: configuration, data, network, training, evaluation and export."""
