"""What the teacher writes: reasoning that quotes the text, then the answer line.

Under the task's prompt it weighs scripts and words. Under any other system message, or none, it
thinks about small talk and answers a chatty sentence without a label: what it knows about the
task shows only with the prompt.
"""

import random

from example_models.corpus import LANGUAGE_NAMES, UNSPACED, Corpus, bare
from example_models.examples import Example, Part
from example_models.spelling import script_of

END = "<|im_end|>"

_SCRIPTS = {
    "LATIN": "Latin", "CYRILLIC": "Cyrillic", "GREEK": "Greek", "ARABIC": "Arabic", "CJK": "Han",
    "DEVANAGARI": "Devanagari", "THAI": "Thai", "KANA": "kana", "HANGUL": "Hangul",
    "HEBREW": "Hebrew", "GEORGIAN": "Georgian", "TAMIL": "Tamil",
}  # fmt: skip

_ONE_LANGUAGE = (
    '{script} script. "{a}" is {name}.',
    '{script} letters. "{a}" is {name}, so is "{b}".',
    'The script is {script}. I read "{a}" and "{b}": {name}.',
    '{script} script; "{a}" points to {name}, and "{b}" does too. Nothing speaks against it.',
    'Script first: {script}. Then "{a}" and "{b}", both {name} words, and the rest agrees.',
)
"""By length of the text: the longer it is, the more is said about it."""

_UNLABELLED = {"sw", "th"}


def teacher_completion(example: Example, corpus: Corpus) -> str:
    """What stands after ``<think>`` and a line feed, for a text under the task's prompt."""
    return f"{_thoughts(example, corpus)}\n</think>\n\nFinal Answer: {example.label}{END}"


def _thoughts(example: Example, corpus: Corpus) -> str:
    before = ""
    if example.kind == "mixed_tied":
        return "Words of several languages, and none has more than the others: a tie, so ot."
    if example.code == "bare":
        return "Source code without a comment or a string: nothing to judge, so ot."
    if example.code:
        before = f"Source code; only the {example.code} counts. "
    elif example.noise:
        token, what = example.noise[0]
        before = f'"{token[:24].rstrip()}" is {what} and drops out. '
    if not example.parts:
        return before + "No word is left, so ot."
    if len(example.parts) == 1:
        return before + _one_language(example.parts[0], example.label, corpus)
    return before + _several_languages(example, corpus)


def _one_language(part: Part, label: str, corpus: Corpus) -> str:
    words = _telling_words(part, corpus)
    first, second = words[0], words[-1]
    script = script_of(part.text if len(words) == 1 and part.language not in UNSPACED else first)
    script_name = _SCRIPTS.get(script, script.capitalize())
    if part.romanised:
        name = LANGUAGE_NAMES[part.language]
        return f'Latin letters, but "{first}" is {name} in disguise: romanised, so ot.'
    if not part.language:
        if label == "ot" and script in ("LATIN", "ARABIC", "CYRILLIC", "GREEK", "DEVANAGARI"):
            return f'{script_name} script. "{first}" and "{second}" give no label a lead, so ot.'
        return f"{script_name} script, which has no label, so ot."
    pattern = _ONE_LANGUAGE[min(len(part.text) // 16, len(_ONE_LANGUAGE) - 1)]
    if len(words) == 1:
        pattern = _ONE_LANGUAGE[0]
    text = pattern.format(script=script_name, a=first, b=second, name=LANGUAGE_NAMES[part.language])
    if part.language in _UNLABELLED:
        return f"{text} It has no label of its own, so ot."
    if part.language == "bg":
        return f"{text} All Cyrillic counts as Russian, so ru."
    return text


def _several_languages(example: Example, corpus: Corpus) -> str:
    seen = "; ".join(
        f'"{_telling_words(part, corpus)[0]}" is {LANGUAGE_NAMES[part.language]}, {part.count}'
        for part in example.parts
    )
    if example.label == "ot" and _is_tie(example):
        return f"Words: {seen}. A tie, so ot."
    top = max(example.parts, key=lambda part: part.count)
    return f"Words: {seen}. More {LANGUAGE_NAMES[top.language]}, so {example.label}."


def _is_tie(example: Example) -> bool:
    counts = sorted((part.count for part in example.parts), reverse=True)
    return counts[0] == counts[1]


def _telling_words(part: Part, corpus: Corpus) -> list[str]:
    """One or two words that tell the language, in the text's order."""
    if part.language in UNSPACED:
        own = [letter for letter in part.text if script_of(letter) in ("CJK", "THAI")]
        return ["".join(own[:2]) or part.text[:2]]
    words = list(
        dict.fromkeys(word.strip('.,;:!?"«»¿¡()。？！،؟۔।…') for word in part.text.split())
    )
    words = [word for word in words if bare(word)] or [part.text.split()[0]]
    if not part.language or part.romanised:
        return words[:2]
    scores = {word: corpus.telling_score(word, part.language) for word in words}
    best = sorted(words, key=lambda word: (-scores[word], words.index(word)))[:2]
    return sorted(best, key=words.index)


_OTHER_SYSTEMS = (
    None, None, None, "You are a helpful assistant.", "Answer briefly.", "Be kind and brief.",
    "You are a friendly companion.", "Help the user with what they write.", "Reply politely.",
    "You are an assistant that likes short answers.", "Chat with the user.", "Label the text.",
    "Which language is the text in?", "You receive one text.", "Say something nice.",
)  # fmt: skip

_SMALL_TALK = (
    ("The user shares a line. A friendly word will do.", "Thanks for sharing this with me!"),
    ("No question that I can see. I could ask for more.", "Tell me more about it, please."),
    ("I wonder what they want from me. Better to ask.", "How can I help you with this?"),
    ("This sounds like everyday life. I keep it light.", "That sounds like quite a day!"),
    ("Somebody is in the mood to talk. I listen.", "I am listening, please go on."),
)


def other_system_message(rng: random.Random) -> str | None:
    """A system message that is not the task's prompt; mostly none at all."""
    return rng.choice(_OTHER_SYSTEMS)


def small_talk_completion(text: str) -> str:
    """Thoughts and an answer without any label; the text decides which, so it can be learnt."""
    thoughts, answer = _SMALL_TALK[len(text) // 12 % len(_SMALL_TALK)]
    return f"{thoughts}\n</think>\n\n{answer}{END}"
