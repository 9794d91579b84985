# SPDX-License-Identifier: Apache-2.0
"""tools/convert_rwkv.py gives the golden rwkv7's weights back, to the bit, from
what the official code would have called them; and refuses by name what is not
RWKV-7.

    python3 tests/golden/convert_rwkv_test.py ROOT

Where torch and numpy can be imported, which the tests of the server do without,
there is one more: the same through a .pth file and the tool itself.
"""

import importlib.util
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = ROOT / "tests/golden/fla_rwkv7"
TOOL = ROOT / "tools/convert_rwkv.py"

spec = importlib.util.spec_from_file_location("convert_rwkv", TOOL)
convert_rwkv = importlib.util.module_from_spec(spec)
spec.loader.exec_module(convert_rwkv)


class Tensor:
    """As much of a tensor as names and shapes need."""

    def __init__(self, shape, values):
        self.shape = tuple(shape)
        self.values = list(values)

    def t(self):
        rows, columns = self.shape
        turned = [self.values[r * columns + c] for c in range(columns) for r in range(rows)]
        return Tensor((columns, rows), turned)

    def reshape(self, shape):
        return Tensor(shape, self.values)

    def __eq__(self, other):
        return self.shape == other.shape and self.values == other.values


def read_safetensors(path):
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    out = {}
    for name, info in header.items():
        assert info["dtype"] == "F32"
        begin, end = info["data_offsets"]
        # Bit patterns: what is compared is compared to the bit.
        part = data[8 + header_bytes + begin : 8 + header_bytes + end]
        out[name] = Tensor(info["shape"], struct.unpack(f"<{len(part) // 4}I", part))
    return out


def official(served):
    """The golden weights as the official code would have saved them, by rules
    written apart from the tool's."""
    kinds = {"r_proj": "receptance", "k_proj": "key", "v_proj": "value"}
    kinds |= {"o_proj": "output", "g_norm": "ln_x"}
    outer = {"model.embeddings.weight": "emb.weight", "lm_head.weight": "head.weight"}
    outer |= {"model.norm.weight": "ln_out.weight", "model.norm.bias": "ln_out.bias"}
    norms = {"pre_norm": "ln0", "attn_norm": "ln1", "ffn_norm": "ln2"}
    out = {}
    for name, tensor in served.items():
        if name in outer:
            out[outer[name]] = tensor
            continue
        _, _, layer, part, *rest = name.split(".")
        block = f"blocks.{layer}."
        wide = tensor.reshape((1, 1, tensor.shape[-1]))
        if part in norms:
            out[f"{block}{norms[part]}.{rest[0]}"] = tensor
        elif part == "ffn":
            out[f"{block}ffn.{'.'.join(rest)}"] = wide if rest == ["x_k"] else tensor
        elif rest[0].endswith("_lora"):
            kind = rest[0][0]
            if rest[-1] == "bias":
                out[f"{block}att.{kind}0"] = wide
            else:
                out[f"{block}att.{kind}{1 if rest[2] == '0' else 2}"] = tensor.t()
        elif rest[0] in kinds:
            out[f"{block}att.{kinds[rest[0]]}.{rest[1]}"] = tensor
        else:
            out[f"{block}att.{rest[0]}"] = wide if rest[0] in ("k_k", "k_a") else tensor
    return out


class ConvertRwkvTest(unittest.TestCase):
    def setUp(self):
        self.served = read_safetensors(GOLDEN / "model.safetensors")
        self.official = official(self.served)

    def test_golden_weights_come_back_to_the_bit(self):
        layers = convert_rwkv.check_names(self.official)
        self.assertEqual(layers, 2)
        self.assertEqual(convert_rwkv.converted(self.official), self.served)

    def test_the_unused_tensors_of_the_first_layer_are_left_out(self):
        for index in "012":
            self.official[f"blocks.0.att.v{index}"] = Tensor((1,), [0])
        self.assertEqual(convert_rwkv.check_names(self.official), 2)
        self.assertEqual(convert_rwkv.converted(self.official), self.served)

    def test_the_config_is_that_of_the_golden_folder(self):
        want = json.loads((GOLDEN / "config.json").read_text())
        config = convert_rwkv.config_of(self.official, 2)
        for key, value in config.items():
            # The official files say neither, and the mode is of no effect.
            if key in ("bos_token_id", "eos_token_id", "attn_mode", "fuse_norm", "hidden_ratio"):
                continue
            self.assertEqual(value, want[key], key)

    def test_what_is_not_rwkv_7_is_refused_by_name(self):
        for name in (
            "blocks.0.att.time_state",
            "blocks.1.ln0.weight",
            "blocks.0.att.g0",
            "blocks.0.ffn.receptance.weight",
            "blocks.0.att.w3",
            "module.emb.weight",
            "blocks.7.ln1.weight",
        ):
            with self.subTest(name):
                with self.assertRaisesRegex(convert_rwkv.Refused, name):
                    convert_rwkv.check_names(self.official | {name: Tensor((1,), [0])})

    def test_each_tensor_is_missed_by_name(self):
        for name in self.official:
            if name.endswith("ffn.key.weight"):
                continue
            with self.subTest(name):
                rest = {n: t for n, t in self.official.items() if n != name}
                with self.assertRaisesRegex(convert_rwkv.Refused, name):
                    convert_rwkv.check_names(rest)


if importlib.util.find_spec("torch") and importlib.util.find_spec("numpy"):
    import torch

    class ConvertRwkvFileTest(unittest.TestCase):
        def test_a_pth_file_becomes_the_golden_folder(self):
            served = read_safetensors(GOLDEN / "model.safetensors")
            weights = {
                name: torch.tensor(tensor.values, dtype=torch.int64)
                .to(torch.uint32)
                .view(torch.float32)
                .reshape(tensor.shape)
                for name, tensor in official(served).items()
            }
            with tempfile.TemporaryDirectory() as temporary:
                source = pathlib.Path(temporary) / "rwkv7.pth"
                folder = pathlib.Path(temporary) / "served"
                torch.save(weights, source)
                subprocess.run(
                    [sys.executable, TOOL, source, folder, "--head-dim", "32"], check=True
                )
                self.assertEqual(read_safetensors(folder / "model.safetensors"), served)


if __name__ == "__main__":
    unittest.main()
