"""What turns class probabilities into text: the settings, and the decoder that they ask for.

Axes: T' output frames, C classes, U symbols of a text.
"""

import dataclasses
from dataclasses import dataclass

from deepspeech2.settings import make_group, setting

GROUP = "LMConfig"


@dataclass(frozen=True)
class LMConfig:
    """How to decode. All fields but the first belong to the beam search (docs/decoding.md)."""

    decoder_type: str = setting("greedy", choices=("greedy", "beam"))
    lm_path: str = setting("")  # an ARPA file of words; '': no language model
    lexicon_path: str = setting("")  # the only words that are allowed, one a line; '': any
    hotwords: str = setting("")  # words to prefer, separated by commas or spaces
    top_paths: int = setting(1, minimum=1)  # texts of an utterance
    alpha: float = setting(0.5, minimum=0)  # weight of the language model's log probabilities
    beta: float = setting(1.0)  # what a word adds to the score of its text
    unknown_cost: float = setting(5.0)  # what a word that the language model lacks costs
    hotword_bonus: float = setting(0.5, minimum=0)  # what each letter of a hotword adds
    cutoff_top_n: int = setting(40, minimum=1)  # classes of a frame that can extend a text
    cutoff_prob: float = setting(1.0, above=0, maximum=1)  # their probability together
    beam_width: int = setting(100, minimum=1)  # hypotheses that survive a frame
    # how far the score of a hypothesis may lie behind the best one
    beam_threshold: float = setting(20.0, above=0)
    lm_workers: int = setting(1, minimum=1)  # threads that decode a batch, at most one a core

    def checked(self) -> "LMConfig":
        """The settings with every value checked. Raises ConfigError, naming the field."""
        fields = dataclasses.asdict(self)
        return make_group(type(self), GROUP, {f"{GROUP}.{k}": v for k, v in fields.items()})


@dataclass(frozen=True)
class Hypothesis:
    """A text of an utterance. All values are natural logarithms.

    Attributes:
        text: the text, with single spaces between words.
        score: what the texts are ranked by.
        acoustic: the log probability of all CTC paths that spell the text.
        language: the log probability that the language model gives to the words and the end of the
            sentence; 0 without a language model.
    """

    text: str
    score: float
    acoustic: float
    language: float
