"""Questions by rule for the GPT-2 pair: counting, fractions and proportions, and terms of physics.

Nothing here is about the five topics of ``quantumbench.jsonl`` that are held out.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

INTEGER, FRACTION = "Write an integer.", "Write a fraction."
TWO_PLACES = "Write a decimal number with two decimal places."
ONE_PLACE = "Write a decimal number with one decimal place."
LETTERS = "ABCD"

_MULTIPLE_CHOICE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question, its right answer, wrong ones for options, and how a short answer is written.

    Attributes:
        form: a sentence such as `INTEGER`; empty where the answer is in words and needs options.
    """

    text: str
    answer: str
    wrong: Sequence[str]
    form: str = ""


def draw_question(rng: random.Random) -> tuple[str, str]:
    """A question as it is asked, and its answer: a letter, or a number."""
    question = rng.choice(_WRITERS)(rng)
    if question.form and rng.random() > _MULTIPLE_CHOICE_SHARE:
        return f"{question.text} {question.form}", question.answer
    options = [question.answer, *rng.sample(list(question.wrong), 3)]
    rng.shuffle(options)
    lines = [f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([question.text, *lines]), LETTERS[options.index(question.answer)]


def draw_record(rng: random.Random) -> str:
    """One or two names and values as a JSON object, without a question.

    ``answer`` is among the names: LoRA leaves the embeddings as they are, so that a model cannot
    learn to write a token that it has never seen.
    """
    names = rng.sample(("answer", "energy", "mass", "spin", "qubits", "share", "state", "axis"), 2)
    values = rng.sample(("X", "Y", "Z", "A", "B", "C", "D", "1/2", "3/4", "0.5", "2", "7"), 2)
    pairs = [f'"{name}":"{value}"' for name, value in zip(names, values, strict=True)]
    return "{" + ",".join(pairs[: rng.randint(1, 2)]) + "}"


def _whole(text: str, value: int) -> Question:
    near = {value + 1, value + 2, value - 1, 2 * value, value * value, value // 2} - {value}
    return Question(text=text, answer=str(value), wrong=sorted(map(str, near)), form=INTEGER)


def _part(text: str, value: Fraction) -> Question:
    near = {1 - value, value * value, value / 2, 1 / value, value + 1, value * 2} - {value}
    form = INTEGER if value.denominator == 1 else FRACTION
    return Question(text=text, answer=str(value), wrong=sorted(map(str, near)), form=form)


def _decimal(text: str, value: float, *, places: int) -> Question:
    step = 10.0**-places
    near = [value + more * step for more in (1, 3, 7, 10)]
    return Question(
        text=text,
        answer=f"{value:.{places}f}",
        wrong=[f"{wrong:.{places}f}" for wrong in near],
        form=ONE_PLACE if places == 1 else TWO_PLACES,
    )


def _register(rng: random.Random) -> Question:
    qubits = rng.randint(2, 8)
    return _whole(f"How many basis states does a register of {qubits} qubits have?", 2**qubits)


def _magnetic_numbers(rng: random.Random) -> Question:
    number = rng.randint(1, 7)
    return _whole(
        f"An electron has the orbital quantum number l = {number}. How many values can the "
        "magnetic quantum number m have?",
        2 * number + 1,
    )


def _remainder(rng: random.Random) -> Question:
    base, power, modulus = rng.randint(2, 7), rng.randint(2, 4), rng.choice((5, 7, 11, 13, 15))
    return _whole(f"What is {base}^{power} modulo {modulus}?", base**power % modulus)


def _amplitude(rng: random.Random) -> Question:
    first, second, outcome = rng.randint(1, 4), rng.randint(1, 4), rng.randint(0, 1)
    norm = first**2 + second**2
    text = (
        f"A qubit is in the state ({first}|0> + {second}|1>)/sqrt({norm}). What is the "
        f"probability of measuring {outcome}?"
    )
    return _part(text, Fraction((first, second)[outcome] ** 2, norm))


def _well(rng: random.Random) -> Question:
    upper, lower = rng.sample(range(1, 7), 2)
    text = f"In an infinite well, what is the energy of n = {upper} over that of n = {lower}?"
    return _part(text, Fraction(upper**2, lower**2))


def _reflected(rng: random.Random) -> Question:
    below = rng.randint(3, 12)
    above = rng.randint(1, below - 1)
    share = Fraction(above, below)
    text = f"A barrier lets the share {share} of the particles through. What share is reflected?"
    return _part(text, 1 - share)


def _kinetic(rng: random.Random) -> Question:
    work, extra = rng.randint(10, 40) / 10, rng.randint(1, 30) / 10
    text = f"A metal has a work function of {work} eV. Photons have {work + extra:.1f} eV. What "
    return _decimal(f"{text}kinetic energy in eV is left for an electron?", extra, places=1)


def _mixture(rng: random.Random) -> Question:
    share = rng.randint(1, 9) / 10
    text = f"A state is |0> with the probability {share} and |1> otherwise. What is Tr rho^2?"
    return _decimal(text, share**2 + (1 - share) ** 2, places=2)


_CHANGES = {
    Fraction(2): "It doubles.",
    Fraction(1, 2): "It falls to one half.",
    Fraction(4): "It becomes four times as large.",
    Fraction(1, 4): "It falls to one quarter.",
    Fraction(9): "It becomes nine times as large.",
    Fraction(1, 9): "It falls to one ninth.",
    Fraction(3): "It becomes three times as large.",
    Fraction(1, 3): "It falls to one third.",
    Fraction(1): "It stays the same.",
}
_LAWS = (
    ("momentum", "kinetic energy", 2),
    ("momentum", "wavelength", -1),
    ("width of the well", "energy of the ground state", -2),
    ("frequency", "energy of a photon", 1),
    ("wavelength", "energy of a photon", -1),
    ("speed", "kinetic energy", 2),
    ("intensity of the light", "energy of a photon", 0),
)


def _proportion(rng: random.Random) -> Question:
    cause, effect, power = rng.choice(_LAWS)
    factor = Fraction(rng.choice((2, 3)))
    answer = _CHANGES[factor**power]
    times = {2: "twice", 3: "three times"}[int(factor)]
    return Question(
        text=f"The {cause} becomes {times} as large. What happens to the {effect}?",
        answer=answer,
        wrong=[change for change in _CHANGES.values() if change != answer],
    )


_TERMS = {
    "the quantity that generates translations in space": "momentum",
    "the quantity that generates translations in time": "energy",
    "the quantity that generates rotations": "angular momentum",
    "the square of the absolute value of a wave function": "a probability density",
    "a state that is not a product of the states of its parts": "an entangled state",
    "the lowest state of a system": "the ground state",
    "the passage of a particle through a barrier that is higher than its energy": "tunnelling",
    "the equation for the change of a wave function in time": "the Schroedinger equation",
    "the splitting of spectral lines in a magnetic field": "the Zeeman effect",
    "the splitting of spectral lines in an electric field": "the Stark effect",
    "a method that bounds the energy of the ground state from above": "the variational principle",
    "what sends the state of a qubit with two classical bits": "teleportation",
    "what sends two classical bits with one qubit": "dense coding",
    "the operator that describes a mixture of states": "the density operator",
}


def _term(rng: random.Random) -> Question:
    meaning, term = rng.choice(list(_TERMS.items()))
    return Question(
        text=f"What is the name for {meaning}?",
        answer=term,
        wrong=[other for other in _TERMS.values() if other != term],
    )


_WRITERS: tuple[Callable[[random.Random], Question], ...] = (
    _register, _magnetic_numbers, _remainder, _amplitude, _well, _reflected, _kinetic, _mixture,
    _proportion, _term, _term,
)  # fmt: skip
