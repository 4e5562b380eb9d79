"""Function tokens by word list: the closed classes of English, the other way to draw the line than by frequency.

The classes that hardly gain new members: determiners, pronouns, prepositions, conjunctions, auxiliaries, particles
(Huddleston & Pullum 2002, The Cambridge Grammar of the English Language, chapters 3 to 7), and punctuation. Digits are
content. Tokens are matched as a tokenizer writes them: a word counts where it begins one (leading space) or begins a
sentence (capital letter), since "in" without a space is mostly a piece of another word.
"""

from __future__ import annotations

import unicodedata

CLASSES = {
    "determiners": "a an the this that these those my your his her its our their each every either neither some any no all "
    "both half such what which whose whatever whichever another enough several many much more most few fewer less little",
    "pronouns": "i me mine myself you yours yourself yourselves he him himself she hers herself it itself we us ours "
    "ourselves they them theirs themselves one oneself who whom whoever someone somebody something anyone anybody anything "
    "everyone everybody everything nobody nothing none there here where when why how",
    "prepositions": "about above across after against along alongside amid among around as at before behind below beneath "
    "beside besides between beyond by despite down during except for from in inside into like near of off on onto out "
    "outside over past per since through throughout till to toward towards under underneath until unto up upon via with "
    "within without",
    "conjunctions": "and or nor but yet so if unless because although though while whereas whether than lest once",
    "auxiliaries": "be am is are was were been being have has had having do does did doing done will would shall should can "
    "could may might must ought need dare used cannot",
    "particles": "not too also just only even still then thus hence however therefore very quite rather almost ever never "
    "again already else away back",
}
"""By class, its words in lower case."""

CLITICS = ("'s", "'t", "n't", "'re", "'ve", "'ll", "'d", "'m", "’s", "’t", "n’t", "’re", "’ve", "’ll", "’d", "’m")
"""What tokenizers split off a contraction; it has no leading space."""

_WORDS = frozenset(word for words in CLASSES.values() for word in words.split())


def is_closed_class(token: str) -> bool:
    """Whether a token, as decoded, is a closed-class word, a clitic, punctuation or a line break."""
    bare = token.strip()
    if not bare:
        return "\n" in token
    marks = (unicodedata.category(c) for c in bare)
    if all(mark[0] == "P" or mark in ("Sm", "Sc", "Sk") for mark in marks) or bare.lower() in CLITICS:
        return True
    begins = token[0].isspace() or token[0].isupper()
    return begins and bare.lower() in _WORDS
