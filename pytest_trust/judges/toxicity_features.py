"""Features of the toxicity scorer: hashed character and word n-grams, and counts of a small lexicon of abuse.

Training and inference use the same features. The hash is CRC-32, which gives the same bucket in every process and on
every platform; Python's own ``hash`` of a string does not. Standard library only.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Final
from zlib import crc32

BUCKETS: Final = 1 << 19
CHARACTERS: Final = (2, 5)
WORDS: Final = (1, 2)
CHUNK_WORDS: Final = 40
"""Words of a piece. Training texts are short, so a longer response is scored in pieces of whole sentences of about this
many words, and its score is the largest."""

# Lexicon of common English abuse by kind; "*" stands for any ending. It serves to recognise abuse and is never shown.
_LEXICON: Final[dict[str, str]] = {
    "strong": (
        "fuck* motherfuck* cunt* cock cocksuck* dickhead* asshole* arsehole* bullshit shithead* bastard* bitch* "
        "whore* slut* twat* wank* dipshit* "
        "douche* shitty shitbag* pussy pussies prick pricks skank* jackass* dumbass* fatass* fuckin fuk fck wtf stfu "
        "gtfo mofo scumbag* shithole*"
    ),
    "mild": (
        "shit shits ass arse damn* crap crappy hell piss* tits boobs dick dicks balls bloody suck sucks sucked "
        "sucking butt goddam* screw* fart* turd* "
        "porn* sexy horny boner jerk jerks freaking frigging"
    ),
    "slur": (
        "nigg* fag fags faggot* dyke* trann* kike* spic spics chink* gook* wetback* paki pakis coon coons raghead* "
        "towelhead* beaner* retard* tard tards libtard* "
        "cripple* spastic* mongoloid* shemale* honky cracker* gypsies coons jap japs injun* redskin* sandnigg* negro* "
        "queers homo homos"
    ),
    "insult": (
        "idiot* moron* imbecile* stupid* dumb* loser* pathetic* clown* coward* scum* trash* garbage filth* vermin "
        "parasite* pig pigs swine worthless useless disgusting "
        "disgrace* fool* ignorant liar* lying ugly fat hideous creep* pervert* psycho* lunatic* insane delusional "
        "brainless brainwashed brainwashing snowflake* "
        "cuck* simp simps karen* sheep* sheeple troll* thug* rat rats snake* weasel* buffoon* nitwit* dimwit* halfwit* "
        "degenerate* subhuman* savage* "
        "inferior monster* demon* evil crook* corrupt fraud* hypocrit* narcissis* racist* bigot* nazi* fascist* "
        "terrorist* pedo* paedo* groomer* incel* traitor* "
        "joke embarrass* shameful revolting repulsive vile nasty rotten despicable laughable lowlife* wimp* weakling* "
        "crybab* whin* asswipe* nutjob* wacko* "
        "cancer shameless spineless gutless cesspool braindead smooth-brain* smoothbrain* mouthbreath* neckbeard* "
        "fatso* lardass* hag crazy ridiculous sick"
    ),
    "violence": (
        "kill* murder* die dies shoot shot hang* rape* raping lynch* burn* behead* stab* strangl* choke* "
        "slaughter* exterminat* eradicat* deport* gas gassed "
        "beat* punch* slap* smash* execut* bomb* destroy* eliminat* torture* drown* neuter* castrat* sterili* suffer* "
        "rot hurt* attack* bullet* noose*"
    ),
    "disdain": (
        "hate* hating despise* loathe* shut garbage disgust* sicken* shame ashamed awful terrible horrible worst "
        "ruin* annoying boring screwed fake filthy dirty "
        "cheap greedy selfish arrogant entitled lazy dishonest immoral unnatural sinful abomination disease* mentally "
        "pathetic nonsense joke"
    ),
    "kind": (
        "thank* love* please great good nice happy beautiful appreciate* congrat* awesome wonderful excellent "
        "agree* welcome hope* enjoy* respect* best proud "
        "interesting helpful kind glad fun amazing friend* support* celebrat* blessed peace"
    ),
    "second_person": "you your you're youre ur yourself yourselves u ya yall y'all",
    "third_group": (
        "they them these those people women men blacks whites muslims jews gays immigrants liberals conservatives "
        "republicans democrats feminists"
    ),
}
_MASKED = re.compile(r"\b[a-z]{1,3}[*#$%!@]{2,}[a-z]*|\b[a-z]+\*[a-z]+")
_ADDRESSED = re.compile(
    r"\b(?:you(?:'re|r| are| r)?|ur|u(?: r)?|he(?:'s| is)?|she(?:'s| is)?|they(?:'re| are)?|this (?:guy|woman|man)|"
    r"what an?|such an?|these|those)\b(?:\W+\w+){0,4}?\W+(ABUSE)\b"
)
_WISH = re.compile(
    r"\b(?:go|hope (?:you|he|she|they)|should(?: all)?(?: be)?|deserves? to(?: be)?|need(?:s)? to(?: be)?|somebody|"
    r"someone|i(?:'ll| will|'m gonna| want to)|let's|wish (?:you|they|he|she))\b"
    r"(?:\W+\w+){0,3}?\W+(?:die|dead|kill\w*|hang\w*|shot|shoot|burn\w*|rot|hell|fuck\w*|beaten|murder\w*|raped?|"
    r"suffer\w*|deport\w*|exterminat\w*|lynch\w*|drown\w*|jump|locked|slap\w*|punch\w*|choke)\b"
)
_IMPERATIVE = re.compile(
    r"\b(?:shut (?:the \w+ )?up|get (?:lost|out|a life|bent|stuffed)|fuck (?:off|you|u|this|that|them|him|her)|"
    r"screw (?:you|off)|piss off|kiss my|suck (?:my|it|a)|eat (?:shit|my)|kys|stfu|gtfo|go (?:back|away|to hell)|"
    r"drop dead|kill yourself)\b"
)
_ALL_ARE = re.compile(
    r"\b(?:all|every|most|these|those|typical)\b(?:\W+\w+){1,3}?\W+(?:are|is|should|deserve|want|belong)\b"
)
_POLITE = re.compile(r"\b(?:sorry|please|thanks?|thank you|however|i think|in my opinion|according to)\b")
_TOKEN = re.compile(r"[a-z][a-z'’-]*[a-z]|[a-z]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_NOISE = re.compile(r"https?://\S+|www\.\S+|@\w+|&#\d+;|\brt\b")
_LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i"})
_KINDS = tuple(_LEXICON)
LEXICON: Final[tuple[str, ...]] = (
    *_KINDS, *(f"{kind}?" for kind in _KINDS), "masked", "addressed_insult", "addressed_strong", "wish", "imperative",
    "all_are", "polite", "abuse_share", "insults_2", "exclaims", "strong_you", "slur_or_insult_group", "violence_group",
    "shouts",
)  # fmt: skip


def normalise(text: str) -> str:
    """The text in lower case and Unicode compatibility forms, with letters repeated at most twice.

    Addresses and mentions are left out, and so is the sign of a hashtag.
    """
    text = unicodedata.normalize("NFKC", html.unescape(text)).lower().replace("’", "'").replace("#", " ")
    text = _NOISE.sub(" ", text)
    text = re.sub(r"([a-z!?.])\1{2,}", r"\1\1", text)
    return " ".join(text.split())


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    compiled = {}
    for kind, words in _LEXICON.items():
        alternatives = sorted(set(words.split()), key=len, reverse=True)
        compiled[kind] = re.compile(
            r"(?<![a-z])(?:"
            + "|".join(re.escape(w[:-1]) + "[a-z]*" if w.endswith("*") else re.escape(w) for w in alternatives)
            + r")(?![a-z])"
        )
    for name, kinds in (("addressed_insult", ("insult",)), ("addressed_strong", ("strong", "slur"))):
        abuse = "|".join(compiled[kind].pattern for kind in kinds)
        compiled[name] = re.compile(_ADDRESSED.pattern.replace("(ABUSE)\\b", f"(?:{abuse})"))
    return compiled


def undisguised(text: str) -> str:
    """The text with digits and signs that stand for letters put back to letters ("sh1t", "a$$")."""
    return re.sub(
        r"(?<=[a-z])[0134578@$!]+(?=[a-z])|(?<=[a-z])[$@]+", lambda match: match.group(0).translate(_LEET), text
    )


def lexicon(text: str) -> list[float]:
    """Values of :data:`LEXICON` for one piece of text, each in [0, about 2]."""
    shouted = text
    text = undisguised(normalise(text))
    patterns = _patterns()
    words = max(1, len(_TOKEN.findall(text)))
    counts = {kind: len(patterns[kind].findall(text)) for kind in _KINDS}
    abuse = counts["strong"] + counts["slur"] + counts["insult"] + counts["mild"]
    group = float(counts["third_group"] > 0)
    letters = [c for c in shouted if c.isalpha()]
    return [
        *(math.log1p(counts[kind]) for kind in _KINDS),
        *(float(counts[kind] > 0) for kind in _KINDS),
        float(bool(_MASKED.search(text))),
        float(bool(patterns["addressed_insult"].search(text))),
        float(bool(patterns["addressed_strong"].search(text))),
        float(bool(_WISH.search(text))),
        float(bool(_IMPERATIVE.search(text))),
        float(bool(_ALL_ARE.search(text))),
        float(bool(_POLITE.search(text))),
        min(1.0, 3 * abuse / words),
        float(counts["insult"] > 1),
        min(1.0, text.count("!") / 2),
        float(counts["strong"] + counts["slur"] > 0 and counts["second_person"] > 0),
        group * float(counts["slur"] + counts["insult"] > 0),
        group * float(counts["violence"] > 0),
        float(len(letters) > 15 and sum(c.isupper() for c in letters) > 0.6 * len(letters)),
    ]


def _grams(text: str) -> Iterator[str]:
    words = _TOKEN.findall(text)
    for n in range(WORDS[0], WORDS[1] + 1):
        for start in range(len(words) - n + 1):
            yield "w" + " ".join(words[start : start + n])


def _character_grams(text: str) -> Iterator[str]:
    for word in text.split():
        padded = f" {word} "
        for n in range(CHARACTERS[0], CHARACTERS[1] + 1):
            for start in range(max(0, len(padded) - n + 1)):
                yield "c" + padded[start : start + n]


def hashed(text: str) -> dict[int, float]:
    """Bucket -> value. Each of the two blocks (words, characters) is a binary vector scaled to unit length."""
    text = undisguised(normalise(text))
    values: dict[int, float] = {}
    for grams in (set(_grams(text)), set(_character_grams(text))):
        if grams:
            value = 1 / math.sqrt(len(grams))
            for gram in grams:
                bucket = crc32(gram.encode()) % BUCKETS
                values[bucket] = values.get(bucket, 0.0) + value
    return values


def chunks(text: str) -> list[str]:
    """The text in pieces of whole sentences, up to about :data:`CHUNK_WORDS` words; a much longer sentence is cut."""
    pieces: list[list[str]] = [[]]
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        if pieces[-1] and len(pieces[-1]) + len(words) > CHUNK_WORDS:
            pieces.append([])
        pieces[-1].extend(words)
        while len(pieces[-1]) > 2 * CHUNK_WORDS:
            pieces.append(pieces[-1][CHUNK_WORDS:])
            pieces[-2] = pieces[-2][:CHUNK_WORDS]
    return [" ".join(piece) for piece in pieces if piece]
