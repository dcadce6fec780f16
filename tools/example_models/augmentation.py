"""Texts to train on, made from the training split: spans, mixes, noise, code, other spellings.

A text is a list of *parts*, each in one language, and *noise* around them that has none. The label
follows from the parts by the rules of ``tasks/language/prompt.md``.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from example_models.corpus import (
    LABEL_OF_LANGUAGE,
    LANGUAGE_NAMES,
    UNSPACED,
    Corpus,
    Sentence,
    bare,
)
from example_models.examples import CHARACTERS_PER_WORD, Example, Part, example_of
from example_models.noise import CODE_AROUND, CODE_ONLY, random_name, random_noise
from example_models.spelling import (
    ROMANISATIONS,
    romanise,
    script_of,
    spell_out_umlauts,
    strip_diacritics,
)

# Hard cases that hold no word of one language, where their label is `ot`.
_WORDLESS = ("numbers", "punctuation", "handles", "emoji", "names", "short")

# Hard cases whose label any two of their words have too.
_SPLITTABLE = ("other_latin", "other_script", "romanised", "urdu_arabic")


@dataclass(frozen=True)
class Augmenter:
    """Draws training texts; the same seed gives the same texts."""

    corpus: Corpus
    rng: random.Random
    recipes: dict[str, float] = field(
        default_factory=lambda: {
            "sentence": 0.36, "span": 0.19, "pair": 0.03, "untied": 0.08, "tied": 0.05,
            "around": 0.07, "named": 0.04, "code": 0.05, "plain": 0.04, "romanised": 0.03,
            "empty": 0.02, "case": 0.04,
        }
    )  # fmt: skip

    def draw(self) -> Example:
        """One text of a random kind."""
        makers: dict[str, Callable[[], Example]] = {
            "sentence": self._sentence, "span": self._span, "pair": self._pair,
            "untied": self._untied, "tied": self._tied, "around": self._around,
            "named": self._named, "code": self._code, "plain": self._plain,
            "romanised": self._romanised, "empty": self._empty, "case": self._case,
        }  # fmt: skip
        kind = self.rng.choices(list(self.recipes), weights=list(self.recipes.values()))[0]
        return makers[kind]()

    def originals(self) -> list[Example]:
        """Every line of the training split as it stands."""
        examples = [
            example_of(Part(text=sentence.text, language=code))
            for code, sentences in self.corpus.sentences.items()
            for sentence in sentences
        ]
        return examples + [self.of_case(case) for case in self.corpus.cases]

    def of_case(self, case: Sentence) -> Example:
        """A hard case: its label is known, its parts only where it has one language."""
        if case.label == "ot" and case.kind in _WORDLESS:
            what = "a name" if case.kind == "names" else "not a word of one language"
            return Example(text=case.text, label="ot", noise=((case.text, what),))
        language = case.label if case.label != "ot" else ""
        code = ""
        if case.kind == "code":
            code = "string" if '("' in case.text and '")' in case.text else "comment"
        return Example(
            text=case.text,
            label=case.label,
            parts=(Part(text=case.text, language=language),),
            code=code,
            kind=case.kind or "",
        )

    def _language(self, *, spaced: bool = False) -> str:
        codes = [code for code in LANGUAGE_NAMES if not (spaced and code in UNSPACED)]
        return self.rng.choice(codes)

    def _whole(self, language: str) -> Sentence:
        return self.rng.choice(self.corpus.sentences[language])

    def _words(self, language: str, count: int) -> str:
        """A span of ``count`` words (or as many characters as such words have) of a sentence."""
        while True:
            text = self._whole(language).text
            if language in UNSPACED:
                size = round(count * CHARACTERS_PER_WORD)
                start = self.rng.randint(0, max(0, len(text) - size))
                return text[start : start + size]
            words = text.split()
            if len(words) >= count or count > 8:
                start = self.rng.randint(0, max(0, len(words) - count))
                span = " ".join(words[start : start + count]).strip(" .,;:")
                # A dash between spaces is a "word" too; a part needs one with letters.
                if bare(span):
                    return span

    def _sentence(self) -> Example:
        language = self._language()
        return example_of(self._light(Part(text=self._whole(language).text, language=language)))

    def _light(self, part: Part) -> Part:
        """Small changes that change no label: case, final punctuation."""
        text, dice = part.text, self.rng.random()
        if dice < 0.10:
            text = text.lower()
        elif dice < 0.13:
            text = text.upper()
        elif dice < 0.23:
            text = text.rstrip(".!?。؟।۔")
        elif dice < 0.27:
            text += self.rng.choice(["!", "!!", "...", "?!"])
        elif dice < 0.30:
            text = f'"{text}"'
        return replace(part, text=text)

    def _span(self) -> Example:
        while True:
            language = self._language()
            count = self.rng.choice([1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7])
            text = self._words(language, count)
            latin = script_of(text) == "LATIN"
            known = [word for word in text.split() if not self.corpus.is_shared(word)]
            # One Latin word may be a name or belong to several languages: only telling words.
            if latin and (not known or (count == 1 and not self._tells(text, language))):
                continue
            return example_of(self._light(Part(text=text, language=language)))

    def _tells(self, word: str, language: str) -> bool:
        return self.corpus.telling_score(word, language) >= 2 and len(word) > 2

    def _pair(self) -> Example:
        language = self._language()
        texts = [self._whole(language).text for _ in range(self.rng.choice([2, 2, 3]))]
        return example_of(Part(text=" ".join(texts), language=language))

    def _mix(self, counts: list[int]) -> list[Part]:
        """Parts of different labels, with so many words each; only big counts may be unspaced."""
        labels: set[str] = set()
        parts: list[Part] = []
        for count in counts:
            while True:
                language = self._language(
                    spaced=len(set(counts)) == 1 or abs(max(counts) - count) in (1, 2)
                )
                # Half of the mixes are with English, as people mix.
                if self.rng.random() < 0.25:
                    language = "en"
                if LABEL_OF_LANGUAGE[language] not in labels:
                    break
            labels.add(LABEL_OF_LANGUAGE[language])
            parts.append(Part(text=self._words(language, count), language=language))
        return parts

    def _joined(self, parts: list[Part], label: str) -> Example:
        """The parts in a random order; the longest sometimes goes around the others."""
        order = parts[:]
        self.rng.shuffle(order)
        longest = max(parts, key=lambda part: part.count)
        words = longest.text.split()
        glue = self.rng.choice([" ", ", ", " - ", " / ", ". "])
        if len(parts) == 2 and len(words) > 3 and self.rng.random() < 0.4:
            cut = self.rng.randint(1, len(words) - 1)
            other = parts[0] if longest is parts[1] else parts[1]
            text = " ".join([*words[:cut], other.text, *words[cut:]])
        else:
            text = glue.join(part.text for part in order)
        return Example(text=text, label=label, parts=tuple(order))

    def _untied(self) -> Example:
        low = self.rng.choice([1, 2, 2, 3, 3, 4])
        high = low + self.rng.choice([1, 2, 2, 3, 3, 4, 5])
        counts = [high, low] if self.rng.random() < 0.8 else [high, low, self.rng.randint(1, low)]
        parts = self._mix(counts)
        top = max(parts, key=lambda part: part.count)
        tied = sum(part.count == top.count for part in parts) > 1
        return self._joined(parts, "ot" if tied else LABEL_OF_LANGUAGE[top.language])

    def _tied(self) -> Example:
        count = self.rng.choice([1, 2, 2, 2, 3, 3, 4, 5])
        parts = self._mix([count] * self.rng.choice([2, 2, 2, 3]))
        return self._joined(parts, "ot")

    def _around(self) -> Example:
        language = self._language()
        count = self.rng.choice([2, 3, 4, 5, 6, 20])
        core = Part(text=self._words(language, count), language=language)
        text = core.text
        noise = [random_noise(self.rng) for _ in range(self.rng.randint(1, 3))]
        for position, (token, _) in enumerate(noise):
            text = (
                f"{token} {text}" if (position + self.rng.randint(0, 1)) % 2 else f"{text} {token}"
            )
        return Example(
            text=text, label=LABEL_OF_LANGUAGE[language], parts=(core,), noise=tuple(noise)
        )

    def _named(self) -> Example:
        language = self._language(spaced=True)
        name = random_name(self.rng)
        part = Part(
            text=self._words(language, self.rng.choice([2, 3, 4, 5, 6, 20])), language=language
        )
        words = part.text.split()
        cut = self.rng.choice([0, 0, 0, len(words), self.rng.randint(0, len(words))])
        text = " ".join([*words[:cut], name, *words[cut:]])
        return Example(
            text=text, label=LABEL_OF_LANGUAGE[language], parts=(part,), noise=((name, "a name"),)
        )

    def _code(self) -> Example:
        if self.rng.random() < 0.2:
            text = self.rng.choice(CODE_ONLY)(self.rng)
            return Example(text=text, label="ot", code="bare")
        language = self._language()
        part = Part(
            text=self._words(language, self.rng.choice([2, 3, 4, 6, 20])), language=language
        )
        place, template = self.rng.choice(CODE_AROUND)
        text = template(self.rng).replace("TEXT", part.text.replace('"', ""))
        return Example(text=text, label=LABEL_OF_LANGUAGE[language], parts=(part,), code=place)

    def _plain(self) -> Example:
        language = self.rng.choice(["de", "de", "es", "fr", "tr", "vi", "vi"])
        text = self._words(language, self.rng.choice([3, 4, 5, 6, 20]))
        spell = (
            spell_out_umlauts if language == "de" and self.rng.random() < 0.6 else strip_diacritics
        )
        return example_of(Part(text=spell(text), language=language))

    def _romanised(self) -> Example:
        language = self.rng.choice(list(ROMANISATIONS))
        text = romanise(self._words(language, self.rng.choice([2, 3, 4, 5, 6, 20])), language)
        return Example(
            text=text, label="ot", parts=(Part(text=text, language=language, romanised=True),)
        )

    def _empty(self) -> Example:
        noise = [random_noise(self.rng) for _ in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.4:
            noise.append((random_name(self.rng), "a name"))
        text = " ".join(token for token, _ in noise)
        return Example(text=text, label="ot", noise=tuple(noise))

    def _case(self) -> Example:
        case = self.rng.choice(self.corpus.cases)
        words = case.words
        if case.kind in _SPLITTABLE and case.label == "ot" and self.rng.random() < 0.5:
            size = self.rng.randint(min(len(words), 2), len(words))
            start = self.rng.randint(0, len(words) - size)
            case = replace(case, text=" ".join(words[start : start + size]))
        return self.of_case(case)
