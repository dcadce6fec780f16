"""Other ways to write a text: its script's name, without diacritics, in Latin letters."""

import unicodedata

_CYRILLIC = dict(zip("абвгдезийклмнопрстуфыэіѝ", "abvgdeziyklmnoprstufyeii", strict=True)) | {
    "х": "kh", "ц": "ts", "ъ": "a", "ь": "", "ж": "zh", "ч": "ch", "ш": "sh", "щ": "shch",
    "ю": "yu", "я": "ya", "ё": "yo",
}  # fmt: skip
_GREEK = dict(zip("αβγδεζηικλμνξοπρστυφωςχ", "avgdeziiklmnxoprstyfosh", strict=True)) | {
    "ψ": "ps", "θ": "th",
}  # fmt: skip
_DEVANAGARI = {
    "अ": "a", "आ": "aa", "इ": "i", "ई": "ee", "उ": "u", "ऊ": "oo", "ए": "e", "ऐ": "ai", "ओ": "o",
    "औ": "au", "क": "k", "ख": "kh", "ग": "g", "घ": "gh", "च": "ch", "छ": "chh", "ज": "j",
    "झ": "jh", "ट": "t", "ठ": "th", "ड": "d", "ढ": "dh", "ण": "n", "त": "t", "थ": "th", "द": "d",
    "ध": "dh", "न": "n", "प": "p", "फ": "ph", "ब": "b", "भ": "bh", "म": "m", "य": "y", "र": "r",
    "ल": "l", "व": "v", "श": "sh", "ष": "sh", "स": "s", "ह": "h", "ा": "aa", "ि": "i", "ी": "ee",
    "ु": "u", "ू": "oo", "े": "e", "ै": "ai", "ो": "o", "ौ": "au", "ं": "n", "ँ": "n", "ः": "h",
    "्": "", "़": "", "ृ": "ri", "ॉ": "o", "।": ".",
}  # fmt: skip
_ARABIC = {
    "ا": "a", "أ": "a", "إ": "i", "آ": "aa", "ب": "b", "ت": "t", "ث": "th", "ج": "j", "ح": "h",
    "خ": "kh", "د": "d", "ذ": "dh", "ر": "r", "ز": "z", "س": "s", "ش": "sh", "ص": "s", "ض": "d",
    "ط": "t", "ظ": "z", "ع": "3", "غ": "gh", "ف": "f", "ق": "q", "ك": "k", "ل": "l", "م": "m",
    "ن": "n", "ه": "h", "ة": "a", "و": "u", "ي": "i", "ى": "a", "ء": "", "ئ": "i", "ؤ": "u",
    "پ": "p", "چ": "ch", "ژ": "zh", "گ": "g", "ک": "k", "ی": "i", "ے": "e", "ہ": "h", "ھ": "h",
    "ں": "n", "ٹ": "t", "ڈ": "d", "ڑ": "r", "؟": "?", "،": ",", "۔": ".", "؛": ";",
}  # fmt: skip

ROMANISATIONS = {"ru": _CYRILLIC, "el": _GREEK, "hi": _DEVANAGARI, "ar": _ARABIC, "ur": _ARABIC}
"""Language -> letter by letter into Latin; rough, as people type it in chats."""

_CONSONANTS = frozenset("कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह")


def script_of(text: str) -> str:
    """Name of the script of most letters, as Unicode's character names begin; "" for none."""
    counts: dict[str, int] = {}
    for character in text:
        if character.isalpha():
            name = unicodedata.name(character, "").split(" ")[0].split("-")[0]
            counts[name] = counts.get(name, 0) + 1
    if counts.keys() & {"HIRAGANA", "KATAKANA"}:
        return "KANA"
    return max(counts, key=counts.__getitem__, default="")


def romanise(text: str, language: str) -> str:
    """The text in Latin letters, roughly; short vowels that Arabic does not write are ``a``."""
    table = ROMANISATIONS[language]
    letters = list(text.lower())
    if language == "el":
        letters = list(strip_diacritics(text.lower()))
    out: list[str] = []
    for position, letter in enumerate(letters):
        out.append(table.get(letter, letter))
        following = letters[position + 1] if position + 1 < len(letters) else " "
        inherent = language == "hi" and letter in _CONSONANTS and following in _CONSONANTS
        bare_pair = language in ("ar", "ur") and letter.isalpha() and following in "بتجدرسلمنكقف"
        if inherent or (bare_pair and out[-1] and out[-1][-1] not in "aiu"):
            out.append("a")
    return "".join(out)


def strip_diacritics(text: str) -> str:
    """The text without accents and tone marks; đ, ı, ø and ß become plain letters too."""
    plain = "".join(
        character
        for character in unicodedata.normalize("NFD", text)
        if not unicodedata.combining(character)
    )
    table = str.maketrans({"đ": "d", "Đ": "D", "ı": "i", "ß": "ss", "œ": "oe", "æ": "ae"})
    return unicodedata.normalize("NFC", plain).translate(table)


def spell_out_umlauts(text: str) -> str:
    """German as typed on a keyboard without umlauts: ae, oe, ue, ss."""
    table = {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"}
    return text.translate(str.maketrans(table))
