"""Which language a text is in, as far as its script and its most frequent words tell. Pure.

A script that one language uses says it at once; within a script that several use, words that hardly any text
is without. What remains open is said openly: all languages that it may be, or none where nothing is known.
What nothing here tells from the other languages of its script is not ruled out there, and a language that is
not in the table never. Cheap on purpose: it is asked of every request of a route on which models speak some
languages only.
"""

import re
from collections import Counter
from collections.abc import Iterable

_CHARS = 600  # of the text, from its beginning, in which it is seen
_LEAST_WORDS = 2  # known words that tell a language
_SEEN = 0.2  # of the letters: less in a script is a quotation

# The first letter behind a script, and what is written in it.
_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0370, 0x03FF, "greek"), (0x1F00, 0x1FFF, "greek"), (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "armenian"), (0x0590, 0x05FF, "hebrew"), (0x0600, 0x06FF, "arabic"),
    (0x0750, 0x077F, "arabic"), (0xFB50, 0xFDFF, "arabic"), (0xFE70, 0xFEFF, "arabic"),
    (0x0900, 0x097F, "devanagari"), (0x0980, 0x09FF, "bengali"), (0x0A00, 0x0A7F, "gurmukhi"),
    (0x0A80, 0x0AFF, "gujarati"), (0x0B80, 0x0BFF, "tamil"), (0x0C00, 0x0C7F, "telugu"),
    (0x0C80, 0x0CFF, "kannada"), (0x0D00, 0x0D7F, "malayalam"), (0x0D80, 0x0DFF, "sinhala"),
    (0x0E00, 0x0E7F, "thai"), (0x0E80, 0x0EFF, "lao"), (0x1000, 0x109F, "burmese"),
    (0x10A0, 0x10FF, "georgian"), (0x1E00, 0x1EFF, "latin"), (0x1100, 0x11FF, "hangul"),
    (0x1200, 0x137F, "ethiopic"),
    (0x1780, 0x17FF, "khmer"), (0x3040, 0x30FF, "kana"), (0x3130, 0x318F, "hangul"),
    (0x3400, 0x4DBF, "han"), (0x4E00, 0x9FFF, "han"), (0xAC00, 0xD7AF, "hangul"),
)  # fmt: skip
_WRITTEN: dict[str, frozenset[str]] = {
    script: frozenset(languages.split())
    for script, languages in {
        "latin": "en de fr es pt it nl sv da pl cs tr fi hu ro id vi af bs ca cy eo et eu fo fy ga gd gl ha"
                 " hr ht is ig la lb lt lv mg mi ms mt nb nn no oc rm rw sk sl sm sn so sq sr st su sw jv tk"
                 " tl tn to ts wo xh yo zu",
        "greek": "el", "cyrillic": "ru uk bg sr mk be kk", "armenian": "hy", "hebrew": "he yi",
        "arabic": "ar fa ur pa", "devanagari": "hi mr ne", "bengali": "bn as", "gurmukhi": "pa",
        "gujarati": "gu", "tamil": "ta", "telugu": "te", "kannada": "kn", "malayalam": "ml",
        "sinhala": "si", "thai": "th", "lao": "lo", "burmese": "my", "georgian": "ka", "hangul": "ko",
        "ethiopic": "am ti", "khmer": "km", "kana": "ja", "han": "zh ja",
    }.items()
}  # fmt: skip
_LETTERS: tuple[tuple[str, str, frozenset[str]], ...] = tuple(
    (script, letters, frozenset(languages.split()))
    for script, letters, languages in (  # letters, and the languages that are written without them
        ("cyrillic", "ыэё", "uk bg sr mk"), ("cyrillic", "і", "ru bg sr mk"),
        ("cyrillic", "їє", "ru bg sr mk be kk"), ("cyrillic", "ў", "ru uk bg sr mk kk"),
        ("cyrillic", "ђћ", "ru uk bg mk be kk"), ("cyrillic", "ѓќѕ", "ru uk bg sr be kk"),
        ("cyrillic", "џљњј", "ru uk bg be kk"), ("cyrillic", "әғқңөұүһ", "ru uk bg sr mk be"),
        ("arabic", "پچژگ", "ar"), ("arabic", "ٹڈڑےں", "ar fa"), ("arabic", "ةىإ", "fa ur pa"),
        ("han", "你您们們这這吗嗎么麼请说为哪吧给对让谁怎", "ja"),
    )
)  # fmt: skip
# Words that are frequent in one language and (nearly) no words of the others.
_WORDS: dict[str, str] = {
    "en": "the is are was what how why which who when and of that this with for you write does please can"
    " it be have not from there",
    "de": "der das die und ist nicht ein eine ich wie wer warum welche zu mit für auf sind den dem bitte"
    " kann wird wurde",
    "fr": "le les est et une des du pour dans que qui quel quelle comment pourquoi vous avec sur je pas au"
    " ce sont",
    "es": "el los las es y una por para qué cómo cuál quién con del que se está son porque más puede",
    "pt": "o os as é e uma não para por que com do da em como qual quem são porque mais você dos",
    "it": "il lo gli è e una per di che con non come quale chi perché sono della nel del più può",
    "nl": "de het een en is niet van dat voor met zijn hoe wat waarom welke wie ik je op te",
    "sv": "och det är en ett inte att som för på med hur vad varför jag du vilken av den",
    "da": "og det er en et ikke at som for på med hvordan hvad hvorfor jeg du hvilken af den",
    "pl": "i w nie na jest się że do z jak co dlaczego który czy są to dla po",
    "cs": "a je se na že to jak co proč který v s z pro není jsou by",
    "tr": "ve bir bu için ne nasıl neden mi ile de da çok var olan hangi nedir",
    "fi": "ja on ei se että mikä miten miksi kuka ovat oli mutta tämä mitä kuinka",
    "hu": "a az és nem egy hogy mi miért hogyan van meg ez ki melyik volt",
    "ro": "și este nu un o de la cu pe care ce cum în sunt din pentru",
    "id": "yang dan di itu dengan untuk tidak dari ini apa bagaimana mengapa adalah ke siapa",
    "vi": "là và của không có cho một các được trong những này như người gì",
    "ru": "и в не на что как это с по я почему который где",
    "uk": "і в не на що як це з чому який де та",
    "bg": "и в не на какво как това е защо кой къде са ще",
}
_KNOWN = frozenset[str]().union(*_WRITTEN.values())
_BY_WORD: dict[str, tuple[str, ...]] = {}
for _language, _list in _WORDS.items():
    for _word in _list.split():
        _BY_WORD[_word] = (*_BY_WORD.get(_word, ()), _language)
_TOKEN = re.compile(r"[^\W\d_]+")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


def languages_of(text: str) -> frozenset[str]:
    """Give the languages (ISO 639-1) that a text may be in; none where it does not tell."""
    text = _CODE.sub(" ", text[:_CHARS]).lower()
    scripts = _scripts(text)
    if not scripts:
        return frozenset()
    script, _ = scripts.most_common(1)[0]
    if script == "kana" or (script == "han" and scripts["kana"]):
        return _WRITTEN["kana"]
    possible = _WRITTEN[script]
    lacking = (lack for of, letters, lack in _LETTERS if of == script and any(one in text for one in letters))
    possible = possible.difference(*lacking) or possible
    told = _by_words(text, possible)
    if told:
        return told | (possible - _WORDS.keys())
    return frozenset() if script == "latin" else possible


def speaks(spoken: Iterable[str], asked: frozenset[str]) -> bool:
    """Tell whether who speaks some languages may be asked in one of those; so may who says nothing of it."""
    spoken = frozenset(spoken)
    return not spoken or not asked or not spoken.isdisjoint(asked) or not spoken <= _KNOWN


def _scripts(text: str) -> "Counter[str]":
    """Count the letters of each script; those of few letters beside another are left out."""
    counts: Counter[str] = Counter()
    if text.isascii():
        return Counter({"latin": 1}) if _TOKEN.search(text) else counts
    for letter in text:
        if letter.isalpha():
            counts["latin" if letter < "\u0370" else _script(ord(letter))] += 1
    del counts[""]
    total = sum(counts.values())
    # A few foreign letters among Latin ones are the question's own, as in "what does なぜ mean?".
    return Counter({one: count for one, count in counts.items() if count >= _SEEN * total})


def _script(code: int) -> str:
    return next((name for low, high, name in _RANGES if low <= code <= high), "")


def _by_words(text: str, possible: frozenset[str]) -> frozenset[str]:
    """Give the language most of whose words stand in a text, or those that share the lead."""
    found: Counter[str] = Counter()
    for token in _TOKEN.findall(text):
        for language in _BY_WORD.get(token, ()):
            if language in possible:
                found[language] += 1
    if not found:
        return frozenset()
    most = max(found.values())
    if most < _LEAST_WORDS:
        return frozenset()
    return frozenset(language for language, count in found.items() if count == most)
