# SPDX-License-Identifier: Apache-2.0
"""Text that tokenizers stumble over, the same for the same seed.

No characters that Unicode 14 does not know: PCRE2 and Python of Debian 12 know
Unicode 14, PyPI's tokenizers knows 16, and what is a letter differs.
"""

import random
import unicodedata

WORD_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
CODE = (
    "def {a}({b}, {c}=None):\n    if {b} is None:\n        return {{'{c}': {n}}}\n    return {a}({b}[{n}:], {c})\n",
    "for (int {a} = 0; {a} < {n}; ++{a}) {{\n\t{b}[{a}] += 0x{n:x} * {c}->{b};\n}}\n",
    "#include <{a}.h>\nstatic const char* k{b} = \"{c}\\n\";  // {n}\n",
    "SELECT {a}, COUNT(*) FROM {b} WHERE {c} >= {n}.5e-3 GROUP BY {a};\r\n",
    "<div class=\"{a}\"><span id='{b}'>{c}&nbsp;{n}</span></div>\n\n",
)
EMOJI = [chr(c) for c in list(range(0x1F600, 0x1F64F)) + list(range(0x1F300, 0x1F330))]
JOINED = ["\U0001F468\u200D\U0001F469\u200D\U0001F467", "\U0001F1E9\U0001F1EA", "\u2764\uFE0F",
          "\U0001F44D\U0001F3FD", "1\uFE0F\u20E3"]
SCRIPTS = (
    (0x4E00, 0x9FA5), (0x3041, 0x3096), (0x30A1, 0x30FA), (0xAC00, 0xD7A3), (0x0410, 0x044F),
    (0x0391, 0x03A1), (0x0621, 0x064A), (0x0905, 0x0939), (0x0E01, 0x0E30), (0x05D0, 0x05EA),
)
COMBINED = ["e\u0301", "o\u0302\u0323", "A\u030A", "\u1100\u1161\u11A8", "\u0915\u093C", "n\u0303", "\u212B", "s\u0307\u0323"]
BLANKS = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00A0", "\u3000", "\u2003", "\u0085", "\u2028", " \t \t", "    ", "\u180E", "\u200B"]
ODD = ["'s", "'LL", "'re", "\u2019s", "_x_", "\u2581", "\u2581\u2581a", "<0x0A>", "\u00BD", "\u2167", "\u0663", "\u017Fx'\u017F",
       "<|endoftext|>", "<s>", "<unk>", "\uFFFD", "\x00", "\x7F", "\uFEFF", "...", "!!!???", "--", "$1,234.56", "\U00020000"]


def words(rng, count):
    return ["".join(rng.choices(WORD_LETTERS, k=min(12, 1 + int(rng.expovariate(0.25))))) for _ in range(count)]


class Corpus:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.words = words(self.rng, 4000)
        self.weights = [1 / (n + 2) for n in range(len(self.words))]

    def prose(self):
        picked = self.rng.choices(self.words, self.weights, k=60)
        for n in range(0, 60, 9):
            picked[n] = picked[n].capitalize()
        picked[7] += "'s"
        picked[20] += ","
        picked[40] = str(self.rng.randrange(10 ** self.rng.randrange(1, 9)))
        return " ".join(picked) + ".\n"

    def code(self):
        a, b, c = self.rng.choices(self.words, k=3)
        return self.rng.choice(CODE).format(a=a, b=b.capitalize(), c=c, n=self.rng.randrange(100000))

    def foreign(self):
        low, high = self.rng.choice(SCRIPTS)
        parts = []
        for _ in range(self.rng.randrange(1, 12)):
            length = self.rng.randrange(1, 9)
            parts.append("".join(chr(self.rng.randint(low, high)) for _ in range(length)))
        return self.rng.choice(["", " ", "\u3002", "\uFF0C"]).join(parts)

    def odd(self):
        pools = (EMOJI, JOINED, COMBINED, BLANKS, ODD, BLANKS)
        return "".join(self.rng.choice(self.rng.choice(pools)) for _ in range(self.rng.randrange(1, 20)))

    def run(self):
        return self.rng.choice([" ", "a", "\n", "=", "\u4E00", "\U0001F600", "ab", "0"]) * self.rng.randrange(1, 400)

    def random_bytes(self):
        text = self.rng.randbytes(self.rng.randrange(1, 120)).decode("utf-8", "replace")
        return "".join(c for c in text if unicodedata.category(c) != "Cn")

    def document(self, characters):
        kinds = (self.prose, self.code, self.foreign, self.odd, self.run, self.random_bytes)
        weights = (6, 10, 12, 8, 1, 4)
        parts, length = [], 0
        while length < characters:
            parts.append(self.rng.choices(kinds, weights)[0]())
            length += len(parts[-1])
        return "".join(parts)

    def documents(self, megabytes):
        """Texts of together at least so many megabytes of UTF-8."""
        out, size = [], 0
        while size < megabytes * 1_000_000:
            out.append(self.document(self.rng.choice([10, 100, 1000, 20000])))
            size += len(out[-1].encode())
        return out
