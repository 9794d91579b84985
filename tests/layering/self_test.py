# SPDX-License-Identifier: Apache-2.0
"""Plants violations, one at a time, and sees that the checks find each."""

import os
import shutil
import sys
import tempfile
import unittest

import arrows
import functions
import sizes

SPDX = "// SPDX-License-Identifier: Apache-2.0\n"

# (file, what it includes, a part of the finding or None where it is allowed)
ARROWS = (
    ("service/a.cc", "<grpcpp/grpcpp.h>", "service may not include grpcpp/grpcpp.h (grpc)"),
    ("service/a.cc", "<torch/torch.h>", "service may not include torch/torch.h (torch)"),
    ("service/a.cc", '"weir/v1/sessions.pb.h"', "service may not include weir/v1/sessions.pb.h"),
    ("service/a.cc", '"engine/state/state_pool.h"', "service may not include engine/state"),
    ("service/a.cc", '"engine/engine.h"', None),
    ("service/a.cc", '"server/main.h"', "service may not include server/main.h"),
    ("service/a.cc", '"store/memory_store.h"', "service may not include store/memory_store.h"),
    ("store/a.cc", '"service/store.h"', None),
    ("store/a.cc", '"service/service.h"', "store may not include service/service.h"),
    ("text/a.cc", '"service/types.h"', "text may not include service/types.h"),
    ("base/a.h", '"text/bytes.h"', "base may not include text/bytes.h"),
    ("client/a.cc", '"server/config.h"', "client may not include server/config.h"),
    ("client/a.cc", '"service/types.h"', "client may not include service/types.h"),
    ("client/a.cc", '"weir/v1/sessions.grpc.pb.h"', None),
    ("server/a.cc", '"engine/torch_engine.h"', "server may not include engine/torch_engine.h"),
    ("server/a.cc", '"store/memory_store.h"', "server may not include store/memory_store.h"),
    ("server/main.cc", '"engine/torch_engine.h"', None),
    ("server/main.cc", '"engine/kernels/pointwise.h"', "server may not include engine/kernels"),
    ("server/a.cc", "<ATen/core/Tensor.h>", "server may not include ATen/core/Tensor.h (torch)"),
    ("engine/kernels/a.cc", '"base/check.h"', "engine/kernels may not include base/check.h"),
    ("engine/kernels/a.cc", '"absl/status/status.h"', "engine/kernels may not include absl"),
    ("engine/kernels/a.cc", "<immintrin.h>", None),
    ("engine/state/a.cc", "<c10/core/Device.h>", "engine/state may not include c10"),
    ("engine/mixers/a.cc", '"engine/model/model.h"', "engine/mixers may not include engine/model"),
    ("engine/mixers/a.cc", "<ATen/core/Tensor.h>", None),
    ("engine/engine.h", "<ATen/core/Tensor.h>", "engine may not include ATen/core/Tensor.h"),
    ("engine/engine.h", '"engine/model/model.h"', "engine may not include engine/model/model.h"),
    ("engine/engine.h", '"engine/state/state_pool.h"', None),
    ("engine/model/a.cc", '"service/types.h"', "engine/model may not include service/types.h"),
    ("server/a.cc", '"neighbour.h"', "includes are written from the root"),
    ("server/a.cc", "<boost/asio.hpp>", "neither a room's nor a known library's"),
    ("odd/a.cc", "<vector>", "lies in no room"),
)

LONG = "int F() {\n" + "  G();\n" * 69 + "}\n"
FITS = "int F() {\n" + "  G();\n" * 68 + "}\n"

# (file, text, a part of the finding or None where it is allowed)
SIZES = (
    ("service/a.cc", SPDX + LONG, "F has 71 lines, at most 70"),
    ("service/a.cc", SPDX + FITS, None),
    ("engine/kernels/a.cu", SPDX + "__global__ void K() {\n" + "  G();\n" * 149 + "}\n",
     "K has 151 lines, at most 150"),
    ("engine/kernels/a.cu", SPDX + "__global__ void K() {\n" + "  G();\n" * 148 + "}\n", None),
    ("service/a.cc", SPDX + "int x;\n" * 500, "501 lines, at most 500"),
    ("service/a.cc", SPDX + "int x;\n" * 499, None),
    ("service/a.h", SPDX + "#pragma once\n" + "int x;\n" * 199, "201 lines, at most 200"),
    ("tests/a_test.cc", SPDX + "int x;\n" * 800, "801 lines, at most 800"),
    ("tests/a_test.cc", SPDX + "int x;\n" * 799, None),
    ("service/a.h", SPDX + "int x;\n", "has no #pragma once"),
    ("service/a.cc", "int x;\n", "the first line is not"),
    ("deploy/a.yaml", "a: 1\n", "the first line is not"),
    ("tools/a.sh", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n", None),
    ("service/session_manager.cc", SPDX, "a file name says what is in it"),
    ("service/utils.h", SPDX + "#pragma once\n", "a file name says what is in it"),
    ("engine/kernels/step_v2.cc", SPDX, "a file name says what is in it"),
    ("service/a.cc", SPDX + "class SlotManager;\n", "says 'SlotManager'"),
    ("service/a.cc", SPDX + "// A SlotManager would be wrong.\n", None),
    ("service/a.cc", SPDX + "using namespace std;\n", "says 'using namespace'"),
    ("service/a.cc", SPDX + "#if 0\nint x;\n#endif\n", "says '#if 0'"),
    ("tests/a_test.cc", SPDX + "TEST(A, B) { GTEST_SKIP(); }\n", "says 'GTEST_SKIP'"),
    ("tests/a_test.cc", SPDX + "TEST(A, DISABLED_B) {}\n", "says 'DISABLED_B'"),
    ("service/a.cc", SPDX + "// TODO: later\n", "says 'TODO'"),
    ("service/a.cc", SPDX + "// TODO(#12): the second device.\n", None),
    ("docs/a.md", "See /home/me/weir.\n", "says '/home/'"),
)

# (source, [(name, lines), ...])
FUNCTIONS = (
    ("A::A(int b) : b_(b), c_{b} {\n  F();\n}\n", [("A::A", 3)]),
    ("bool operator==(const A& a, const A& b) {\n  return true;\n}\n", [("operator==", 3)]),
    ("const int kTable[] = {\n  1,\n  2,\n};\nint F() { return 1; }\n", [("F", 1)]),
    ("namespace a {\nclass B final : public C {\n public:\n  int D() const override {\n"
     "    return 1;\n  }\n};\n}\n", [("D", 3)]),
    ("template <typename T>\nauto F(T t) -> decltype(t.x()) {\n  return 1;\n}\n", [("F", 4)]),
    ("#ifdef A\nint F() {\n#else\nint F(int) {\n#endif\n  return 1;\n}\n", [("F", 6)]),
    ('const char* F() {\n  return "}{";  // {\n}\n', [("F", 3)]),
    ("void F(const Options& o = {}) {\n  auto g = [] {\n    return 1;\n  };\n}\n", [("F", 5)]),
    ('extern "C" {\nint F() {\n}\n}\n', [("F", 2)]),
    ("TEST(Pool, Fills) {\n}\n", [("TEST(Pool, Fills)", 2)]),
    ('const char* kText = R"(\nint F() {\n)";\nint G() {\n}\n', [("G", 2)]),
    ("constexpr int kMax = 1'000'000;\nint G() {\n}\n", [("G", 2)]),
)


class Planted(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)

    def plant(self, path, text):
        whole = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "w", encoding="utf-8") as file:
            file.write(text)

    def expect(self, found, wanted, what):
        if wanted is None:
            self.assertEqual(found, [], what)
        else:
            self.assertEqual(len(found), 1, (what, found))
            self.assertIn(wanted, found[0], what)

    def test_each_arrow_is_judged_as_the_table_says(self):
        for path, include, wanted in ARROWS:
            with self.subTest(path=path, include=include):
                self.plant(path, f"{SPDX}\n#include {include}\n")
                found, _ = arrows.problems(self.root)
                self.expect(found, wanted, include)
                if wanted and "no room" not in wanted:
                    self.assertTrue(found[0].startswith(f"{path}:3: "), found)
                os.remove(os.path.join(self.root, path))

    def test_only_the_translator_sees_wire_and_domain(self):
        both = '#include "service/types.h"\n#include "weir/v1/sessions.pb.h"\n'
        self.plant("server/convert.cc", both)
        self.plant("server/convert_error.cc", both)
        self.assertEqual(arrows.problems(self.root)[0], [])

        self.plant("server/reactors.cc", both)
        self.expect(arrows.problems(self.root)[0], "only server/convert*.cc see both", both)

    def test_torch_and_grpc_meet_in_no_file_even_through_headers(self):
        self.plant("bench/rates.h", "#include <ATen/core/Tensor.h>\n")
        self.plant("bench/load.cc", "#include <grpcpp/grpcpp.h>\n")
        self.assertEqual(arrows.problems(self.root)[0], [])

        self.plant("bench/load.cc", '#include "bench/rates.h"\n#include <grpcpp/grpcpp.h>\n')
        self.expect(arrows.problems(self.root)[0], "bench/load.cc:1: reaches both", "load")

    def test_each_size_and_word_is_judged(self):
        for path, text, wanted in SIZES:
            with self.subTest(path=path, text=text[:80]):
                self.plant(path, text)
                self.expect(sizes.problems(self.root)[0], wanted, path)
                os.remove(os.path.join(self.root, path))

    def test_functions_are_found_with_their_lengths(self):
        for source, wanted in FUNCTIONS:
            with self.subTest(source=source):
                found = [(f.name, f.lines) for f in functions.functions(source)]
                self.assertEqual(found, wanted)

    def test_an_empty_tree_is_an_error(self):
        saved = sys.argv
        self.addCleanup(setattr, sys, "argv", saved)
        sys.argv = ["arrows.py", self.root]
        self.assertEqual(arrows.main(), 1)
        self.assertEqual(sizes.main(), 1)


if __name__ == "__main__":
    # CTest passes the root; these tests make their own.
    unittest.main(argv=sys.argv[:1])
