"""The training split of the example inputs: all that the example models ever see of them."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prompt_distillation.data.files import read_jsonl, read_lines
from prompt_distillation.data.inputs import gold_path_of
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.tasks import Task

HELD_OUT_SHARE = 0.1
HELD_OUT_SEED = 0

LANGUAGE_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "fr": "French", "hi": "Hindi", "ru": "Russian", "sw": "Swahili",
    "th": "Thai", "tr": "Turkish", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip

LABEL_OF_LANGUAGE = {code: code for code in LANGUAGE_NAMES} | {"bg": "ru", "sw": "ot", "th": "ot"}

UNSPACED = ("zh", "th")
"""Languages that write no spaces between words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A line of the training split: an aligned sentence, a hard case or an example of the prompt.

    Attributes:
        language: the code of an aligned sentence; None for the other two.
        kind: which rule a hard case stands for; None for an aligned sentence.
    """

    text: str
    label: str
    language: str | None = None
    kind: str | None = None

    @property
    def words(self) -> list[str]:
        """The text, split on spaces."""
        return self.text.split()


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Sentences by language, hard cases, and which words tell the languages apart."""

    sentences: Mapping[str, Sequence[Sentence]]
    cases: Sequence[Sentence]

    @cached_property
    def word_counts(self) -> Mapping[str, Counter[str]]:
        """Language -> how many of its training sentences hold each bare word."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for language, sentences in self.sentences.items():
            for sentence in sentences:
                counts[language].update({bare(word) for word in sentence.words} - {""})
        return counts

    def telling_score(self, word: str, language: str) -> float:
        """How well a word tells its language: common there, absent from the others."""
        key = bare(word)
        here = self.word_counts[language][key]
        elsewhere = sum(
            counts[key] for code, counts in self.word_counts.items() if code != language
        )
        return here / (1 + 3 * elsewhere)

    def is_shared(self, word: str) -> bool:
        """Whether more than one language of the training split has the word."""
        return sum(counts[bare(word)] > 0 for counts in self.word_counts.values()) > 1


def bare(word: str) -> str:
    """The word in lower case without the punctuation around it."""
    return re.sub(r"^[^\w]+|[^\w]+$", "", word).casefold()


def read_corpus(path: Path, task: Task) -> Corpus:
    """Read the lines of ``path`` whose group is not held out, and the examples of the prompt."""
    sentences: dict[str, list[Sentence]] = defaultdict(list)
    cases = [
        Sentence(text=text, label=label, kind="example")
        for text, label in re.findall(r"^Input: (.+)\n.+\nFinal Answer: (\w+)$", task.prompt, re.M)
    ]
    for (_, text), (_, gold) in zip(read_lines(path), read_jsonl(gold_path_of(path)), strict=True):
        if is_held_out(gold["group"], share=HELD_OUT_SHARE, seed=HELD_OUT_SEED):
            continue
        sentence = Sentence(
            text=text, label=gold["label"], language=gold.get("language"), kind=gold.get("kind")
        )
        if sentence.language is not None:
            sentences[sentence.language].append(sentence)
        else:
            cases.append(sentence)
    return Corpus(sentences=dict(sentences), cases=cases)
