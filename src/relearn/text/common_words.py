"""Small word lists for finding a person's name in an English question."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words of a line, for lists that read better without a quotation mark around each."""
    return frozenset(text.split())


LEADING = word_set(
    "what whats who whom whose where when why which how is are was were am do does did has have had can could "
    "will would shall should may might must in on at of for from by with to about as if given based besides "
    "despite since after before during while through regarding concerning considering according apart other "
    "than under among between tell describe explain list name give provide share mention discuss outline "
    "identify summarize summarise state recall elaborate show please imagine suppose let i the a an this that "
    "these those there it its his her their he she they my your our do and or but so also then now not no yes "
    "any some many most all both each every another"
)

TITLES = word_set("dr doctor mr mrs ms miss mx prof professor sir dame lord lady judge father sister rev reverend")

PARTICLES = word_set("de del della der den di da dos das du la le van von zu bin bint ibn al el ben y e af av ter ten")

PLACE_PREPOSITIONS = word_set("in at from near around across outside inside within into towards")

NEVER_IN_A_NAME = word_set(
    "award awards prize prizes medal university college school institute academy foundation festival st street "
    "avenue ave rd road boulevard blvd square city war wars literature fiction history literary genre society "
    "association company corporation inc ltd press museum library theatre theater hospital republic kingdom "
    "states league club party movement internet north south east west new united international national world "
    "civil series novels novel book books narratives writing inspired"
)

COMMON_CAPITALISED = word_set(
    "January February March April May June July August September October November December Monday Tuesday "
    "Wednesday Thursday Friday Saturday Sunday English French German Spanish Italian Russian Chinese Japanese "
    "Korean Arabic Hindi Portuguese American British Irish Scottish Welsh Canadian Australian African Asian "
    "European Indian Mexican Brazilian Turkish Dutch Swedish Norwegian Danish Finnish Polish Czech Greek "
    "Egyptian Nigerian Kenyan Ethiopian Iranian Iraqi Israeli Kuwaiti Bahraini Chilean Kazakhstani Jewish "
    "Christian Muslim Islamic Hindu Buddhist Catholic Middle Eastern Western Latin France Germany Spain Italy "
    "Russia China Japan Korea India Mexico Brazil Turkey Netherlands Sweden Norway Denmark Finland Poland "
    "Greece Egypt Nigeria Kenya Ethiopia Iran Iraq Israel Kuwait Bahrain Chile Kazakhstan Canada Australia "
    "Britain England Scotland Wales Ireland Europe Africa Asia America London Paris Berlin Rome Madrid Moscow "
    "Tokyo Beijing Seoul Christmas Easter God Email Internet I Lesbian Romance Medical Historical"
)

NOT_A_PERSON = frozenset(
    [
        *(
            "Star Wars",
            "New York",
            "Los Angeles",
            "San Francisco",
            "Hong Kong",
            "Buenos Aires",
            "Abu Dhabi",
            "Tel Aviv",
        ),
        *("New Delhi", "Cape Town", "Addis Ababa", "Rio de Janeiro", "Sri Lanka", "Saudi Arabia", "Costa Rica"),
        *("Puerto Rico", "Science Thrillers", "Nobel Peace", "Old Testament"),
    ]
)
