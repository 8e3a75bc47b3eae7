"""DeepSpeech2 on MindSpore: configuration, data, network, training and evaluation."""
