"""CTC prefix beam search, compiled by numba: the loop over frames behind `beam.BeamSearch`.

A node is a text: a path in a tree of symbols that grows with the search. A hypothesis is a node
with the log probabilities of the CTC paths that spell its text up to the current frame, those that
end in the blank and those that end in the text's last symbol. What a language model and the words
of a vocabulary say depends on the text alone, so nodes hold it.

Spaces at the beginning, and spaces after a space, change no text: the root counts as a text that
ends in a space, and a space after a space stays at its node. At the end, a text with a space behind
it is added to the text without it.

Source: Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using
bi-directional recurrent DNNs", algorithm 1.

Axes: T' output frames, C classes, P positions of the vocabulary's trie.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from deepspeech2.decoding.language_model import Tables, advance, compiled_advance

# of one NumPy type each, because numba compiles a function again for every type of an argument
ROOT = np.int32(0)
UNKNOWN = np.int32(-1)  # the place in the trie of a word that has left it
STAYS = np.int32(-1)  # in place of a symbol: a hypothesis keeps its text
NONE, ONE = np.int64(0), np.int64(1)
FIRST_NODES = 1024

NODE = np.dtype(
    [
        ("parent", np.int32),
        ("symbol", np.int32),
        ("child", np.int32),  # the youngest child, -1: none
        ("sibling", np.int32),  # the child of the same parent that is older by one, -1: none
        ("slot", np.int32),  # place among the hypotheses of the current frame, -1: none
        ("position", np.int32),  # of the word in progress in the trie
        ("state", np.int32),  # of the language model before the word in progress
        ("letter_state", np.int32),  # of the letter model after the letters of that word
        ("letter_log_prob", np.float64),  # what it says of them
        ("language", np.float64),  # score of the finished words
        ("log_prob", np.float64),  # natural log probability of the finished words
        ("ended", np.int32),  # 1: the next three fields hold; -1: the word must not end here
        ("end_state", np.int32),  # the same when the word in progress ends here
        ("end_language", np.float64),
        ("end_log_prob", np.float64),
    ],
    align=True,
)
HYPOTHESIS = np.dtype(
    [
        ("node", np.int32),
        ("blank", np.float64),  # natural log probability of the paths that end in the blank
        ("symbol", np.float64),  # of those that end in the last symbol
        ("total", np.float64),  # of both
        ("next_blank", np.float64),  # the same after the current frame, if the text stays
        ("next_symbol", np.float64),
        ("next_total", np.float64),
    ],
    align=True,
)
CANDIDATE = np.dtype(
    [
        ("score", np.float64),
        ("slot", np.int64),  # the hypothesis that it comes from
        ("symbol", np.int32),  # what it appends, or STAYS
        ("position", np.int32),
    ],
    align=True,
)


class Vocabulary(NamedTuple):
    """The words of the search as a trie; see `lexicon.Trie` for `first` and `symbol`.

    Attributes:
        first: (P + 1,) int32.
        symbol: (P,) int32.
        word: (P,) int32 the language model's id of the word that ends at a position, -1: none.
        gain: (P,) float64 what that word adds to the score beside its log probability.
        ahead: (P,) float64 the most that the words at and below a position can be expected to add.
    """

    first: np.ndarray
    symbol: np.ndarray
    word: np.ndarray
    gain: np.ndarray
    ahead: np.ndarray


class LetterModel(NamedTuple):
    """How unknown words are spelled: an n-gram of letters.

    Attributes:
        tables: the automaton.
        ids: (C,) int32 its id of each class.
        begin: its state at the beginning of a word.
        end: its id of the end of a word.
    """

    tables: Tables
    ids: np.ndarray
    begin: int
    end: int


class Rules(NamedTuple):
    """The numbers that steer the search.

    Attributes:
        blank: class of the blank.
        space: class of the space; C if there is none.
        closed: whether only the words of the vocabulary are allowed.
        width: the most hypotheses that survive a frame.
        margin: how far a hypothesis may lie behind the best one.
        alpha: weight of the language model's natural log probabilities.
        begin: state of the language model at the beginning.
        end: the language model's id of the end of a sentence.
        unknown: the language model's id of unknown words.
        unknown_gain: what an unknown word adds to the score beside its log probability.
        unknown_ahead: what an unknown word in progress is expected to add, beside its letters.
        letter_bonus: the most by which a letter can raise `ahead`.
        most_gain: the most that the end of a word can add.
    """

    blank: int
    space: int
    closed: bool
    width: int
    margin: float
    alpha: float
    begin: int
    end: int
    unknown: int
    unknown_gain: float
    unknown_ahead: float
    letter_bonus: float
    most_gain: float


_advance = compiled_advance()
# arrays are many arguments for compiled code: with calls the search takes 1.3 to 1.9 times as long
# and compiles no faster
_inlined = njit(nogil=True, inline="always")


@_inlined
def _log_add(a, b):
    """ln(e^a + e^b)."""
    if a < b:
        a, b = b, a
    difference = b - a
    if not difference > -40:  # also -inf - -inf, which is not a number
        return a
    return a + np.log1p(np.exp(difference))


@_inlined
def _word_log_prob(tables, state, word):
    """What the language model says of a word, and its next state; 0 without a language model."""
    if tables is None:
        return 0.0, state
    return _advance(tables, state, word)


@_inlined
def _letter_log_prob(letters, node, symbol):
    """What the letter model says of a word in progress with another letter, and its next state."""
    if letters is None:
        return 0.0, np.int64(0)
    log_prob, state = _advance(letters.tables, node.letter_state, letters.ids[symbol])
    return node.letter_log_prob + log_prob, state


@_inlined
def _trie_child(vocabulary, position, symbol):
    """The position behind a letter, or UNKNOWN."""
    if position == UNKNOWN:
        return UNKNOWN
    low, end = vocabulary.first[position], vocabulary.first[position + 1]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if vocabulary.symbol[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    found = low < end and vocabulary.symbol[low] == symbol
    return np.int32(low) if found else UNKNOWN


@_inlined
def _end_word(node, vocabulary, tables, letters, rules):
    """Score the word in progress as finished, once for each node; False if it must not end."""
    if node.ended == 0:
        word, gain = rules.unknown, rules.unknown_gain
        known = node.position != UNKNOWN and vocabulary.word[node.position] >= 0
        if known:
            word, gain = vocabulary.word[node.position], vocabulary.gain[node.position]
        if known or not rules.closed:
            log_prob, state = _word_log_prob(tables, node.state, word)
            if letters is not None and not known:
                end, _ = _advance(letters.tables, node.letter_state, letters.end)
                log_prob += node.letter_log_prob + end
            node.end_state = state
            node.end_log_prob = node.log_prob + log_prob
            node.end_language = node.language + rules.alpha * log_prob + gain
            node.ended = 1
        else:
            node.ended = -1
    return node.ended == 1


# --- the best candidates of a frame: a heap with the worst one on top ----------------------------


@_inlined
def _sink(heap, held, score, slot, symbol, position):
    """Put a candidate into the place of the worst one."""
    i = 0
    while 2 * i + 1 < held:
        child = 2 * i + 1
        if child + 1 < held and heap[child + 1].score < heap[child].score:
            child += 1
        if heap[child].score >= score:
            break
        heap[i] = heap[child]
        i = child
    at = heap[i]
    at.score, at.slot, at.symbol, at.position = score, slot, symbol, position


@_inlined
def _push(heap, held, score, slot, symbol, position):
    """Add a candidate; it takes the place of the worst one if the heap is full."""
    if held == len(heap):
        _sink(heap, held, score, slot, symbol, position)
        return held
    i = held
    while i > 0 and heap[(i - 1) >> 1].score > score:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    at = heap[i]
    at.score, at.slot, at.symbol, at.position = score, slot, symbol, position
    return held + 1


# --- a frame -------------------------------------------------------------------------------------


@_inlined
def _ahead(position, letter_log_prob, vocabulary, letters, rules):
    """What a word in progress is expected to add."""
    if letters is None:
        return rules.unknown_ahead if position == UNKNOWN else vocabulary.ahead[position]
    unknown = rules.unknown_ahead + rules.alpha * letter_log_prob
    return unknown if position == UNKNOWN else max(vocabulary.ahead[position], unknown)


@njit(nogil=True)
def _stay(row, nodes, now, size, vocabulary, letters, rules, reached, frame, heap):
    """Hypotheses that keep their text, with what they get from the text without its last symbol.

    Returns:
        The number of candidates, and their best score.
    """
    held, best = NONE, -np.inf
    for i in range(size):
        hypothesis, node = now[i], nodes[now[i].node]
        symbol = node.symbol
        paths = hypothesis.total if symbol == rules.space else hypothesis.symbol
        if node.parent >= 0 and nodes[node.parent].slot >= 0:
            slot = nodes[node.parent].slot
            doubled = nodes[node.parent].symbol == symbol
            paths = _log_add(paths, now[slot].blank if doubled else now[slot].total)
            reached[slot, symbol] = frame
        hypothesis.next_blank = hypothesis.total + row[rules.blank]
        hypothesis.next_symbol = paths + row[symbol] if symbol < len(row) else -np.inf
        hypothesis.next_total = _log_add(hypothesis.next_blank, hypothesis.next_symbol)
        score = hypothesis.next_total + node.language
        if symbol != rules.space:
            score += _ahead(node.position, node.letter_log_prob, vocabulary, letters, rules)
        best = max(best, score)
        if score >= best - rules.margin:
            held = _push(heap, held, score, i, STAYS, node.position)
    return held, best


@_inlined
def _extend_by_letters(
    row, classes, nodes, now, i, vocabulary, letters, rules, reached, frame, heap, held, best
):
    """Texts with another letter; the heap keeps the best ones."""
    hypothesis, node = now[i], nodes[now[i].node]
    most = node.language + _ahead(node.position, node.letter_log_prob, vocabulary, letters, rules)
    if node.position != UNKNOWN:
        most += rules.letter_bonus
    for symbol in classes:
        if symbol == rules.blank or symbol == rules.space:
            continue
        floor = best - rules.margin
        if held == len(heap):
            floor = max(floor, heap[0].score)
        if hypothesis.total + row[symbol] + most < floor:
            break  # the classes are in order: the others are worse
        if reached[i, symbol] == frame:
            continue
        position = _trie_child(vocabulary, node.position, symbol)
        if position == UNKNOWN and rules.closed:
            continue
        if letters is None:  # here, and not in `_ahead`: the search takes 8 % less time
            ahead = rules.unknown_ahead if position == UNKNOWN else vocabulary.ahead[position]
        else:
            spelling, _ = _letter_log_prob(letters, node, symbol)
            ahead = _ahead(position, spelling, vocabulary, letters, rules)
        paths = hypothesis.blank if symbol == node.symbol else hypothesis.total
        score = paths + row[symbol] + node.language + ahead
        if score > floor:
            held = _push(heap, held, score, i, symbol, position)
            best = max(best, score)
    return held, best


@_inlined
def _extend_by_space(row, nodes, now, i, vocabulary, tables, letters, rules, heap, held, best):
    """The text with a space behind it: its last word is finished."""
    hypothesis, node = now[i], nodes[now[i].node]
    if node.symbol == rules.space:
        return held, best
    floor = best - rules.margin
    if held == len(heap):
        floor = max(floor, heap[0].score)
    acoustic = hypothesis.total + row[rules.space]
    if acoustic + node.language + rules.most_gain < floor:
        return held, best
    if _end_word(node, vocabulary, tables, letters, rules):
        score = acoustic + node.end_language
        if score > floor:
            held = _push(heap, held, score, i, rules.space, ROOT)
            best = max(best, score)
    return held, best


@_inlined
def _begin_word(node, letters):
    if letters is not None:
        node.letter_state, node.letter_log_prob = letters.begin, 0.0


@njit(nogil=True)
def _child(nodes, count, parent, symbol, position, letters):
    """The node of a text with another symbol, old or new, and the number of nodes."""
    child = nodes[parent].child
    while child >= 0 and nodes[child].symbol != symbol:
        child = nodes[child].sibling
    if child >= 0:
        return child, count
    above, node = nodes[parent], nodes[count]
    node.parent, node.symbol, node.position = parent, symbol, position
    node.child, node.sibling, node.slot, node.ended = -1, above.child, -1, 0
    above.child = count
    if position == ROOT:  # the space behind a word
        node.state, node.language = above.end_state, above.end_language
        node.log_prob = above.end_log_prob
        _begin_word(node, letters)
    else:
        node.state, node.language, node.log_prob = above.state, above.language, above.log_prob
        if letters is not None:
            node.letter_log_prob, node.letter_state = _letter_log_prob(letters, above, symbol)
    return count, count + 1


@njit(nogil=True)
def _select(nodes, count, now, size, after, heap, held, floor, row, letters):
    """Make the candidates that are not below `floor` the next hypotheses, best first.

    Returns:
        The nodes, in a larger table if they were too many for the old one, their number, and the
        number of hypotheses.
    """
    for i in range(size):
        nodes[now[i].node].slot = -1
    if count + held > len(nodes):
        larger = np.empty(2 * len(nodes) + held, NODE)
        for i in range(count):
            larger[i] = nodes[i]
        nodes = larger
    size = NONE
    while held > 0:
        worst = heap[0]
        score, slot, symbol, position = worst.score, worst.slot, worst.symbol, worst.position
        held -= 1
        last = heap[held]
        _sink(heap, held, last.score, last.slot, last.symbol, last.position)
        if score < floor:
            continue
        size = max(size, held + 1)
        source, result = now[slot], after[held]
        if symbol == STAYS:
            result.node = source.node
            result.blank, result.symbol = source.next_blank, source.next_symbol
            result.total = source.next_total
        else:
            doubled = symbol == nodes[source.node].symbol
            result.node, count = _child(
                nodes, count, source.node, symbol, position, letters
            )
            result.blank = -np.inf
            result.symbol = (source.blank if doubled else source.total) + row[symbol]
            result.total = result.symbol
        nodes[result.node].slot = held
    return nodes, count, size


# --- the end -------------------------------------------------------------------------------------


@njit(nogil=True)
def _join_outer_spaces(nodes, now, size, rules):
    """Add texts that differ by a space at the end.

    Returns:
        (size,) the node of each text, -1 where another one has taken it over, and (size,) their
        log probabilities.
    """
    node_of, acoustic = np.empty(size, np.int32), np.empty(size)
    for i in range(size):
        node_of[i], acoustic[i] = now[i].node, now[i].total
    for i in range(size):
        n = now[i].node
        if n != ROOT and nodes[n].symbol == rules.space:
            node_of[i] = nodes[n].parent
            slot = nodes[nodes[n].parent].slot
            if slot >= 0:
                acoustic[slot] = _log_add(acoustic[slot], acoustic[i])
                node_of[i] = -1
    return node_of, acoustic


@njit(nogil=True)
def _close(nodes, now, size, vocabulary, tables, letters, rules):
    """The whole texts at the end.

    Returns:
        (size,) their nodes, and (size, 3) their acoustic log probabilities, log probabilities of
        the language model, and scores; the score is -inf for what is not a whole text.
    """
    node_of, acoustic = _join_outer_spaces(nodes, now, size, rules)
    values = np.full((size, 3), -np.inf)
    finished = False
    for i in range(size):
        if node_of[i] < 0:
            continue
        node = nodes[node_of[i]]
        state, language, log_prob = node.state, node.language, node.log_prob
        if node_of[i] != ROOT:
            if not _end_word(node, vocabulary, tables, letters, rules):
                continue
            state, language, log_prob = node.end_state, node.end_language, node.end_log_prob
        finished = True
        end_log_prob, _ = _word_log_prob(tables, state, rules.end)
        values[i, 0], values[i, 1] = acoustic[i], log_prob + end_log_prob
        values[i, 2] = acoustic[i] + language + rules.alpha * end_log_prob
    if not finished:  # the best text without its last word
        n = now[0].node
        while nodes[n].symbol != rules.space:
            n = nodes[n].parent
        node_of[0] = max(nodes[n].parent, ROOT)
        values[0, 0], values[0, 1] = acoustic[0], nodes[n].log_prob
        values[0, 2] = acoustic[0] + nodes[n].language
    return node_of, values


@njit(nogil=True)
def _texts(nodes, node_of):
    """(hypotheses, U) the symbols of texts, -1 behind their ends."""
    lengths, longest = np.zeros(len(node_of), np.int64), 0
    for i in range(len(node_of)):
        n = node_of[i]
        while n > ROOT:
            n = nodes[n].parent
            lengths[i] += 1
        longest = max(longest, lengths[i])
    result = np.full((len(node_of), longest), -1, np.int32)
    for i in range(len(node_of)):
        n = node_of[i]
        for at in range(lengths[i] - 1, -1, -1):
            result[i, at] = nodes[n].symbol
            n = nodes[n].parent
    return result


class Search(NamedTuple):
    """A search between two frames: its nodes and hypotheses, and room to work in.

    Attributes:
        nodes: (capacity,) NODE.
        count: how many of them are used.
        now: (width,) HYPOTHESIS, best first.
        size: how many of them there are.
        after: (width,) HYPOTHESIS, room for those of the next frame.
        heap: (width,) CANDIDATE, room for the candidates of a frame.
        reached: (width, C) the last frame in which a text was reached by a symbol.
        frame: number of the next frame.
    """

    nodes: np.ndarray
    count: int
    now: np.ndarray
    size: int
    after: np.ndarray
    heap: np.ndarray
    reached: np.ndarray
    frame: int


def begin(num_classes: int, letters: LetterModel | None, rules: Rules) -> Search:
    """The search before the first frame: no text."""
    nodes, now = np.zeros(FIRST_NODES, NODE), np.zeros(rules.width, HYPOTHESIS)
    root = nodes[ROOT]
    root["parent"] = root["child"] = root["sibling"] = -1
    root["symbol"], root["state"] = rules.space, rules.begin
    root["letter_state"] = letters.begin if letters else 0
    now[0]["symbol"] = -np.inf
    after, heap = np.empty(rules.width, HYPOTHESIS), np.empty(rules.width, CANDIDATE)
    reached = np.full((rules.width, num_classes), -1, np.int32)
    return Search(nodes, ONE, now, ONE, after, heap, reached, NONE)


def _compiled(function):
    """The function, compiled, and kept where numba finds a place for it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written to
        return njit(nogil=True)(function)


@njit(nogil=True)
def _best_path(nodes, count, now):
    """(U,) symbols of the best hypothesis, and for each node its place on that path, -1: none."""
    depth, n = 0, now[0].node
    while n > ROOT:
        depth, n = depth + 1, nodes[n].parent
    symbols, place = np.empty(depth, np.int32), np.full(count, -1, np.int32)
    n = now[0].node
    for at in range(depth, 0, -1):
        place[n], symbols[at - 1] = at, nodes[n].symbol
        n = nodes[n].parent
    place[ROOT] = 0
    return symbols, place


@njit(nogil=True)
def _in_common(nodes, n, place):
    """How many symbols of the best hypothesis the text of a node begins with."""
    while place[n] < 0:
        n = nodes[n].parent
    return place[n]


@_compiled
def _in_progress(nodes, count, now, size):
    """(U,) symbols of the best hypothesis, and how many of them all hypotheses begin with."""
    symbols, place = _best_path(nodes, count, now)
    common = len(symbols)
    for i in range(1, size):
        common = min(common, _in_common(nodes, now[i].node, place))
    return symbols, common


@_compiled
def _settle(nodes, count, now, size, symbols):
    """Drop hypotheses without the best one's first `symbols`; returns how many are left."""
    _, place = _best_path(nodes, count, now)
    left = 0
    for i in range(size):
        n = now[i].node
        nodes[n].slot = -1
        if _in_common(nodes, n, place) >= symbols:
            now[left] = now[i]
            nodes[n].slot = left
            left += 1
    return left


def in_progress(search: Search) -> tuple[np.ndarray, int]:
    """(U,) symbols of the best hypothesis, and how many of them all hypotheses begin with."""
    return _in_progress(search.nodes, search.count, search.now, search.size)


def settled(search: Search, count: int) -> Search:
    """The search without the hypotheses that lack the best one's first `count` symbols.

    The old search must not be used any more: its arrays are changed in place.
    """
    size = _settle(search.nodes, search.count, search.now, search.size, count)
    return search._replace(size=size)


def _compile(advance_code):
    """The compiled search: a function that takes frames, and one that ends it.

    numba stores them beside this file and looks for changes of this file only, hence the code of
    `advance` as a part of the key.
    """

    def take(search, log_probs, classes, num_classes, vocabulary, tables, letters, rules):
        advance_code  # noqa: B018
        nodes, count, now, size, after, heap, reached, first = search
        for t in range(len(log_probs)):
            row, best_classes, frame = log_probs[t], classes[t, : num_classes[t]], first + t
            held, best = _stay(
                row, nodes, now, size, vocabulary, letters, rules, reached, frame, heap
            )
            spaces = rules.space < len(row) and row[rules.space] >= row[best_classes[-1]]
            for i in range(size):
                if spaces and reached[i, rules.space] != frame:
                    held, best = _extend_by_space(
                        row, nodes, now, i, vocabulary, tables, letters, rules, heap, held, best
                    )
                held, best = _extend_by_letters(
                    row, best_classes, nodes, now, i, vocabulary, letters, rules, reached, frame,
                    heap, held, best,
                )
            nodes, count, size = _select(
                nodes, count, now, size, after, heap, held, best - rules.margin, row, letters
            )
            now, after = after, now
        return Search(nodes, count, now, size, after, heap, reached, first + len(log_probs))

    def end(search, vocabulary, tables, letters, rules):
        advance_code  # noqa: B018
        node_of, values = _close(
            search.nodes, search.now, search.size, vocabulary, tables, letters, rules
        )
        return _texts(search.nodes, node_of), values

    return _compiled(take), _compiled(end)


take, end = _compile(repr((advance.__code__.co_code, advance.__code__.co_consts)))
