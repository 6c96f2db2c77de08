"""Languages by script and frequent words: what is told, what is left open, and what cannot hurt."""

import pytest

from routing.languages import languages_of, speaks

TOLD = {
    "en": ("What is the capital of France?", "Write a Python function that reverses the words of a text."),
    "de": (
        "Was ist der Unterschied zwischen einer Liste und einem Tupel?",
        "Wer hat das erfunden und warum?",
    ),
    "fr": (
        "Quelle est la capitale de la France et pourquoi?",
        "Comment fonctionne le moteur dans les avions?",
    ),
    "es": ("¿Cuál es la capital de los países del norte?", "¿Cómo se escribe una carta para el banco?"),
    "pt": ("Qual é a capital do Brasil e por que não é o Rio?", "Como você escreve uma carta para o banco?"),
    "it": (
        "Qual è la capitale della Francia e perché non è Lione?",
        "Come si scrive una lettera per il capo?",
    ),
    "nl": ("Wat is het verschil tussen een lijst en een tupel?", "Waarom is dat niet van hout?"),
    "sv": ("Vad är skillnaden mellan en lista och ett träd, och varför är det så?",),
    "pl": ("Jaka jest różnica, dlaczego nie ma jej na liście i co to jest?",),
    "tr": ("Bu nedir ve neden çok önemli bir konu?",),
    "ru": ("Почему трава зелёная и как это работает?",),
    "uk": ("Чому трава зелена і як це працює?",),
    "ar": ("ما هي عاصمة فرنسا ولماذا إلى هنا؟",),
    "fa": ("پایتخت فرانسه چیست؟",),
    "he": ("מהי בירת צרפת?",),
    "el": ("Ποια είναι η πρωτεύουσα της Γαλλίας;",),
    "zh": ("法国的首都是哪里？", "请用 Python 写一个函数"),
    "ja": ("フランスの首都はどこですか？", "日本語の質問です"),
    "ko": ("프랑스의 수도는 어디입니까?",),
    "hi": ("फ़्रांस की राजधानी क्या है?",),
    "vi": ("Thủ đô của Pháp là gì và những thành phố nào lớn?",),
    "th": ("เมืองหลวงของฝรั่งเศสคืออะไร",),
}


@pytest.mark.parametrize(("language", "text"), [(one, text) for one, texts in TOLD.items() for text in texts])
def test_a_language_is_told(language: str, text: str) -> None:
    found = languages_of(text)
    assert language in found
    assert found.isdisjoint(TOLD.keys() - {language})


@pytest.mark.parametrize(
    "text",
    ["", "   ", "12 * 7 =", "def f(x): return x", "```python\nfor x in the_list: print(x)\n```", "ok", "🙂🙂",
     "\x00\x01", "Berlin", "SELECT id FROM t WHERE a = 1", "a" * 100_000],
)  # fmt: skip
def test_what_does_not_tell_is_left_open(text: str) -> None:
    assert languages_of(text) == frozenset()


def test_a_quotation_does_not_make_the_language() -> None:
    english = languages_of("What does the word なぜ mean, and how is it written?")
    assert english & TOLD.keys() == {"en"}
    german = languages_of("Translate 'the cat is on the table' bitte: wie ist das und warum nicht ein Hund?")
    assert german & TOLD.keys() == {"de"}


def test_the_script_narrows_where_words_do_not() -> None:
    for text in ("кот", "Что такое любовь?"):
        found = languages_of(text)
        assert found >= {"ru", "uk", "bg", "sr", "mk", "be", "kk"}
        assert found.isdisjoint({"en", "el", "ar", "zh"})


def test_who_says_nothing_speaks_all_and_what_is_open_is_for_all() -> None:
    german = frozenset({"de"})
    assert speaks((), german)
    assert speaks(("en",), frozenset())
    assert speaks(("en", "de"), german)
    assert not speaks(("en",), german)


# Languages that share script and frequent words with one that is told.
ALIKE = (
    ("ur", "یہ کتاب کہاں ہے اور اس کی قیمت کیا ہے؟"),
    ("kk", "Бұл қалада не бар және ол қай жерде?"),
    ("be", "Чаму гэта мова такая і як яе вывучыць?"),
    ("mk", "Кој е најголемиот град и зошто не е на море?"),
    ("sr", "Који је највећи град и зашто није на мору?"),
    ("no", "Hvorfor er det så kaldt, og hva kan jeg gjøre med det?"),
    ("sk", "Prečo je to tak a kto to povedal, ako sa to píše?"),
    ("hr", "Zašto je to tako i kako se to piše, a tko to zna?"),
    ("ca", "Com es diu el poble que no té mar, i per què el vent hi és fort?"),
    ("ms", "Mengapa air itu biru dan siapa yang tinggal di sana?"),
    ("af", "Wat is die hoofstad van Namibië en hoe ver is dit van die see?"),
    ("ja", "東京都人口"),
    ("xyz", "What is the capital of France?"),
)


@pytest.mark.parametrize(("language", "text"), ALIKE)
def test_nobody_is_refused_the_own_language(language: str, text: str) -> None:
    assert speaks((language,), languages_of(text))


@pytest.mark.parametrize(
    ("language", "text"),
    [("en", one) for one in dict(ALIKE[:-1]).values()]
    + [
        ("fa", ALIKE[0][1]),
        ("uk", ALIKE[1][1]),
        ("ru", ALIKE[2][1]),
        ("uk", ALIKE[3][1]),
        ("bg", ALIKE[4][1]),
    ]
    + [("no", "法国的首都是哪里？"), ("sk", "Чому трава зелена?"), ("be", "ما هي عاصمة فرنسا؟")]
    + [("uk", "Кто это был, ты знаешь?"), ("ru", "Чи є тут хтось?"), ("ar", "پایتخت فرانسه چیست؟")],
)
def test_who_surely_lacks_the_language_is_refused(language: str, text: str) -> None:
    assert not speaks((language,), languages_of(text))


def test_letters_that_contradict_each_other_leave_the_script_open() -> None:
    found = languages_of("Що означає слово «был»?")
    assert found >= {"ru", "uk"}
